"""Square views of a picture, turned or not. Points are pixels, x and y, the pixel (0, 0) reaching from 0 to 1."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# More pixels than this to one of the view's would be skipped by bilinear sampling, so they are averaged before.
MOST_PIXELS = 4


@dataclass(frozen=True, slots=True)
class Square:
    """A square round the point (x, y), turned by `angle` (radians, clockwise). It may reach beyond the picture."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def to_picture(self, shares: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Points (N, 2), as shares of the square, in the picture's pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = (shares - 0.5) * self.side @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + (self.x, self.y), np.float32)

    def cut(self, picture_HWC: npt.NDArray[np.uint8], size: int, beyond: Literal["black", "edge"]) -> npt.NDArray[np.float32]:
        """The square in size x size pixels, 0..255; beyond the picture lies black, or the pixels of its edge."""
        import cv2

        scale = min(1.0, MOST_PIXELS * size / self.side)
        (left, top), (right, bottom) = self._reach(picture_HWC.shape, margin=math.ceil(2 / scale))
        part_HWC = picture_HWC[top:bottom, left:right]
        lengths = np.array(part_HWC.shape[1::-1])
        if scale < 1:
            smaller = [max(1, round(length * scale)) for length in lengths.tolist()]
            part_HWC = np.asarray(cv2.resize(part_HWC, smaller, interpolation=cv2.INTER_AREA), np.uint8)
        # OpenCV counts from the middle of a pixel.
        corners = self.to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) - (left, top)
        corners = np.asarray(corners * (part_HWC.shape[1::-1] / lengths) - 0.5, np.float32)
        target = np.array([[0, 0], [size, 0], [0, size]], np.float32) - np.float32(0.5)
        border = cv2.BORDER_REPLICATE if beyond == "edge" else cv2.BORDER_CONSTANT
        transform = cv2.getAffineTransform(corners, target)
        return np.asarray(cv2.warpAffine(part_HWC, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=border), np.float32)

    def _reach(self, shape_HWC: tuple[int, ...], margin: int) -> npt.NDArray[np.int64]:
        """Left and top, right and bottom of the part of the picture that the square covers, at least one pixel."""
        half = self.side * (abs(math.cos(self.angle)) + abs(math.sin(self.angle))) / 2 + margin
        size = np.array(shape_HWC[1::-1])
        first = np.clip(np.floor([self.x - half, self.y - half]).astype(np.int64), 0, size - 1)
        return np.stack([first, np.clip(np.ceil([self.x + half, self.y + half]).astype(np.int64), first + 1, size)])
