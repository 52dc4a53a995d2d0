"""Masks of what words name: a detector's boxes, and a SAM that finds what lies in them. White = learn.

Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .boxes import Box
from .detector import CaptionReader, Detector, surest
from .phrases import named, phrases_of
from .sam_prompt import Prompt, Sam
from .segmenter import Ready, Regions

Source = Literal["the words", "words in the caption", "all that the caption names"]
SOURCES: tuple[Source, ...] = ("the words", "words in the caption", "all that the caption names")
OTHER = "other"  # the region of what the caption names beyond the words


@dataclass(frozen=True, slots=True, eq=False)
class Grounded:
    """A mask for each of `words`, of at most `most` things each. Regions may overlap.

    words: regions, and what is searched for. source: "the words" searches for all of them in every picture, "words in the caption"
    for those that the picture's caption has (see `named`), and "all that the caption names" for each phrase of the caption: what
    holds one of the words belongs to its region (the longest one's), the rest to the region "other".
    detector: None where the SAM reads text by itself. sam: None for the boxes themselves as masks.
    models: names of detector and SAM. threshold, text_threshold: see `Detector.find`.
    Raises ValueError for no words, words without letters, a detector and a SAM that are both missing, and a missing word "other".
    """

    detector: Ready[Detector] | None
    sam: Ready[Sam] | None
    models: tuple[str, ...]
    words: tuple[str, ...]
    source: Source = "the words"
    threshold: float = 0.3
    text_threshold: float = 0.25
    most: int = 10

    exclusive = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source is {self.source!r}; use {', '.join(SOURCES)}")
        if not self.words:
            raise ValueError("there are no words to search for; write a line such as: face 1.0")
        if self.detector is None and self.sam is None:
            raise ValueError("connect a detector, a SAM that reads text (SAM 3), or both")
        if self.source == "all that the caption names" and OTHER not in self.words:
            raise ValueError(f"nothing says how much of the rest of a caption is learned; write a line such as: {OTHER} 0.5")

    @property
    def name(self) -> str:
        return f"words by {' and '.join(self.models)}"

    @property
    def reads_captions(self) -> bool:
        return self.source != "the words"

    def describe(self) -> dict[str, object]:
        return {"kind": "words", "models": list(self.models), "words": list(self.words), "source": self.source, "most": self.most,
                "threshold": self.threshold, "text_threshold": self.text_threshold}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        """Raises ValueError where a SAM without text stands alone."""
        found = self._by_text(picture_HWC, caption) if self.detector is None else self._by_boxes(self.detector(), picture_HWC, caption)
        return {word: found[word] for word in self.words if word in found}

    def _by_boxes(self, detector: Detector, picture_HWC: Tensor, caption: str) -> Regions:
        if self.source == "all that the caption names" and isinstance(detector, CaptionReader):
            boxes, region_of = detector.ground(picture_HWC, caption), None
        else:
            region_of = self._asked(caption)
            boxes = detector.find(picture_HWC, list(region_of), self.threshold, self.text_threshold) if region_of else []
        regions: dict[str, list[Box]] = {}
        for box in surest(boxes, self.most):
            regions.setdefault(region_of[box.label] if region_of is not None else self._region(box.label), []).append(box)
        if not regions:
            return {}
        if self.sam is None:
            return {region: box_mask(some, picture_HWC.shape[:2]) for region, some in regions.items()}
        masks = self.sam().masks(picture_HWC, [Prompt(boxes=tuple(some)) for some in regions.values()])
        return dict(zip(regions, masks, strict=True))

    def _by_text(self, picture_HWC: Tensor, caption: str) -> Regions:
        assert self.sam is not None
        region_of = self._asked(caption)
        if not region_of:
            return {}
        sam = self.sam()
        found: dict[str, Tensor] = {}
        if not sam.reads_text:
            raise ValueError(f"{sam.name} reads no text; connect a detector, or take a SAM 3")
        by_phrase = sam.from_texts(picture_HWC, list(region_of), self.most, cut=self.source == "all that the caption names")
        for region, masks in zip(region_of.values(), by_phrase, strict=True):
            for mask_HW in masks:
                found[region] = torch.maximum(found[region], mask_HW) if region in found else mask_HW
        return found

    def _asked(self, caption: str) -> Mapping[str, str]:
        """What is searched for in this picture -> its region."""
        if self.source == "the words":
            return {word: word for word in self.words}
        if self.source == "words in the caption":
            return {word: word for word in named(self.words, caption)}
        return {phrase: self._region(phrase) for phrase in phrases_of(caption)}

    def _region(self, phrase: str) -> str:
        held: Sequence[str] = named([word for word in self.words if word != OTHER], phrase)
        return max(held, key=len, default=OTHER)


def box_mask(boxes: Sequence[Box], size_HW: Sequence[int]) -> Tensor:
    """1 on every pixel that one of the boxes touches, (H, W) float32."""
    height, width = size_HW
    mask_HW = torch.zeros(height, width)
    for box in boxes:
        left, top, right, bottom = box.corners
        mask_HW[max(math.floor(top), 0):math.ceil(bottom), max(math.floor(left), 0):math.ceil(right)] = 1
    return mask_HW
