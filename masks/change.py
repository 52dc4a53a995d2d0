"""How much something changed where a mask is white and where it is not. White = learn = inside.

Shapes: B batch, H height, W width, C channels.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Change:
    """Root mean squares of a difference, weighted by the mask and by its complement; 0 also where a side has no weight at all."""

    inside: float
    outside: float

    @classmethod
    def of(cls, sums: Sequence[Tensor]) -> Change:
        """From what `weighted_sums` gave for each picture: every weighted value counts the same, whichever picture it is in."""
        total = torch.stack(list(sums)).sum(0)
        root = (total[:, 0] / total[:, 1].clamp(min=1e-12)).sqrt()
        return cls(root[0].item(), root[1].item())

    @property
    def bleed(self) -> float:
        """Outside over inside: 0 where nothing changed outside, 1 for as much as inside, infinite for a change outside alone."""
        if self.inside:
            return self.outside / self.inside
        return math.inf if self.outside else 0.0


def weighted_sums(square: Tensor, weight: Tensor) -> Tensor:
    """(inside, outside) x (sum of weighted squares, sum of weights), float64, of squares and weights 0..1 of one shape."""
    inside = weight.double()
    return torch.stack([torch.stack([(square.double() * w).sum(), w.sum()]) for w in (inside, 1 - inside)])


def rms(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference of two tensors of one shape."""
    return (one.double() - other.double()).square().mean().sqrt().item()


def picture_sums(base_BHWC: Tensor, changed_BHWC: Tensor, mask_BHW: Tensor) -> list[Tensor]:
    """`weighted_sums` of each pair of pictures (0..1), over pixels and colours. One mask, or one for each pair.

    Raises ValueError for batches and masks that do not fit.
    """
    if base_BHWC.shape != changed_BHWC.shape:
        raise ValueError(f"the pictures before are {size_words(base_BHWC)} and those after {size_words(changed_BHWC)}; "
                         "sample both with the same seeds and size")
    if len(mask_BHW) not in (1, len(base_BHWC)):
        raise ValueError(f"there are {len(mask_BHW)} masks for {len(base_BHWC)} pictures; give one mask for all, or one for each")
    if mask_BHW.shape[1:] != base_BHWC.shape[1:3]:
        raise ValueError(f"the mask is {mask_BHW.shape[2]}x{mask_BHW.shape[1]} and the pictures are "
                         f"{base_BHWC.shape[2]}x{base_BHWC.shape[1]} (width x height); resize the mask")
    square_BHW = (changed_BHWC.double() - base_BHWC.double()).square().mean(-1)
    masks = mask_BHW.float().clamp(0, 1).to(square_BHW.device).expand(len(square_BHW), -1, -1)
    return [weighted_sums(square_HW, mask_HW) for square_HW, mask_HW in zip(square_BHW, masks, strict=True)]


def size_words(image_BHWC: Tensor) -> str:
    return f"{len(image_BHWC)} of {image_BHWC.shape[2]}x{image_BHWC.shape[1]} with {image_BHWC.shape[3]} channels"
