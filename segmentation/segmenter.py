"""What every segmenter takes and gives.

Shapes: H height, W width in pixels, C = 3 colours; N masks or boxes.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Model = TypeVar("Model")
Ready = Callable[[], Model]
"""Gives a model that is on its device and may be called now; ComfyUI's memory management stands behind it."""

Regions = Mapping[str, Tensor]
"""Region -> how much each pixel belongs to it, (H, W) float32 0..1 on the CPU. What was not found is absent, never black."""


class Segmenter(Protocol):
    """Finds named regions in one picture.

    name: for reports, such as "sapiens2 0.4b". exclusive: whether the regions share out each pixel (the classes of one softmax),
    so that their sum is at most 1; otherwise they may overlap. One that may find other regions with another caption also says
    so by an attribute reads_captions = True: its masks are then made anew when a caption changes.
    """

    @property
    def name(self) -> str: ...

    @property
    def exclusive(self) -> bool: ...

    def describe(self) -> dict[str, object]:
        """All that decides the result, as JSON values: masks are made anew when it changes."""

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        """picture_HWC: uint8, RGB, on the CPU. caption: what the picture's caption file says; few segmenters read it."""


def to_bytes(image_HWC: Tensor) -> Tensor:
    """ComfyUI's float picture (H, W, C) in 0..1 as uint8 RGB (H, W, 3) on the CPU; C: grey, grey and alpha, or RGB and more.

    Image processors divide by 255 whatever they are given, without an error: floats would end up almost black.
    """
    colours_HWC = image_HWC[..., :3] if image_HWC.shape[-1] >= 3 else image_HWC[..., :1]
    return colours_HWC.detach().to("cpu", torch.float32).mul(255).round().clamp(0, 255).to(torch.uint8).expand(-1, -1, 3)
