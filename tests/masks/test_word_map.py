"""A map of one word: beside the others, over the picture's pixels, and how it fits a mask. Against other libraries and by hand."""
from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from pack.masks.word_map import ALONE, BESIDE, Area, heat_picture, inside, otsu, overlap, require_others, separation, stretched, word_map
from scipy.stats import mannwhitneyu
from skimage.filters import threshold_otsu


def test_beside_other_words_is_the_share_of_a_word() -> None:
    """Four tokens: one of no word, then "red", and "star" of two tokens."""
    attention = torch.tensor([9.0, 1.0, 2.0, 4.0]).reshape(4, 1, 1) * torch.tensor([[1.0, 10.0]])
    words = {"red": (1,), "star": (2, 3)}
    assert word_map(attention, (2, 3), words, ALONE).tolist() == [[3.0, 30.0]]
    assert word_map(attention, (2, 3), words, BESIDE).tolist() == [[0.75, 0.75]]
    assert word_map(attention, (3,), words, BESIDE).tolist() == [[4 / 8, 4 / 8]]  # half a word stands beside the whole


def test_a_prompt_of_one_word_has_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no words but star to compare with; describe the whole picture"):
        require_others((1, 2), {"star": (1, 2)}, BESIDE)
    require_others((1, 2), {"star": (1, 2)}, ALONE)


def test_a_map_lies_where_its_latent_was_cut() -> None:
    """A picture of 20 by 27: the latent is 2 by 3 cells of 8 from its middle; tokens of 2 by 2 cells reach a row of cells beyond it."""
    spread = Area((20, 27), (2, 3), 8).spread(torch.tensor([[0.0, 1.0]]))
    assert spread.shape == (20, 27)
    expected = cv2.resize(np.array([[0.0, 1.0]], np.float32), (32, 16), interpolation=cv2.INTER_LINEAR)[:, :24]
    np.testing.assert_allclose(spread[2:18, 1:25].numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(spread[0, 1:25].numpy(), expected[0])
    assert spread[10, 0] == spread[10, 1]
    assert (spread[:, 25:] == spread[:, 24:25]).all()


def test_otsu_cuts_where_scikit_image_does() -> None:
    draws = np.random.default_rng(0)
    soft = np.concatenate([draws.normal(60, 15, 900), draws.normal(170, 20, 300)]).clip(0, 255).round().astype(np.uint8)
    cut = otsu(torch.from_numpy(soft.reshape(30, 40) / np.float32(255)))
    np.testing.assert_array_equal(cut.numpy(), (soft > threshold_otsu(soft)).reshape(30, 40))


def test_separation_is_the_area_under_the_roc_curve() -> None:
    draws = torch.Generator().manual_seed(0)
    values, mask = torch.randint(0, 9, (12, 13), generator=draws).float(), (torch.rand(12, 13, generator=draws) > 0.6).float()
    within, without = values[mask > 0].numpy(), values[mask == 0].numpy()
    expected = mannwhitneyu(within, without).statistic / (within.size * without.size)
    assert separation(values, mask) == pytest.approx(expected, abs=1e-12)
    assert separation(mask, mask) == 1
    assert separation(torch.ones(12, 13), mask) == 0.5
    assert math.isnan(separation(values, torch.ones(12, 13)))


def test_shares_of_a_mask() -> None:
    values, mask = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    assert inside(values, mask) == pytest.approx(2 / 8)
    assert inside(torch.zeros(1, 3), mask) == 0
    assert overlap(torch.tensor([[0.0, 0.5, 1.0]]), mask) == pytest.approx(1 / 3)
    assert overlap(torch.zeros(1, 3), torch.zeros(1, 3)) == 1


def test_a_map_is_stretched_and_one_that_says_nothing_is_black() -> None:
    assert stretched(torch.tensor([[2.0, 3.0, 6.0]])).tolist() == [[0.0, 0.25, 1.0]]
    assert stretched(torch.full((1, 3), 0.2)).tolist() == [[0.0, 0.0, 0.0]]


def test_the_heat_map_has_the_pictures_size_and_is_lighter_where_the_map_is() -> None:
    soft = torch.linspace(0, 1, 40).expand(30, 40)
    light = heat_picture(torch.full((30, 40, 3), 0.5), soft, None).astype(float).mean((0, 2))
    assert light.shape == (40,)
    assert (np.diff(light) >= 0).all()
    mask = (torch.arange(40) >= 20).float().expand(30, 40)
    assert heat_picture(torch.full((30, 40, 3), 0.5), torch.zeros(30, 40), mask)[:, 19:21].min() > 200  # the light line
