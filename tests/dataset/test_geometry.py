"""Geometry: picture and mask move together, to a twentieth of a pixel, and masks keep their black and white."""
from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from pack.dataset.geometry import Floats, Pixels, Placement, fit_mask, place, place_mask

PHOTOGRAPHS = {"astronaut": skimage.data.astronaut, "cat": skimage.data.chelsea, "coffee": skimage.data.coffee,
               "rocket": skimage.data.rocket}
# Output size and share of the picture (left, top, right, bottom): shrinking, enlarging, one axis each way, odd numbers.
PLACES = [
    ((128, 128), (0.0, 0.0, 1.0, 1.0)),
    ((97, 61), (0.03, 0.11, 0.95, 0.87)),
    ((640, 512), (0.31, 0.2, 0.77, 0.6)),
    ((64, 720), (0.1, 0.3, 0.9, 0.7)),
    ((900, 80), (0.25, 0.05, 0.8, 0.95)),
    ((333, 217), (0.5, 0.0, 1.0, 0.5)),
]
ANGLES = (0.0, 7.5, -33.0, 90.0, 171.0)


def box_of(pixels: npt.NDArray[Any], shares: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    return round(shares[0] * width), round(shares[1] * height), round(shares[2] * width), round(shares[3] * height)


def area_matrix(source: int, target: int) -> Floats:
    """(target, source): each output pixel is the mean of the stretch that it covers."""
    ends = np.arange(target + 1) * source / target
    cells = np.arange(source)
    overlap = np.minimum(ends[1:, None], cells + 1) - np.maximum(ends[:-1, None], cells)
    return np.clip(overlap, 0, None) * target / source


def linear_matrix(source: int, target: int) -> Floats:
    """(target, source): a tent over the source's pixel centres, the last pixels repeated outwards."""
    matrix = np.zeros((target, source))
    for row in range(target):
        place_ = min(max((row + 0.5) * source / target - 0.5, 0), source - 1)
        low = min(int(place_), source - 2)
        matrix[row, low], matrix[row, low + 1] = 1 - (place_ - low), place_ - low
    return matrix


def reference_mask(mask_HW: Floats, size: tuple[int, int]) -> Floats:
    vertical, horizontal = (area_matrix(old, new) if new <= old else linear_matrix(old, new)
                            for old, new in zip(mask_HW.shape, size[::-1], strict=True))
    return vertical @ mask_HW @ horizontal.T


def random_mask(height: int, width: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((height, width), np.float32)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("flip", [False, True])
def test_the_wanted_size_comes_back_bit_for_bit(kind: type, flip: bool) -> None:
    image_HWC = (np.random.default_rng(1).random((40, 50, 3)) * (1 if kind is np.float32 else np.iinfo(kind).max)).astype(kind)
    mask_HW = random_mask(40, 50)
    step = -1 if flip else 1
    placed_HWC, placed_HW = place(image_HWC, mask_HW, Placement((30, 20), (7, 11, 37, 31), flip))
    assert placed_HWC.dtype == kind
    assert np.array_equal(placed_HWC, image_HWC[11:31, 7:37][:, ::step])
    assert np.array_equal(placed_HW, mask_HW[11:31, 7:37][:, ::step])
    assert placed_HWC.flags.c_contiguous
    assert placed_HW.flags.c_contiguous


def test_no_placement_changes_nothing() -> None:
    image_HWC, mask_HW = np.zeros((4, 5, 3), np.uint8), random_mask(4, 5)
    assert place(image_HWC, mask_HW, None)[0] is image_HWC
    assert place(image_HWC, mask_HW, None)[1] is mask_HW
    assert place(image_HWC, None, Placement((2, 2), (0, 0, 4, 4)))[1] is None


@pytest.mark.parametrize("size", [(25, 20), (33, 17), (49, 39), (150, 120), (53, 40), (20, 90), (170, 11), (1, 1)])
def test_masks_equal_the_formula(size: tuple[int, int]) -> None:
    mask_HW = random_mask(40, 50)
    _, placed_HW = place(np.zeros((40, 50, 3), np.uint8), mask_HW, Placement(size, (0, 0, 50, 40)))
    assert placed_HW.dtype == np.float32
    assert placed_HW == pytest.approx(reference_mask(mask_HW, size), abs=2e-6)
    assert fit_mask(mask_HW, size) == pytest.approx(reference_mask(mask_HW, size), abs=2e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_shrunk_pictures_are_area_means(kind: type) -> None:
    image_HWC = skimage.data.chelsea().astype(kind)
    scale = 255 if kind is np.float32 else 1
    placed_HWC, _ = place(image_HWC / kind(scale) if scale > 1 else image_HWC, None, Placement((123, 77), (0, 0, 451, 300)))
    expected = np.stack([reference_mask(image_HWC[..., c].astype(np.float64), (123, 77)) for c in range(3)], -1)
    assert placed_HWC.dtype == kind
    assert placed_HWC * float(scale) == pytest.approx(expected, abs=0.001 if kind is np.float32 else 0.51)


def test_cv2_area_skips_pixels_when_one_axis_grows() -> None:
    """Why axes are resized one after the other."""
    mask_HW = random_mask(64, 64)
    expected = reference_mask(mask_HW, (80, 16))
    assert np.abs(cv2.resize(mask_HW, (80, 16), interpolation=cv2.INTER_AREA) - expected).max() > 0.3
    assert fit_mask(mask_HW, (80, 16)) == pytest.approx(expected, abs=2e-6)


def disc(width: int, height: int, centre: tuple[float, float], radius: float) -> Floats:
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    return np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1).astype(np.float32)


def centroid(weights_HW: npt.NDArray[Any]) -> tuple[float, float]:
    weights = weights_HW.astype(np.float64)
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return float((weights * x).sum() / weights.sum()), float((weights * y).sum() / weights.sum())


def expected_place(point: tuple[float, float], placement: Placement) -> tuple[float, float]:
    """Where a source point is seen: turned counter-clockwise about the box's centre, scaled, mirrored."""
    left, top, right, bottom = placement.box
    # A complex number with its imaginary part upwards turns counter-clockwise when its angle grows.
    offset = complex(point[0] - (left + right) / 2, (top + bottom) / 2 - point[1]) * np.exp(1j * math.radians(placement.angle))
    x = placement.size[0] * (0.5 + offset.real / (right - left))
    y = placement.size[1] * (0.5 - offset.imag / (bottom - top))
    return (placement.size[0] - x if placement.flip else x), y


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_disc_stays_in_place_to_a_twentieth_of_a_pixel(kind: type, flip: bool, angle: float) -> None:
    worst = 0.0
    turned = [((60, 60), (0.02, 0.02, 0.98, 0.98)), ((210, 320), (0.05, 0.1, 0.85, 0.9)), ((310, 90), (0.3, 0.1, 0.9, 0.7))]
    # Turning mixes the axes: with one shrunk to a quarter and one enlarged eightfold there is no kernel that fits both.
    for size, shares in turned + [(size, shares) for size, shares in PLACES if not angle or max(size) < 700]:
        blank = np.zeros((230, 310, 3), kind)
        placement = Placement(size, box_of(blank, shares), flip, angle)
        left, top, right, bottom = placement.box
        # Off the centre, at no whole pixel, whole after turning.
        centre = ((left + right) / 2 + 0.11 * (right - left) + 0.3, (top + bottom) / 2 - 0.07 * (bottom - top) + 0.2)
        mask_HW = disc(310, 230, centre, 0.2 * min(right - left, bottom - top))
        image_HWC = np.repeat(np.rint(mask_HW * (1 if kind is np.float32 else np.iinfo(kind).max))[..., None], 3, -1).astype(kind)
        if kind is np.float32:
            image_HWC = np.repeat(mask_HW[..., None], 3, -1)
        placed_HWC, placed_HW = place(image_HWC, mask_HW, placement)
        assert placed_HWC.shape == (size[1], size[0], 3)
        assert placed_HW.shape == (size[1], size[0])
        # Outside of the picture there are reflections of the disc.
        known = 1 if not angle else place(image_HWC, None, placement)[1]
        wanted = expected_place(centroid(mask_HW), placement)
        in_picture, in_mask = centroid(placed_HWC[..., 1] * known), centroid(placed_HW)
        worst = max(worst, math.dist(in_picture, in_mask), math.dist(in_mask, wanted), math.dist(in_picture, wanted))
    assert worst < 0.05


@pytest.mark.parametrize("angle", [0.0, 12.0])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_threshold_of_the_photograph_stays_its_threshold(name: str, flip: bool, angle: float) -> None:
    image_HWC = PHOTOGRAPHS[name]()
    level = int(np.median(image_HWC[..., 1]))
    mask_HW = (image_HWC[..., 1] > level).astype(np.float32)
    for size, shares in PLACES:
        box = box_of(image_HWC, shares)
        placed_HWC, placed_HW = place(image_HWC, mask_HW, Placement(size, box, flip, angle))
        outside = place(image_HWC, None, Placement(size, box, flip, angle))[1] == 0 if angle else np.zeros(size[::-1], bool)
        # Pixels on an edge of the mask may be either; a cubic kernel sees 2 source pixels each way.
        reach = [2 * math.ceil(2 * new / old if angle or new > old else 0.5) + 1
                 for new, old in zip(size, (box[2] - box[0], box[3] - box[1]), strict=True)]
        kernel = np.ones(reach[::-1], np.uint8)
        inner = ~outside & (cv2.dilate(outside.astype(np.uint8), kernel) == 0)
        white = inner & (cv2.erode(placed_HW, kernel) == 1)
        black = inner & (cv2.dilate(placed_HW, kernel) == 0)
        green = placed_HWC[..., 1]
        assert (white | black).mean() > 0.1
        wrong = ((green[white] < level).sum() + (green[black] > level).sum()) / inner.sum()
        # Means of pixels above a level are above it; a cubic kernel may swing a little below.
        assert wrong <= (0.002 if angle or size[0] > box[2] - box[0] or size[1] > box[3] - box[1] else 0)
        # And the picture's threshold agrees nearly everywhere, edges included.
        assert ((green > level) == (placed_HW > 0.5))[~outside].mean() > 0.93


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("size", "shares"), PLACES)
def test_masks_stay_in_range_and_keep_black_and_white(size: tuple[int, int], shares: tuple[float, ...], angle: float) -> None:
    noise_HW = (random_mask(211, 283) > 0.5).astype(np.float32)
    half_HW = np.zeros((211, 283), np.float32)
    half_HW[:, 140:] = 1
    image_HWC = np.zeros((211, 283, 3), np.uint8)
    placement = Placement(size, box_of(image_HWC, shares), angle=angle)
    for mask_HW in (noise_HW, half_HW, np.ones_like(half_HW), np.zeros_like(half_HW)):
        _, placed_HW = place(image_HWC, mask_HW, placement)
        assert placed_HW.min() >= 0
        assert placed_HW.max() <= 1
    _, white_HW = place(image_HWC, np.ones_like(half_HW), placement)
    assert set(np.unique(white_HW)) <= ({0.0, 1.0} if angle else {1.0})
    _, black_HW = place(image_HWC, np.zeros_like(half_HW), placement)
    assert set(np.unique(black_HW)) == {0.0}
    if not angle:
        _, placed_HW = place(image_HWC, half_HW, placement)
        left, _, right, _ = placement.box
        scale = size[0] / (right - left)
        edge = (140 - left) * scale
        columns = np.arange(size[0]) + 0.5
        assert (placed_HW[:, columns < edge - max(1, scale)] == 0).all()
        assert (placed_HW[:, columns > edge + max(1, scale)] == 1).all()


@pytest.mark.parametrize(
    "placement", [None, Placement((90, 70), (3, 5, 200, 100), True), Placement((40, 50), (3, 5, 200, 100), True, 33.0)])
def test_a_mask_is_placed_alone_as_with_its_picture(placement: Placement | None) -> None:
    image_HWC, mask_HW = np.zeros((120, 230, 3), np.uint8), random_mask(120, 230)
    assert np.array_equal(place_mask(mask_HW, (230, 120), placement), place(image_HWC, mask_HW, placement)[1])
    alone_HW, with_picture_HW = place_mask(None, (230, 120), placement), place(image_HWC, None, placement)[1]
    if placement and placement.angle:
        assert np.array_equal(alone_HW, with_picture_HW)
        assert np.array_equal(alone_HW, place(image_HWC, np.ones_like(mask_HW), placement)[1])
    else:
        assert alone_HW is with_picture_HW is None
    with pytest.raises(ValueError, match="picture is 120x230, mask is 230x120"):
        place_mask(mask_HW, (120, 230), placement)


def test_cubic_floats_stay_in_range() -> None:
    image_HWC = np.zeros((20, 20, 3), np.float32)
    image_HWC[:, 10:] = 1
    for angle in (0.0, 20.0):
        placed_HWC, _ = place(image_HWC, None, Placement((90, 90), (2, 2, 18, 18), angle=angle))
        assert placed_HWC.min() == 0
        assert placed_HWC.max() == 1


@pytest.mark.parametrize("flip", [False, True])
def test_a_quarter_turn_is_counter_clockwise(flip: bool) -> None:
    image_HWC = skimage.data.astronaut()[:256, :256]
    mask_HW = (image_HWC[..., 0] / 255).astype(np.float32)
    placed_HWC, placed_HW = place(image_HWC, mask_HW, Placement((256, 256), (0, 0, 256, 256), flip, 90.0))
    turned_HWC, turned_HW = np.rot90(image_HWC), np.rot90(mask_HW)
    assert np.abs(placed_HWC.astype(int) - (turned_HWC[:, ::-1] if flip else turned_HWC)).max() <= 1
    assert placed_HW == pytest.approx(turned_HW[:, ::-1] if flip else turned_HW, abs=1e-5)


def test_outside_of_the_picture_weighs_nothing_and_has_reflected_colours() -> None:
    image_HWC = np.full((100, 200, 3), 180, np.uint8)
    placement = Placement((120, 60), (0, 0, 200, 100), angle=30.0)
    placed_HWC, placed_HW = place(image_HWC, None, placement)
    assert (placed_HWC == 180).all()
    # The source place of every output centre, and of the corners of its pixel, by complex numbers.
    inside = np.ones((60, 120), bool)
    for dx in (0.0, 0.5, 1.0):
        for dy in (0.0, 0.5, 1.0):
            x, y = np.arange(120) + dx, (np.arange(60) + dy)[:, None]
            offset = ((x / 120 - 0.5) * 200 + 1j * (0.5 - y / 60) * 100) * np.exp(-1j * math.radians(30))
            inside &= (np.abs(offset.real) <= 100 + 1e-6) & (np.abs(offset.imag) <= 50 + 1e-6)
    assert np.array_equal(placed_HW == 1, inside)
    assert np.array_equal(placed_HW == 0, ~inside)
    assert 0.2 < inside.mean() < 0.9
    # A mask that was given is cut in the same way.
    assert np.array_equal(place(image_HWC, np.full((100, 200), 0.5, np.float32), placement)[1], inside * np.float32(0.5))


def test_a_turned_box_inside_the_picture_is_learned_everywhere() -> None:
    _, placed_HW = place(np.zeros((100, 100, 3), np.uint8), None, Placement((40, 40), (30, 30, 70, 70), angle=45.0))
    assert (placed_HW == 1).all()


@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_a_small_box_sees_what_lies_around_it(scale: float) -> None:
    """Turning a box shows the same as the middle of a larger box turned about the same place."""
    image_HWC = skimage.data.astronaut()
    mask_HW = (image_HWC[..., 0] / 255).astype(np.float32)
    small, large = round(80 * scale), round(120 * scale)
    border = (large - small) // 2
    inner = place(image_HWC, mask_HW, Placement((small, small), (200, 160, 280, 240), angle=31.0))
    outer = place(image_HWC, mask_HW, Placement((large, large), (180, 140, 300, 260), angle=31.0))
    middle = slice(border, border + small)
    # Halved pictures are averaged in cells that start elsewhere.
    assert np.abs(inner[0].astype(int) - outer[0][middle, middle]).max() <= (1 if scale >= 1 else 60)
    assert np.abs(inner[0].astype(int) - outer[0][middle, middle]).mean() <= (0.1 if scale >= 1 else 4)
    if scale >= 1:
        assert inner[1] == pytest.approx(outer[1][middle, middle], abs=1e-4)


@pytest.mark.parametrize("angle", [0.0, 5.0, 45.0])
def test_fine_patterns_turn_grey_when_shrunk(angle: float) -> None:
    board_HW = (np.indices((600, 600)).sum(0) % 2).astype(np.float32)
    image_HWC = np.repeat((board_HW * 255).astype(np.uint8)[..., None], 3, -1)
    placed_HWC, placed_HW = place(image_HWC, board_HW, Placement((70, 70), (100, 100, 500, 500), angle=angle))
    assert np.abs(placed_HWC - 127.5).max() < 14
    assert np.abs(placed_HW - 0.5).max() < 0.05


def test_single_channels_and_views_are_placed_too() -> None:
    image_HWC = skimage.data.camera()[:, ::-1, None]
    for angle in (0.0, 10.0):
        assert place(image_HWC, None, Placement((64, 48), (0, 0, 512, 512), angle=angle))[0].shape == (48, 64, 1)


def test_what_is_given_stays_as_it_was() -> None:
    image_HWC, mask_HW = skimage.data.chelsea(), random_mask(300, 451)
    before = image_HWC.copy(), mask_HW.copy()
    for angle in (0.0, 10.0):
        place(image_HWC, mask_HW, Placement((100, 100), (3, 3, 290, 290), True, angle))
    assert np.array_equal(before[0], image_HWC)
    assert np.array_equal(before[1], mask_HW)


@pytest.mark.parametrize(
    ("image", "mask", "box", "text"),
    [
        (np.zeros((10, 20, 3), np.uint8), np.zeros((20, 10), np.float32), (0, 0, 5, 5), "picture is 20x10, mask is 10x20; make them"),
        (np.zeros((10, 20, 3), np.uint8), None, (0, 0, 21, 10), r"box \(0, 0, 21, 10\) leaves the picture of 20x10; make it"),
        (np.zeros((10, 20, 3), np.uint8), None, (0, 0, 20, 11), "leaves the picture of 20x10"),
        (np.zeros((10, 20, 3), np.float64), None, (0, 0, 5, 5), "picture is float64; make it uint8, uint16 or float32"),
    ],
)
def test_wrong_input_is_named(image: Pixels, mask: Floats | None, box: tuple[int, int, int, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        place(image, mask, Placement((4, 4), box))


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"size": (0, 4)}, "size is"), ({"box": (-1, 0, 4, 4)}, "box is"), ({"box": (4, 0, 4, 4)}, "box is"),
     ({"box": (0, 5, 4, 4)}, "box is"), ({"angle": math.nan}, "angle is nan; make it a number of degrees")],
)
def test_impossible_placements_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(Placement((4, 4), (0, 0, 4, 4)), **changes)


def test_the_json_tells_every_field() -> None:
    placement = Placement((4, 6), (0, 1, 2, 3))
    assert placement.to_json() == '{"angle":0.0,"box":[0,1,2,3],"flip":false,"size":[4,6]}'
    assert replace(placement, angle=-0.0).to_json() == replace(placement, angle=0).to_json() == placement.to_json()
    changed = {"size": (6, 4), "box": (0, 1, 3, 2), "flip": True, "angle": 0.5}
    assert set(changed) == {field.name for field in fields(Placement)}
    texts = {replace(placement, **{name: value}).to_json() for name, value in changed.items()}
    assert len(texts | {placement.to_json()}) == 5
