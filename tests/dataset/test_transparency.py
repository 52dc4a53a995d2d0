"""Colours under transparent pixels: each way against plain numpy, on photographs."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from pack.dataset.item import Transparency
from pack.dataset.transparency import random_colour, resolve

Array = npt.NDArray[Any]

PHOTO: Array = skimage.data.astronaut()[60:150, 150:270]
ROWS, COLUMNS = np.mgrid[:90, :120]
# A soft-edged ellipse: opaque, half-transparent and transparent pixels.
ALPHA: Array = (np.clip(1.3 - np.hypot((ROWS - 40) / 30, (COLUMNS - 70) / 40), 0, 1) / 0.6).clip(0, 1)


def as_type(kind: str) -> tuple[Array, Array, float]:
    if kind == "float32":
        return (PHOTO / 255).astype(np.float32), ALPHA.astype(np.float32), 1
    white = np.iinfo(kind).max
    return PHOTO.astype(kind) * (white // 255), np.rint(ALPHA * white).astype(kind), white


def mixed(colours: Array, alpha: Array, backing: Array, white: float) -> Array:
    a = (alpha / white)[..., None]
    return colours * a + backing * (1 - a)


KINDS = pytest.mark.parametrize(("kind", "tolerance"), [("uint8", 0.51), ("uint16", 0.52), ("float32", 1e-6)])


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_keep_and_opaque_pictures_are_left_alone(kind: str) -> None:
    colours, alpha, white = as_type(kind)
    assert resolve(colours, alpha, Transparency("keep"), "a") is colours
    for hidden in ("fill", "random", "extend"):
        assert resolve(colours, None, Transparency(hidden), "a") is colours  # type: ignore[arg-type]
        assert resolve(colours, np.full_like(alpha, white), Transparency(hidden), "a") is colours  # type: ignore[arg-type]


@KINDS
def test_fill_lies_on_the_colour(kind: str, tolerance: float) -> None:
    colours, alpha, white = as_type(kind)
    before = colours.copy()
    filled = resolve(colours, alpha, Transparency("fill", (10, 200, 90)), "a")
    assert filled.dtype == colours.dtype
    assert np.abs(filled - mixed(colours, alpha, np.array([10, 200, 90]) * (white / 255), white)).max() <= tolerance
    assert np.array_equal(colours, before)
    assert np.array_equal(filled[alpha == white], colours[alpha == white])


@KINDS
def test_random_depends_on_seed_and_name_only(kind: str, tolerance: float) -> None:
    colours, alpha, white = as_type(kind)
    one = resolve(colours, alpha, Transparency("random", seed=3), "cat/001")
    assert np.array_equal(one, resolve(colours, alpha, Transparency("random", seed=3), "cat/001"))
    assert not np.array_equal(one, resolve(colours, alpha, Transparency("random", seed=4), "cat/001"))
    assert not np.array_equal(one, resolve(colours, alpha, Transparency("random", seed=3), "cat/002"))
    backing = np.array(random_colour(3, "cat/001")) * (white / 255)
    assert np.abs(one - mixed(colours, alpha, backing, white)).max() <= tolerance


def test_random_colours_are_the_same_in_every_process_and_cover_all() -> None:
    # sha256 of "3\ncat/001" begins with these bytes, by coreutils' sha256sum
    assert random_colour(3, "cat/001") == (99, 220, 73)
    colours = np.array([random_colour(0, str(index)) for index in range(2000)])
    assert np.abs(colours.mean(0) - 127.5).max() < 6
    assert (colours.min(0) < 5).all()
    assert (colours.max(0) > 250).all()


def nearest_distances(chosen: Array) -> Array:
    """The distance of each pixel to its nearest chosen one, by trying them all."""
    places = np.argwhere(chosen)
    rows = [np.hypot(ROWS[y, :, None] - places[:, 0], COLUMNS[y, :, None] - places[:, 1]).min(1) for y in range(90)]
    return np.array(rows)


@KINDS
def test_extend_takes_the_nearest_opaque_colour(kind: str, tolerance: float) -> None:
    _, alpha, white = as_type(kind)
    # Each pixel's colour is its place, so that the result says which pixel it came from.
    scale = 1 / 255 if kind == "float32" else 1
    colours = (np.dstack([ROWS, COLUMNS, ROWS * 0]) * scale).astype(kind)
    extended = resolve(colours, alpha, Transparency("extend"), "a") / scale
    opaque, hidden = alpha == white, alpha == 0
    assert 0.1 < opaque.mean() < 0.6 < 0.1 + hidden.mean() + opaque.mean() < 1.1
    y, x = extended[hidden][:, 0].round().astype(int), extended[hidden][:, 1].round().astype(int)
    assert opaque[y, x].all()
    taken, true = np.hypot(y - ROWS[hidden], x - COLUMNS[hidden]), nearest_distances(opaque)[hidden]
    assert (taken <= true * 1.04).all()
    assert (taken / true).mean() < 1.01
    assert np.array_equal(extended[opaque], colours[opaque] / scale)


def test_extend_draws_half_transparent_edges_towards_the_figure() -> None:
    alpha = np.rint(ALPHA * 255).astype(np.uint8)
    figure, halo = np.array([40, 90, 160]), 255
    colours = np.rint(mixed(np.broadcast_to(figure, (90, 120, 3)), alpha, np.array([halo] * 3), 255)).astype(np.uint8)
    extended = resolve(colours, alpha, Transparency("extend"), "a")
    soft = (alpha > 0) & (alpha < 255)
    a = (alpha[soft] / 255)[:, None]
    # The halo's share falls from 1 - a to a (1 - a).
    expected = figure + (halo - figure) * a * (1 - a)
    assert np.abs(extended[soft] - expected).max() <= 1.1
    assert np.array_equal(extended[alpha == 0], np.broadcast_to(figure, extended[alpha == 0].shape))


def test_extend_without_an_opaque_pixel() -> None:
    alpha = np.rint(ALPHA * 200).astype(np.uint8)
    extended = resolve(PHOTO, alpha, Transparency("extend"), "a")
    most = alpha == 200
    assert np.array_equal(extended[most], PHOTO[most])
    colours = {tuple(colour) for colour in PHOTO[most]}
    assert {tuple(colour) for colour in extended[alpha == 0]} <= colours


@pytest.mark.parametrize("hidden", ["fill", "extend"])
def test_an_entirely_transparent_picture_is_the_colour(hidden: Any) -> None:
    resolved = resolve(PHOTO, np.zeros((90, 120), np.uint8), Transparency(hidden, (1, 2, 3)), "a")
    assert np.array_equal(resolved, np.broadcast_to([1, 2, 3], PHOTO.shape))


@pytest.mark.parametrize("alpha", [np.zeros((89, 120), np.uint8), np.zeros((90, 120), np.uint16)])
def test_alpha_that_does_not_fit_is_refused(alpha: Array) -> None:
    with pytest.raises(ValueError, match="cat: colours are .* give alpha the size and type of the colours"):
        resolve(PHOTO, alpha, Transparency("fill"), "cat")


def test_random_colours_do_not_depend_on_pythons_hash_seed(root: Path) -> None:
    code = (f"import sys; sys.path.insert(0, {str(root)!r}); from dataset.transparency import random_colour; "
            "sys.stdout.write(repr(random_colour(3, 'cat/001')))")
    for seed in ("0", "1"):
        run = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert run.stdout == repr(random_colour(3, "cat/001"))
