"""An item's pixels and mask, as they are trained on. Shapes: T frames, H height, W width, C channels. White = learn."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .geometry import Floats, Pixels, fit_mask, place, place_mask
from .item import ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels, OwnAlpha
from .pixels import read_mask, read_picture, unit
from .transparency import resolve
from .words import counted


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """image_THWC: float32 0..1, three channels, at the placement's size or else the picture's own.

    mask_THW: float32 0..1 as the source gives it, without any recipe, T = 1 or the clip's frames; None is learned everywhere.
    """

    image_THWC: Tensor
    mask_THW: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """One frame at its source's size. file names it in errors."""

    file: str
    colours_HWC: Pixels
    alpha_HW: Pixels | None


def load_item(item: Item) -> Loaded:
    """Reads an item: pixels, then transparency at the source's size, then the mask, then one placement for both.

    Raises ValueError, naming the files and a remedy, for files that cannot be read or have changed since they were listed, for
    frames of different sizes, for a number of masks that is neither 1 nor that of the frames, and for a mask that has not
    its picture's size, unless item.fit_mask stretches it.
    """
    count = _frame_count(item)
    masks = _given_masks(item, count)
    images: list[Pixels] = []
    placed_masks: list[Pixels] = []
    for index, frame in enumerate(_frames(item)):
        if isinstance(item.mask, OwnAlpha):
            mask_HW: Floats | None = _opacity(frame)
        else:
            mask_HW = next(masks, None)
        colours_HWC = resolve(frame.colours_HWC, frame.alpha_HW, item.transparency, item.name)
        image_HWC, placed_HW = place(colours_HWC, mask_HW, item.placement)
        images.append(image_HWC)
        if placed_HW is not None and (mask_HW is not None or index == 0):  # a turned picture gets a mask, the same for all frames
            placed_masks.append(placed_HW)
    return Loaded(_stacked(images), _stacked(placed_masks) if placed_masks else None)


def load_mask(item: Item) -> Tensor | None:
    """load_item's mask without reading the picture, unless its alpha is the mask. Raises ValueError as load_item does."""
    count = _frame_count(item)
    if isinstance(item.mask, OwnAlpha):
        masks: list[Floats | None] = [_opacity(frame) for frame in _frames(item)]
    else:
        masks = list(_given_masks(item, count)) or [None]
    placed = [place_mask(mask_HW, item.size, item.placement) for mask_HW in masks]
    planes: list[Pixels] = [plane_HW for plane_HW in placed if plane_HW is not None]
    return _stacked(planes) if planes else None


def _frame_count(item: Item) -> int:
    count = len(item.image.paths) if isinstance(item.image, ImageFiles) else item.image.image_THWC.shape[0]
    if count < 1:
        raise ValueError(f"{item.name} has no frames; give it at least one")
    return count


def _frames(item: Item) -> Iterator[_Frame]:
    first = ""
    for frame in _file_frames(item.image.paths) if isinstance(item.image, ImageFiles) else _graph_frames(item.name, item.image):
        height, width = frame.colours_HWC.shape[:2]
        if (width, height) != item.size:
            wanted = f"{item.size[0]}x{item.size[1]}"
            if first:
                raise ValueError(f"{frame.file} is {width}x{height} but {first}, a frame of the same clip, is {wanted}; "
                                 "give all frames one size")
            raise ValueError(f"{frame.file} is {width}x{height} but was {wanted} when the data set was made; load the data set again")
        first = first or frame.file
        yield frame


def _file_frames(paths: tuple[Path, ...]) -> Iterator[_Frame]:
    for path in paths:
        pixels = read_picture(path)
        yield _Frame(str(path), pixels.colours_HWC, pixels.alpha_HW)


def _graph_frames(name: str, image: ImagePixels) -> Iterator[_Frame]:
    shape = tuple(image.image_THWC.shape)
    if len(shape) != 4 or shape[3] not in (3, 4):
        raise ValueError(f"the pixels of {name} have the shape {shape}; make it (frames, height, width, 3 or 4)")
    for index, frame_HWC in enumerate(image.image_THWC):
        values = frame_HWC.detach().to("cpu", torch.float32).clamp(0, 1).numpy()
        file = name if shape[0] == 1 else f"frame {index} of {name}"
        yield _Frame(file, values[..., :3], values[..., 3] if shape[3] == 4 else None)


def _opacity(frame: _Frame) -> Floats:
    if frame.alpha_HW is None:
        raise ValueError(f"{frame.file} has no alpha channel; save it with one (opaque = learn) or use another mask source")
    return _unit(frame.alpha_HW)


def _given_masks(item: Item, frames: int) -> Iterator[Floats]:
    """The masks that do not come from the picture itself, at its size: none, one, or one for each frame."""
    if isinstance(item.mask, MaskFiles):
        _check_count(item, len(item.mask.paths), frames, str(item.mask.paths[0].parent) if item.mask.paths else "")
        return (_fitted(read_mask(path, channel), str(path), item, index)
                for channel in (item.mask.channel,) for index, path in enumerate(item.mask.paths))
    if isinstance(item.mask, MaskPixels):
        mask_THW = item.mask.mask_THW
        if mask_THW.ndim != 3:
            raise ValueError(f"the mask of {item.name} has the shape {tuple(mask_THW.shape)}; make it (frames, height, width)")
        _check_count(item, mask_THW.shape[0], frames, "")
        planes = (plane_HW.detach().to("cpu", torch.float32).clamp(0, 1).numpy() for plane_HW in mask_THW)
        return (_fitted(plane_HW, f"the mask of {item.name}", item, index) for index, plane_HW in enumerate(planes))
    return iter(())


def _check_count(item: Item, masks: int, frames: int, place_of_masks: str) -> None:
    if masks not in (1, frames):
        where = f" in {place_of_masks}" if place_of_masks else ""
        allowed = "one mask" if frames == 1 else f"one mask, or {frames}"
        raise ValueError(f"{item.name} has {counted(frames, 'frame')} but {counted(masks, 'mask')}{where}; give it {allowed}")


def _fitted(mask_HW: Floats, mask_name: str, item: Item, index: int) -> Floats:
    height, width = mask_HW.shape
    if (width, height) == item.size:
        return mask_HW
    if item.fit_mask:
        return fit_mask(mask_HW, item.size)
    picture = str(item.image.paths[index]) if isinstance(item.image, ImageFiles) else item.name
    remedy = "save the mask at its picture's size or set mask_size to fit"
    if (height, width) == item.size:
        remedy = "width and height are swapped: turn one of them by 90 degrees"
    raise ValueError(f"{mask_name} is {width}x{height} but {picture} is {item.size[0]}x{item.size[1]} (width x height, after EXIF "
                     f"rotation); {remedy}")


def _unit(pixels: Pixels) -> Floats:
    return np.asarray(pixels, np.float32) if pixels.dtype == np.float32 else unit(pixels)


def _stacked(frames: list[Pixels]) -> Tensor:
    """float32 0..1 in memory of its own, so that nobody writes into a picture of the graph. Only here do bytes become floats."""
    stacked = np.empty((len(frames), *frames[0].shape), np.float32)
    for index, frame in enumerate(frames):
        stacked[index] = _unit(frame)
    return torch.from_numpy(stacked)
