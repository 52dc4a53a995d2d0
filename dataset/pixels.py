"""Pictures and masks from files. Shapes: H height, W width, C = 3 channels, red, green, blue.

What a file is, its content says and not its ending: a JPEG that is called .png is read. EXIF rotation is applied, the first
frame of an animation is taken, colour profiles are not applied. 16-bit grey stays 16-bit; other 16-bit pictures come with
8. Damage is found as far as the format can tell: PNG has check sums, so each flipped bit is found; all formats are refused
when they are cut off; flipped bits in JPEG, WebP, BMP or TIFF can look like a picture.
"""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from .item import Channel
from .pillow_rules import RULES

Whole = npt.NDArray[np.uint8 | np.uint16]
Floats = npt.NDArray[np.float32]

MOST_PIXELS = 178_956_970  # where Pillow itself refuses a picture, unless a custom node has switched that off
SIXTEEN_BIT = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
# What each of Pillow's modes is read as; palettes with transparency become RGBA.
READ_AS = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "P": "RGB", "PA": "RGBA", "RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA",
           "RGBa": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
# What Pillow's plugins raise for damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, AssertionError,
          MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError)
ORIENTATION, WIDTH, HEIGHT, BITS, PHOTOMETRIC = 0x0112, 256, 257, 258, 262  # tags of EXIF and TIFF


@dataclass(frozen=True, slots=True, eq=False)
class PicturePixels:
    """Colours as stored, also under transparent pixels, and opacity if the file has any; both uint8 or both uint16."""

    colours_HWC: Whole
    alpha_HW: Whole | None


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """Width and height after EXIF rotation, whether the file carries transparency, and its number of frames or pages."""

    width: int
    height: int
    has_alpha: bool
    frames: int


def read_picture(path: Path) -> PicturePixels:
    """Colours and alpha of a picture. Raises ValueError, naming the file and the reason, for what cannot be read."""
    with _naming(path):
        planes = _read(path)
        colours = planes.colours if planes.colours.ndim == 3 else np.repeat(planes.colours[..., None], 3, axis=2)
        return PicturePixels(colours, planes.alpha)


def read_mask(path: Path, channel: Channel = "luminance") -> Floats:
    """One channel of a file as a mask, (H, W) in 0..1, white = learn.

    luminance: 0.299 red + 0.587 green + 0.114 blue, rounded to a whole number of the file's 8 bits; a mask with transparency
    lies on black. red, green, blue: as stored; of a grey file all three are its grey. alpha: opaque = learn. Raises ValueError,
    naming the file and the reason, for what cannot be read and for alpha where there is none.
    """
    with _naming(path):
        planes = _read(path)
    if channel == "alpha":
        if planes.alpha is None:
            raise ValueError(f"{path} has no alpha channel; save it with one (opaque = learn) or set the channel to luminance")
        return unit(planes.alpha)
    if channel != "luminance":
        return unit(planes.colours if planes.colours.ndim == 2 else planes.colours[..., ("red", "green", "blue").index(channel)])
    grey = unit(planes.colours if planes.colours.ndim == 2 else np.asarray(Image.fromarray(planes.colours).convert("L")))
    return grey if planes.alpha is None else grey * unit(planes.alpha)


def picture_size(path: Path) -> PictureHeader:
    """Size, transparency and frames out of the header; no pixels are decoded. Raises ValueError as read_picture does."""
    with _naming(path), _opened(path) as (picture, stream):
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            # Pillow gives a turned TIFF the size that it has after turning; older ones do not.
            size, orientation = (picture.tag_v2[WIDTH], picture.tag_v2[HEIGHT]), picture.tag_v2.get(ORIENTATION, 1)
        elif picture.format == "PNG" and "exif" not in picture.info and not _has_late_metadata(picture, stream):
            size, orientation = picture.size, _turn(Image.Image.getexif(picture))  # a PNG's own would decode the pixels
        else:
            size, orientation = picture.size, _turn(picture.getexif())
        width, height = size if orientation < 5 else size[::-1]
        return PictureHeader(width, height, picture.has_transparency_data, _frame_count(picture))


def tiff_data_end(path: Path) -> int:
    """Where the last strip or tile of a TIFF's first page ends, as its tags say; 0 if they do not."""
    with _naming(path), _opened(path) as (picture, _):
        tags = picture.tag_v2 if isinstance(picture, TiffImagePlugin.TiffImageFile) else {}
        places = [(tags.get(offsets, ()), tags.get(counts, ())) for offsets, counts in ((273, 279), (324, 325))]
        return max((offset + count for offsets, counts in places for offset, count in zip(offsets, counts, strict=False)), default=0)


def unit(values: npt.NDArray[Any]) -> Floats:
    """uint8 or uint16 as float32 in 0..1."""
    scaled: Floats = np.divide(values, np.float32(np.iinfo(values.dtype).max), dtype=np.float32)
    return scaled


@dataclass(frozen=True, slots=True, eq=False)
class _Planes:
    """colours: (H, W) for grey, otherwise (H, W, 3). alpha: (H, W)."""

    colours: Whole
    alpha: Whole | None


def _read(path: Path) -> _Planes:
    with _opened(path) as (picture, stream):
        if picture.format == "PNG":
            picture.verify()  # the check sums of the pixels, which reading them passes over
    with _opened(path) as (picture, stream):
        _frame_count(picture)  # raises for broken links between the pages of a TIFF, as picture_size does
        raw_mode, key = _raw_mode(picture), picture.info.get("transparency")
        picture.load()
        orientation = _turn(picture.getexif())  # a TIFF is turned by load(), which takes the tag away
        planes = _sixteen_bit(picture, key) if picture.mode in {*SIXTEEN_BIT, "I"} else _eight_bit(picture, raw_mode, key)
    return _Planes(_upright(planes.colours, orientation), None if planes.alpha is None else _upright(planes.alpha, orientation))


def _sixteen_bit(picture: Image.Image, key: object) -> _Planes:
    grey = np.asarray(picture).astype(np.uint16)
    alpha = _opaque_but(grey, key)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        if picture.tag_v2.get(BITS) == (12,):
            grey = ((grey.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
        if picture.tag_v2.get(PHOTOMETRIC) == 0:
            grey = 65535 - grey  # 0 is white, which Pillow heeds up to 8 bits only
    return _Planes(grey, alpha)


def _eight_bit(picture: Image.Image, raw_mode: str, key: object) -> _Planes:
    if picture.mode == "P" and picture.has_transparency_data:
        mode = "RGBA"
    else:
        mode = READ_AS[picture.mode]
        picture.info.pop("transparency", None)  # Pillow compares a key of 2, 4 or 16 bits with pixels of 8
    pixels: npt.NDArray[Any] = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    if mode in ("LA", "RGBA"):
        return _Planes(pixels[..., 0] if mode == "LA" else pixels[..., :3], pixels[..., -1])
    return _Planes(pixels, None if picture.mode == "P" else _opaque_but(pixels, _scaled_key(key, raw_mode)))


def _scaled_key(key: object, raw_mode: str) -> object:
    """The transparent grey or colour of a PNG in the 8 bits that Pillow gives its pixels."""
    factor = {"L;2": 85, "L;4": 17}.get(raw_mode, 1)
    if isinstance(key, int):
        return key * factor
    if isinstance(key, tuple) and raw_mode.startswith("RGB;16"):
        return tuple(value >> 8 for value in key)
    return key


def _opaque_but(pixels: Whole, key: object) -> Whole | None:
    if key is None:
        return None
    hidden = pixels == key if pixels.ndim == 2 else (pixels == np.asarray(key)).all(axis=2)
    alpha: Whole = np.where(hidden, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return alpha


def _upright(pixels: Whole, orientation: int) -> Whole:
    """The stored pixels as EXIF wants them seen; contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _turn(exif: Image.Exif) -> int:
    orientation = exif.get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _frame_count(picture: ImageFile.ImageFile) -> int:
    # The further pictures of an MPO (a JPEG from a telephone) are no frames, but previews and depth maps.
    return 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    """How a PNG stores a pixel, in Pillow's words, such as "L;2"; empty for other types."""
    arguments = picture.tile[0][3] if picture.format == "PNG" else ""
    return arguments if isinstance(arguments, str) else ""


def _has_late_metadata(picture: ImageFile.ImageFile, stream: BinaryIO) -> bool:
    """Whether a PNG has metadata, and so perhaps its rotation, behind its pixels."""
    before, position = stream.tell(), picture.tile[0][2] - 8
    found = False
    while not found:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            break
        found = head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        position += 12 + int.from_bytes(head[:4], "big")
    stream.seek(before)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """A picture of which only the header was read, and is fit to be read on."""
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder or a device")
    with RULES, path.open("rb") as stream, Image.open(stream, formats=_formats()) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it has {picture.width}x{picture.height} pixels, the most are {MOST_PIXELS}: make it smaller")
        if picture.format == "PNG" and not picture.tile:
            raise ValueError("it holds no pixels")
        if picture.mode == "F":
            raise ValueError("it holds 32-bit floats, whose white is not defined")
        if picture.mode == "I" and picture.format != "PNG":  # older Pillows open 16-bit PNG as "I"
            raise ValueError("it holds 32-bit or signed whole numbers, whose white is not defined")
        if picture.mode not in {*READ_AS, *SIXTEEN_BIT, "I"}:
            raise ValueError(f"its colours are {picture.mode}, which is not read")
        yield picture, stream


@cache
def _formats() -> tuple[str, ...]:
    """The types that are read; not Pillow's others, some of which start programs or have odd limits."""
    known = set(Image.registered_extensions().values())
    return tuple(name for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF") if name in known)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is empty" if not path.stat().st_size else f"it is no {', '.join(_formats())} or its header is damaged"
        elif isinstance(error, FileNotFoundError):
            raise ValueError(f"{path} is not there; it was moved or removed") from error
        raise ValueError(f"{path} cannot be read as a picture ({reason}); save it again as 8- or 16-bit PNG or remove it") from error
