"""Files to arrays: every type and mode, rotation, channels, damage. Expected values come from numpy or from the formats' definitions."""
from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from pack.dataset.listing import PICTURE_TYPES
from pack.dataset.pillow_rules import RULES
from pack.dataset.pixels import PictureHeader, picture_size, read_mask, read_picture
from PIL import Image, ImageFile

Array = npt.NDArray[Any]
Chunk = tuple[bytes, bytes]

PHOTO: Array = skimage.data.astronaut()[60:156, 150:280]  # 96 rows, 130 columns
GREY: Array = skimage.data.camera()[100:196, 150:280]
ALPHA: Array = skimage.data.horse()[100:196, 130:260].astype(np.uint8) * 255
SOFT: Array = np.broadcast_to(np.linspace(0, 255, 130).round().astype(np.uint8), (96, 130))
SIXTEEN: Array = GREY.astype(np.uint16) * 256 + SOFT


def png(rows: Array, depth: int, colour_type: int, *, before: Sequence[Chunk] = (), after: Sequence[Chunk] = ()) -> bytes:
    """A PNG written from its definition. rows: packed bytes, (height, bytes); width follows from depth and colour type."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    width = rows.shape[1] * 8 // (depth * channels)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = (b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0))
    chunks = (header, *before, (b"IDAT", data), *after, (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in chunks)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(pixels: bytes, width: int, height: int, bits: tuple[int, ...], photometric: int, extra: int | None = None) -> bytes:
    """A little-endian TIFF of one uncompressed strip, written from its definition."""
    entries = {256: (3, [width]), 257: (3, [height]), 258: (3, list(bits)), 259: (3, [1]), 262: (3, [photometric]),
               277: (3, [len(bits)]), 278: (3, [height]), 279: (4, [len(pixels)]), 339: (3, [1] * len(bits))}
    if extra is not None:
        entries[338] = (3, [extra])
    lists = 8 + 2 + 12 * (len(entries) + 1) + 4  # behind the directory: values that do not fit into it
    entries[273] = (4, [lists + 64])
    directory, overflow = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        content = b"".join(struct.pack("<H" if kind == 3 else "<I", value) for value in values)
        if len(content) > 4:
            directory += struct.pack("<HHII", tag, kind, len(values), lists + len(overflow))
            overflow += content
        else:
            directory += struct.pack("<HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8) + directory + b"\0" * 4 + overflow.ljust(64, b"\0") + pixels


def save(file: Path, pixels: Array | Image.Image, **options: Any) -> Path:
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))).save(file, **options)
    return file


def header_agrees(file: Path) -> None:
    pixels, header = read_picture(file), picture_size(file)
    assert (header.height, header.width) == pixels.colours_HWC.shape[:2]
    assert header.has_alpha == (pixels.alpha_HW is not None)


BEST_JPEG = {"quality": 100, "subsampling": 0}
# How each type is saved with the least loss.
LOSSLESS = {"png": {}, "webp": {"lossless": True, "exact": True}, "bmp": {}, "tif": {}, "tiff": {"compression": "tiff_lzw"},
            "avif": {"quality": 100, "subsampling": "4:4:4"}, "jpg": BEST_JPEG, "jpeg": BEST_JPEG}


@pytest.mark.parametrize("ending", LOSSLESS)
def test_every_type_gives_the_photograph(tmp_path: Path, ending: str) -> None:
    assert {"." + ending for ending in LOSSLESS} == PICTURE_TYPES
    file = save(tmp_path / f"a.{ending}", PHOTO, **LOSSLESS[ending])
    pixels = read_picture(file)
    assert pixels.colours_HWC.dtype == np.uint8
    assert pixels.alpha_HW is None
    difference = np.abs(pixels.colours_HWC.astype(int) - PHOTO)
    assert difference.max() <= (8 if ending in ("jpg", "jpeg", "avif") else 0)
    assert difference.mean() <= 1
    assert picture_size(file) == PictureHeader(130, 96, False, 1)


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "avif"])
def test_colours_and_opacity_are_kept_apart(tmp_path: Path, ending: str) -> None:
    file = save(tmp_path / f"a.{ending}", np.dstack([PHOTO, SOFT]), **LOSSLESS[ending])
    pixels = read_picture(file)
    assert pixels.alpha_HW is not None
    tolerance = 8 if ending == "avif" else 0
    assert np.abs(pixels.colours_HWC.astype(int) - PHOTO).max() <= tolerance  # as stored, also where alpha is 0
    assert np.abs(pixels.alpha_HW.astype(int) - SOFT).max() <= tolerance / 4
    assert picture_size(file) == PictureHeader(130, 96, True, 1)


def grey_rows(values: Array, depth: int) -> Array:
    """Pixel values of 2 or 4 bits packed into bytes, the first pixel in the high bits."""
    parts = values.reshape(len(values), -1, 8 // depth).astype(int)
    return sum(parts[..., i] << (8 - depth * (i + 1)) for i in range(8 // depth)).astype(np.uint8)  # type: ignore[union-attr]


def stored_pictures() -> dict[str, tuple[str, Callable[[Path], object], Array, Array | None]]:
    """name: (ending, how to write it, colours, alpha)."""
    three = np.dstack([GREY] * 3)
    palette = Image.fromarray(PHOTO).quantize(200)
    entries = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)
    indices = np.asarray(palette)
    with_alpha = palette.copy()
    with_alpha.putalpha(Image.fromarray(SOFT.copy()))
    table = (np.arange(len(entries)) * 7 % 256).astype(np.uint8)
    one_key = np.where(indices == 3, 0, 255)
    bilevel = ALPHA > 0
    two, four = GREY[:, :128] >> 6, GREY[:, :128] >> 4
    red16 = np.dstack([SIXTEEN, SIXTEEN[::-1], SIXTEEN[:, ::-1]])
    key16 = red16[5, 7]
    cmyk = Image.fromarray(PHOTO).convert("CMYK")
    big = np.dstack([GREY, SOFT, GREY[::-1]])
    twelve = (SIXTEEN[:, :130] >> 4).astype(np.uint16)
    pairs = twelve.reshape(96, -1, 2).astype(int)
    packed = np.dstack([pairs[..., 0] >> 4, (pairs[..., 0] & 15) << 4 | pairs[..., 1] >> 8, pairs[..., 1] & 255]).astype(np.uint8)

    def kept(pixels: Array | Image.Image, **options: Any) -> Callable[[Path], object]:
        return lambda file: save(file, pixels, **options)

    def raw(content: bytes) -> Callable[[Path], object]:
        return lambda file: file.write_bytes(content)

    def six(array: Array) -> Array:
        return array.astype(">u2").view(np.uint8).reshape(len(array), -1)

    return {
        "1": ("png", kept(bilevel), np.dstack([bilevel * np.uint8(255)] * 3), None),
        "1 in TIFF, fax": ("tif", kept(bilevel, compression="group4"), np.dstack([bilevel * np.uint8(255)] * 3), None),
        "L": ("png", kept(GREY), three, None),
        "L in JPEG": ("jpg", kept(np.full_like(GREY, 90)), np.full_like(three, 90), None),
        "L + tRNS": ("png", raw(png(GREY, 8, 0, before=[(b"tRNS", struct.pack(">H", 12))])), three, np.where(GREY == 12, 0, 255)),
        "1 + tRNS": ("png", raw(png(np.packbits(bilevel[:, :128], axis=1), 1, 0, before=[(b"tRNS", b"\0\1")])),
                     np.dstack([bilevel[:, :128] * np.uint8(255)] * 3), np.where(bilevel[:, :128], 0, 255)),
        "2-bit L + tRNS": ("png", raw(png(grey_rows(two, 2), 2, 0, before=[(b"tRNS", b"\0\2")])),
                           np.dstack([two * 85] * 3), np.where(two == 2, 0, 255)),
        "4-bit L + tRNS": ("png", raw(png(grey_rows(four, 4), 4, 0, before=[(b"tRNS", b"\0\5")])),
                           np.dstack([four * 17] * 3), np.where(four == 5, 0, 255)),
        "16-bit L": ("png", kept(SIXTEEN), np.dstack([SIXTEEN] * 3), None),
        "16-bit L + tRNS": ("png", raw(png(six(SIXTEEN), 16, 0, before=[(b"tRNS", struct.pack(">H", SIXTEEN[4, 4]))])),
                            np.dstack([SIXTEEN] * 3), np.where(SIXTEEN[4, 4] == SIXTEEN, 0, 65535)),
        "16-bit L in TIFF": ("tif", kept(SIXTEEN), np.dstack([SIXTEEN] * 3), None),
        "big-endian 16-bit L in TIFF": ("tif", kept(Image.frombytes("I;16B", (130, 96), SIXTEEN.astype(">u2").tobytes())),
                                        np.dstack([SIXTEEN] * 3), None),
        "16-bit L in TIFF, 0 is white": ("tif", raw(tiff((65535 - SIXTEEN).tobytes(), 130, 96, (16,), 0)), np.dstack([SIXTEEN] * 3), None),
        "12-bit L in TIFF": ("tif", raw(tiff(packed.tobytes(), 130, 96, (12,), 1)), np.dstack([np.rint(twelve / 4095 * 65535)] * 3), None),
        "8-bit L in TIFF, 0 is white": ("tif", raw(tiff((255 - GREY).tobytes(), 130, 96, (8,), 0)), three, None),
        "LA": ("png", kept(np.dstack([GREY, SOFT])), three, SOFT),
        "La in TIFF": ("tif", raw(tiff(np.dstack([ALPHA // 3, ALPHA]).tobytes(), 130, 96, (8, 8), 1, extra=1)),
                       np.dstack([ALPHA // 3] * 3), ALPHA),
        "LA in TIFF": ("tif", kept(Image.fromarray(np.dstack([GREY, SOFT]))), three, SOFT),
        "P": ("png", kept(palette), entries[indices], None),
        "P in BMP": ("bmp", kept(palette), entries[indices], None),
        "P + tRNS": ("png", kept(palette, transparency=table.tobytes()), entries[indices], table[indices]),
        "P + tRNS of one colour": ("png", kept(palette, transparency=3), entries[indices], one_key),
        "PA": ("tif", kept(with_alpha), entries[indices], SOFT),
        "RGB + tRNS": ("png", raw(png(PHOTO.reshape(96, -1), 8, 2, before=[(b"tRNS", struct.pack(">HHH", *PHOTO[8, 9]))])),
                       PHOTO, np.where((PHOTO[8, 9] == PHOTO).all(-1), 0, 255)),
        "16-bit RGB": ("png", raw(png(six(red16), 16, 2)), red16 >> 8, None),
        "16-bit RGB + tRNS": ("png", raw(png(six(red16), 16, 2, before=[(b"tRNS", struct.pack(">HHH", *key16))])),
                              red16 >> 8, np.where((red16 >> 8 == key16 >> 8).all(-1), 0, 255)),
        "16-bit RGBA": ("png", raw(png(six(np.dstack([red16, SOFT * np.uint16(257)])), 16, 6)), red16 >> 8, SOFT),
        "16-bit RGB in TIFF": ("tif", raw(tiff(red16.astype("<u2").tobytes(), 130, 96, (16, 16, 16), 2)), red16 >> 8, None),
        "RGBX in TIFF": ("tif", raw(tiff(np.dstack([big, SOFT]).tobytes(), 130, 96, (8, 8, 8, 8), 2, extra=0)), big, None),
        "CMYK in TIFF": ("tif", kept(cmyk), PHOTO, None),
        "YCbCr in TIFF": ("tif", kept(Image.new("YCbCr", (130, 96), (120, 128, 128))), np.full_like(PHOTO, 120), None),
    }


STORED = stored_pictures()


@pytest.mark.parametrize("name", STORED)
def test_every_mode(tmp_path: Path, name: str) -> None:
    ending, write, colours, alpha = STORED[name]
    file = tmp_path / f"a.{ending}"
    write(file)
    pixels = read_picture(file)
    assert pixels.colours_HWC.dtype == (np.uint16 if np.max(colours) > 255 else np.uint8)
    assert np.abs(pixels.colours_HWC.astype(int) - colours).max() <= (1 if "JPEG" in name else 0)
    assert (pixels.alpha_HW is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(pixels.alpha_HW, alpha)
        assert 0 < np.mean(alpha == 0) < 1
    header_agrees(file)


def test_associated_alpha_is_divided_out(tmp_path: Path) -> None:
    alpha = np.maximum(SOFT, 64)
    multiplied = np.rint(PHOTO * (alpha / 255)[..., None]).astype(np.uint8)
    (tmp_path / "a.tif").write_bytes(tiff(np.dstack([multiplied, alpha]).tobytes(), 130, 96, (8, 8, 8, 8), 2, extra=1))
    pixels = read_picture(tmp_path / "a.tif")
    assert np.array_equal(pixels.alpha_HW, alpha)
    assert np.abs(pixels.colours_HWC.astype(int) - PHOTO).max() <= 4  # 255 / 64 for the rounding of the file


def test_adobes_inverted_cmyk(tmp_path: Path) -> None:
    file = save(tmp_path / "a.jpg", Image.fromarray(PHOTO).convert("CMYK"), quality=100, subsampling=0)
    assert b"Adobe" in file.read_bytes()[:400]
    assert np.abs(read_picture(file).colours_HWC.astype(int) - PHOTO).mean() < 1.5
    header_agrees(file)


# Where the first stored row and the first stored column are seen, from the EXIF standard.
SEEN = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom")}


def as_seen(stored: Array, orientation: int) -> Array:
    rows, columns = stored.shape[:2]
    first_row, first_column = SEEN[orientation]
    turned = first_row in ("left", "right")
    seen = np.empty((columns, rows, *stored.shape[2:]) if turned else stored.shape, stored.dtype)
    for i in range(rows):
        for j in range(columns):
            along_row = i if first_row in ("top", "left") else rows - 1 - i
            along_column = j if first_column in ("top", "left") else columns - 1 - j
            seen[(along_column, along_row) if turned else (along_row, along_column)] = stored[i, j]
    return seen


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", SEEN)
def test_exif_rotation(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = np.dstack([PHOTO, np.maximum(SOFT, 1)])[20:52, 30:70, : 3 if ending == "jpg" else 4]
    file = save(tmp_path / f"a.{ending}", small, exif=exif, **LOSSLESS[ending])
    expected = as_seen(small, orientation)
    pixels, tolerance = read_picture(file), 10 if ending in ("jpg", "avif") else 0
    assert np.abs(pixels.colours_HWC.astype(int) - expected[..., :3]).max() <= tolerance
    if ending != "jpg":
        assert np.abs(pixels.alpha_HW - expected[..., 3].astype(float)).max() <= tolerance  # type: ignore[operator]
        assert read_mask(file, "alpha").shape == expected.shape[:2]
    assert np.abs(read_mask(file, "red") * 255 - expected[..., 0]).max() <= tolerance + 0.01
    header_agrees(file)


@pytest.mark.parametrize("kind", ["eXIf", "iTXt"])
def test_a_rotation_behind_the_pixels_of_a_png(tmp_path: Path, kind: str) -> None:
    exif = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    file = tmp_path / "a.png"
    file.write_bytes(png(GREY, 8, 0, after=[(kind.encode(), exif if kind == "eXIf" else xmp)]))
    assert np.array_equal(read_picture(file).colours_HWC[..., 0], as_seen(GREY, 6))
    assert picture_size(file) == PictureHeader(96, 130, False, 1)


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "avif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(np.roll(PHOTO, shift, 1)) for shift in (0, 20, 40)]
    file = save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **LOSSLESS[ending])
    assert np.abs(read_picture(file).colours_HWC.astype(int) - PHOTO).mean() <= (2 if ending == "avif" else 0)
    assert picture_size(file).frames == 3


def test_the_previews_in_a_telephones_jpeg_are_no_frames(tmp_path: Path) -> None:
    preview = Image.fromarray(PHOTO[::2, ::2])
    file = save(tmp_path / "a.jpg", PHOTO, format="MPO", save_all=True, append_images=[preview], **BEST_JPEG)
    assert Image.open(file).format == "MPO"
    assert picture_size(file) == PictureHeader(130, 96, False, 1)
    assert np.abs(read_picture(file).colours_HWC.astype(int) - PHOTO).max() <= 8


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [save(tmp_path / f"a.{ending}", PHOTO) for ending in LOSSLESS]

    def load(picture: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for file in files:
        assert picture_size(file) == PictureHeader(130, 96, False, 1)


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 255, 255), 255)])
def test_luminance_weighs_the_colours(tmp_path: Path, colour: tuple[int, int, int], grey: int) -> None:
    mask_HW = read_mask(save(tmp_path / "m.png", Image.new("RGB", (3, 2), colour)), "luminance")
    assert mask_HW.dtype == np.float32
    assert np.array_equal(mask_HW, np.full((2, 3), np.float32(grey) / np.float32(255)))


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_each_channel_of_a_coloured_mask(tmp_path: Path, ending: str) -> None:
    file = save(tmp_path / f"m.{ending}", np.dstack([PHOTO, SOFT]), **LOSSLESS[ending])
    for index, channel in enumerate(("red", "green", "blue", "alpha")):
        expected = SOFT if channel == "alpha" else PHOTO[..., index]
        assert np.array_equal(read_mask(file, channel), expected / np.float32(255))  # type: ignore[arg-type]
    luminance = PHOTO @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_mask(file, "luminance") * 255 - luminance * (SOFT / 255)).max() <= 0.51  # lies on black


@pytest.mark.parametrize("name", ["1", "L", "16-bit L", "P", "LA", "16-bit L in TIFF, 0 is white", "RGB + tRNS"])
def test_masks_of_other_modes(tmp_path: Path, name: str) -> None:
    ending, write, colours, alpha = STORED[name]
    file = tmp_path / f"m.{ending}"
    write(file)
    white = 65535 if np.max(colours) > 255 else 255
    for index, channel in enumerate(("red", "green", "blue")):
        assert np.array_equal(read_mask(file, channel), colours[..., index] / np.float32(white))  # type: ignore[arg-type]
    expected = colours @ np.array([0.299, 0.587, 0.114]) / white * (1 if alpha is None else alpha / white)
    assert np.abs(read_mask(file) - expected).max() <= 0.51 / 255
    if alpha is not None:
        assert np.array_equal(read_mask(file, "alpha"), alpha / np.float32(white))
    else:
        with pytest.raises(ValueError, match=r"m\.\w+ has no alpha channel; save it with one .* or set the channel to luminance"):
            read_mask(file, "alpha")


def refused(file: Path, reason: str) -> None:
    for read in (read_picture, read_mask, picture_size):
        with pytest.raises(ValueError, match=rf"{file.name} .*{reason}"):
            read(file)


def test_what_is_refused_from_the_header_on(tmp_path: Path) -> None:
    for name, content, reason in (
        ("text.png", b"not a picture", "it is no PNG, JPEG, WEBP, BMP, TIFF, AVIF or its header is damaged"),
        ("empty.jpg", b"", "it is empty"),
        ("bomb.png", png(GREY, 8, 0)[:16] + struct.pack(">II", 60000, 60000) + png(GREY, 8, 0)[24:], "cannot be read"),
        ("headless.png", png(GREY, 8, 0)[8:], "it is no PNG"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, reason)
    for kind in ("GIF", "TGA", "PPM", "ICO"):  # types that Pillow knows and we do not read
        refused(save(tmp_path / "called.png", PHOTO, format=kind), "it is no PNG")
    save(tmp_path / "float.tif", Image.new("F", (4, 4)))
    refused(tmp_path / "float.tif", "it holds 32-bit floats, whose white is not defined")
    save(tmp_path / "integers.tif", Image.new("I", (4, 4)))
    refused(tmp_path / "integers.tif", "32-bit or signed whole numbers, whose white is not defined")
    save(tmp_path / "lab.tif", Image.new("LAB", (4, 4)))
    refused(tmp_path / "lab.tif", "its colours are LAB, which is not read")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "it is a folder or a device")
    refused(tmp_path / "gone.png", "is not there; it was moved or removed")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such files")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "it is a folder or a device")


def sized_png(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bombs_are_refused_whatever_pillows_limit_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(sized_png(14000, 14000))
    refused(tmp_path / "bomb.png", "196000000 pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(tmp_path / "bomb.png", "14000x14000 pixels, the most are 178956970: make it smaller")


def test_pillows_warnings_are_no_noise(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(sized_png(10000, 10000))  # Pillow warns from 89 million pixels on
    palette = Image.fromarray(PHOTO).quantize(8)
    save(tmp_path / "palette.png", palette, transparency=bytes(range(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert picture_size(tmp_path / "large.png").width == 10000
        assert read_mask(tmp_path / "palette.png").shape == (96, 130)
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


def test_a_truncated_file_is_refused_even_where_another_node_allows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = save(tmp_path / "whole.jpg", PHOTO).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    for allowed in (True, False):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
        with pytest.raises(ValueError, match=r"half\.jpg cannot be read as a picture \(image file is truncated"):
            read_picture(tmp_path / "half.jpg")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is allowed


def test_reading_threads_keep_the_rules_and_give_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    file = save(tmp_path / "a.png", PHOTO)
    filters = list(warnings.filters)

    def strict(_: int) -> bool:
        with RULES:
            before = ImageFile.LOAD_TRUNCATED_IMAGES
            read_picture(file)
            return not before and not ImageFile.LOAD_TRUNCATED_IMAGES

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(strict, range(200)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert warnings.filters == filters


def test_a_flipped_bit_of_a_png_is_found(tmp_path: Path) -> None:
    whole = png(GREY, 8, 0)
    file, generator = tmp_path / "a.png", np.random.default_rng(0)
    for position in generator.integers(8, len(whole), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << generator.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
            read_picture(file)


def test_names_may_hold_anything(tmp_path: Path) -> None:
    file = save(tmp_path / "ein Bild (1) – 写真.png", PHOTO)
    assert np.array_equal(read_picture(file).colours_HWC, PHOTO)


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", PHOTO, format="PNG")
    assert np.array_equal(read_picture(tmp_path / "a.jpg").colours_HWC, PHOTO)
    decoded = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(decoded, PHOTO)
