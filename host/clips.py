"""Clips out of ComfyUI's VIDEO and IMAGE values. Shapes: T frames, H height, W width, C channels."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dataset.words import counted


@dataclass(frozen=True, slots=True)
class FrameRange:
    """Which frames of a clip are used: from `first` (0 is the first) on, each `every`-th, at most `count` of them (0: all)."""

    first: int = 0
    count: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 0 or self.every < 1:
            raise ValueError(f"first_frame is {self.first}, frame_count {self.count}, every {self.every}; use 0 or more for the first two "
                             "and 1 or more for the last")

    def indices(self, frames: int, name: str) -> range:
        """The frames used of a clip of `frames`; raises ValueError if none is left."""
        if self.first >= frames:
            raise ValueError(f"{name} has {counted(frames, 'frame')} and first_frame is {self.first}; use 0 to {frames - 1}")
        chosen = range(self.first, frames, self.every)
        return chosen[:self.count] if self.count else chosen

    def pick(self, clip: Tensor, mask_THW: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
        """These frames of a clip (T, H, W, C) and of its mask; one mask for the whole clip stays as it is."""
        indices = self.indices(len(clip), name)
        if len(indices) == len(clip):
            return clip, mask_THW
        # A copy, where a slice would keep all frames in memory.
        chosen = torch.tensor(indices)
        return clip[chosen], mask_THW if mask_THW is None or len(mask_THW) == 1 else mask_THW[chosen]


def clip_frames(clip: Any, name: str) -> Tensor:
    """All frames (T, H, W, 3) of a VIDEO, with opacity as a fourth channel if it has any; a batch of pictures comes back as it is.

    Raises ValueError for a video without frames.
    """
    if isinstance(clip, Tensor):
        return clip
    components = clip.get_components()
    images, alpha = components.images, components.alpha
    if not len(images):
        raise ValueError(f"{name} has no frames; check the file and its trimming")
    return images if alpha is None else torch.cat([images, alpha.reshape(*images.shape[:3], 1).to(images)], dim=-1)


def one_source(videos: Sequence[Any] | None, clips: Sequence[Tensor] | None) -> Sequence[Any]:
    """Whichever of the two is connected; raises ValueError for both and for none."""
    if bool(videos) == bool(clips):
        raise ValueError(f"videos and clips are {'both' if videos else 'not'} connected; connect one of them")
    return videos or clips or ()
