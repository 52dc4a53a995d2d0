"""The one place where pictures change size: image and mask always move together. Shapes: H height, W width, C channels.

Sizes are (width, height). Positions count from the outer edge: pixel 0 reaches from 0 to 1 and has its centre at 0.5.
"""
from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8 | np.uint16 | np.float32]
Matrix = npt.NDArray[np.float64]

KERNEL_MARGIN = 3  # pixels around the part that is turned; a cubic kernel reaches 2
ROUNDING = np.float32(1e-6)  # float32 kernels that should add up to 1 miss it by less


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of a picture becomes the training picture, and how large.

    size: output width and height. box: left, top, right, bottom in source pixels after EXIF rotation, inside the source.
    angle: the picture is turned counter-clockwise by so many degrees about the box's centre, under the box.
    flip: mirrored left-right, last. Raises ValueError for an empty size or box and for an angle that is no finite number.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    flip: bool = False
    angle: float = 0.0

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if min(self.size) < 1:
            raise ValueError(f"size is {self.size}; make width and height at least 1")
        if left < 0 or top < 0 or right <= left or bottom <= top:
            raise ValueError(f"box is {self.box}; make it (left, top, right, bottom) with left < right and top < bottom, from 0")
        if not math.isfinite(self.angle):
            raise ValueError(f"angle is {self.angle}; make it a number of degrees")

    def to_json(self) -> str:
        """The same text for equal placements, for cache keys."""
        # + 0.0 makes floats of ints and 0.0 of -0.0
        return json.dumps(asdict(self) | {"angle": self.angle + 0.0}, sort_keys=True, separators=(",", ":"))


def place(image_HWC: Pixels, mask_HW: Floats | None, placement: Placement | None) -> tuple[Pixels, Floats | None]:
    """Crops, turns, resizes and mirrors a picture and its mask, in one and the same way.

    image_HWC: uint8, uint16 or float32 in 0..1; its type stays. mask_HW: float32 0..1 of the same size, or None for learned
    everywhere. Shrinking averages areas; enlarging is cubic for the picture and linear for the mask, which therefore never
    leaves 0..1. With an angle, pixels of which any part lies outside the picture get reflected colours and weight 0, so that a
    mask is made even when None was given. Whatever has the wanted size already comes back bit for bit, and may share
    memory with what was given. Raises ValueError for a mask of another size, a box outside the picture, or another type.
    """
    import cv2

    height, width = image_HWC.shape[:2]
    if image_HWC.dtype not in (np.uint8, np.uint16, np.float32):
        raise ValueError(f"picture is {image_HWC.dtype}; make it uint8, uint16 or float32")
    mask_HW = place_mask(mask_HW, (width, height), placement)
    if placement is None:
        return image_HWC, mask_HW
    image_HWC = _moved(image_HWC, placement, cv2.INTER_CUBIC)
    if image_HWC.dtype == np.float32:
        # cv2 keeps integers in range but lets cubic floats overshoot.
        image_HWC = image_HWC.clip(0, 1)
    return _mirrored(image_HWC, placement), mask_HW


def place_mask(mask_HW: Floats | None, source: tuple[int, int], placement: Placement | None) -> Floats | None:
    """What place() makes of the mask, without the picture. source: the picture's width and height."""
    import cv2

    _check(mask_HW, source, placement)
    if placement is None or (mask_HW is None and not placement.angle):
        return mask_HW
    if mask_HW is None:
        placed_HW = np.ones(placement.size[::-1], np.float32)
    else:
        placed_HW = _moved(mask_HW, placement, cv2.INTER_LINEAR)
        if not np.may_share_memory(placed_HW, mask_HW):
            placed_HW = _exact_ends(placed_HW)
    if placement.angle:
        placed_HW = placed_HW * _inside(_output_to_source(placement), placement.size, source)
    return _mirrored(placed_HW, placement)


def fit_mask(mask_HW: Floats, size: tuple[int, int]) -> Floats:
    """A mask of another size stretched to (width, height): areas are averaged, enlarging is linear. float32 0..1."""
    import cv2

    resized_HW: Floats = _resized(mask_HW, size, cv2.INTER_LINEAR)
    return mask_HW if resized_HW is mask_HW else _exact_ends(resized_HW)


def _check(mask_HW: Floats | None, source: tuple[int, int], placement: Placement | None) -> None:
    width, height = source
    if mask_HW is not None and mask_HW.shape != (height, width):
        raise ValueError(f"picture is {width}x{height}, mask is {mask_HW.shape[1]}x{mask_HW.shape[0]}; make them one size")
    if placement is not None and (placement.box[2] > width or placement.box[3] > height):
        raise ValueError(f"box {placement.box} leaves the picture of {width}x{height}; make it (left, top, right, bottom) inside")


def _moved(pixels: npt.NDArray[Any], placement: Placement, enlarging: int) -> npt.NDArray[Any]:
    """The one way of pictures and masks from the source to the output size; only the kernel for enlarging differs."""
    if placement.angle:
        return _turned(pixels, placement, enlarging)
    left, top, right, bottom = placement.box
    return _resized(pixels[top:bottom, left:right], placement.size, enlarging)


def _mirrored(pixels: npt.NDArray[Any], placement: Placement) -> npt.NDArray[Any]:
    return np.ascontiguousarray(pixels[:, ::-1] if placement.flip else pixels)


def _exact_ends(mask_HW: Floats) -> Floats:
    # Averages of ones come out as 1 - 6e-8 here and there.
    return np.where(mask_HW > 1 - ROUNDING, np.float32(1), np.maximum(mask_HW, np.float32(0)))


def _resized(pixels: npt.NDArray[Any], size: tuple[int, int], enlarging: int) -> npt.NDArray[Any]:
    """cv2.INTER_AREA averages areas only when no axis grows, and is a linear kernel that skips pixels otherwise. So axes
    that shrink are resized first, on their own, and then those that grow."""
    import cv2

    shape = pixels.shape
    shrunk = (min(size[0], shape[1]), min(size[1], shape[0]))
    if shrunk != (shape[1], shape[0]):
        pixels = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != tuple(size):
        pixels = cv2.resize(pixels, size, interpolation=enlarging)
    # cv2 drops the axis of a single channel.
    return pixels if pixels.ndim == len(shape) else pixels[..., None]


def _turned(pixels: npt.NDArray[Any], placement: Placement, enlarging: int) -> npt.NDArray[Any]:
    """The box with the picture turned under it. What shrinks is averaged first, so that turning samples about one to one."""
    import cv2

    to_source = _output_to_source(placement)
    left, top, right, bottom = _needed_part(to_source, placement.size, (pixels.shape[1], pixels.shape[0]))
    # How many output pixels lie on one source pixel, along the source's two axes.
    density = np.minimum(1, np.hypot(*np.linalg.inv(to_source[:, :2])))
    small = (max(1, round((right - left) * density[0])), max(1, round((bottom - top) * density[1])))
    part = _resized(pixels[top:bottom, left:right], small, enlarging)
    scale = np.array([small[0] / (right - left), small[1] / (bottom - top)])
    to_part = np.column_stack([to_source[:, :2], to_source[:, 2] - (left, top)]) * scale[:, None]
    # cv2 counts positions from pixel centres.
    to_part[:, 2] += to_part[:, :2] @ (0.5, 0.5) - 0.5
    turned = cv2.warpAffine(part, to_part, placement.size, flags=enlarging | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
    return turned if turned.ndim == pixels.ndim else turned[..., None]


def _output_to_source(placement: Placement) -> Matrix:
    """2x3: the place in the source of a place in the output, before mirroring."""
    left, top, right, bottom = placement.box
    width, height = placement.size
    cosine, sine = math.cos(math.radians(placement.angle)), math.sin(math.radians(placement.angle))
    # y points down: what is seen at an output place lay clockwise of it before the counter-clockwise turn.
    linear = np.array([[cosine, -sine], [sine, cosine]]) * ((right - left) / width, (bottom - top) / height)
    shift = np.array([(left + right) / 2, (top + bottom) / 2]) - linear @ (width / 2, height / 2)
    return np.column_stack([linear, shift])


def _needed_part(to_source: Matrix, size: tuple[int, int], source: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of the source that the output and its kernel can see, in whole pixels."""
    margin = KERNEL_MARGIN
    corners = np.array([(x, y, 1) for x in (-margin, size[0] + margin) for y in (-margin, size[1] + margin)])
    seen = corners @ to_source.T
    low, high = np.floor(seen.min(0)) - margin, np.ceil(seen.max(0)) + margin
    # Never empty: the box's centre is inside the source.
    left, top = (max(0, int(value)) for value in low)
    right, bottom = (min(end, int(value)) for end, value in zip(source, high, strict=True))
    return left, top, right, bottom


def _inside(to_source: Matrix, size: tuple[int, int], source: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W): which output pixels lie inside the source with all of their area."""
    inside = np.ones((size[1], size[0]), bool)
    for (along_x, along_y, shift), end in zip(to_source, source, strict=True):
        places = along_x * (np.arange(size[0]) + 0.5) + along_y * (np.arange(size[1]) + 0.5)[:, None] + shift
        reach = (abs(along_x) + abs(along_y)) / 2
        # A hair of room: pixels that end on the picture's edge are inside.
        inside &= (places >= reach - ROUNDING) & (places <= end - reach + ROUNDING)
    return inside
