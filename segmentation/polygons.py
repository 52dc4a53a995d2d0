"""Filled outlines with soft edges. Shapes: H height, W width in pixels."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .tflite import Floats

SUB_PIXELS = 4  # binary digits
SOFT_EDGE = 0.02  # of a polygon's width


def fill(polygons: Iterable[Floats], size_HW: Sequence[int]) -> Floats:
    """(H, W), 0..1: all polygons in one, each with an edge as soft as befits its width.

    polygons: (N, 2) each, x and y in pixels, the pixel (0, 0) reaching from 0 to 1. They may reach beyond the picture.
    """
    import cv2

    whole_HW = np.zeros(tuple(size_HW), np.float32)
    for polygon in polygons:
        inside_HW = np.zeros(tuple(size_HW), np.uint8)
        corners = np.round((polygon - 0.5) * 2**SUB_PIXELS).astype(np.int32)  # OpenCV counts from pixels' middles
        cv2.fillPoly(inside_HW, [corners], 255, cv2.LINE_AA, SUB_PIXELS)
        softness = max(0.5, SOFT_EDGE * float(np.ptp(polygon[:, 0])))
        np.maximum(whole_HW, cv2.GaussianBlur(inside_HW, (0, 0), softness) / np.float32(255), out=whole_HW)
    return whole_HW
