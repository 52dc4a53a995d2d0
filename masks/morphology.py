"""Shapes in a grey mask: what lies within a disc, near an edge, or inside a ring. Exact on grey, not only on black and white.

Shapes: H height, W width in pixels. Nothing here changes its input.
"""
from __future__ import annotations

import math

import numpy as np

from .step import BLACK, Plane


def extreme_in_disc(plane_HW: Plane, radius: float, pick: np.ufunc) -> Plane:
    """Every pixel's greatest (pick: np.maximum) or least (np.minimum) neighbour; neighbours are at most `radius` pixels away.

    What lies outside the frame does not count, which is the same as a reflected border. About 3 * radius passes over the
    plane, where trying each pixel of the disc would take 3 * radius * radius.
    """
    rows = int(radius)
    if rows < 1:
        return plane_HW
    result_HW = plane_HW.copy()
    # widest_HW: the extreme within `reach` pixels to the left and right. The disc is a stack of such rows; from its top to its
    # middle they only become longer, so each is made from the one before.
    widest_HW, spare_HW, reach = plane_HW.copy(), np.empty_like(plane_HW), 0
    for dy in range(rows, -1, -1):
        while reach < math.isqrt(int(radius * radius) - dy * dy):
            _widen(widest_HW, spare_HW, pick, first=reach == 0)
            widest_HW, spare_HW, reach = spare_HW, widest_HW, reach + 1
        above, below = slice(None, -dy or None), slice(dy, None)
        pick(result_HW[below], widest_HW[above], out=result_HW[below])
        pick(result_HW[above], widest_HW[below], out=result_HW[above])
    return result_HW


def _widen(row_HW: Plane, out_HW: Plane, pick: np.ufunc, first: bool) -> None:
    """One pixel more reach on either side: the union of the neighbours' reaches, which has a gap in its middle only at first."""
    out_HW[:] = row_HW
    if row_HW.shape[1] == 1:
        return
    if first:
        pick(out_HW[:, 1:], row_HW[:, :-1], out=out_HW[:, 1:])
        pick(out_HW[:, :-1], row_HW[:, 1:], out=out_HW[:, :-1])
        return
    pick(row_HW[:, :-2], row_HW[:, 2:], out=out_HW[:, 1:-1])
    out_HW[:, 0], out_HW[:, -1] = row_HW[:, 1], row_HW[:, -2]


def ramp_inside(plane_HW: Plane, width: float) -> Plane:
    """w * clip((distance to the nearest black pixel's centre - 1/2) / width, 0, 1); see operations.Feather."""
    import cv2

    bright_HW = (plane_HW >= BLACK).view(np.uint8)
    if bright_HW.all():
        return plane_HW
    ramp_HW = np.asarray(cv2.distanceTransform(bright_HW, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
    ramp_HW -= 0.5
    ramp_HW /= width
    np.clip(ramp_HW, 0, 1, out=ramp_HW)
    ramp_HW *= plane_HW
    return ramp_HW


def fill_holes(plane_HW: Plane) -> Plane:
    """The least, over all paths to the frame, of the greatest weight on the path; see operations.FillHoles."""
    outside_HW = _black_outside(plane_HW)
    highest = plane_HW.max()
    level_HW = np.where(outside_HW, np.float32(0), highest)
    if not ((plane_HW > 0) & (plane_HW < highest)).any():
        return level_HW  # black and white: done
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        level_HW[edge] = plane_HW[edge]
    level_WH, plane_WH = np.ascontiguousarray(level_HW.T), np.ascontiguousarray(plane_HW.T)
    while True:
        before_WH = level_WH
        _sink(level_HW, plane_HW)
        level_WH = np.ascontiguousarray(level_HW.T)
        _sink(level_WH, plane_WH)
        level_HW = np.ascontiguousarray(level_WH.T)
        if np.array_equal(level_WH, before_WH):
            return level_HW


def _sink(level_HW: Plane, ground_HW: Plane) -> None:
    """Let the level fall to that of the row above, then to that of the row below, but nowhere below the ground."""
    rows = range(len(level_HW))
    for order in (rows, rows[::-1]):
        for last, row in zip(order, order[1:], strict=False):
            np.minimum(level_HW[row], level_HW[last], out=level_HW[row])
            np.maximum(level_HW[row], ground_HW[row], out=level_HW[row])


def _black_outside(plane_HW: Plane) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where black (exactly 0) is joined to black at the frame."""
    import cv2

    bright_HW = np.pad((plane_HW > 0).view(np.uint8), 1)
    cv2.floodFill(bright_HW, None, (0, 0), 2)
    return np.asarray(bright_HW[1:-1, 1:-1] == 2)
