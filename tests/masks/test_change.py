"""Changes inside and outside of a mask against numpy by hand, and how they are drawn."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pack.masks.canvas import BACKGROUND, INK
from pack.masks.change import Change, picture_sums, rms, weighted_sums
from pack.masks.comparison import evenly
from pack.masks.drift_picture import drift_card, heat_over
from pack.masks.heat_map import colours, outlined
from PIL import Image


def test_weighted_by_hand() -> None:
    """Squares 4, 9, 16 with weights 1, 0.5, 0: inside (4 + 4.5) / 1.5, outside (4.5 + 16) / 1.5."""
    change = Change.of([weighted_sums(torch.tensor([[4.0, 9.0, 16.0]]), torch.tensor([[1.0, 0.5, 0.0]]))])
    assert change.inside == pytest.approx(math.sqrt(8.5 / 1.5), rel=1e-12)
    assert change.outside == pytest.approx(math.sqrt(20.5 / 1.5), rel=1e-12)
    assert change.bleed == pytest.approx(math.sqrt(20.5 / 8.5), rel=1e-12)


@pytest.mark.parametrize("masks", [1, 3])
def test_pictures_against_numpy(masks: int) -> None:
    draws = np.random.default_rng(0)
    base, changed = draws.random((2, 3, 10, 12, 3))
    mask = draws.random((masks, 10, 12)).astype(np.float32)
    sums = picture_sums(torch.from_numpy(base), torch.from_numpy(changed), torch.from_numpy(mask))
    for i, each in enumerate([*sums, sums]):
        which = slice(None) if i == 3 else slice(i, i + 1)
        weight = np.broadcast_to(mask, (3, 10, 12))[which, ..., None].astype(np.float64) * np.ones(3)
        squares = (changed - base)[which] ** 2
        found = Change.of(each if i == 3 else [each])
        assert found.inside == pytest.approx(np.sqrt(np.average(squares, weights=weight)), rel=1e-9)
        assert found.outside == pytest.approx(np.sqrt(np.average(squares, weights=1 - weight)), rel=1e-9)


@pytest.mark.parametrize(("changed", "mask", "expected"), [
    (0.0, 1.0, (0, 0, 0)), (0.5, 1.0, (0.5, 0, 0)), (0.5, 0.0, (0, 0.5, math.inf)), (0.5, 0.25, (0.5, 0.5, 1))])
def test_flat_masks_have_a_stated_outcome(changed: float, mask: float, expected: tuple[float, ...]) -> None:
    sums = picture_sums(torch.zeros(1, 4, 4, 3), torch.full((1, 4, 4, 3), changed), torch.full((1, 4, 4), mask))
    change = Change.of(sums)
    assert (change.inside, change.outside, change.bleed) == expected


@pytest.mark.parametrize(("changed", "mask", "message"), [
    ((2, 8, 6, 3), (1, 8, 8), "before are 2 of 8x8 with 3 channels and those after 2 of 6x8"),
    ((1, 8, 8, 3), (1, 8, 8), "same seeds"),
    ((2, 8, 8, 3), (3, 8, 8), "3 masks for 2 pictures"),
    ((2, 8, 8, 3), (1, 8, 6), "mask is 6x8 and the pictures are 8x8")])
def test_what_does_not_fit_is_told(changed: tuple[int, ...], mask: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        picture_sums(torch.zeros(2, 8, 8, 3), torch.zeros(changed), torch.zeros(mask))


def test_rms_by_hand() -> None:
    assert rms(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == pytest.approx(math.sqrt(12.5), rel=1e-12)


@pytest.mark.parametrize(("count", "most", "kept"), [
    (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (7, 1, [6]), (10, 4, [0, 3, 6, 9]), (0, 3, [])])
def test_evenly(count: int, most: int, kept: list[int]) -> None:
    assert evenly(count, most) == kept


def test_the_border_runs_between_inside_and_outside() -> None:
    inside = np.zeros((4, 4), bool)
    inside[1:3, 1:3] = True
    drawn = np.asarray(outlined(Image.new("RGB", (80, 80), (9, 9, 9)), inside))
    assert (drawn[30, 20] == INK).all()
    assert (drawn[40, 60] == INK).all()
    assert (drawn[20, 40] == INK).all()
    assert (drawn[60, 40] == INK).all()
    assert (drawn[30, 22] == BACKGROUND).all()
    for y, x in ((40, 40), (10, 10), (30, 70), (70, 30)):
        assert (drawn[y, x] == 9).all()
    plain = Image.new("RGB", (80, 80), (9, 9, 9))
    for flat in (np.zeros((4, 4), bool), np.ones((4, 4), bool)):
        assert outlined(plain, flat).tobytes() == plain.tobytes()


def test_heat_has_the_colours_of_the_legend_on_average() -> None:
    image = torch.rand(64, 64, 1, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    mean = np.asarray(heat_over(image, torch.full((8, 8), 0.5)), np.float64).mean((0, 1))
    assert np.abs(mean - colours(np.array(0.5))).max() < 1


@pytest.mark.parametrize("size", [(128, 128), (64, 192), (192, 64)])
def test_a_card_holds_its_text(size: tuple[int, int]) -> None:
    """Nothing is cut: a margin of the card's own colour is left on every side, also for a name and numbers of any length."""
    height, width = size
    card = drift_card("name " * 40, torch.rand(height, width, 3), torch.rand(height // 8, width // 8),
                      torch.zeros(height // 8, width // 8), "change inside 1.000, outside 0.100 " * 8)
    edge = card[0, 0]
    for strip in (card[:5], card[-5:], card[:, :5], card[:, -5:]):
        assert (strip == edge).all()
