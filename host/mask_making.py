"""Runs a mask plan on pictures, whatever memory is left. White = learn. Shapes: B batch, H height, W width, C colours."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import comfy.model_management
import torch
from torch import Tensor

from ..dataset.words import counted
from ..segmentation.segmenter import to_bytes
from .mask_plan import Made, MaskPlan

Watch = Callable[[int, int, str], None]
NothingFound = Literal["error", "all zeros", "all ones"]
SHOWN = 8  # pictures in an error


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """mask_BHW: float32 0..1. found: whether all pictures have a mask. report: one line for each."""

    mask_BHW: Tensor
    found: bool
    report: str


def make_mask(plan: MaskPlan, picture_HWC: Tensor, caption: str = "", name: str = "") -> Made:
    """plan.make; where memory runs out, once more with all models unloaded. Raises ValueError with a remedy if that fails too."""
    try:
        return plan.make(picture_HWC, caption, name)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Here, where the error and with it the tensors of the first try are gone.
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache(force=True)
    try:
        return plan.make(picture_HWC, caption, name)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        height, width = picture_HWC.shape[:2]
        raise ValueError(f"memory ran out twice for a picture of {width}x{height}; use a smaller model, make the picture smaller, or close "
                         "what else uses the memory") from error


def out_of_memory(error: BaseException) -> bool:
    """Of the device, as ComfyUI tells it, or of the computer."""
    return (comfy.model_management.is_oom(error) or isinstance(error, MemoryError)
            or "can't allocate memory" in str(error) or "not enough memory" in str(error))


def make_masks(plan: MaskPlan, image_BHWC: Tensor, caption: str, nothing_found: NothingFound, watch: Watch) -> Masks:
    """The plan on each picture of a batch (B, H, W, 3 or more), float 0..1. watch: called with (done, total, words); may raise to stop.

    nothing_found: what a picture without a mask gets. Raises ValueError for no pictures, and one that names those without a mask for
    "error".
    """
    if not len(image_BHWC):
        raise ValueError("there is no picture in the batch; connect at least one")
    masks, lines, without = [], [], []
    for number, image_HWC in enumerate(image_BHWC, 1):
        start = time.perf_counter()
        made = make_mask(plan, to_bytes(image_HWC), caption, f"picture {number}")
        line = f"picture {number}: {describe(tuple(made.found), made.missing, coverage_of(made), time.perf_counter() - start)}"
        if made.weight_HW is None:
            without.append(line)
            line += "" if nothing_found == "error" else f"; {nothing_found} instead"
        masks.append(torch.full(image_HWC.shape[:2], float(nothing_found == "all ones")) if made.weight_HW is None else made.weight_HW)
        lines.append(line)
        watch(number, len(image_BHWC), line)
    if without and nothing_found == "error":
        told = "; ".join(without[:SHOWN]) + (f" and {len(without) - SHOWN} more" if len(without) > SHOWN else "")
        raise ValueError(f"no mask for {len(without)} of {counted(len(masks), 'picture')}: {told}. Try other regions, words or settings of "
                         "the segmenters, or set nothing_found")
    return Masks(torch.stack(masks), not without, "\n".join(["white = learn", *lines]))


def describe(found: Sequence[str], missing: Sequence[str], coverage: float | None, seconds: float) -> str:
    """What was found and not, in one line; coverage: the mean weight, None where there is no mask."""
    lacks = f"; no {', '.join(missing)}" if missing else ""
    if coverage is None:
        return (f"{', '.join(found)} found, but nothing is left of the mask" if found else "nothing found") + lacks
    return f"{', '.join(found) or 'nothing to leave out'}{lacks}; learned {coverage:.1%}, {seconds:.2f} s"


def coverage_of(made: Made) -> float | None:
    """The mean weight; None without a mask."""
    return None if made.weight_HW is None else made.weight_HW.mean(dtype=torch.float64).item()
