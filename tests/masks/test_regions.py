"""Weights for regions: grey levels of one mask, and one mask for each region."""
from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from pack.masks.operations import RegionWeights
from pack.masks.recipe import MaskRecipe, apply_recipe
from pack.masks.regions import BLISSFUL, REGION_PRESETS, REGION_TABLE, combine_regions, name_masks, read_weights
from skimage import data
from torch import Tensor

Array = npt.NDArray[np.float32]
FACE, BODY, HAIR, BACKGROUND = 1.0, 128 / 255, 80 / 255, 0.0
# Weights that do not rise with the levels: a line of a middle level between face and background would stand out.
REWEIGHED = RegionWeights(((FACE, 0.25), (BODY, 0.9), (HAIR, 0.6), (BACKGROUND, 0.1)))


def run(mask_HW: Array, step: RegionWeights) -> Array:
    return apply_recipe(torch.from_numpy(mask_HW)[None], MaskRecipe((step,)))[0].numpy()


def disc(size: int, inside: float, outside: float) -> Array:
    """A disc of radius 0.3 with soft edges: the mean of 8 x 8 samples in each pixel."""
    side = np.linspace(-0.5, 0.5, size * 8, endpoint=False) + 0.5 / (size * 8)
    samples = np.where(side[:, None] ** 2 + side[None] ** 2 < 0.09, inside, outside)
    return samples.reshape(size, 8, size, 8).mean((1, 3)).astype(np.float32)


def horse(values: tuple[float, float], size: tuple[int, int]) -> Array:
    """A real outline in two levels with soft edges."""
    outline = (~data.horse()).astype(np.float32)
    soft = cv2.resize(outline, size, interpolation=cv2.INTER_AREA)
    return np.asarray(values[0] + soft * (values[1] - values[0]), np.float32)


def test_each_level_gets_its_weight() -> None:
    mask_HW = np.repeat(np.repeat(np.float32([[FACE, BODY], [HAIR, BACKGROUND]]), 8, 0), 8, 1)
    expected = np.repeat(np.repeat(np.float32([[0.25, 0.9], [0.6, 0.1]]), 8, 0), 8, 1)
    np.testing.assert_array_equal(run(mask_HW, REWEIGHED), expected)


def test_the_nearest_level_counts_and_the_brighter_one_of_two_equally_near() -> None:
    step = RegionWeights(((1.0, 0.7), (0.5, 0.4), (0.0, 0.1)))
    for grey, weight in ((0.0, 0.1), (0.2499, 0.1), (0.25, 0.4), (0.7499, 0.4), (0.75, 0.7), (1.0, 0.7), (0.3, 0.4)):
        assert run(np.full((5, 5), grey, np.float32), step)[2, 2] == np.float32(weight), grey


def test_noise_of_a_lossy_file_keeps_the_level() -> None:
    noise = np.random.default_rng(0).normal(0, 6 / 255, (64, 64)).astype(np.float32)
    np.testing.assert_array_equal(run(BODY + noise, REWEIGHED), np.full((64, 64), np.float32(0.9)))


@pytest.mark.parametrize("size", [64, 200])
@pytest.mark.parametrize("outside", [BACKGROUND, HAIR])
def test_no_line_of_a_middle_level_runs_along_a_soft_edge(size: int, outside: float) -> None:
    weight_HW = run(disc(size, FACE, outside), REWEIGHED)
    beyond = 0.1 if outside == BACKGROUND else 0.6
    assert set(np.unique(weight_HW)) == {np.float32(0.25), np.float32(beyond)}
    hard = disc(size, 1, 0) > (0.5 if outside == BACKGROUND else 0.5)
    assert (np.isclose(weight_HW, 0.25) != hard).mean() < 0.02  # the edge stays where it is, to a pixel


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("kernel", [cv2.INTER_LINEAR, cv2.INTER_CUBIC])
def test_no_line_appears_in_enlarged_masks(factor: int, kernel: int) -> None:
    small = horse((BACKGROUND, FACE), (100, 80))
    mask_HW = np.clip(cv2.resize(small, None, fx=factor, fy=factor, interpolation=kernel), 0, 1)
    weight_HW = run(mask_HW, REWEIGHED)
    # The legs of the small horse are a few pixels wide and grey there, so a little of a middle level is right.
    assert np.isin(weight_HW, np.float32([0.25, 0.1])).mean() > 0.995
    naive = np.float32([0.1, 0.6, 0.9, 0.25])[np.abs(mask_HW[..., None] - np.float32([BACKGROUND, HAIR, BODY, FACE])).argmin(-1)]
    assert np.isin(naive, np.float32([0.6, 0.9])).mean() > 0.01  # what the nearest level alone would have drawn


def test_real_regions_and_strands_stay_and_thin_bands_between_two_others_go() -> None:
    mask_HW = np.zeros((60, 40), np.float32)
    mask_HW[2:12, 5:20] = HAIR
    mask_HW[15, 5:30] = BODY  # a strand one pixel high, brighter than all around it
    mask_HW[20:30], mask_HW[24] = FACE, HAIR  # a dark line through a face
    mask_HW[30:35] = BODY  # between face and background: five pixels stay
    mask_HW[45:50], mask_HW[50:54] = FACE, BODY  # four go: two to the face, two to the background
    expected = np.full((60, 40), np.float32(0.1))
    expected[2:12, 5:20], expected[15, 5:30], expected[20:30], expected[24], expected[30:35] = 0.6, 0.9, 0.25, 0.6, 0.9
    expected[45:52] = 0.25
    np.testing.assert_array_equal(run(mask_HW, REWEIGHED), expected)


def test_a_tiny_mask_counts_too() -> None:
    mask_HW = np.array([[0, 1, 0], [1, 0.5, 1], [0, 1, 0]], np.float32)
    expected = np.array([[0.1, 0.25, 0.1], [0.25, 0.25, 0.25], [0.1, 0.25, 0.1]], np.float32)
    np.testing.assert_array_equal(run(mask_HW, REWEIGHED), expected)


def test_one_level_is_a_constant() -> None:
    assert set(run(disc(32, 1, 0), RegionWeights(((0.5, 0.3),))).ravel()) == {np.float32(0.3)}


def test_the_default_keeps_the_guides_own_masks() -> None:
    for grey, weight in ((255, 1.0), (128, 0.502), (80, 0.314), (0, 0.0)):
        assert run(np.full((4, 4), grey / 255, np.float32), RegionWeights())[0, 0] == np.float32(weight)
    assert RegionWeights().describe() == "regions 255 -> 1, 128 -> 0.502, 80 -> 0.314, 0 -> 0"


def patch(rows: slice, value: float = 1.0) -> Tensor:
    mask_BHW = torch.zeros(1, 8, 4)
    mask_BHW[:, rows] = value
    return mask_BHW


def test_regions_take_the_greatest_weight_times_mask() -> None:
    masks = {"face": patch(slice(0, 3)), "body": patch(slice(2, 6)), "hair": patch(slice(5, 8), 0.5)}
    result = combine_regions(masks, BLISSFUL)[0, :, 0].tolist()
    assert result == pytest.approx([1, 1, 1, 0.502, 0.502, 0.502, 0.157, 0.157])
    assert combine_regions(masks, {"face": 1.0, "body": 0.5, "hair": 0.3, "background": 0.25})[0, :, 0].tolist() == pytest.approx(
        [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_a_background_with_a_mask_of_its_own_is_a_region_like_others() -> None:
    masks = {"face": patch(slice(0, 4)), "background": patch(slice(4, 6))}
    result = combine_regions(masks, {"face": 1.0, "background": 0.25})[0, :, 0].tolist()
    assert result == [1, 1, 1, 1, 0.25, 0.25, 0, 0]


def test_the_presets_are_those_of_their_sources() -> None:
    assert list(REGION_PRESETS.values()) == [{"face": 1.0, "body": 0.502, "hair": 0.314, "background": 0.0},
                                             {"face": 1.0, "body": 0.5, "background": 0.25}]
    assert read_weights(REGION_TABLE) == BLISSFUL


def test_a_table_is_read() -> None:
    assert read_weights("face 1.0\n\n# half\n left hand\t0.5\nbody: 0.25\n") == {"face": 1.0, "left hand": 0.5, "body": 0.25}
    assert read_weights("") == {}


@pytest.mark.parametrize("line", ["hand", "0.5", "hand 1.5", "hand -1", "hand nan", "hand x", "face 0.3", ": 1"])
def test_a_wrong_line_of_a_table_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"line 2 of the weights"):
        read_weights(f"face 1.0\n{line}")


def test_masks_are_named_in_the_order_of_the_table() -> None:
    masks = [patch(slice(0, i)) for i in range(1, 5)]
    assert list(name_masks(masks, BLISSFUL)) == ["face", "body", "hair", "background"]
    three = name_masks(masks[:3], {"background": 0.0, "face": 1.0, "body": 0.5, "hair": 0.3})
    assert [name for name, mask in three.items()] == ["face", "body", "hair"]
    assert three["body"] is masks[1]
    with pytest.raises(ValueError, match="2 masks for the regions face, body, hair"):
        name_masks(masks[:2], BLISSFUL)


def test_regions_and_weights_must_fit() -> None:
    with pytest.raises(ValueError, match="region 'hat' has no weight"):
        combine_regions({"hat": patch(slice(0, 1))}, BLISSFUL)
    with pytest.raises(ValueError, match="the weights have 'hair' but there is no such mask"):
        combine_regions({"face": patch(slice(0, 1)), "body": patch(slice(0, 1))}, BLISSFUL)
    with pytest.raises(ValueError, match="mask 'face' is 4x8, mask 'body' is 5x8"):
        combine_regions({"face": patch(slice(0, 1)), "body": torch.zeros(1, 8, 5)}, {"face": 1, "body": 1})
    with pytest.raises(ValueError, match="no mask"):
        combine_regions({}, {})
