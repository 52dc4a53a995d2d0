"""What a SAM is asked, and what every SAM answers. White = learn.

Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .boxes import Box


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing in the picture, in pixels. points: x, y, and whether the point lies on the thing (True) or beside it (False).

    More than one box: the thing is what any of them holds, such as the pieces that a word was found in.
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[tuple[float, float, bool], ...] = ()


class Sam(Protocol):
    """Any Segment Anything model."""

    @property
    def name(self) -> str:
        """For reports and hashes, such as "sam2 sam2.1_hiera_large.safetensors"."""

    @property
    def reads_text(self) -> bool:
        """Whether `from_text` finds things by a phrase."""

    def masks(self, picture_HWC: Tensor, prompts: Sequence[Prompt]) -> list[Tensor]:
        """One soft mask (H, W), float32 0..1 on the CPU, for each prompt; the picture is embedded once for all.

        picture_HWC: uint8, RGB, on the CPU. Raises ValueError for a prompt with neither a box nor a point on the thing, and for one
        outside the picture.
        """

    def from_text(self, picture_HWC: Tensor, phrase: str) -> list[Tensor]:
        """One soft mask (H, W) for each thing that the phrase names, the surest first; an empty list where there is none.

        Raises ValueError where the model reads no text, and for a phrase that is too long for it.
        """

    def from_texts(self, picture_HWC: Tensor, phrases: Sequence[str], most: int | None = None, cut: bool = False
                   ) -> Iterator[list[Tensor]]:
        """`from_text` for each of several phrases in turn, each with its surest `most` things; the picture is embedded once for all.

        cut: a phrase that is too long for the model is cut and no error, as nobody typed those of a caption.
        """


def prompts_of(boxes: Sequence[Box], points: Sequence[tuple[float, float, bool]]) -> list[Prompt]:
    """A prompt for each box, and one more for the points on a thing outside all boxes.

    A point on a thing goes with the boxes that hold it; a point beside the thing goes with every prompt, and alone makes none.
    """
    beside = tuple(point for point in points if not point[2])
    on = [point for point in points if point[2]]
    prompts = [Prompt((box,), (*(point for point in on if _holds(box, point)), *beside)) for box in boxes]
    outside = tuple(point for point in on if not any(_holds(box, point) for box in boxes))
    return [*prompts, Prompt(points=(*outside, *beside))] if outside else prompts


def _holds(box: Box, point: tuple[float, float, bool]) -> bool:
    left, top, right, bottom = box.corners
    return left <= point[0] <= right and top <= point[1] <= bottom
