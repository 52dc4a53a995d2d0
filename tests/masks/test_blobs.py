"""Seeded random shapes."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pack.masks.blobs import blob_mask
from pack.masks.operations import Blobs, CircularShrink
from pack.masks.recipe import MaskRecipe, apply_recipe
from skimage import data
from torch import Tensor

OUTLINE = torch.from_numpy((~data.horse()).astype(np.float32))[None]


def white(count: int = 1, height: int = 96, width: int = 128) -> Tensor:
    return torch.ones(count, height, width)


@pytest.mark.parametrize("coverage", [0.0, 0.03, 0.5, 0.777, 1.0])
@pytest.mark.parametrize("size", [(64, 200), (200, 64), (1, 1), (301, 299)])
@pytest.mark.parametrize("blob", [0.01, 0.2, 1.0])
def test_coverage_is_met_to_half_a_pixel(coverage: float, size: tuple[int, int], blob: float) -> None:
    mask_HW = blob_mask(*size, coverage, blob, seed=3, name="a")
    assert mask_HW.shape == size
    assert set(np.unique(mask_HW)) <= {0.0, 1.0}
    assert abs(mask_HW.sum() - coverage * mask_HW.size) <= 0.5


def test_seed_and_name_choose_the_blobs_and_the_place_in_the_batch_does_not() -> None:
    recipe = MaskRecipe((Blobs(seed=1),))
    first, second = apply_recipe(white(2), recipe, names=["cat", "dog"])
    assert not torch.equal(first, second)
    again = apply_recipe(white(3), recipe, names=["x", "dog", "cat"])
    assert torch.equal(again[2], first)
    assert torch.equal(again[1], second)
    assert not torch.equal(apply_recipe(white(), MaskRecipe((Blobs(seed=2),)), names=["cat"])[0], first)
    clip = apply_recipe(white(3), recipe, names=["clip"] * 3)
    assert torch.equal(clip[0], clip[1])
    assert torch.equal(clip[0], clip[2])


def test_names_default_to_numbers() -> None:
    recipe = MaskRecipe((Blobs(seed=1),))
    assert torch.equal(apply_recipe(white(2), recipe), apply_recipe(white(2), recipe, names=["0", "1"]))


def test_one_drawing_is_kept_forever() -> None:
    """A recipe in a LoRA file must mean the same mask later."""
    mask_HW = blob_mask(16, 16, 0.5, 0.3, seed=0, name="0")
    rows = ["".join("#" if pixel else "." for pixel in row) for row in mask_HW]
    assert rows == [
        "......####...###", ".....#####....##", ".....#####....##", ".....#####.....#",
        ".....#####.....#", ".....#####......", ".....#####......", ".....#####......",
        ".....#####......", "....######......", "...#######......", "##########......",
        "###########.....", "############....", "###############.", "######..########",
    ]


def test_blobs_are_smooth_and_as_large_as_asked() -> None:
    def pieces(size: float) -> int:
        mask_HW = blob_mask(256, 256, 0.5, size, seed=0, name="a").astype(np.uint8)
        smooth = cv2.medianBlur(mask_HW, 5)
        assert (smooth != mask_HW).mean() < 0.02  # no speckle
        return int(cv2.connectedComponents(mask_HW)[0])

    few, many = pieces(0.3), pieces(0.05)
    assert few < 10 < many


def test_blobs_take_all_places_alike() -> None:
    mean_HW = np.mean([blob_mask(48, 48, 0.5, 0.2, seed, "a") for seed in range(300)], axis=0)
    assert abs(mean_HW[:5].mean() - 0.5) < 0.06  # also at the frame
    assert abs(mean_HW[:, -5:].mean() - 0.5) < 0.06
    assert 0.3 < mean_HW.min() < mean_HW.max() < 0.7


def test_the_step_multiplies_the_mask() -> None:
    grey_BHW = torch.rand(1, 96, 128)
    blobs_HW = torch.from_numpy(blob_mask(96, 128, 0.4, 0.1, 5, "cat"))
    assert torch.equal(apply_recipe(grey_BHW, MaskRecipe((Blobs(0.4, 0.1, 5),)), names=["cat"])[0], grey_BHW[0] * blobs_HW)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_disc_lies_around_a_pixel_of_the_mask(seed: int) -> None:
    result = apply_recipe(OUTLINE, MaskRecipe((CircularShrink(0.4, 0.4, seed),)), names=["horse"])
    kept, inside = result[0].numpy() > 0, OUTLINE[0].numpy() > 0
    assert kept.any()
    assert not (kept & ~inside).any()
    # Of all masked pixels as centres, one explains the result: everything within 0.4 of its farthest distance, and no more.
    points = np.argwhere(inside)
    centre = next((c for c in points[np.argsort(((points - np.argwhere(kept).mean(0)) ** 2).sum(1))]
                   if np.array_equal(kept[inside], explains(points, c, 0.4))), None)
    assert centre is not None


def explains(points: np.ndarray, centre: np.ndarray, factor: float) -> np.ndarray:
    squares = ((points - centre) ** 2).sum(1)
    return np.asarray(squares <= factor**2 * squares.max())


def test_a_disc_of_factor_one_keeps_all_and_of_factor_zero_one_pixel() -> None:
    assert torch.equal(apply_recipe(OUTLINE, MaskRecipe((CircularShrink(1, 1),))), OUTLINE)
    assert apply_recipe(OUTLINE, MaskRecipe((CircularShrink(0, 0),))).sum().item() == 1


def test_a_disc_of_a_black_mask_is_black() -> None:
    assert apply_recipe(torch.zeros(1, 8, 8), MaskRecipe((CircularShrink(),))).max().item() == 0


def test_discs_differ_by_seed_and_name() -> None:
    def run(seed: int, name: str) -> Tensor:
        return apply_recipe(OUTLINE, MaskRecipe((CircularShrink(0.2, 0.6, seed),)), names=[name])

    assert torch.equal(run(1, "a"), run(1, "a"))
    assert not torch.equal(run(1, "a"), run(2, "a"))
    assert not torch.equal(run(1, "a"), run(1, "b"))
