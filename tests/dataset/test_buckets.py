"""Buckets: which size every picture gets, which part of it is kept, and what the report says."""
from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pack.dataset.buckets import Arrangement, arrange, bucket_sizes, nearest_bucket
from pack.dataset.crop import centred_box, covering_size, mask_box
from pack.dataset.geometry import place
from pack.dataset.item import DataSet, ImagePixels, Item
from torch import Tensor

SIZES = [(1024, 1024), (4000, 3000), (3000, 4000), (1920, 1080), (640, 480), (5000, 900), (900, 5000), (1025, 1023), (37, 61)]


def no_mask(item: Item) -> Tensor | None:
    raise AssertionError(f"nothing asked for the mask of {item.name}")


def item_of(name: str, size: tuple[int, int], **changes: Any) -> Item:
    return Item(name, ImagePixels(torch.zeros(1, 1, 1, 3).expand(1, size[1], size[0], 3)), None, "", size, **changes)


def data_set(sizes: list[tuple[int, int]]) -> DataSet:
    return DataSet(tuple(item_of(f"p{i}", size) for i, size in enumerate(sizes)), "found them")


def arranged(sizes: list[tuple[int, int]], mask_of: Callable[[Item], Tensor | None] = no_mask, **settings: Any) -> DataSet:
    return arrange(data_set(sizes), Arrangement(**settings), mask_of)


def box_size(item: Item) -> tuple[int, int]:
    assert item.placement is not None
    left, top, right, bottom = item.placement.box
    return right - left, bottom - top


def placed_size(item: Item) -> tuple[int, int]:
    assert item.placement is not None
    return item.placement.size


def test_bucket_sizes_of_the_defaults() -> None:
    """Written out by hand: for each short side the longest multiple of 64 with an area of at most 1024 * 1024, ratio up to 2."""
    tall = [(704, 1408), (768, 1344), (832, 1216), (896, 1152), (960, 1088), (1024, 1024)]
    assert bucket_sizes(Arrangement()) == tuple(sorted({*tall, *((h, w) for w, h in tall)}))


@pytest.mark.parametrize("side", [128, 500, 512, 1000, 1024, 1536])
@pytest.mark.parametrize("step", [16, 64])
@pytest.mark.parametrize("longest", [1.0, 1.5, 2.0, 4.0])
def test_buckets_keep_their_promises(side: int, step: int, longest: float) -> None:
    sizes = bucket_sizes(Arrangement(side=side, step=step, longest=longest))
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= side * side
        assert max(width, height) <= longest * min(width, height)
        assert (height, width) in sizes
        # No room for one more step on the long side, unless the ratio forbids it.
        long, short = max(width, height), min(width, height)
        square = long == short == side // step * step
        assert square or (long + step) * short > side * side or long + step > longest * short
    assert len(set(sizes)) == len(sizes)
    assert (side // step * step,) * 2 in sizes
    # No gap between neighbours, up to the longest ratio: one step on one side, at most two on the other.
    by_ratio = sorted(sizes, key=lambda size: size[0] / size[1])
    for (w, h), (wider, lower) in pairwise(by_ratio):
        assert wider / lower / (w / h) < (1 + step / min(w, h, wider, lower)) ** 3
    width, height = by_ratio[-1]
    assert longest <= width / height + step / height or height == step
    assert len({w / h for w, h in sizes}) == len(sizes)


def test_a_square_arrangement_has_one_size() -> None:
    assert bucket_sizes(Arrangement(shape="square", side=272)) == ((272, 272),)
    assert {placed_size(item) for item in arranged(SIZES, shape="square", side=272).items} == {(272, 272)}


@pytest.mark.parametrize("size", SIZES)
def test_an_item_goes_to_the_nearest_ratio(size: tuple[int, int]) -> None:
    sizes = bucket_sizes(Arrangement())
    errors = {bucket: abs(math.log(bucket[0] / bucket[1] / (size[0] / size[1]))) for bucket in sizes}
    assert errors[nearest_bucket(size, sizes)] == pytest.approx(min(errors.values()), abs=1e-9)
    # The picture on its side goes to the bucket on its side, but for ties.
    bucket = nearest_bucket(size, sizes)
    assert size == (1024, 1024) or nearest_bucket(size[::-1], sizes) == bucket[::-1]


def test_ratios_are_compared_by_their_logarithm() -> None:
    # 1.45 is nearer to 1 as a number, but cutting it to 2 takes less away: 1.45 / 2 > 1 / 1.45.
    assert nearest_bucket((145, 100), [(64, 64), (128, 64)]) == (128, 64)
    assert nearest_bucket((100, 145), [(64, 64), (64, 128)]) == (64, 128)


def test_of_equal_ratios_the_larger_area_wins() -> None:
    assert nearest_bucket((300, 200), [(96, 64), (192, 128), (144, 96)]) == (192, 128)
    # A square between a tall and a wide bucket of one area: always the same one, whatever the order.
    assert nearest_bucket((10, 10), [(2, 3), (3, 2)]) == nearest_bucket((10, 10), [(3, 2), (2, 3)]) == (2, 3)


@pytest.mark.parametrize("size", SIZES)
def test_the_kept_part_has_the_buckets_ratio_and_all_of_one_side(size: tuple[int, int]) -> None:
    bucket = nearest_bucket(size, bucket_sizes(Arrangement()))
    width, height = covering_size(size, bucket)
    assert width == size[0] or height == size[1]
    assert width <= size[0]
    assert height <= size[1]
    # To the nearest pixel.
    assert abs(width * bucket[1] / bucket[0] - height) <= 0.5 * max(1, bucket[1] / bucket[0])
    left, top, right, bottom = centred_box(size, (width, height))
    assert left in ((size[0] - right), (size[0] - right) - 1)
    assert top in ((size[1] - bottom), (size[1] - bottom) - 1)


def test_a_picture_of_a_buckets_size_is_not_touched() -> None:
    [item] = arranged([(832, 1216)]).items
    assert item.placement is not None
    assert item.placement.size == (832, 1216)
    assert item.placement.box == (0, 0, 832, 1216)


def test_nothing_depends_on_the_other_items() -> None:
    forward, backward = arranged(SIZES, variants=2, rotation=9.0, zoom=0.2, shift=1.0), data_set(SIZES)
    backward = arrange(DataSet(backward.items[::-1], ""), Arrangement(variants=2, rotation=9.0, zoom=0.2, shift=1.0), no_mask)
    assert {item.name: item.placement for item in forward.items} == {item.name: item.placement for item in backward.items}


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [
        ((500, 300), {}, (448, 256)),                                   # cut to steps at its own scale
        ((500, 100), {}, (192, 64)),                                    # and to the longest ratio: 200 wide
        ((500, 50), {}, (64, 48)),                                      # below a step: multiples of 16; 100 wide by the ratio
        ((40, 61), {}, (32, 48)),
        ((500, 300), {"shape": "square"}, (256, 256)),
        ((2000, 2000), {}, (1024, 1024)),                               # large enough: an ordinary bucket
        ((1024, 1024), {}, (1024, 1024)),
        ((1400, 900), {}, (1216, 832)),
    ],
)
def test_small_pictures_keep_their_scale(size: tuple[int, int], settings: dict[str, Any], expected: tuple[int, int]) -> None:
    result = arranged([size], small="own size", **settings)
    [item] = result.items
    assert placed_size(item) == expected
    if max(size) < 1024:
        assert box_size(item) == expected
    assert "enlarged" not in result.report
    assert placed_size(arranged([size], **settings).items[0]) in bucket_sizes(Arrangement(**settings))


def test_a_picture_below_the_multiple_is_enlarged_to_it() -> None:
    result = arranged([(10, 12)], small="own size")
    assert placed_size(result.items[0]) == (16, 16)
    assert box_size(result.items[0]) == (10, 10)
    assert "enlarged, so blurred: 1; most p0 (1.60 times)" in result.report


def brute_force(mask_THW: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    frames, height, width = mask_THW.shape
    levels = np.rint(mask_THW.astype(np.float64) * 65535).astype(int).sum(0)
    windows = []
    for top in range(height - size[1] + 1):
        for left in range(width - size[0] + 1):
            total = levels[top:top + size[1], left:left + size[0]].sum()
            off = math.hypot(left + size[0] / 2 - width / 2, top + size[1] / 2 - height / 2)
            windows.append((-total, round(off, 9), top, left))
    _, _, top, left = min(windows)
    return left, top, left + size[0], top + size[1]


@pytest.mark.parametrize("size", [(9, 20), (23, 7), (8, 8), (23, 20), (1, 1)])
@pytest.mark.parametrize("frames", [1, 3])
def test_the_mask_window_is_the_best_of_all(size: tuple[int, int], frames: int) -> None:
    generator = np.random.default_rng(3)
    noise = generator.random((frames, 20, 23), np.float32)
    spot = np.zeros((frames, 20, 23), np.float32)
    spot[:, 2:5, 15:20] = 0.3
    spot[-1, 3, 16] = 1
    steps = np.rint(noise * 3).astype(np.float32) / 3
    for mask_THW in (noise, spot, steps, np.ones_like(spot), np.zeros_like(spot)):
        assert mask_box(mask_THW, size) == brute_force(mask_THW, size)


def test_a_black_and_a_white_mask_give_the_centre() -> None:
    for value in (0.0, 1.0):
        assert mask_box(np.full((1, 40, 61), value, np.float32), (32, 40)) == centred_box((61, 40), (32, 40))


def test_a_crop_on_the_mask_keeps_more_of_it() -> None:
    mask_THW = torch.zeros(1, 300, 500)
    mask_THW[:, 20:120, 400:490] = 1
    asked: list[str] = []

    def mask_of(item: Item) -> Tensor | None:
        assert item.placement is None
        asked.append(item.name)
        return {"p0": mask_THW, "p1": None}.get(item.name)

    items = arranged([(500, 300), (500, 300), (256, 256)], mask_of, shape="square", side=256, crop="mask").items
    # The third has nothing to cut off, the second no mask.
    assert asked == ["p0", "p1"]
    assert [item.placement.box for item in items if item.placement] == [(190, 0, 490, 300), (100, 0, 400, 300), (0, 0, 256, 256)]
    image_HWC = np.zeros((300, 500, 3), np.uint8)
    kept = [place(image_HWC, mask_THW[0].numpy(), items[i].placement)[1].sum() for i in (0, 1)]
    assert kept[0] == pytest.approx(9000 * (256 / 300) ** 2, rel=0.01)
    assert kept[1] == 0


def test_the_report_tells_sizes_losses_and_enlargements() -> None:
    sizes = [(1024, 1024), (2048, 2048), (1024, 1224), (3000, 1000), (512, 512)]
    report = arranged(sizes, longest=2.0).report.splitlines()
    assert report[0] == "found them"
    assert report[1] == "arranged in buckets of about 1024x1024 pixels, sides multiples of 64, aspect ratio up to 2; crop: centre"
    assert report[2:6] == ["buckets: 3", "  1024x1024: 3 (60.0%)", "  960x1088: 1 (20.0%)", "  1408x704: 1 (20.0%)"]
    assert report[6].startswith("buckets that hold a single picture: 2 (a batch there has no other to take): p2 (")
    # 3000x1000 keeps 2000x1000; 1024x1224 loses what its own arithmetic says.
    lost = 1 - np.prod(box_size(arranged(sizes).items[2])) / (1024 * 1224)
    assert report[7] == f"pixels cut off: {(1 / 3 + lost) / 5:.1%} on average; most in p3 (33.3%), p2 ({lost:.1%})"
    assert report[8] == "enlarged, so blurred: 1; most p4 (2.00 times)"
    assert len(report) == 9


def test_copies_do_not_hide_a_picture_that_is_alone() -> None:
    report = arranged([(1024, 1024), (1024, 1024), (2000, 1000)], flip=True, variants=1).report
    assert "  1408x704: 3 (33.3%)" in report
    assert "buckets that hold a single picture: 1 (a batch there has no other to take): p2 (1408x704)" in report


def test_enlargement_is_told_of_the_axis_that_grows_more() -> None:
    # 35x61 of 37x61 becomes 768x1344: 21.94 and 22.03 times.
    assert "enlarged, so blurred: 1; most p0 (22.03 times)" in arranged([(37, 61)]).report


def test_long_lists_of_buckets_are_cut() -> None:
    sizes = [(100 + 16 * i, 100 + 16 * i) for i in range(40)]
    lines = arranged([*sizes, sizes[-1]], small="own size", step=16).report.splitlines()
    assert lines[2:4] == ["buckets: 40", "  720x720: 2 (4.9%)"]
    assert lines[33].strip() == "10 more: 10 (24.4%)"
    assert sum("%)" in line and line.startswith("  ") for line in lines) == 31


def test_long_lists_of_names_are_cut() -> None:
    report = arranged([(100 + i, 100 + i) for i in range(9)], shape="square", side=1024).report
    assert "enlarged, so blurred: 9; most p0 (10.24 times), p1 (10.14 times)" in report
    assert "and 4 more" in report
    assert "p7" not in report


def test_report_without_a_first_part_and_with_copies() -> None:
    result = arrange(DataSet((item_of("a", (64, 64)), item_of("b", (64, 64))), ""), Arrangement(side=64, flip=True), no_mask)
    assert result.report.splitlines() == [
        "arranged in buckets of about 64x64 pixels, sides multiples of 64, aspect ratio up to 2; crop: centre",
        "mirrored and augmented copies: 2, so 4 items of 2; an epoch sees each of them `repeats` times",
        "buckets: 1", "  64x64: 4 (100.0%)", "pixels cut off: 0.0% on average",
    ]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"step": 64, "multiple": 48}, "step is 64, .* multiples of 48; set step to 48, the smallest that fits, or to 96"),
        ({"step": 8, "multiple": 16}, "step is 8, .* set step to 16, the smallest that fits$"),
        ({"step": 0}, "step is 0, .* set step to 16"),
        ({"shape": "square", "side": 1000}, "size is 1000, .* multiples of 16; set size to 1008"),
        ({"side": 63}, "size is 63, smaller than a step of 64; set size to 64 or more"),
        ({"longest": 0.5}, "longest is 0.5; set it to 1"),
        ({"longest": math.nan}, "longest is nan"),
        ({"shape": "round"}, "shape is 'round'; set it to one of square, buckets"),
        ({"crop": "left"}, "crop is 'left'"),
        ({"small": "skip"}, "small is 'skip'"),
        ({"rotation": 181.0}, "rotation is 181.0; set it to 0 to 180"),
        ({"zoom": 1.0}, "zoom is 1.0; set it to 0 to 0.9"),
        ({"shift": -0.1}, "shift is -0.1; set it to 0 to 1"),
        ({"variants": -1}, "variants is -1"),
        ({"multiple": 0}, "multiple is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Arrangement(**settings)


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no items; load at least one"):
        arrange(DataSet((), ""), Arrangement(), no_mask)
    with pytest.raises(ValueError, match="p0 was arranged before; give the data set as it was loaded"):
        arrange(arranged([(64, 64)]), Arrangement(), no_mask)
    clash = DataSet((item_of("a", (64, 64)), item_of("a (mirrored)", (64, 64))), "")
    with pytest.raises(ValueError, match=r"two items are named 'a \(mirrored\)'.*rename"):
        arrange(clash, Arrangement(flip=True), no_mask)


def test_placing_tells_how_far_it_is_and_stops_at_once() -> None:
    items = data_set([(100, 200)] * 5)
    seen: list[tuple[int, int]] = []
    arrange(items, Arrangement(side=64, step=16), no_mask, lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]

    class Cancelled(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        arrange(items, Arrangement(side=64, step=16), no_mask, stop)
