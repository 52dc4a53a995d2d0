"""A picture and its mask at one glance: what is learned keeps its colours, the rest lies in the dark. White = learn.

Shapes: H height, W width, C = 3 channels.
"""
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from .canvas import Pixels, fit
from .heat_map import RAMP_COLOURS

DARK, BRIGHT = np.array(RAMP_COLOURS[0], np.float32), np.array(RAMP_COLOURS[-1], np.uint8)
DARKNESS = 0.75  # how much of the dark colour covers what is not learned: shapes stay visible


def overlay(picture_HWC: Pixels, mask_HW: npt.NDArray[np.float32] | None, side: int) -> Pixels:
    """The picture with its long side at `side` pixels at most, dark where the mask is black, and a bright line where its weight
    crosses a half. mask_HW: 0..1, stretched to the picture; None: the picture alone.
    """
    picture = Image.fromarray(picture_HWC)
    small = fit(picture, min(side, max(picture.size)))
    if mask_HW is None:
        return np.asarray(small)
    mask = Image.fromarray(mask_HW).resize(small.size, Image.Resampling.BOX)  # a float picture: nothing is rounded or lost
    weight_HW = np.asarray(mask, np.float32).clip(0, 1)
    grey_HW1 = np.asarray(small.convert("L"), np.float32)[..., None]
    dark_HWC = grey_HW1 + (DARK - grey_HW1) * DARKNESS
    mixed_HWC = dark_HWC + (np.asarray(small, np.float32) - dark_HWC) * weight_HW[..., None]
    drawn_HWC: Pixels = mixed_HWC.round().astype(np.uint8)
    drawn_HWC[_border(weight_HW > 0.5)] = BRIGHT
    return drawn_HWC


def _border(inside_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels inside that touch, on one of four sides, one outside."""
    padded = np.pad(inside_HW, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: npt.NDArray[np.bool_] = inside_HW & ~around
    return border
