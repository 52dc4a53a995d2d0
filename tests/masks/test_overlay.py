"""The small picture of a review: what is learned keeps its colours, the rest is dark."""
from __future__ import annotations

import numpy as np
from pack.masks.overlay import overlay
from PIL import Image

PICTURE = np.full((40, 60, 3), (200, 100, 50), np.uint8)
GREY = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_learned_is_untouched_the_rest_is_dark_and_the_border_bright() -> None:
    mask = np.zeros((40, 60), np.float32)
    mask[10:30, 20:40] = 1
    drawn = overlay(PICTURE, mask, 60)
    assert drawn.shape == (40, 60, 3)
    assert (drawn[11:29, 21:39] == (200, 100, 50)).all()
    dark = [round(GREY + (colour - GREY) * 0.75) for colour in (22, 24, 58)]
    assert np.abs(drawn[:10].astype(int) - dark).max() <= 1
    assert (drawn[10, 20:40] == (255, 244, 190)).all()
    assert (drawn[10:30, 39] == (255, 244, 190)).all()


def test_a_mask_that_is_shrunk_is_averaged() -> None:
    """Stripes of two pixels, white and black, at a quarter of the size: half of each, so the same as an even half."""
    stripes = np.zeros((160, 240), np.float32)
    stripes[:, ::4] = stripes[:, 1::4] = 1
    assert np.abs(overlay(PICTURE, stripes, 60).astype(int) - overlay(PICTURE, np.full((160, 240), 0.5, np.float32), 60)).max() <= 1


def test_a_grey_lies_between() -> None:
    half = overlay(PICTURE, np.full((40, 60), 0.5, np.float32), 60)[20, 30].astype(float)
    white, black = (overlay(PICTURE, np.full((40, 60), weight, np.float32), 60)[20, 30].astype(float) for weight in (1, 0))
    assert np.abs(half - (white + black) / 2).max() <= 1


def test_size_and_missing_mask() -> None:
    assert overlay(PICTURE, np.ones((80, 120), np.float32), 30).shape == (20, 30, 3)
    assert overlay(PICTURE, None, 320).shape == (40, 60, 3), "a small picture is not enlarged"
    assert np.asarray(Image.fromarray(overlay(PICTURE, None, 30))).reshape(-1, 3).max(axis=0).tolist() == [200, 100, 50]
