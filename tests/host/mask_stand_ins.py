"""Segmenters that stand in for real ones: they look at brightness and colour alone, and some of them fail."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bright:
    """"bright" is how bright a pixel is, "red" how much redder it is than green; absent where there is nothing of it."""

    settings: str = ""
    exclusive: bool = False
    name: str = "brightness"

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "settings": self.settings}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        unit_HWC = picture_HWC.float() / 255
        regions = {"bright": unit_HWC.mean(-1), "red": (unit_HWC[..., 0] - unit_HWC[..., 1]).clamp(0, 1)}
        return {name: mask_HW for name, mask_HW in regions.items() if mask_HW.max() > 0.25}


@dataclass(frozen=True)
class Captioned(Bright):
    """Finds "bright" where the caption names it."""

    reads_captions: bool = True

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        return super().segment(picture_HWC) if "bright" in caption else {}


@dataclass(frozen=True)
class Hungry(Bright):
    """Runs out of memory for pictures above so many pixels, `times` times."""

    most: int = 0
    times: int = 1000

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        if picture_HWC.shape[0] * picture_HWC.shape[1] > self.most and self.times:
            object.__setattr__(self, "times", self.times - 1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().segment(picture_HWC)


@dataclass(frozen=True)
class Broken(Bright):
    """Fails for pictures of one height."""

    height: int = 0

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        if picture_HWC.shape[0] == self.height:
            raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
        return super().segment(picture_HWC)
