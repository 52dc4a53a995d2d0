"""Weights for regions of a picture, such as face and body: as grey levels of one mask, or as one mask for each. White = learn.

Shapes: B batch, H height, W width in pixels.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .step import Plane, Step

BLISSFUL = {"face": 1.0, "body": 0.502, "hair": 0.314, "background": 0.0}
REGION_PRESETS: dict[str, dict[str, float]] = {
    "blissful-tuner: face, body, hair": BLISSFUL,  # 255, 128 and 80 of 255 in its masked loss guide
    "sd-scripts 236: face, body, background": {"face": 1.0, "body": 0.5, "background": 0.25},
}
OWN_TABLE = "own table"
REGION_TABLE = "\n".join(f"{name} {weight:g}" for name, weight in BLISSFUL.items())
BLISSFUL_LEVELS = ((1.0, 1.0), (128 / 255, 0.502), (80 / 255, 0.314), (0.0, 0.0))
EDGE_LINE = 4  # pixels
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RegionWeights(Step):
    """For masks that code regions as grey levels: each pixel takes the weight of its level in a table.

    levels: pairs (grey level 0..1, weight 0..1), at least one, no level twice, at most 64; kept with the brightest first.
    A pixel belongs to the nearest level, to the brighter one where two are equally near. A soft edge from one level to another
    passes the levels between, which would draw thin lines of a region that is not there. So an area of a level that is at most
    4 pixels wide and has both a brighter and a darker level within 4 pixels does not count: its pixels go to the nearest
    area that does. That holds for soft edges up to about 10 pixels wide. Strands that are brighter, or darker, than all around
    them stay. Only weights of the table come out.
    """

    levels: tuple[tuple[float, float], ...] = BLISSFUL_LEVELS
    op: ClassVar[str] = "region_weights"

    def __post_init__(self) -> None:
        pairs: Any = self.levels  # out of JSON it may be anything
        good = isinstance(pairs, (tuple, list)) and 1 <= len(pairs) <= 64 and all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_is_share, pair)) for pair in pairs)
        if not good:
            raise ValueError(f"region_weights: levels is {pairs!r}; use 1 to 64 pairs of a grey level and a weight, both 0 to 1")
        sorted_pairs = sorted(((float(level) + 0.0, float(weight) + 0.0) for level, weight in pairs), reverse=True)
        if len({level for level, _ in sorted_pairs}) < len(sorted_pairs):
            raise ValueError(f"region_weights: levels is {pairs!r}; give each grey level once")
        object.__setattr__(self, "levels", tuple(sorted_pairs))

    def describe(self) -> str:
        return "regions " + ", ".join(f"{round(level * 255):d} -> {weight:g}" for level, weight in self.levels)

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        levels, weights = np.array(self.levels[::-1], np.float32).T
        labels_HW = np.searchsorted((levels[1:] + levels[:-1]) / 2, plane_HW, side="right").astype(np.uint8)
        return np.asarray(weights[_without_edge_lines(labels_HW, len(levels))])


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _without_edge_lines(labels_HW: Labels, count: int) -> Labels:
    """Thin areas of a label between a greater and a lesser one get the label of the nearest pixel that is not in such an area."""
    import cv2

    square, nearby = np.ones((EDGE_LINE + 1,) * 2, np.uint8), np.ones((2 * EDGE_LINE + 1,) * 2, np.uint8)
    line_HW = (cv2.dilate(labels_HW, nearby) > labels_HW) & (cv2.erode(labels_HW, nearby) < labels_HW)
    for label in range(1, count - 1):
        area_HW = (labels_HW == label).view(np.uint8)
        line_HW &= np.asarray(cv2.morphologyEx(area_HW, cv2.MORPH_OPEN, square)) == 0
    if not line_HW.any():
        return labels_HW
    # OpenCV numbers the zero pixels, here those outside of lines, and tells for each pixel the number of the nearest.
    _, nearest_HW = cv2.distanceTransformWithLabels(line_HW.view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    label_of = np.zeros(nearest_HW.max() + 1, np.uint8)
    label_of[nearest_HW[~line_HW]] = labels_HW[~line_HW]
    return np.asarray(label_of[nearest_HW])


def read_weights(text: str) -> dict[str, float]:
    """A table, one region a line: "face 1.0". Names may hold spaces; empty lines and lines that begin with # do not count.

    Raises ValueError that names the line for a weight that is missing or not in 0..1 and for a region given twice.
    """
    table: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, weight = line.strip().replace("\t", " ").rpartition(" ")
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        name = name.strip().rstrip(":=").rstrip()
        if not name or not 0 <= value <= 1:
            raise ValueError(f"line {number} of the weights is {line!r}; write a region and a weight from 0 to 1, such as: face 1.0")
        if name in table:
            raise ValueError(f"line {number} of the weights has {name!r} again; give each region once")
        table[name] = value
    return table


def name_masks(masks: Sequence[Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Masks in the order of the table's regions; "background" may be without one. Raises ValueError for another number."""
    regions = list(weights) if len(masks) == len(weights) else [name for name in weights if name != "background"]
    if len(regions) != len(masks):
        raise ValueError(f"there are {len(masks)} masks for the regions {', '.join(regions)}; connect one for each, in this order")
    return dict(zip(regions, masks, strict=True))


def combine_regions(masks: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """max over the regions of weight * mask, float32 (B, H, W) in 0..1; where no region lies, the weight of "background" or 0.

    masks: region -> (B, H, W), 0..1, all of one size; a batch of one serves all. weights: region -> 0..1. "background"
    needs no mask: its weight is then the least that any pixel gets. Raises ValueError for a region without a weight, for a weight
    other than background's without a mask, for sizes that differ, and for no masks.
    """
    from .combine import as_batches

    if untold := [name for name in masks if name not in weights]:
        raise ValueError(f"region {untold[0]!r} has no weight; add a line such as: {untold[0]} 1.0")
    if unused := [name for name in weights if name not in masks and name != "background"]:
        raise ValueError(f"the weights have {unused[0]!r} but there is no such mask; the masks are {', '.join(masks)}")
    least = weights["background"] if "background" in weights and "background" not in masks else 0.0
    result_BHW: Tensor | None = None
    for mask_BHW, weight in zip(as_batches(masks), (weights[name] for name in masks), strict=True):
        part_BHW = mask_BHW * weight
        result_BHW = part_BHW.clamp_(min=least) if result_BHW is None else torch.maximum(result_BHW, part_BHW)
    assert result_BHW is not None  # as_batches refuses no masks
    return result_BHW
