"""A network that names the body part of every pixel, and soft shares of groups of parts out of it.

Shapes: N pictures, K classes, H height, W width in pixels of the picture, h and w those of the network's output, C = 3 colours.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batches import in_batches
from .body_tables import ClassTable

STRIP = 2**22
"""Numbers of the classes' maps that are held at full size at a time: 29 maps of a 24 megapixel picture would be 2.8 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class BodyParser:
    """name: for reports. module: the network, with its weights on the device where it runs.

    prepare: picture (H, W, C) uint8 RGB on the CPU -> what the network reads, (C, rows, columns) float32.
    predict: a batch of those -> logits (N, K, h, w). aspect: width to height of what the network reads.
    """

    name: str
    table: ClassTable
    module: nn.Module
    prepare: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    aspect: float
    at_once: int = 2

    def group_shares(self, pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """For each picture (H, W, C) uint8 RGB its groups' shares, (H, W) float32 0..1 on the CPU; what is missing to 1 is background.

        Runs fewer pictures at once where memory runs out, and raises torch.OutOfMemoryError where one is too much.
        Raises ValueError for what is no uint8 RGB picture and for a network of another table.
        """
        return in_batches(pictures, self._shares, self.at_once)

    @torch.no_grad()
    def _shares(self, pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        weight = next(self.module.parameters())
        pixels_NChw = torch.stack([self.prepare(_checked(picture_HWC)) for picture_HWC in pictures])
        logits_NKhw = self.predict(pixels_NChw.to(weight.device, weight.dtype)).float()
        if logits_NKhw.shape[1] != len(self.table.rows):
            raise ValueError(f"{self.name} tells {logits_NKhw.shape[1]} classes apart, not {len(self.table.rows)}: it is another model")
        if not torch.isfinite(logits_NKhw).all():
            raise ValueError(f"{self.name} gave NaN or infinity in {weight.dtype}; use it in float32 (ComfyUI's option --force-fp32)")
        return [soft_groups(logits_Khw, self.table, picture_HWC.shape[:2])
                for logits_Khw, picture_HWC in zip(logits_NKhw, pictures, strict=True)]


def soft_groups(logits_Khw: Tensor, table: ClassTable, size_HW: Sequence[int]) -> dict[str, Tensor]:
    """Softmax over the logits at the size of the picture, summed over each group's classes: group -> (H, W) float32 on the CPU.

    The logits are enlarged before the softmax, as in each model's own code: that keeps borders sharp.
    """
    height, width = size_HW
    groups = table.groups
    shares = {group: torch.empty(height, width) for group in groups}
    rows = max(1, STRIP // (len(logits_Khw) * max(width, logits_Khw.shape[2])))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rows_Khw = _stretch_rows(logits_Khw, top, bottom, height)
        probability_KHW = F.interpolate(rows_Khw[None], (bottom - top, width), mode="bilinear", align_corners=False)[0].softmax(0)
        for group, ids in groups.items():
            shares[group][top:bottom] = probability_KHW[list(ids)].sum(0)
    return {group: share_HW.clamp_(0, 1) for group, share_HW in shares.items()}


def _stretch_rows(logits_Khw: Tensor, top: int, bottom: int, height: int) -> Tensor:
    """Rows `top` to `bottom` of the logits as bilinear F.interpolate (corners not aligned) stretches them to `height` rows."""
    last = logits_Khw.shape[1] - 1
    at = torch.arange(top, bottom, device=logits_Khw.device, dtype=torch.float32)
    source = ((at + 0.5) * ((last + 1) / height) - 0.5).clamp_(min=0)
    above = source.long().clamp_(max=last)
    below = (above + 1).clamp_(max=last)
    return torch.lerp(logits_Khw[:, above], logits_Khw[:, below], (source - above)[:, None])


def _checked(picture_HWC: Tensor) -> Tensor:
    if picture_HWC.dtype != torch.uint8 or picture_HWC.ndim != 3 or picture_HWC.shape[2] not in (1, 3) or not picture_HWC.numel():
        raise ValueError(f"a picture is {picture_HWC.dtype} {tuple(picture_HWC.shape)}; give uint8 (height, width, 3)")
    return picture_HWC.expand(-1, -1, 3)
