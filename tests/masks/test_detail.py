"""Thin details at the latent grid: which vanish and how much growth keeps them, by hand, in numpy and on a photograph."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.masks.detail import dilate, grow_for_latent_grid, report, vanished, vanished_share
from pack.masks.detail_picture import ADDED, GAP, LOST, TILE, detail_picture, detail_pictures
from pack.masks.latent_grid import latent_weight
from pack.masks.operations import Grow
from pack.masks.recipe import MaskRecipe, apply_recipe
from skimage import data
from torch import Tensor


def columns(first: int, count: int, side: int = 64) -> Tensor:
    """A vertical line from column `first` on, `count` pixels wide, from top to bottom."""
    mask_HW = torch.zeros(side, side)
    mask_HW[:, first:first + count] = 1
    return mask_HW


def tripod() -> Tensor:
    """The dark man with his tripod, whose legs are a few pixels thin."""
    return torch.from_numpy((data.camera() < 70).astype(np.float32))


def lost_by_hand(mask: np.ndarray, grown: np.ndarray, cell: int, threshold: float) -> float:
    """The definition, cell by cell; sides are whole multiples of the cell."""
    lost = 0
    for top in range(0, mask.shape[0], cell):
        for left in range(0, mask.shape[1], cell):
            part = np.s_[top:top + cell, left:left + cell]
            if grown[part].astype(np.float64).mean() < threshold - 1 / 255:
                lost += (mask[part] >= 0.5).sum()
    return float(lost / (mask >= 0.5).sum())


def disc_by_hand(mask: np.ndarray, radius: int) -> np.ndarray:
    """The greatest value of all shifts by at most `radius`; nothing comes in from outside."""
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            if x * x + y * y <= radius * radius:
                grown = np.maximum(grown, padded[radius + y:radius + y + mask.shape[0], radius + x:radius + x + mask.shape[1]])
    return grown


# A cell of 8 needs 4 white columns. Growth g adds g on each side, as far as the cell goes; a line over two cells needs 4 in each.
@pytest.mark.parametrize(
    ("first", "count", "growth"),
    [(24, 1, 3), (25, 1, 2), (27, 1, 2), (31, 1, 3), (24, 2, 2), (27, 2, 1), (31, 2, 3), (24, 3, 1), (27, 3, 1), (30, 3, 3),
     (26, 4, 0), (30, 4, 2), (24, 8, 0)])
def test_growth_of_lines_known_by_hand(first: int, count: int, growth: int) -> None:
    found = grow_for_latent_grid(columns(first, count)[None], 8)
    assert found.pixels == growth
    assert torch.equal(found.mask_BHW[0], columns(first - growth, count + 2 * growth))
    assert found.before == (1.0 if growth else 0.0,)
    assert found.after == (0.0,)
    assert found.added == (2 * growth / 64,)


@pytest.mark.parametrize(("threshold", "growth"), [(0.12, 0), (0.25, 1), (0.5, 3), (0.75, 5), (1.0, 7)])
def test_the_threshold_decides_how_much(threshold: float, growth: int) -> None:
    assert grow_for_latent_grid(columns(24, 1)[None], 8, threshold=threshold).pixels == growth


@pytest.mark.parametrize(("white", "growth"), [(254 / 255, 3), (0.98, 4)])
def test_white_as_the_host_loads_it_is_white(white: float, growth: int) -> None:
    assert grow_for_latent_grid(columns(24, 1)[None] * white, 8).pixels == growth


def test_the_cell_decides_how_much() -> None:
    assert [grow_for_latent_grid(columns(16, 1)[None], cell).pixels for cell in (1, 4, 8, 16, 32)] == [0, 1, 3, 7, 8]


def test_keep_lets_a_part_vanish() -> None:
    mask_HW = columns(26, 4) + columns(40, 1)  # 4/5 kept as drawn
    assert [grow_for_latent_grid(mask_HW[None], 8, keep=keep).pixels for keep in (0.8, 0.81, 1.0)] == [0, 3, 3]


def test_one_growth_for_the_batch_is_what_its_thinnest_mask_needs() -> None:
    batch = torch.stack([columns(26, 4), columns(24, 1), columns(27, 2)])
    found = grow_for_latent_grid(batch, 8)
    assert found.pixels == 3
    assert torch.equal(found.mask_BHW[0], columns(23, 10))
    assert found.before == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(("cell", "keep"), [(8, 0.99), (8, 0.999), (16, 0.95), (32, 0.99)])
def test_a_photograph_gets_the_smallest_radius_that_keeps_enough(cell: int, keep: float) -> None:
    mask_HW = tripod()
    found = grow_for_latent_grid(mask_HW[None], cell, keep=keep, largest=40)
    radii = (0, found.pixels - 1, found.pixels)
    lost = [lost_by_hand(mask_HW.numpy(), disc_by_hand(mask_HW.numpy(), radius), cell, 0.5) for radius in radii]
    assert found.pixels > 0
    assert lost[1] > 1 - keep >= lost[2]
    assert found.before[0] == pytest.approx(lost[0], abs=1e-9)
    assert found.after[0] == pytest.approx(lost[2], abs=1e-9)
    grown = disc_by_hand(mask_HW.numpy(), found.pixels)
    assert np.array_equal(found.mask_BHW[0].numpy(), grown)
    assert found.added[0] == pytest.approx((grown - mask_HW.numpy()).mean(dtype=np.float64), abs=1e-9)


def test_the_legs_of_the_tripod_vanish_and_come_back() -> None:
    legs = np.s_[336:512, 300:408]
    mask_HW = tripod()
    before = vanished(mask_HW[None], latent_weight(mask_HW[None], (64, 64))[:, 0])[0][legs]
    grown_1HW = grow_for_latent_grid(mask_HW[None], 8, keep=0.999).mask_BHW
    after = vanished(mask_HW[None], latent_weight(grown_1HW, (64, 64))[:, 0])[0][legs]
    assert before.sum() > 0.8 * mask_HW[legs].sum() > 250
    assert after.sum() < 0.05 * before.sum()


def test_vanished_pixels_and_their_share_agree() -> None:
    mask_BHW = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)) ** 2
    cells_Bhw = latent_weight(mask_BHW, (6, 8))[:, 0]
    marked = vanished(mask_BHW, cells_Bhw, 0.34)
    white = mask_BHW >= 0.5
    assert not (marked & ~white).any()
    assert 0.1 < marked.sum() / white.sum() < 0.9
    assert vanished_share(mask_BHW, cells_Bhw, 0.34) == pytest.approx((marked.sum() / white.sum()).item(), abs=1e-6)
    with pytest.raises(ValueError, match="cut the mask to whole cells"):
        vanished(mask_BHW[:, :47], cells_Bhw)


def test_grey_of_one_half_is_white() -> None:
    mask_1HW = columns(24, 1)[None]
    for grey, lost in ((0.5, 1.0), (0.49, 0.0)):
        cells_1hw = latent_weight(mask_1HW * grey, (8, 8))[:, 0]
        assert vanished_share(mask_1HW * grey, cells_1hw) == lost
        assert vanished(mask_1HW * grey, cells_1hw).sum() == 64 * lost


def test_growth_is_the_recipe_step() -> None:
    mask_HW = tripod() * 0.75
    assert torch.equal(dilate(mask_HW, 5), apply_recipe(mask_HW[None], MaskRecipe((Grow(5, "pixels"),)))[0])
    found = grow_for_latent_grid(mask_HW[None], 8)
    assert found.mask_BHW.max() == 0.75  # grey grows as grey


def test_cut_off_pixels_do_not_count() -> None:
    mask_HW = torch.zeros(70, 70)  # the VAE sees 3..67
    mask_HW[:, 0:2] = 1
    mask_HW[:, 27:31] = 1
    found = grow_for_latent_grid(mask_HW[None], 8)
    assert found.pixels == 0
    assert found.mask_BHW.shape == (1, 70, 70)
    assert grow_for_latent_grid(mask_HW[None, 3:67, :64], 8).pixels > 0


def test_the_largest_growth_is_told_when_it_is_not_enough() -> None:
    found = grow_for_latent_grid(columns(24, 1)[None], 8, largest=2)
    assert (found.pixels, found.after) == (2, (1.0,))
    assert "100.0% of the white pixels still vanish" in report(found, 0.99, 0.5)
    assert "raise 'largest'" in report(found, 0.99, 0.5)


def test_the_report_has_a_line_for_each_mask() -> None:
    lines = report(grow_for_latent_grid(torch.stack([columns(24, 1), columns(24, 8)]), 8), 0.99, 0.5).splitlines()
    assert lines[0].startswith("White = learn. Grown by 3 px, so that at least 99.0%")
    assert lines[1] == "mask 1: 100.0% of its white pixels vanish as drawn, 0.0% grown; growth makes 9.38% of all pixels white"
    assert lines[2].startswith("mask 2: 0.0%")


def test_nothing_white_needs_no_growth() -> None:
    found = grow_for_latent_grid(torch.zeros(1, 64, 64), 8)
    assert (found.pixels, found.before, found.after, found.added) == (0, (0.0,), (0.0,), (0.0,))


@pytest.mark.parametrize(
    ("mask", "settings", "says"),
    [(torch.ones(4, 4), {}, "give at least one mask"), (torch.ones(0, 64, 64), {}, "give at least one mask"),
     (torch.ones(1, 4, 64), {}, "64x4 pixels, less than the 8"), (torch.full((1, 64, 64), torch.nan), {}, "NaN"),
     (torch.ones(1, 64, 64), {"keep": 1.5}, "keep is 1.5"), (torch.ones(1, 64, 64), {"threshold": 0.0}, "threshold is 0.0"),
     (torch.ones(1, 64, 64), {"largest": -1}, "largest is -1")])
def test_what_cannot_be_grown_is_refused(mask: Tensor, settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        grow_for_latent_grid(mask, 8, **settings)  # type: ignore[arg-type]


def test_the_picture_marks_the_vanished_line_before_and_the_growth_after() -> None:
    mask_HW = torch.zeros(1024, 1024)
    mask_HW[:, 512] = 1  # thinner than half a pixel of the picture
    found = grow_for_latent_grid(mask_HW[None], 8)
    picture = detail_picture(mask_HW, found, 0, 8, 0.5)
    before, after = picture[120:500, GAP:GAP + TILE], picture[120:500, 2 * GAP + TILE:2 * GAP + 2 * TILE]
    assert (before == LOST).all(-1).any(0).sum() == 1
    assert (before == LOST).all(-1).sum() == len(before)
    assert not (after == LOST).all(-1).any()
    close = picture[-500:-100, 2 * GAP + TILE:]
    assert (np.abs(close.astype(int) - ADDED).max(-1) <= 1).sum() > 6 * 5 * 300  # 2 x 3 columns of growth, enlarged


def test_pictures_of_a_batch_show_those_that_lose_most() -> None:
    batch = torch.stack([columns(26, 4)] * 9 + [columns(24, 1)])
    found = grow_for_latent_grid(batch, 8)
    pictures = detail_pictures(batch, found, 8, 0.5)
    assert len(pictures) == 8
    assert np.array_equal(pictures[0], detail_picture(batch[9], found, 9, 8, 0.5))
