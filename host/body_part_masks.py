"""Masks of body parts for a batch of pictures, with boxes and masks that belong to each. White = learn.

Shapes: B batch, H height, W width in pixels, C colours.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..segmentation.body_parser import BodyParser
from ..segmentation.body_parts import BodyParts, FixedBoxes
from ..segmentation.body_tables import GROUPS
from ..segmentation.boxes import read_boxes
from ..segmentation.segmenter import Regions, Segmenter, to_bytes
from .managed import Managed
from .mask_plan import MaskPlan, Part


@dataclass(frozen=True, slots=True, eq=False)
class KnownMask:
    """A mask that is there already (H, W), in the place of a segmenter."""

    name: str
    mask_HW: Tensor
    exclusive: bool = False

    def describe(self) -> dict[str, object]:
        return {"mask": self.name}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        return {self.name: self.mask_HW}


@dataclass(frozen=True, slots=True, eq=False)
class BodyPartMasks:
    """weight_BHW: black where nothing was found. groups: every group -> (B, H, W). report: one line a picture."""

    weight_BHW: Tensor
    groups: dict[str, Tensor]
    report: str


def body_part_masks(
    parser: Managed[BodyParser], image_BHWC: Tensor, weights: Mapping[str, float], boxes: object = None,
    person_BHW: Tensor | None = None, face_oval_BHW: Tensor | None = None, progress: Callable[[int, int, str], None] = lambda *_: None,
) -> BodyPartMasks:
    """boxes: a BOUNDING_BOX. person_BHW, face_oval_BHW: a mask for each picture, or one for all.

    Raises ValueError for boxes and masks of another number of pictures, and for masks of another size.
    """
    count, height, width = image_BHWC.shape[:3]
    all_boxes = read_boxes(boxes, count) if boxes is not None else [[]] * count
    people, ovals = (_for_each(mask_BHW, name, count, (height, width)) for name, mask_BHW in
                     (("person", person_BHW), ("face oval", face_oval_BHW)))
    masks: dict[str, list[Tensor]] = {name: [] for name in ("weight", *GROUPS)}
    lines = []
    for index, (image_HWC, own, person, oval) in enumerate(zip(image_BHWC, all_boxes, people, ovals, strict=True)):
        segmenter = BodyParts(parser, parser.model.name, FixedBoxes(tuple(own)), person, oval)
        made = MaskPlan((Part(segmenter, weights),)).make(to_bytes(image_HWC))
        found = {"weight": made.weight_HW, **made.found}
        for name, batch in masks.items():
            mask_HW = found.get(name)
            batch.append(torch.zeros(height, width) if mask_HW is None else mask_HW)
        lines.append(f"picture {index + 1}: {_line(made.found)}")
        progress(index + 1, count, lines[-1])
    weight_BHW, *groups = (torch.stack(batch) for batch in masks.values())
    return BodyPartMasks(weight_BHW, dict(zip(GROUPS, groups, strict=True)), "\n".join([*lines, "white = learn"]))


def _for_each(mask_BHW: Tensor | None, name: str, count: int, size_HW: tuple[int, int]) -> list[Segmenter | None]:
    if mask_BHW is None:
        return [None] * count
    masks = mask_BHW.reshape(-1, *mask_BHW.shape[-2:]).detach().to("cpu", torch.float32).clamp(0, 1)
    if tuple(masks.shape[1:]) != size_HW:
        raise ValueError(f"the {name} mask is {masks.shape[2]}x{masks.shape[1]}, the picture {size_HW[1]}x{size_HW[0]}; make them the "
                         "same size")
    if len(masks) not in (1, count):
        raise ValueError(f"there are {len(masks)} {name} masks for {count} pictures; give one for each, or one for all")
    return [KnownMask(name, mask_HW) for mask_HW in masks.expand(count, -1, -1)]


def _line(found: Mapping[str, Tensor]) -> str:
    if not found:
        return "nothing was found, the masks are black"
    told = ", ".join(f"{group} {100 * found[group].mean().item():.1f}%" for group in GROUPS if group in found)
    missing = [group for group in GROUPS if group not in found]
    return told + (f"; not found: {', '.join(missing)}" if missing else "")
