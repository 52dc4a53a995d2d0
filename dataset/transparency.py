"""Colours under transparent pixels, settled before any resizing. Shapes: H height, W width, C = 3 channels."""
from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from .geometry import Floats, Pixels
from .item import Transparency

Colour = tuple[int, int, int]


def resolve(colours_HWC: Pixels, alpha_HW: Pixels | None, transparency: Transparency, name: str) -> Pixels:
    """The picture without transparency: every pixel that is not fully opaque becomes colour * a + backing * (1 - a).

    colours_HWC and alpha_HW: both uint8, uint16, or float32 in 0..1; colours as files store them, not multiplied by alpha.
    keep: the colours as stored. fill: the backing is transparency.colour. random: it is drawn from (transparency.seed, name),
    in every process the same. extend: it is the colour of the nearest fully opaque pixel (the most opaque ones if none is,
    transparency.colour if all are transparent), found by OpenCV's distance transform, whose nearest may lie 4 % farther than
    the true one. So a half-transparent edge, which often carries the white or black of an old background, is drawn towards
    the figure's own colour. Nothing is written to: a new array comes back, or colours_HWC itself where nothing is to be done.
    Raises ValueError for an alpha of another size or type.
    """
    if alpha_HW is None or transparency.hidden == "keep":
        return colours_HWC
    if alpha_HW.shape != colours_HWC.shape[:2] or alpha_HW.dtype != colours_HWC.dtype:
        raise ValueError(f"{name}: colours are {colours_HWC.shape} {colours_HWC.dtype}, alpha is {alpha_HW.shape} {alpha_HW.dtype}; "
                         "give alpha the size and type of the colours")
    white = {"uint8": 255, "uint16": 65535}.get(colours_HWC.dtype.name, 1)
    not_opaque = alpha_HW < white
    if not not_opaque.any():
        return colours_HWC
    backing_NC = _backing(colours_HWC, alpha_HW, not_opaque, white, transparency, name)
    a_N1 = (alpha_HW[not_opaque] / np.float32(white))[:, None]
    mixed_NC = colours_HWC[not_opaque] * a_N1 + backing_NC * (1 - a_N1)
    resolved = colours_HWC.copy()
    resolved[not_opaque] = mixed_NC if colours_HWC.dtype == np.float32 else np.rint(mixed_NC)
    return resolved


def random_colour(seed: int, name: str) -> Colour:
    """A colour that depends on the seed and the item's name only, not on the order or the process."""
    red, green, blue = hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:3]
    return red, green, blue


def _backing(
    colours_HWC: Pixels, alpha_HW: Pixels, not_opaque: npt.NDArray[np.bool_], white: int, transparency: Transparency, name: str
) -> Floats:
    """What lies behind each pixel that is not opaque: (N, C), or (1, C) if it is one colour."""
    most = alpha_HW.max()
    if transparency.hidden == "extend" and most > 0:
        nearest = _nearest(alpha_HW == most)[not_opaque]
        found: Floats = colours_HWC.reshape(-1, 3)[nearest].astype(np.float32)
        return found
    colour = random_colour(transparency.seed, name) if transparency.hidden == "random" else transparency.colour
    return np.array([colour], np.float32) * np.float32(white / 255)


def _nearest(chosen_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each pixel the place, counted along the rows, of the chosen pixel nearest to it."""
    import cv2

    _, labels = cv2.distanceTransformWithLabels((~chosen_HW).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    places = np.flatnonzero(chosen_HW)
    of_label = np.zeros(places.size + 1, np.int64)
    of_label[labels.reshape(-1)[places]] = places
    nearest: npt.NDArray[np.int64] = of_label[labels]
    return nearest
