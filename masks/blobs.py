"""Seeded random shapes: to learn a random part of each mask, and to make masks for tests. White = learn.

Shapes: H height, W width in pixels.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .step import BLACK, Plane, Step, set_number, set_seed


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the name alone, so that the order of the items changes nothing."""
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def blob_mask(height: int, width: int, coverage: float, size: float, seed: int, name: str) -> Plane:
    """A black and white mask (height, width) of smooth random blobs, float32.

    coverage: share of white pixels, met to half a pixel. size: distance between the random heights that make the hills, as a
    share of the short side. The brightest pixels of a smooth random landscape become white.
    """
    import cv2

    pixels = max(size * min(height, width), 1.0)
    # Three points more than fit, so that the landscape is smooth at the frame too.
    points = math.ceil(height / pixels) + 3, math.ceil(width / pixels) + 3
    coarse = generator(seed, name).random(points, dtype=np.float32)
    scale = np.array([[pixels, 0, -1.5 * pixels], [0, pixels, -1.5 * pixels]])
    landscape_HW = np.asarray(cv2.warpAffine(coarse, scale, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
    white = round(coverage * height * width)
    mask_HW = np.zeros((height, width), np.float32)
    if white:
        mask_HW.flat[np.argpartition(landscape_HW, -white, axis=None)[-white:]] = 1
    return mask_HW


@dataclass(frozen=True, slots=True)
class Blobs(Step):
    """w times a black and white mask of smooth random blobs, another one for each item: a random part is learned.

    coverage: share of the picture that stays, 0 to 1. size: of a blob, as a share of the short side, 0.01 to 1. seed: the same
    seed and item name give the same blobs.
    """

    coverage: float = 0.5
    size: float = 0.2
    seed: int = 0
    op: ClassVar[str] = "blobs"

    def __post_init__(self) -> None:
        set_number(self, "coverage", 0, 1, "0 (nothing stays) to 1 (all stays)")
        set_number(self, "size", 0.01, 1, "0.01 to 1, a share of the short side")
        set_seed(self)

    def describe(self) -> str:
        return f"random blobs over {self.coverage:.0%}, size {self.size:.1%} of the short side, seed {self.seed}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        height, width = plane_HW.shape
        plane_HW *= blob_mask(height, width, self.coverage, self.size, self.seed, name)
        return plane_HW


@dataclass(frozen=True, slots=True)
class CircularShrink(Step):
    """w inside a disc around a random pixel of the mask, 0 outside; after OneTrainer's Random Circular Mask Shrink.

    The radius is a random factor from `least` to `most` times the distance to the mask's farthest pixel (brighter than half
    an 8-bit grey level). A black mask stays black.
    """

    least: float = 0.2
    most: float = 1.0
    seed: int = 0
    op: ClassVar[str] = "circular_shrink"

    def __post_init__(self) -> None:
        set_number(self, "least", 0, 1, "0 to 1, a factor of the mask's extent")
        set_number(self, "most", self.least, 1, f"{self.least:g} (the least factor) to 1")
        set_seed(self)

    def describe(self) -> str:
        return f"random disc, factor {self.least:g} to {self.most:g} of the mask, seed {self.seed}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        rows, columns = np.nonzero(plane_HW >= BLACK)
        if not len(rows):
            return plane_HW
        random = generator(self.seed, name)
        centre = int(random.integers(len(rows)))
        factor = random.uniform(self.least, self.most)
        y, x = int(rows[centre]), int(columns[centre])
        farthest = ((rows - y) ** 2 + (columns - x) ** 2).max()  # squared, so that factor 1 keeps this pixel too
        down, across = np.ogrid[:plane_HW.shape[0], :plane_HW.shape[1]]
        plane_HW *= (down - y) ** 2 + (across - x) ** 2 <= factor**2 * farthest
        return plane_HW
