"""Each step against numpy written from its formula, and against scikit-image where it has the same operation."""
from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pack.masks.menu import AFFINE, CLAMP, DISC, make_step, read_levels
from pack.masks.operations import Blobs, Blur, CircularShrink, Feather, FillHoles, Floor, Gamma, Grow, Invert, RegionWeights, Threshold
from pack.masks.recipe import MaskRecipe, apply_recipe
from pack.masks.step import Step
from scipy import ndimage
from skimage import data, morphology, transform

Array = npt.NDArray[np.float64]


def photograph(size: tuple[int, int] = (90, 120)) -> Array:
    """A real photograph as a grey mask: all kinds of levels and edges."""
    return np.asarray(transform.resize(data.camera() / 255, size, anti_aliasing=True), np.float64)


def silhouette(size: tuple[int, int] = (90, 120)) -> Array:
    """A real outline with holes, black and white, soft at the edges as drawing programs make it; black touches the frame."""
    return np.asarray(transform.resize(1.0 - data.horse(), size, anti_aliasing=True), np.float64)


def rings(size: tuple[int, int] = (90, 120)) -> Array:
    """Ring-shaped walls, many of them closed: coins seen from above."""
    return np.asarray(transform.resize(data.coins() / 255, size, anti_aliasing=True), np.float64)


MASKS = {"photograph": photograph(), "silhouette": silhouette(), "rings": rings(), "outline": (silhouette() > 0.5).astype(np.float64),
         "one row": photograph((1, 50)), "one column": photograph((50, 1)), "two columns": photograph((40, 2))}
every_mask = pytest.mark.parametrize("mask_HW", MASKS.values(), ids=MASKS.keys())


def run(mask_HW: Array, *steps: Step) -> Array:
    return apply_recipe(torch.from_numpy(mask_HW)[None], MaskRecipe(steps))[0].numpy().astype(np.float64)


@every_mask
@pytest.mark.parametrize(
    ("step", "formula"),
    [
        (Invert(), lambda w: 1 - w), (Threshold(0.4), lambda w: (w >= 0.4).astype(float)),
        (Floor(0.2), lambda w: w * 0.8 + 0.2), (Floor(0.2, "clamp"), lambda w: np.maximum(w, 0.2)),
        *((Gamma(g), lambda w, g=g: w**g) for g in (0.1, 0.5, 0.7, 1.5, 2.0, 3.0, 8.0)),
    ],
)
def test_pointwise_steps(mask_HW: Array, step: Step, formula: object) -> None:
    mask_HW = mask_HW.astype(np.float32).astype(np.float64)  # so that a level at the threshold is the same number in both
    np.testing.assert_allclose(run(mask_HW, step), formula(mask_HW), atol=1e-6)  # type: ignore[operator]


def test_the_threshold_itself_is_white() -> None:
    assert run(np.array([[0.25, 0.5, 0.75]]), Threshold(0.5)).tolist() == [[0, 1, 1]]


def gaussian(mask_HW: Array, sigma: float) -> Array:
    """Convolution with exp(-x^2 / 2 sigma^2) over a mask that is mirrored at its frame."""
    reach = math.ceil(8 * sigma) + 1
    kernel = np.exp(-np.arange(-reach, reach + 1) ** 2 / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        mask_HW = np.apply_along_axis(np.convolve, axis, np.pad(mask_HW, pad, mode="symmetric"), kernel, mode="valid")
    return mask_HW


@pytest.mark.parametrize("sigma", [0.8, 2.7, 9.0])
@pytest.mark.parametrize("mask_HW", [photograph(), silhouette(), photograph((1, 50))], ids=["photograph", "silhouette", "one row"])
def test_blur_is_a_gaussian_over_the_mirrored_mask(mask_HW: Array, sigma: float) -> None:
    # OpenCV's kernel for float ends at 4 sigma, which leaves 6e-5 of the weight on either side.
    np.testing.assert_allclose(run(mask_HW, Blur(sigma, "pixels")), gaussian(mask_HW, sigma), atol=1.5e-4)


def test_shares_count_from_the_short_side() -> None:
    for tall in (photograph((60, 140)), photograph((140, 60))):
        np.testing.assert_array_equal(run(tall, Blur(0.05)), run(tall, Blur(3, "pixels")))
        np.testing.assert_array_equal(run(tall, Grow(0.05)), run(tall, Grow(3, "pixels")))
        np.testing.assert_array_equal(run(tall, Feather(0.05)), run(tall, Feather(3, "pixels")))


def disc_extreme(mask_HW: Array, radius: float, pick: np.ufunc) -> Array:
    """Every offset within the disc, one after the other; what lies outside the frame does not count."""
    height, width = mask_HW.shape
    reach = int(radius)
    outside = -np.inf if pick is np.maximum else np.inf
    padded = np.pad(mask_HW, reach, constant_values=outside)
    result = mask_HW.copy()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dx * dx + dy * dy <= radius * radius:
                result = pick(result, padded[reach + dy:reach + dy + height, reach + dx:reach + dx + width])
    return result


@every_mask
@pytest.mark.parametrize("radius", [0.9, 1, 1.5, 2, 3, 4.3, 5, 8.06, 13, 60])
def test_grow_and_shrink_take_the_extreme_within_a_disc(mask_HW: Array, radius: float) -> None:
    mask_HW = mask_HW.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(run(mask_HW, Grow(radius, "pixels")), disc_extreme(mask_HW, radius, np.maximum))
    np.testing.assert_array_equal(run(mask_HW, Grow(-radius, "pixels")), disc_extreme(mask_HW, radius, np.minimum))


@pytest.mark.parametrize("radius", [1, 5, 12])
def test_grow_and_shrink_are_those_of_scikit_image(radius: int) -> None:
    mask_HW = photograph().astype(np.float32)
    disc = morphology.disk(radius)
    np.testing.assert_array_equal(run(mask_HW, Grow(radius, "pixels")), morphology.dilation(mask_HW, disc))
    np.testing.assert_array_equal(run(mask_HW, Grow(-radius, "pixels")), morphology.erosion(mask_HW, disc))


def test_shrink_does_not_erode_at_the_frame() -> None:
    mask_HW = np.zeros((20, 30))
    mask_HW[:, 15:] = 1
    expected = np.zeros((20, 30))
    expected[:, 18:] = 1
    np.testing.assert_array_equal(run(mask_HW, Grow(-3, "pixels")), expected)


def nearest_black(mask_HW: Array) -> Array:
    """Distance from each pixel's centre to the centre of the nearest black pixel, each with each."""
    black = np.argwhere(mask_HW < 1 / 510)
    pixels = np.argwhere(np.ones_like(mask_HW))
    distance = np.sqrt(((pixels[:, None] - black[None]) ** 2).sum(-1).min(1)) if len(black) else np.full(len(pixels), np.inf)
    return np.asarray(distance.reshape(mask_HW.shape), np.float64)


@pytest.mark.parametrize("width", [0.5, 1, 4, 7.5])
@pytest.mark.parametrize("mask_HW", [silhouette((45, 60)), (rings((45, 60)) > 0.5) * rings((45, 60)), silhouette((1, 50))],
                         ids=["silhouette", "grey", "one row"])
def test_feather_is_a_linear_ramp_inside_the_mask(mask_HW: Array, width: float) -> None:
    expected = mask_HW * np.clip((nearest_black(mask_HW) - 0.5) / width, 0, 1)
    np.testing.assert_allclose(run(mask_HW, Feather(width, "pixels")), expected, atol=1e-5)


def test_feather_of_a_straight_edge_and_of_the_frame() -> None:
    mask_HW = np.zeros((8, 12))
    mask_HW[:, 4:] = 1
    np.testing.assert_allclose(run(mask_HW, Feather(4, "pixels"))[3], [0] * 4 + [0.125, 0.375, 0.625, 0.875] + [1] * 4, atol=1e-6)


def lowest_pass(mask_HW: Array) -> Array:
    """The least, over all paths to the frame, of the greatest weight on the path: relaxed pixel by pixel until nothing changes."""
    height, width = mask_HW.shape
    level = np.full_like(mask_HW, np.inf)
    edge = np.ones_like(mask_HW, bool)
    edge[1:-1, 1:-1] = False
    level[edge] = mask_HW[edge]
    while True:
        padded = np.pad(level, 1, constant_values=np.inf)
        nearby = np.minimum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
        lower = np.minimum(level, np.maximum(mask_HW, nearby))
        if np.array_equal(lower, level):
            return level
        level = lower


@every_mask
def test_filled_holes_have_the_level_of_the_lowest_pass_to_the_frame(mask_HW: Array) -> None:
    mask_HW = mask_HW.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(run(mask_HW, FillHoles()), lowest_pass(mask_HW))


def test_filled_holes_are_those_of_scikit_image_and_scipy() -> None:
    grey_HW = rings((200, 260)).astype(np.float32)
    marker_HW = np.full_like(grey_HW, grey_HW.max())
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        marker_HW[edge] = grey_HW[edge]
    cross = ndimage.generate_binary_structure(2, 1)
    expected = morphology.reconstruction(marker_HW, grey_HW, method="erosion", footprint=cross)
    assert (expected != grey_HW).mean() > 0.1  # there are holes
    np.testing.assert_array_equal(run(grey_HW, FillHoles()), expected)
    white = grey_HW > 0.45
    np.testing.assert_array_equal(run(white.astype(float), FillHoles()), ndimage.binary_fill_holes(white))


def test_a_hole_takes_the_weight_of_its_ring_and_one_at_the_frame_stays_open() -> None:
    mask_HW = np.zeros((9, 20))
    mask_HW[2:7, 2:7] = 0.5
    mask_HW[4, 4] = 0
    mask_HW[3:9, 10:16] = 1
    mask_HW[5:9, 12:14] = 0  # open below, at the frame
    filled = run(mask_HW, FillHoles())
    assert filled[4, 4] == 0.5
    mask_HW[4, 4] = 0.5
    np.testing.assert_array_equal(filled, mask_HW)


def test_a_spiral_is_followed_to_its_middle() -> None:
    mask_HW = np.zeros((41, 41))
    for i in range(0, 20, 2):  # walls with a gap on alternating sides: the way to the middle winds through all of them
        mask_HW[i, i:41 - i] = mask_HW[40 - i, i:41 - i] = mask_HW[i:41 - i, i] = mask_HW[i:41 - i, 40 - i] = 0.8
        mask_HW[20, i if i % 4 else 40 - i] = 0.1 + i / 100
    np.testing.assert_allclose(run(mask_HW, FillHoles()), lowest_pass(mask_HW.astype(np.float32).astype(np.float64)), atol=1e-7)


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda: Grow(0.3), "grow: amount is 0.3; use -0.25"), (lambda: Grow(2000, "pixels"), "amount is 2000"),
        (lambda: Feather(-1, "pixels"), "feather: amount is -1"), (lambda: Blur(600, "pixels"), "blur: amount is 600"),
        (lambda: Threshold(1.1), "threshold: level is 1.1"), (lambda: Gamma(0.001), "gamma: exponent is 0.001"),
        (lambda: Floor(0.1, "soft"), "floor: kind is 'soft'"), (lambda: Grow(1, "miles"), "unit is 'miles'"),
        (lambda: Blobs(coverage=2), "blobs: coverage is 2"), (lambda: CircularShrink(0.5, 0.4), "most is 0.4"),
        (lambda: Blobs(seed=-1), "seed is -1"), (lambda: RegionWeights(((0.5, 1), (0.5, 0))), "each grey level once"),
        (lambda: RegionWeights(()), "1 to 64 pairs"), (lambda: RegionWeights(((0.5, 1.2),)), "levels is"),
    ],
)
def test_a_step_names_a_wrong_value(step: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        step()  # type: ignore[operator]


SHARE = {"unit": "share", "amount": 0.02}


@pytest.mark.parametrize(
    ("choice", "values", "step"),
    [
        ("invert", {}, Invert()), ("threshold", {"level": 0.3}, Threshold(0.3)), ("gamma", {"exponent": 2.0}, Gamma(2)),
        (AFFINE, {"weight": 0.1}, Floor(0.1)), (CLAMP, {"weight": 0.1}, Floor(0.1, "clamp")), ("fill holes", {}, FillHoles()),
        ("blur", {"unit": SHARE}, Blur(0.02)), ("blur", {"unit": {"unit": "pixels", "amount": 9.0}}, Blur(9, "pixels")),
        ("grow", {"unit": SHARE}, Grow(0.02)), ("shrink", {"unit": SHARE}, Grow(-0.02)), ("feather", {"unit": SHARE}, Feather(0.02)),
        ("random blobs", {"coverage": 0.3, "size": 0.1, "seed": 5}, Blobs(0.3, 0.1, 5)),
        (DISC, {"least": 0.3, "most": 0.8, "seed": 5}, CircularShrink(0.3, 0.8, 5)),
        ("region weights", {"levels": "255 1\n\n51 0.5"}, RegionWeights(((1.0, 1.0), (0.2, 0.5)))),
    ],
)
def test_the_list_of_steps(choice: str, values: dict[str, object], step: Step) -> None:
    assert make_step(choice, {"step": choice, **values}) == step


@pytest.mark.parametrize("line", ["255", "300 1", "a b", "128 1.5", "1 2 3", "-1 0", "nan 1"])
def test_a_wrong_line_of_levels_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the levels is"):
        read_levels(f"0 0\n{line}")


def test_an_unknown_choice_is_named() -> None:
    with pytest.raises(ValueError, match="'sharpen' is no mask step"):
        make_step("sharpen", {})
