"""Filled outlines: where they lie, how soft they are, and that far parts of a picture cost nothing."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
from pack.segmentation.polygons import SOFT_EDGE, fill


def square(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)


@pytest.mark.parametrize("corners", [(10.2, 20.2, 30.2, 44.2), (10.5, 20.25, 30.5, 44.75), (9.9, 19.9, 29.9, 43.9)])
def test_a_square_lies_where_its_corners_say(corners: tuple[float, float, float, float]) -> None:
    """The pixel (0, 0) reaches from 0 to 1, so that a mask's middle is its pixels' middles, weighed."""
    left, top, right, bottom = corners
    mask_HW = fill([square(*corners)], (64, 48))
    rows, columns = np.arange(64) + 0.5, np.arange(48) + 0.5
    area = float(mask_HW.sum())
    assert (right - left) * (bottom - top) <= area <= (right - left + 1.5) * (bottom - top + 1.5)  # OpenCV draws the outline too
    assert float(mask_HW.sum(0) @ columns) / area == pytest.approx((left + right) / 2, abs=0.1)
    assert float(mask_HW.sum(1) @ rows) / area == pytest.approx((top + bottom) / 2, abs=0.5)  # OpenCV fills whole rows
    assert mask_HW[int(top) + 4:int(bottom) - 4, int(left) + 4:int(right) - 4].min() == 1


@pytest.mark.parametrize("corners", [(400, 300, 700, 800), (-200, -100, 150, 90), (900, 700, 1400, 1000), (-50, 500, 1100, 550)])
def test_an_edge_is_as_soft_as_if_the_whole_picture_were_blurred(corners: tuple[float, float, float, float]) -> None:
    polygon, size_HW = square(*corners), (900, 1000)
    inside_HW = np.zeros(size_HW, np.uint8)
    cv2.fillPoly(inside_HW, [np.round((polygon - 0.5) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    blurred_HW = cv2.GaussianBlur(inside_HW, (0, 0), SOFT_EDGE * (corners[2] - corners[0])) / 255
    assert np.abs(fill([polygon], size_HW) - blurred_HW).max() <= 1.01 / 255


def test_polygons_outside_of_the_picture_and_several() -> None:
    assert fill([square(-40, -40, -30, -30), square(200, 0, 220, 20)], (50, 60)).max() == 0
    both = fill([square(5, 5, 15, 15), square(30, 5, 50, 15)], (50, 60))
    assert both[10, 10] == both[10, 40] == 1
    assert both[40, 30] == both[10, 22] == 0


def test_only_the_polygons_part_of_a_large_picture_is_blurred(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    real = cv2.GaussianBlur

    def blur(picture: np.ndarray, *settings: object) -> np.ndarray:
        seen.append(picture.shape)
        return real(picture, *settings)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(cv2, "GaussianBlur", blur)
    fill([square(1000, 500, 1100, 620)], (2000, 3000))
    assert seen == [(120 + 14, 100 + 14)]  # softness 2, three times that and a pixel on each side
