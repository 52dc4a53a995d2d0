"""Detectors: words in, boxes around what they name out. Shapes: H height, W width in pixels, C = 3 colours."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .boxes import Box
from .folder import model_type

ReadFile = Callable[[Path], Mapping[str, Tensor]]
"""Reads a file of weights without running what it may hold."""

ADVICE = ("take a folder of GroundingDINO (Hugging Face repository IDEA-Research/grounding-dino-tiny or -base), MM-GroundingDINO "
          "(openmmlab-community/mm_grounding_dino_*) or Florence-2 (florence-community/Florence-2-base-ft, microsoft/Florence-2-base)")


class Detector(Protocol):
    """Finds what words name."""

    @property
    def name(self) -> str:
        """For reports and hashes, such as "grounding-dino grounding-dino-tiny"."""

    @property
    def module(self) -> nn.Module:
        """The weights."""

    def find(self, picture_HWC: Tensor, phrases: Sequence[str], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
        """Boxes inside the picture; each one's label is the phrase that was asked for, as it was asked. The surest first.

        picture_HWC: uint8, RGB, on the CPU. threshold: the least score of a box. text_threshold: the least for a word of its
        label; it counts where it is the greater of the two. A phrase without letters finds nothing.
        """


@runtime_checkable
class CaptionReader(Protocol):
    """A detector that finds by itself what a caption names."""

    def ground(self, picture_HWC: Tensor, caption: str) -> list[Box]:
        """Boxes inside the picture; the label is a piece of the caption."""


def load_detector(path: Path, dtype: torch.dtype, read_file: ReadFile) -> Detector:
    """The detector of a model folder or of a GroundingDINO's original file, on the CPU. read_file: for what is no folder of safetensors.

    Raises ValueError that says what is there instead and what to take.
    """
    from .florence import FLORENCE, load_florence
    from .grounding import MODELS, load_grounding, load_grounding_file

    if path.is_file():
        return load_grounding_file(path, read_file)
    kind = model_type(path, ADVICE)
    if kind in MODELS:
        return load_grounding(path, kind)
    if kind == FLORENCE:
        return load_florence(path, dtype, read_file)
    raise ValueError(f"{path} holds {kind or 'a model of an unnamed kind'}, which is no detector; {ADVICE}")


def inside(box: Box, height: int, width: int) -> Box | None:
    """The part of a box that lies on the picture, or None."""
    left, top, right, bottom = box.corners
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if not (right > left and bottom > top):  # also where a number is not finite
        return None
    return replace(box, x=left, y=top, width=right - left, height=bottom - top)


def surest(boxes: Sequence[Box], most: int) -> list[Box]:
    """At most so many boxes of each label, those of the highest score first; of equal ones the earlier."""
    left: dict[str, int] = {}
    kept = []
    for box in sorted(boxes, key=lambda one: -one.score):
        left[box.label] = left.get(box.label, most) - 1
        if left[box.label] >= 0:
            kept.append(box)
    return kept
