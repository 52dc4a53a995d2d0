"""The steps of a mask recipe that act on any mask, and the table of all steps. White = learn.

Shapes: H height, W width in pixels. Every formula is for weights w in 0..1. At the frame the mask counts as reflected, so a
subject that touches the frame is neither darkened nor eroded there.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .blobs import Blobs, CircularShrink
from .morphology import extreme_in_disc, fill_holes, ramp_inside
from .regions import RegionWeights
from .step import UNITS, Plane, Step, Unit, check_choice, describe_length, in_pixels, set_number

__all__ = ["STEPS", "Blobs", "Blur", "CircularShrink", "Feather", "FillHoles", "Floor", "Gamma", "Grow", "Invert", "RegionWeights",
           "Threshold"]
GREATEST_BLUR = {"share": 0.1, "pixels": 512.0}
GREATEST_LENGTH = {"share": 0.25, "pixels": 1024.0}
NEARLY_WHITE = 1 - 2e-6  # what a float32 Gaussian leaves of white


@dataclass(frozen=True, slots=True)
class Invert(Step):
    """1 - w, for masks drawn the other way round."""

    op: ClassVar[str] = "invert"

    def describe(self) -> str:
        return "inverted"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        return np.subtract(1, plane_HW, out=plane_HW)


@dataclass(frozen=True, slots=True)
class Threshold(Step):
    """1 where w >= level, otherwise 0. level: above 0 and up to 1."""

    level: float = 0.5
    op: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        set_number(self, "level", 1e-6, 1, "a number above 0 and up to 1, such as 0.5")

    def describe(self) -> str:
        return f"threshold {self.level:g}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        return np.greater_equal(plane_HW, np.float32(self.level), out=plane_HW)


@dataclass(frozen=True, slots=True)
class Gamma(Step):
    """w ** exponent; below 1 raises grey, above 1 lowers it; black and white stay. exponent: 0.01 to 100."""

    exponent: float = 1.0
    op: ClassVar[str] = "gamma"

    def __post_init__(self) -> None:
        set_number(self, "exponent", 0.01, 100, "a number from 0.01 to 100 (1 changes nothing)")

    def describe(self) -> str:
        return f"gamma {self.exponent:g}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        import cv2  # here, so that a recipe can be made and read without the cost of loading OpenCV

        # torch is faster alone, but slower next to the threads of OpenCV on a busy machine.
        return plane_HW if self.exponent == 1 else np.asarray(cv2.pow(plane_HW, self.exponent, dst=plane_HW), np.float32)


@dataclass(frozen=True, slots=True)
class Floor(Step):
    """The weight of black, f; white stays 1.

    affine: w * (1 - f) + f, as ai-toolkit (mask_min_value) and blissful-tuner have it: all grey moves up in proportion.
    clamp: max(w, f), as OneTrainer (unmasked_weight) has it: grey above f stays as it is.
    """

    weight: float = 0.0
    kind: Literal["affine", "clamp"] = "affine"
    op: ClassVar[str] = "floor"

    def __post_init__(self) -> None:
        set_number(self, "weight", 0, 1, "0 (black is not learned) to 1 (everything is learned)")
        check_choice(self, "kind", ("affine", "clamp"))

    def describe(self) -> str:
        return f"floor {self.weight:g}" + (" (clamped)" if self.kind == "clamp" else "")

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        floor = np.float32(self.weight)
        if self.kind == "clamp":
            return np.maximum(plane_HW, floor, out=plane_HW)
        plane_HW *= 1 - floor
        plane_HW += floor
        return plane_HW


@dataclass(frozen=True, slots=True)
class Blur(Step):
    """A Gaussian. amount: its standard deviation, as a share of the short side (0 to 0.1) or in pixels (0 to 512)."""

    amount: float = 0.0
    unit: Unit = "share"
    op: ClassVar[str] = "blur"

    def __post_init__(self) -> None:
        check_choice(self, "unit", UNITS)
        most = GREATEST_BLUR[self.unit]
        set_number(self, "amount", 0, most, f"0 to {most:g}" + (", a share of the short side" if self.unit == "share" else " pixels"))

    def describe(self) -> str:
        return f"blur {describe_length(self.amount, self.unit)}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        import cv2

        sigma = in_pixels(self.amount, self.unit, plane_HW)
        # A flat mask stays exactly as it is; so does one whose neighbours get a weight below 1e-12.
        if sigma < 0.13 or plane_HW.min() == plane_HW.max():
            return plane_HW
        blurred_HW = np.asarray(cv2.GaussianBlur(plane_HW, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)
        # White far from every edge must stay exactly 1: else its complement would be 1e-7 instead of nothing.
        np.copyto(blurred_HW, 1, where=blurred_HW > NEARLY_WHITE)
        return blurred_HW


@dataclass(frozen=True, slots=True)
class Grow(Step):
    """The greatest weight (amount > 0: grow) or the least (amount < 0: shrink) among all pixels whose centre is within |amount|.

    amount: radius of that disc, as a share of the short side (-0.25 to 0.25) or in pixels (-1024 to 1024); a radius below one
    pixel changes nothing. Grey masks keep their levels: no new grey appears.
    """

    amount: float = 0.0
    unit: Unit = "share"
    op: ClassVar[str] = "grow"

    def __post_init__(self) -> None:
        check_choice(self, "unit", UNITS)
        most = GREATEST_LENGTH[self.unit]
        set_number(self, "amount", -most, most, f"-{most:g} (shrink) to {most:g} (grow), in {_UNIT_WORDS[self.unit]}")

    def describe(self) -> str:
        return f"{'shrink' if self.amount < 0 else 'grow'} {describe_length(abs(self.amount), self.unit)}"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        radius = in_pixels(abs(self.amount), self.unit, plane_HW)
        return extreme_in_disc(plane_HW, radius, np.minimum if self.amount < 0 else np.maximum)


@dataclass(frozen=True, slots=True)
class Feather(Step):
    """A soft edge that lies inside the mask: nothing outside is learned.

    w * clip((d - 1/2) / width, 0, 1), where d is the distance in pixels from the pixel's centre to the centre of the nearest
    black pixel (darker than half an 8-bit grey level). The border runs half a pixel from the last black centre: the weight
    rises linearly from 0 there to w at `width`. The frame is no border. A mask without black stays as it is, so feather
    before a floor. amount: the width, as a share of the short side (0 to 0.25) or in pixels (0 to 1024).
    """

    amount: float = 0.0
    unit: Unit = "share"
    op: ClassVar[str] = "feather"

    def __post_init__(self) -> None:
        check_choice(self, "unit", UNITS)
        most = GREATEST_LENGTH[self.unit]
        set_number(self, "amount", 0, most, f"0 to {most:g}, in {_UNIT_WORDS[self.unit]}")

    def describe(self) -> str:
        return f"feather {describe_length(self.amount, self.unit)} inwards"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        width = in_pixels(self.amount, self.unit, plane_HW)
        return ramp_inside(plane_HW, width) if width > 0 else plane_HW


@dataclass(frozen=True, slots=True)
class FillHoles(Step):
    """Dark areas that brighter ones enclose take the weight of the darkest part of what encloses them.

    Out of a pixel paths lead to the frame over neighbours left, right, above and below; its new weight is the least, over all
    paths, of the greatest weight on the path (morphological reconstruction by erosion). A hole that touches the frame is open.
    On a black and white mask: enclosed black becomes white. A megapixel takes 2 ms in black and white, about 0.1 s with
    soft edges, and seconds where weights wind like a maze, as in a photograph.
    """

    op: ClassVar[str] = "fill_holes"

    def describe(self) -> str:
        return "holes filled"

    def apply(self, plane_HW: Plane, name: str) -> Plane:
        return fill_holes(plane_HW)


_UNIT_WORDS = {"share": "shares of the short side", "pixels": "pixels"}
STEPS: dict[str, type[Step]] = {kind.op: kind for kind in (
    Invert, Threshold, Gamma, Floor, Blur, Grow, Feather, FillHoles, Blobs, CircularShrink, RegionWeights)}
