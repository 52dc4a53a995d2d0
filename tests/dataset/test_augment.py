"""Mirrored and augmented copies: drawn from seed, name and number alone, and never outside of the picture."""
from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from pack.dataset.augment import augmented, mirrored
from pack.dataset.buckets import Arrangement, arrange
from pack.dataset.geometry import Placement, place
from pack.dataset.item import DataSet, ImagePixels, Item

ALL = {"rotation": 15.0, "zoom": 0.3, "shift": 1.0, "flip": True, "seed": 7}
NONE: dict[str, Any] = {"rotation": 0.0, "zoom": 0.0, "shift": 0.0, "flip": False, "seed": 7}


def item_of(name: str = "sub/cat", size: tuple[int, int] = (451, 300), placement: Placement | None = None) -> Item:
    pixels = torch.from_numpy(skimage.data.chelsea()[None].astype(np.float32) / 255)
    return Item(name, ImagePixels(pixels), None, "a cat", size, repeats=3, weight=0.5, placement=placement)


def placement_of(item: Item) -> Placement:
    assert item.placement is not None
    return item.placement


def test_copies_are_golden() -> None:
    """These numbers may never change: the same seed gives the same set on every machine and with every version.

    u = (first 8 bytes of SHA-256 of the JSON list [seed, name, variant, what], big-endian, without the last 11 bits) / 2^53.
    """
    def u(what: str) -> float:
        digest = hashlib.sha256(f'[7, "sub/cat", 2, "{what}"]'.encode()).digest()
        return (int.from_bytes(digest[:8], "big") >> 11) / 2**53

    copy = placement_of(augmented(item_of(placement=Placement((256, 256), (75, 0, 375, 300))), 2, **ALL))
    assert (u("rotation"), u("zoom")) == pytest.approx((0.4913864777814062, 0.5270733773137941), abs=1e-15)
    assert copy.angle == 15 * (2 * u("rotation") - 1)
    side = round(300 * (1 - 0.3 * u("zoom")))
    assert copy.box[2] - copy.box[0] == copy.box[3] - copy.box[1] == side
    lefts = (75 + (300 - side) // 2, (300 - side) // 2)
    for start, end, first, what in zip(copy.box, (451, 300), lefts, ("shift x", "shift y"), strict=False):
        move = 2 * u(what) - 1
        assert start == first + round(move * (end - side - first if move > 0 else first))
    assert copy.flip == (u("flip") < 0.5)
    assert copy.size == (256, 256)


def test_copies_keep_everything_but_name_number_and_placement() -> None:
    item = item_of()
    for copy, name, number in ((augmented(item, 2, **ALL), "sub/cat (variant 2)", 2), (mirrored(item, 3), "sub/cat (mirrored)", 3)):
        assert (copy.name, copy.variant) == (name, number)
        assert copy.image is item.image
        assert (copy.caption, copy.repeats, copy.weight, copy.size) == (item.caption, 3, 0.5, item.size)


def test_draws_depend_on_seed_name_and_number() -> None:
    item = item_of()
    first = placement_of(augmented(item, 1, **ALL))
    assert placement_of(augmented(item_of(), 1, **ALL)) == first
    others = [augmented(item, 2, **ALL), augmented(item_of("cat"), 1, **ALL), augmented(item, 1, **{**ALL, "seed": 8})]
    assert len({placement_of(copy) for copy in others} | {first}) == 4
    # Switching one thing off leaves the others as they were drawn.
    still = placement_of(augmented(item, 1, **{**ALL, "rotation": 0.0}))
    assert (still.box, still.flip, still.angle) == (first.box, first.flip, 0.0)


def test_each_amount_is_spread_over_its_range() -> None:
    base = Placement((256, 256), (0, 0, 300, 300))
    copies = [placement_of(augmented(item_of(f"n{i}", placement=base), 1, **ALL)) for i in range(400)]
    angles = np.array([copy.angle for copy in copies])
    assert -15 <= angles.min() < -14
    assert 14 < angles.max() <= 15
    assert abs(angles.mean()) < 1.5
    sides = np.array([copy.box[2] - copy.box[0] for copy in copies])
    assert 210 <= sides.min() < 215
    assert 295 < sides.max() <= 300
    assert 0.4 < np.mean([copy.flip for copy in copies]) < 0.6
    assert max(copy.box[2] for copy in copies) > 445
    for copy in copies:
        left, top, right, bottom = copy.box
        assert 0 <= left < right <= 451
        assert 0 <= top < bottom <= 300


def test_shift_is_a_share_of_the_free_margin() -> None:
    base = Placement((100, 100), (100, 0, 300, 300))
    lefts = [placement_of(augmented(item_of(f"n{i}", placement=base), 1, **{**NONE, "shift": 0.5})).box[0] for i in range(400)]
    # Half of 100 to the left, half of 151 to the right.
    assert min(lefts) in (50, 51)
    assert max(lefts) in (174, 175, 176)


def test_a_copy_with_nothing_to_draw_is_the_picture() -> None:
    base = Placement((256, 256), (75, 0, 375, 300))
    assert placement_of(augmented(item_of(placement=base), 1, **NONE)) == base
    assert placement_of(augmented(item_of(), 1, **NONE)) == Placement((451, 300), (0, 0, 451, 300))


def test_a_mirrored_copy_shows_the_picture_mirrored() -> None:
    image_HWC, mask_HW = skimage.data.chelsea(), (skimage.data.chelsea()[..., 0] / 255).astype(np.float32)
    item = item_of(placement=Placement((128, 96), (10, 20, 410, 300)))
    plain, mirror = place(image_HWC, mask_HW, item.placement), place(image_HWC, mask_HW, mirrored(item, 1).placement)
    assert np.array_equal(plain[0][:, ::-1], mirror[0])
    assert np.array_equal(plain[1][:, ::-1], mirror[1])
    assert placement_of(mirrored(mirrored(item, 1), 1)) == item.placement


def test_arrange_lists_the_picture_its_variants_and_its_mirror() -> None:
    settings = Arrangement(side=256, shape="square", flip=True, variants=2, rotation=10.0, zoom=0.2, shift=0.5, seed=4)
    result = arrange(DataSet((item_of("a"), item_of("b")), ""), settings, lambda item: None)
    assert [(item.name, item.variant) for item in result.items] == [
        ("a", 0), ("a (variant 1)", 1), ("a (variant 2)", 2), ("a (mirrored)", 3),
        ("b", 0), ("b (variant 1)", 1), ("b (variant 2)", 2), ("b (mirrored)", 3),
    ]
    assert {item.repeats for item in result.items} == {3}
    assert {placement_of(item).size for item in result.items} == {(256, 256)}
    assert placement_of(result.items[0]).angle == placement_of(result.items[3]).angle == 0
    assert placement_of(result.items[1]) != placement_of(result.items[5])
    assert placement_of(result.items[3]).flip
    # Without mirroring the variants are drawn unmirrored and otherwise the same.
    plain = arrange(DataSet((item_of("a"),), ""), Arrangement(side=256, shape="square", variants=2, rotation=10.0, zoom=0.2, shift=0.5,
                                                              seed=4), lambda item: None)
    assert [item.name for item in plain.items] == ["a", "a (variant 1)", "a (variant 2)"]
    assert [(placement_of(item).box, placement_of(item).angle) for item in plain.items] == [
        (placement_of(item).box, placement_of(item).angle) for item in result.items[:3]]
    assert not any(placement_of(item).flip for item in plain.items)


def test_a_clip_keeps_one_placement() -> None:
    clip = Item("clip", ImagePixels(torch.zeros(5, 90, 160, 3)), None, "", (160, 90), frames=5)
    result = arrange(DataSet((clip,), ""), Arrangement(side=64, step=16, flip=True), lambda item: None)
    assert [(item.frames, placement_of(item).size) for item in result.items] == [(5, placement_of(result.items[0]).size)] * 2
