"""People and faces by networks so small that they come with the pack: no download, no GPU, a fraction of a second.

They were made for pictures of one or a few people near the camera. Faces smaller than about a fifteenth of a picture's long side are
not found, nor people much smaller than the picture whose face is not; on a picture without people the main thing may be marked.
Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .polygons import fill
from .quick_faces import Face, find_faces
from .segmenter import Regions
from .tflite import Floats, Picture, read_network, run

SIZE = 256
PERSON = 6.0  # side of the view of a person to the height of the face, whose middle is FACE_AT of it from the top
FACE_AT, FADE = 0.3, 0.12  # FADE: of a view's side, at its edges inside the picture
LEAST_SHARE = 0.001  # of the picture's pixels: less is noise and no person


@dataclass(frozen=True, slots=True, eq=False)
class QuickNetworks:
    person: Any
    detector: Any
    mesh: Any


def read_networks(folder: Path) -> QuickNetworks:
    """folder: has MediaPipe's three files. Raises ValueError for a missing one and for an OpenCV that is too old."""
    names = ("selfie_segmentation", "face_detection_short_range", "face_landmark")
    return QuickNetworks(*(read_network(folder / f"{name}.tflite") for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class Quick:
    """Regions "face", from chin to hairline, and "person", all of the person but the face. All faces are one region."""

    networks: QuickNetworks
    name: str = "quick person and face"
    exclusive: bool = True

    def describe(self) -> dict[str, object]:
        return {"segmenter": "quick", "networks": "mediapipe 0.10.14"}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        pixels_HWC = np.ascontiguousarray(picture_HWC.numpy())
        faces = find_faces(self.networks.detector, self.networks.mesh, pixels_HWC)
        person_HW = people_mask(self.networks.person, pixels_HWC, faces)
        regions: dict[str, Tensor] = {}
        if faces:
            face_HW = fill([face.oval for face in faces], picture_HWC.shape[:2])
            person_HW *= 1 - face_HW
            regions["face"] = torch.from_numpy(face_HW)
        if (person_HW >= 0.5).mean() >= LEAST_SHARE:
            regions["person"] = torch.from_numpy(person_HW)
        return regions


def people_mask(network: Any, picture_HWC: Picture, faces: Sequence[Face]) -> Floats:
    """(H, W), 0..1: all people with their faces, seen in the whole picture and each once more by itself.

    The network knows one person in the middle of the picture: of two in a wide picture it finds half a one.
    """
    height, width = picture_HWC.shape[:2]
    whole_HW = person_mask(network, picture_HWC)
    for face in faces:
        top, bottom = face.oval[:, 1].min(), face.oval[:, 1].max()
        side = PERSON * float(bottom - top)
        left, top = float(face.oval[:, 0].mean()) - side / 2, float(top + bottom) / 2 - side * FACE_AT
        rows, row_fade = _span(top, side, height)
        columns, column_fade = _span(left, side, width)
        view_HW = person_mask(network, picture_HWC[rows, columns]) * row_fade[:, None] * column_fade
        np.maximum(whole_HW[rows, columns], view_HW, out=whole_HW[rows, columns])
    return whole_HW


def _span(start: float, side: float, length: int) -> tuple[slice, Floats]:
    """The part of a row or column of pixels that a view covers, and a factor for each: the view fades out where the picture goes on."""
    first, last = max(0, round(start)), min(length, round(start + side))
    steps = (np.arange(last - first, dtype=np.float32) + 0.5) / (FADE * side)
    fade = np.ones_like(steps)
    if first > 0:
        fade = np.minimum(fade, steps)
    if last < length:
        fade = np.minimum(fade, steps[::-1])
    return slice(first, last), fade


def person_mask(network: Any, picture_HWC: Picture) -> Floats:
    """(H, W), 0..1. The picture is stretched to the network's square, as MediaPipe does."""
    import cv2

    height, width = picture_HWC.shape[:2]
    small_HWC = cv2.resize(picture_HWC, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    (share_HW,) = run(network, small_HWC / np.float32(255))
    return np.asarray(cv2.resize(share_HW.reshape(SIZE, SIZE), (width, height), interpolation=cv2.INTER_LINEAR)).clip(0, 1)
