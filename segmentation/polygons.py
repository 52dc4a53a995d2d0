"""Filled outlines with soft edges. Shapes: H height, W width in pixels."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from .tflite import Floats

SUB_PIXELS = 4  # binary digits
SOFT_EDGE = 0.02  # of a polygon's width
REACH = 3  # of a blur, in its softness: OpenCV's for bytes goes no further


def fill(polygons: Iterable[Floats], size_HW: Sequence[int]) -> Floats:
    """(H, W), 0..1: all polygons in one, each with an edge as soft as befits its width.

    polygons: (N, 2) each, x and y in pixels, the pixel (0, 0) reaching from 0 to 1. They may reach beyond the picture.
    """
    import cv2

    height, width = size_HW
    whole_HW = np.zeros((height, width), np.float32)
    for polygon in polygons:
        softness = max(0.5, SOFT_EDGE * float(np.ptp(polygon[:, 0])))
        # Only the part that the polygon and its soft edge reach: a blur of a whole large picture takes a second.
        reach = math.ceil(REACH * softness) + 1
        left, top = (max(0, math.floor(value) - reach) for value in polygon.min(0).tolist())
        right, bottom = (min(side, math.ceil(value) + reach) for value, side in zip(polygon.max(0).tolist(), (width, height), strict=True))
        if left >= right or top >= bottom:
            continue
        inside_HW = np.zeros((bottom - top, right - left), np.uint8)
        corners = np.round((polygon - (left, top) - 0.5) * 2**SUB_PIXELS).astype(np.int32)  # OpenCV counts from pixels' middles
        cv2.fillPoly(inside_HW, [corners], 255, cv2.LINE_AA, SUB_PIXELS)
        part_HW = whole_HW[top:bottom, left:right]
        np.maximum(part_HW, cv2.GaussianBlur(inside_HW, (0, 0), softness) / np.float32(255), out=part_HW)
    return whole_HW
