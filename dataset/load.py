"""Pixels from files. Shapes: H height, W width, C = 3 channels, RGB; float32 in 0..1. White = learn, opaque = learn."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .geometry import Floats, square_crop

SIXTEEN_BIT = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})  # Pillow opens 16-bit grey as one of these


class Source(Protocol):
    """What of a folder.Triple is read here."""

    @property
    def image(self) -> Path: ...

    @property
    def mask(self) -> Path | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPicture:
    """A picture and its raw mask at training size, and the width and height that the file had."""

    image_HWC: Tensor
    mask_HW: Tensor
    source_size: tuple[int, int]


def load_example(triple: Source, size: int) -> LoadedPicture:
    """Reads a picture and its mask, turns both by EXIF, cuts the central square and resamples it to size x size.

    Colours under transparent pixels are kept as stored. A mask file with transparency counts as lying on black. No mask
    gives ones. Raises ValueError, with names and a remedy, for unreadable files and for a mask that has not its picture's size.
    """
    image_HWC, alpha_HW = _read_picture(triple.image)
    mask_HW: Floats
    if triple.mask is None:
        mask_HW = np.ones(image_HWC.shape[:2], np.float32)
    elif triple.mask == triple.image:
        if alpha_HW is None:
            raise ValueError(f"{triple.image} has no alpha channel; save it with one (opaque = learn) or use another mask source")
        mask_HW = alpha_HW
    else:
        mask_HW = _read_mask(triple.mask)
    if mask_HW.shape != image_HWC.shape[:2]:
        raise ValueError(f"{triple.mask} is {_size(mask_HW)} but {triple.image} is {_size(image_HWC)} (width x height, after "
                         "EXIF rotation); save the mask at its picture's size")
    cropped_HWC, cropped_HW = square_crop(image_HWC, mask_HW, size)
    height, width = mask_HW.shape
    return LoadedPicture(torch.from_numpy(cropped_HWC), torch.from_numpy(cropped_HW), (width, height))


def loading_report(pictures: Sequence[LoadedPicture], size: int) -> str:
    """What a person should know about the loaded set: enlarged and cropped pictures, how much is white."""
    if not pictures:
        raise ValueError("no pictures were loaded; give at least one")
    whites = [(picture.mask_HW > 0.5).double().mean().item() for picture in pictures]
    white = sum(whites) / len(whites)
    lines = [f"{len(pictures)} pictures of {size}x{size}; white (learned) on average {white:.1%} of the pixels"]
    small = sum(min(picture.source_size) < size for picture in pictures)
    if small:
        lines.append(f"smaller than {size} and enlarged: {small}")
    cropped = sum(picture.source_size[0] != picture.source_size[1] for picture in pictures)
    if cropped:
        lines.append(f"not square, cropped to the centre: {cropped}")
    black = sum(picture.mask_HW.max().item() == 0 for picture in pictures)
    if black:
        lines.append(f"masks that are all black after cropping (nothing is learned unless inverted or floored): {black}")
    return "\n".join(lines)


def has_alpha(file: Path) -> bool:
    """Whether a picture carries transparency, read from its header; raises ValueError for an unreadable file."""
    try:
        with Image.open(file) as picture:
            return bool(picture.has_transparency_data)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _read_picture(file: Path) -> tuple[Floats, Floats | None]:
    """Colours (H, W, C), and alpha (H, W) if there is any."""
    picture = _open(file)
    if picture.mode in SIXTEEN_BIT:
        return np.repeat(_sixteen_bit(picture)[..., None], 3, axis=-1), None
    if not picture.has_transparency_data:
        return _bytes(picture.convert("RGB")), None
    # Split before any resampling: Pillow would mix colours by their opacity.
    rgba = _bytes(picture.convert("RGBA"))
    return rgba[..., :3], rgba[..., 3]


def _read_mask(file: Path) -> Floats:
    picture = _open(file)
    if picture.mode in SIXTEEN_BIT:
        return _sixteen_bit(picture)
    if not picture.has_transparency_data:
        return _bytes(picture.convert("L"))
    luminance, alpha = _bytes(picture.convert("RGBA").convert("LA")).transpose(2, 0, 1)
    return np.ascontiguousarray(luminance * alpha)


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            if picture.mode == "F":
                raise ValueError(f"{file} holds 32-bit floats, whose white is not defined; save it as 8 or 16 bit")
            return ImageOps.exif_transpose(picture)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} cannot be read as a picture ({error}); save it again as PNG or remove it")


def _bytes(picture: Image.Image) -> Floats:
    return np.asarray(picture, np.float32) / np.float32(255)


def _sixteen_bit(picture: Image.Image) -> Floats:
    # Pillow's own conversion to 8 bit clips at 255 instead of dividing, which turns greys white.
    scaled: Floats = (np.asarray(picture).astype(np.float32) / np.float32(65535)).clip(0, 1)
    return scaled


def _size(pixels: Floats) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
