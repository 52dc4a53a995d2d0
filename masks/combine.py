"""Several masks become one. White = learn. Shapes: B batch, H height, W width in pixels."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

How = Literal["max", "add", "multiply", "replace"]
HOW: tuple[How, ...] = ("max", "add", "multiply", "replace")


def as_batches(masks: Mapping[str, Tensor]) -> list[Tensor]:
    """Masks as new float32 tensors in 0..1 on the first one's device; a batch of one goes with all others.

    masks: name -> (B, H, W). Raises ValueError that names the masks for other dimensions, sizes or batches that differ, for
    NaN or infinity, and for no masks.
    """
    if not masks:
        raise ValueError("there is no mask to combine; connect at least one")
    (first, example), *_ = masks.items()
    most = max((mask.shape[0] for mask in masks.values()), default=1)
    batches = []
    for name, mask in masks.items():
        if mask.ndim != 3:
            raise ValueError(f"mask {name!r} has shape {tuple(mask.shape)}; give batch, height, width")
        if mask.shape[1:] != example.shape[1:]:
            raise ValueError(f"mask {first!r} is {_size(example)}, mask {name!r} is {_size(mask)}; make them the same size")
        if mask.shape[0] not in (1, most):
            raise ValueError(f"mask {name!r} is a batch of {mask.shape[0]}, another of {most}; make them the same length, or one mask")
        if not torch.isfinite(mask).all():
            raise ValueError(f"mask {name!r} holds NaN or infinity; check the node that made it")
        batches.append(mask.detach().to(example.device, torch.float32).clamp(0, 1))
    return batches


def combine_masks(masks: Mapping[str, Tensor], how: How, weights: Sequence[float] = ()) -> Tensor:
    """One mask (B, H, W), float32 0..1, from masks m1, m2, ... with weights a1, a2, ... (1 where none is given).

    max: the greatest of a * m. add: the sum of a * m, at most 1. multiply: the product of (1 - a) + a * m, so that weight 0
    leaves a mask out and weight 1 takes it whole. replace: one after the other, result * (1 - m) + a * m, so that a later
    mask covers earlier ones where it is not black, in proportion where it is grey.
    Raises ValueError for an unknown `how`, a weight outside 0..1, more weights than masks, and what as_batches refuses.
    """
    if how not in HOW:
        raise ValueError(f"how is {how!r}; use {', '.join(HOW)}")
    if len(weights) > len(masks):
        raise ValueError(f"there are {len(weights)} weights for {len(masks)} masks; give at most one for each")
    if wrong := [weight for weight in weights if not 0 <= weight <= 1]:
        raise ValueError(f"a weight is {wrong[0]}; use 0 to 1")
    first, *rest = as_batches(masks)
    factors = [*weights, *[1.0] * (len(masks) - len(weights))]
    result = first * factors[0] if how != "multiply" else first * factors[0] + (1 - factors[0])
    for mask, factor in zip(rest, factors[1:], strict=True):
        if how == "max":
            result = torch.maximum(result, mask * factor)
        elif how == "add":
            result = result + mask * factor
        elif how == "multiply":
            result = result * (mask * factor + (1 - factor))
        else:
            result = result * (1 - mask) + mask * factor
    return result.clamp_(0, 1)


def read_weights_in_order(text: str) -> list[float]:
    """One number a line, for the first mask, the second, and so on; an empty line is 1. Raises ValueError that names the line."""
    weights = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        try:
            weights.append(float(line) if line.strip() else 1.0)
        except ValueError as error:
            raise ValueError(f"line {number} of the weights is {line!r}; write one number from 0 to 1 a line") from error
    return weights


def _size(mask: Tensor) -> str:
    return f"{mask.shape[-1]}x{mask.shape[-2]}"
