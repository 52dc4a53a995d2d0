"""Faces by MediaPipe's two small networks: BlazeFace finds them, the face mesh gives their outline.

Numbers are those of MediaPipe 0.10.14, modules/face_detection/face_detection_short_range.pbtxt and
modules/face_landmark/face_detection_front_detection_to_roi.pbtxt. Coordinates are pixels, x and y, the pixel (0, 0) reaching from 0 to 1.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .square import Square
from .tflite import Floats, Picture, run

DETECTOR_SIZE, MESH_SIZE = 128, 192
ANCHORS = ((8, 2), (16, 6))  # stride of a grid in pixels, boxes at each of its points
LEAST_SCORE, LEAST_PRESENCE = 0.5, 0.5
SAME_FACE = 0.3  # intersection over union
FACE_MARGIN = 1.5  # side of the mesh's view to that of the box
CLOSE_UP = 3.0  # and of the detector's second look
# The part of a picture that the detector sees at once, as a share of its long side; smaller parts show it smaller faces.
VIEWS = (1.0, 0.5)
# The points round a face, from the middle of the forehead; mediapipe/python/solutions/face_mesh_connections.py.
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58,
        132, 93, 234, 127, 162, 21, 54, 103, 67, 109)


@dataclass(frozen=True, slots=True, eq=False)
class FaceBox:
    """corners: left, top, right, bottom. keys: eyes (the one on the left first), nose, mouth, ears, as (6, 2)."""

    corners: tuple[float, float, float, float]
    score: float
    keys: Floats

    def around(self, times: float) -> Square:
        """A square round the box, so many times its longer side."""
        left, top, right, bottom = self.corners
        return Square((left + right) / 2, (top + bottom) / 2, times * max(right - left, bottom - top))

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union."""
        mine, others = self.corners, other.corners
        width = min(mine[2], others[2]) - max(mine[0], others[0])
        height = min(mine[3], others[3]) - max(mine[1], others[1])
        if width <= 0 or height <= 0:
            return 0.0
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in (mine, others)]
        return width * height / (sum(areas) - width * height)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """points: 468, as (468, 2). presence: how sure the mesh is that this is a face, 0..1."""

    box: FaceBox
    presence: float
    points: Floats

    @property
    def oval(self) -> Floats:
        """The outline from hairline to chin as a polygon (36, 2)."""
        return self.points[list(OVAL)]


def find_faces(detector: Any, mesh: Any, picture_HWC: Picture) -> list[Face]:
    """All faces. Each is looked at twice: what the detector does not find again close up, or the mesh takes for none, is left out.

    MediaPipe looks once, and takes a pile of boxes for a face where their edges happen to fall so in the small picture.
    """
    faces: list[Face] = []
    for first in find_boxes(detector, picture_HWC):
        again = next((box for box in boxes_in(detector, picture_HWC, first.around(CLOSE_UP)) if box.overlap(first) > SAME_FACE), None)
        face = outline(mesh, picture_HWC, again) if again else None
        if face and face.presence >= LEAST_PRESENCE:
            faces.append(face)
    return faces


def find_boxes(detector: Any, picture_HWC: Picture) -> list[FaceBox]:
    """Boxes of faces, each face once: those in the whole picture, as MediaPipe finds them, then those that only parts of it show.

    In either group the surest first.
    """
    kept: list[FaceBox] = []
    for share in VIEWS:
        found = [box for view in _views(picture_HWC, share) for box in boxes_in(detector, picture_HWC, view)]
        for box in sorted(found, key=lambda box: -box.score):
            if all(box.overlap(other) <= SAME_FACE for other in kept):
                kept.append(box)
    return kept


def outline(mesh: Any, picture_HWC: Picture, box: FaceBox) -> Face:
    """The 468 points of the face in a box, which is turned so that the eyes are level."""
    (first_x, first_y), (second_x, second_y) = box.keys[:2]
    place = replace(box.around(FACE_MARGIN), angle=math.atan2(second_y - first_y, second_x - first_x))
    presence, points = run(mesh, place.cut(picture_HWC, MESH_SIZE, beyond="edge") / np.float32(255))
    within = points.reshape(-1, 3)[:, :2] / MESH_SIZE
    return Face(box, _sigmoid(float(presence.item())), place.to_picture(within))


def _views(picture_HWC: Picture, share: float) -> list[Square]:
    height, width = picture_HWC.shape[:2]
    side = share * max(width, height)
    return [Square(x, y, side) for y in _centres(height, side) for x in _centres(width, side)]


def boxes_in(detector: Any, picture_HWC: Picture, view: Square) -> list[FaceBox]:
    """What the detector finds in one view, the surest first."""
    scores, numbers = run(detector, view.cut(picture_HWC, DETECTOR_SIZE, beyond="black") / np.float32(127.5) - 1)
    return sorted(_decode(scores.reshape(-1), numbers.reshape(-1, 16), view), key=lambda box: -box.score)


def _decode(scores: Floats, numbers: Floats, view: Square) -> Iterator[FaceBox]:
    """scores: (896,), before the sigmoid. numbers: (896, 16) pixels from the anchors: centre, size, then six points."""
    grid = anchors()
    for index in np.flatnonzero(scores > math.log(LEAST_SCORE / (1 - LEAST_SCORE))):
        pairs = numbers[index].reshape(8, 2) / DETECTOR_SIZE
        centre, half, keys = pairs[0] + grid[index], pairs[1] / 2, pairs[2:] + grid[index]
        (left, top), (right, bottom) = view.to_picture(np.stack([centre - half, centre + half]))
        yield FaceBox((float(left), float(top), float(right), float(bottom)), _sigmoid(float(scores[index])), view.to_picture(keys))


def anchors() -> Floats:
    """(896, 2): the points of the grids, row by row, as shares of the network's picture."""
    grids = []
    for stride, boxes in ANCHORS:
        steps = (np.arange(DETECTOR_SIZE // stride, dtype=np.float32) + 0.5) * stride / DETECTOR_SIZE
        grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        grids.append(grid.repeat(boxes, 0))
    return np.concatenate(grids)


def _centres(length: int, side: float) -> list[float]:
    """Middles of views that cover a length and overlap by at least half, so that each face lies whole in one of them."""
    if side >= length:
        return [length / 2]
    count = math.ceil((length - side) / (side / 2)) + 1
    return [float(middle) for middle in np.linspace(side / 2, length - side / 2, count)]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-80.0, min(80.0, value))))
