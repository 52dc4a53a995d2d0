"""Pixels and masks from files: values, polarity, and that image and mask never part."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pack.dataset.folder import Triple
from pack.dataset.geometry import square_crop
from pack.dataset.load import LoadedPicture, load_example, loading_report
from PIL import Image

Bytes = npt.NDArray[np.uint8]


def load(image: Path, mask: Path | None = None, size: int = 32) -> LoadedPicture:
    return load_example(Triple("x", image, mask, ""), size)


def disc(height: int, width: int, y: float, x: float, radius: float) -> Bytes:
    rows, columns = np.mgrid[:height, :width]
    return (np.hypot(rows - y, columns - x) < radius).astype(np.uint8) * 255


def centre_of_mass(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    grid = np.stack(np.mgrid[: plane.shape[0], : plane.shape[1]])
    return np.asarray((grid * plane).sum(axis=(1, 2)) / plane.sum())


@pytest.mark.parametrize(("height", "width"), [(101, 160), (160, 101), (97, 97), (64, 200)])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_image_and_mask_move_together(tmp_path: Path, height: int, width: int, size: int) -> None:
    plane = disc(height, width, height * 0.45, width * 0.55, 15)
    Image.fromarray(np.dstack([plane] * 3)).save(tmp_path / "a.png")
    Image.fromarray(plane).save(tmp_path / "m.png")
    loaded = load(tmp_path / "a.png", tmp_path / "m.png", size)
    assert loaded.image_HWC.shape == (size, size, 3)
    assert loaded.mask_HW.shape == (size, size)
    assert loaded.source_size == (width, height)
    image_centre, mask_centre = centre_of_mass(loaded.image_HWC[..., 0].numpy()), centre_of_mass(loaded.mask_HW.numpy())
    side = min(height, width)
    expected = (np.array([height * 0.45 - (height - side) / 2, width * 0.55 - (width - side) / 2]) + 0.5) * size / side - 0.5
    assert np.abs(image_centre - mask_centre).max() < 0.1
    assert np.abs(mask_centre - expected).max() < 0.25
    assert loaded.mask_HW.min() == 0
    assert loaded.mask_HW.max() == 1


@pytest.mark.parametrize(("orientation", "turned"), [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, np.rot90)])
def test_exif_turns_the_picture_before_the_mask_is_matched(tmp_path: Path, orientation: int, turned: object) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = turned(stored)  # type: ignore[operator]
    Image.fromarray(np.ascontiguousarray(upright[..., 0])).save(tmp_path / "m.png")
    loaded = load(tmp_path / "a.png", tmp_path / "m.png")
    height, width = upright.shape[:2]
    top, left = (height - 32) // 2, (width - 32) // 2
    expected = upright[top:top + 32, left:left + 32]
    assert np.array_equal((loaded.image_HWC.numpy() * 255).round().astype(np.uint8), expected)
    assert np.array_equal((loaded.mask_HW.numpy() * 255).round().astype(np.uint8), expected[..., 0])


def test_a_picture_of_the_right_size_comes_back_bit_for_bit(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    assert torch.equal(load(tmp_path / "a.png").image_HWC, torch.from_numpy(stored).float() / 255)


def test_no_mask_is_all_ones(tmp_path: Path) -> None:
    Image.new("RGB", (40, 70)).save(tmp_path / "a.png")
    assert torch.equal(load(tmp_path / "a.png").mask_HW, torch.ones(32, 32))


def test_opaque_is_learned_and_hidden_colours_stay(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16] = (200, 0, 0, 0)
    pixels[:, 16:] = (0, 100, 0, 255)
    Image.fromarray(pixels, "RGBA").resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "a.png")
    loaded = load(tmp_path / "a.png", tmp_path / "a.png")
    assert loaded.mask_HW[0, [0, 31]].tolist() == [0, 1]
    assert loaded.image_HWC[0, 0, 0].item() == pytest.approx(200 / 255, abs=1e-6)  # not mixed with its opacity


def test_alpha_of_palette_and_grey_pictures(tmp_path: Path) -> None:
    Image.new("LA", (32, 32), (50, 102)).save(tmp_path / "grey.png")
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=bytes([255, 51]))
    grey, indexed = (load(tmp_path / f"{name}.png", tmp_path / f"{name}.png") for name in ("grey", "palette"))
    assert grey.mask_HW[0, 0].item() == pytest.approx(0.4)
    assert grey.image_HWC[0, 0].tolist() == pytest.approx([50 / 255] * 3)
    assert indexed.mask_HW[0, 0].item() == pytest.approx(0.2)
    assert indexed.image_HWC[0, 0].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])


def test_sixteen_bit_grey_keeps_its_greys(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 128 * 257, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((32, 32), 51 * 257, np.uint16)).save(tmp_path / "m.png")
    loaded = load(tmp_path / "a.png", tmp_path / "m.png")
    assert loaded.image_HWC[3, 4].tolist() == pytest.approx([128 / 255] * 3, abs=1e-6)
    assert loaded.mask_HW[3, 4].item() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 255, 255), 255)])
def test_a_coloured_mask_counts_by_its_brightness(tmp_path: Path, colour: tuple[int, int, int], grey: int) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), colour).save(tmp_path / "m.png")
    assert load(tmp_path / "a.png", tmp_path / "m.png").mask_HW[0, 0].item() == pytest.approx(grey / 255, abs=1e-6)


def test_a_mask_with_transparency_lies_on_black(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    Image.new("RGBA", (32, 32), (255, 255, 255, 51)).save(tmp_path / "m.png")
    assert load(tmp_path / "a.png", tmp_path / "m.png").mask_HW[0, 0].item() == pytest.approx(0.2)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "P"])
def test_other_modes_are_read(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif")
    assert load(tmp_path / "a.tif").image_HWC.min().item() == 1


def test_a_mask_of_another_size_is_refused_with_both_names(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    Image.new("L", (48, 64)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png is 48x64 but .*a\.png is 64x48 .*save the mask at its picture's size"):
        load(tmp_path / "a.png", tmp_path / "m.png")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        load(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a picture"):
        load(tmp_path / "b.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png has no alpha channel"):
        load(tmp_path / "c.png", tmp_path / "c.png")
    Image.new("F", (32, 32)).save(tmp_path / "d.tif")
    with pytest.raises(ValueError, match=r"d\.tif holds 32-bit floats"):
        load(tmp_path / "d.tif")


@pytest.mark.parametrize("size", [0, 8, 100, -16])
def test_sizes_are_multiples_of_sixteen(size: int) -> None:
    with pytest.raises(ValueError, match=f"size is {size}"):
        square_crop(np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), np.float32), size)


def test_the_geometry_refuses_a_pair_that_does_not_match() -> None:
    with pytest.raises(ValueError, match="picture is 32x32, mask is 16x32"):
        square_crop(np.zeros((32, 32, 3), np.float32), np.zeros((32, 16), np.float32), 32)


def test_values_stay_in_range_and_a_flat_mask_stays_flat() -> None:
    noise_HWC = np.random.default_rng(3).integers(0, 2, (70, 90, 3)).astype(np.float32)
    image_HWC, mask_HW = square_crop(noise_HWC, np.full((70, 90), 0.3, np.float32), 128)
    assert image_HWC.min() >= 0
    assert image_HWC.max() <= 1
    assert np.abs(mask_HW - 0.3).max() < 1e-6


def test_the_report_counts_what_changed_the_pictures() -> None:
    def picture(white: float, size: tuple[int, int]) -> LoadedPicture:
        return LoadedPicture(torch.zeros(32, 32, 3), torch.full((32, 32), white), size)

    report = loading_report([picture(1, (32, 32)), picture(1, (16, 40)), picture(0, (64, 64)), picture(0, (64, 48))], 32)
    assert "4 pictures of 32x32; white (learned) on average 50.0%" in report
    assert "enlarged: 1" in report
    assert "cropped to the centre: 2" in report
    assert "all black after cropping (nothing is learned unless inverted or floored): 2" in report
    assert "enlarged" not in loading_report([picture(1, (32, 32))], 32)
