"""Face, hair, body and clothing of the people in a picture.

Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .body_parser import BodyParser
from .body_tables import BODY, FACE, GROUPS
from .boxes import Box
from .segmenter import Ready, Regions, Segmenter

PADDING = 1.25
"""A crop is this much larger than the person's box, as in Sapiens2's own processor."""
MEAN_COLOUR = (124, 116, 104)
"""Of the photographs that all these networks learned from: beyond a picture's edge it says nothing."""
LEAST_AREA = 5e-5
"""Share of the parsed area that a group must fill, at a share of a half or more, to count as found: 6 x 6 pixels of the network's."""
Corners = tuple[int, int, int, int]


class FindsBoxes(Protocol):
    """Finds the boxes of people in a picture."""

    def describe(self) -> object:
        """All that decides the boxes, as a JSON value."""

    def find(self, picture_HWC: Tensor) -> Sequence[Box]: ...


@dataclass(frozen=True, slots=True)
class FixedBoxes:
    """The same boxes in every picture, for one picture at a time."""

    boxes: tuple[Box, ...]

    def describe(self) -> object:
        return [box.to_dict() for box in self.boxes]

    def find(self, picture_HWC: Tensor) -> Sequence[Box]:
        return self.boxes


class Detector(Protocol):
    """Finds what words name."""

    def find(self, picture_HWC: Tensor, phrases: Sequence[str]) -> Sequence[Box]: ...


@dataclass(frozen=True, slots=True, eq=False)
class DetectedPeople:
    """Every person that a detector finds. model: the detector's name."""

    detector: Ready[Detector]
    model: str

    def describe(self) -> object:
        return {"person": self.model}

    def find(self, picture_HWC: Tensor) -> Sequence[Box]:
        return self.detector().find(picture_HWC, ("person",))


@dataclass(frozen=True, slots=True, eq=False)
class BodyParts:
    """Regions "face", "hair", "body" (skin) and "clothing" by a body part model.

    model: its name. boxes: each person's box is parsed by itself, in the model's own shape, and the greatest share counts where
    boxes overlap: small people in wide pictures need that. Where no box is found the whole picture is parsed.
    person: who is meant, of several people; the crop goes around this one, and nothing is found where this one is not.
    face_oval: the face without the neck; what leaves the face falls to the body, all of it where no oval is found.
    """

    parser: Ready[BodyParser]
    model: str
    boxes: FindsBoxes | None = None
    person: Segmenter | None = None
    face_oval: Segmenter | None = None

    @property
    def name(self) -> str:
        return f"body parts by {self.model}"

    @property
    def reads_captions(self) -> bool:
        return any(getattr(one, "reads_captions", False) for one in (self.person, self.face_oval))

    @property
    def exclusive(self) -> bool:
        return True

    def describe(self) -> dict[str, object]:
        return {"body_parts": self.model, "boxes": self.boxes and self.boxes.describe(), "person": self.person and self.person.describe(),
                "face_oval": self.face_oval and self.face_oval.describe()}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        person_HW = _union(self.person, picture_HWC, caption)
        if self.person is not None and person_HW is None:
            return {}
        boxes = list(self.boxes.find(picture_HWC)) if self.boxes is not None else []
        if not boxes and person_HW is not None:
            boxes = [_box_around(person_HW)]
        parser = self.parser()
        height, width = picture_HWC.shape[:2]
        crops = [crop for box in boxes if (crop := crop_around(box, parser.aspect, width, height))]
        least = max(1.0, LEAST_AREA * min(((right - left) * (bottom - top) for left, top, right, bottom in crops), default=width * height))
        shares = _parse_crops(parser, picture_HWC, crops, least) if crops else _parse(parser, picture_HWC, least)
        if person_HW is not None:
            shares = {group: share_HW * person_HW for group, share_HW in shares.items()}
        if self.face_oval is not None and FACE in shares:
            shares = without_neck(shares, _union(self.face_oval, picture_HWC, caption))
        return {group: shares[group] for group in GROUPS if group in shares and is_there(shares[group], least)}


def crop_around(box: Box, aspect: float, width: int, height: int) -> Corners | None:
    """Left, top, right, bottom of what is parsed for a box: in the model's shape (aspect, width to height), padded, inside the picture.

    None for a box without area inside the picture.
    """
    left, top, right, bottom = box.corners
    if not (min(right, width) > max(left, 0) and min(bottom, height) > max(top, 0)):
        return None
    half_width = max(box.width, box.height * aspect) * PADDING / 2
    half_height = half_width / aspect
    across, down = (left + right) / 2, (top + bottom) / 2
    return (max(0, math.floor(across - half_width)), max(0, math.floor(down - half_height)),
            min(width, math.ceil(across + half_width)), min(height, math.ceil(down + half_height)))


def margins(crop: Corners, aspect: float, width: int, height: int) -> Corners:
    """What a crop that the picture's edge cuts off lacks of the model's shape: pixels beyond the left, right, upper, lower edge."""
    left, top, right, bottom = crop
    across = round((bottom - top) * aspect) - (right - left)
    down = round((right - left) / aspect) - (bottom - top)
    return (*_shared_out(across, left == 0, right == width), *_shared_out(down, top == 0, bottom == height))


def is_there(share_HW: Tensor, least: float) -> bool:
    """Whether at least `least` pixels have half of the share or more."""
    return int((share_HW >= 0.5).sum()) >= least


def without_neck(shares: dict[str, Tensor], oval_HW: Tensor | None) -> dict[str, Tensor]:
    """The face inside the oval, and the body with what left the face. The sum over all groups stays."""
    face_HW = shares[FACE] * oval_HW if oval_HW is not None else torch.zeros_like(shares[FACE])
    body_HW = shares[FACE] - face_HW
    return shares | {FACE: face_HW, BODY: shares[BODY] + body_HW if BODY in shares else body_HW}


def _shared_out(lacking: int, before: bool, after: bool) -> tuple[int, int]:
    if lacking <= 0 or not (before or after):
        return 0, 0
    first = lacking // 2 if before and after else lacking * before
    return first, lacking - first


def _parse(parser: BodyParser, picture_HWC: Tensor, least: float) -> dict[str, Tensor]:
    [shares] = parser.group_shares([picture_HWC])
    return {group: share_HW for group, share_HW in shares.items() if is_there(share_HW, least)}


def _parse_crops(parser: BodyParser, picture_HWC: Tensor, crops: Sequence[Corners], least: float) -> dict[str, Tensor]:
    """The greatest share of each group over the crops, scaled down where groups of several crops sum up to more than 1."""
    merged: dict[str, Tensor] = {}
    for start in range(0, len(crops), parser.at_once):  # the shares of many crops would fill the memory
        some = crops[start:start + parser.at_once]
        for crop, shares in zip(some, _crop_shares(parser, picture_HWC, some), strict=True):
            left, top, right, bottom = crop
            for group, share_HW in shares.items():
                if is_there(share_HW, least):
                    whole_HW = merged.setdefault(group, torch.zeros(picture_HWC.shape[:2]))
                    part_HW = whole_HW[top:bottom, left:right]
                    torch.maximum(part_HW, share_HW, out=part_HW)
    if merged:
        total_HW = torch.stack(list(merged.values())).sum(0).clamp_(min=1)
        merged = {group: share_HW / total_HW for group, share_HW in merged.items()}
    return merged


def _crop_shares(parser: BodyParser, picture_HWC: Tensor, crops: Sequence[Corners]) -> list[dict[str, Tensor]]:
    """The shares of each crop, which the network sees in its own shape: one that an edge cuts off would be stretched."""
    height, width = picture_HWC.shape[:2]
    added = [margins(crop, parser.aspect, width, height) for crop in crops]
    pictures = [_padded(picture_HWC[top:bottom, left:right], more) for (left, top, right, bottom), more in zip(crops, added, strict=True)]
    return [{group: share_HW[above:above + bottom - top, before:before + right - left] for group, share_HW in shares.items()}
            for (left, top, right, bottom), (before, _, above, _), shares in zip(
                crops, added, parser.group_shares(pictures), strict=True)]


def _padded(picture_HWC: Tensor, more: Corners) -> Tensor:
    before, after, above, below = more
    height, width, colours = picture_HWC.shape
    padded_HWC = torch.tensor(MEAN_COLOUR[:colours], dtype=torch.uint8).repeat(above + height + below, before + width + after, 1)
    padded_HWC[above:above + height, before:before + width] = picture_HWC
    return padded_HWC


def _union(segmenter: Segmenter | None, picture_HWC: Tensor, caption: str) -> Tensor | None:
    """The greatest mask of all regions that the segmenter finds, (H, W); None where there is none."""
    masks = list(segmenter.segment(picture_HWC, caption).values()) if segmenter is not None else []
    if not masks or not any(is_there(mask_HW, 1) for mask_HW in masks):
        return None
    return torch.stack(masks).amax(0)


def _box_around(mask_HW: Tensor) -> Box:
    """The box of what is at least half in the mask, which has some."""
    rows, columns = (mask_HW >= 0.5).nonzero(as_tuple=True)
    left, top = int(columns.min()), int(rows.min())
    return Box(left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
