"""Which part of a picture is kept. Sizes are (width, height); boxes are left, top, right, bottom in source pixels."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]
MASK_LEVELS = 65535  # weights are counted in whole steps, so that equal windows have equal sums


def covering_size(source: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The largest part of the source with the target's aspect ratio, in whole pixels; scaled to the target it covers it."""
    (width, height), (wide, high) = source, target
    if width * high >= height * wide:
        return max(1, round(height * wide / high)), height
    return width, max(1, round(width * high / wide))


def centred_box(source: tuple[int, int], size: tuple[int, int]) -> Box:
    """A window of this size in the middle of the source; of an odd margin the smaller half is left and on top."""
    left, top = ((whole - part) // 2 for whole, part in zip(source, size, strict=True))
    return left, top, left + size[0], top + size[1]


def mask_box(mask_THW: npt.NDArray[np.floating], size: tuple[int, int]) -> Box:
    """The window of this size with the largest sum of mask weights, exactly; of equal ones the one nearest to the middle.

    mask_THW: 0..1; the frames of a clip are added up. An all-black mask gives the centred window.
    """
    height, width = mask_THW.shape[1:]
    weights_HW = np.zeros((height, width), np.int64)
    for mask_HW in mask_THW:  # one after the other: the frames of a clip take gigabytes
        weights_HW += np.rint(mask_HW * np.float64(MASK_LEVELS)).astype(np.int64)
    total = np.zeros((height + 1, width + 1), np.int64)
    weights_HW.cumsum(0, out=total[1:, 1:])
    total.cumsum(1, out=total)
    wide, high = size
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    tops, lefts = np.nonzero(sums == sums.max())
    # Twice the distances stay whole numbers; of two windows at one distance the upper, then the left one comes first.
    distances = (2 * lefts - (width - wide)) ** 2 + (2 * tops - (height - high)) ** 2
    best = int(distances.argmin())
    left, top = int(lefts[best]), int(tops[best])
    return left, top, left + wide, top + high
