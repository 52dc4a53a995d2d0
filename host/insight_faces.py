"""Faces by InsightFace, an optional package, with models that the user has put into place: nothing is ever downloaded."""
from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from torch import Tensor

from ..segmentation.segmenter import Regions

KEY = "insightface"
SIZE = (640, 640)  # pixels of the detector's picture
SUB_PIXELS = 4  # binary digits
LICENCE = "InsightFace's models are for non-commercial research only"


@dataclass(frozen=True, slots=True, eq=False)
class InsightFaces:
    """Region "face": for each face the ellipse in its box, from chin to hairline.

    analysis: an insightface.app.FaceAnalysis. pack: the name of its models.
    """

    analysis: Any
    pack: str
    name: str = "insightface"
    exclusive: bool = True

    def describe(self) -> dict[str, object]:
        return {"segmenter": "insightface", "pack": self.pack}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        comfy.model_management.throw_exception_if_processing_interrupted()
        found = self.analysis.get(np.ascontiguousarray(picture_HWC.numpy()[..., ::-1]))  # it reads blue, green, red
        if not found:
            return {}
        return {"face": torch.from_numpy(_ellipses([face.bbox for face in found], picture_HWC.shape[:2]))}


def _ellipses(boxes: list[Any], size_HW: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(H, W), 0..1: an ellipse in each box of left, top, right, bottom, in pixels."""
    import cv2

    mask_HW = np.zeros(size_HW, np.uint8)
    for left, top, right, bottom in boxes:
        # OpenCV counts from the middle of a pixel, and its line lies half a pixel outside.
        centre = ((left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5)
        halves = (max(0, (right - left) / 2 - 0.5), max(0, (bottom - top) / 2 - 0.5))
        whole = [tuple(round(float(value) * 2**SUB_PIXELS) for value in pair) for pair in (centre, halves)]
        cv2.ellipse(mask_HW, *whole, 0, 0, 360, 255, cv2.FILLED, cv2.LINE_AA, SUB_PIXELS)
    return np.asarray(mask_HW / np.float32(255))


def load_insight_faces(pack: str) -> InsightFaces:
    """Raises ValueError where the package or the models are missing, with what to install and put where."""
    root = next((root for root in _roots() if any((root / "models" / pack).glob("*.onnx"))), None)
    if root is None:
        place = next(_roots()) / "models" / pack
        raise ValueError(f"InsightFace's models {pack!r} are not there; unpack {pack}.zip, which InsightFace offers at "
                         f"https://github.com/deepinsight/insightface/releases, so that its .onnx files lie in {place}. {LICENCE}")
    try:
        app = importlib.import_module("insightface.app")
    except ImportError as error:
        raise ValueError(f"the package insightface does not load ({error}); install it into ComfyUI's Python with: pip install insightface "
                         f"onnxruntime. {LICENCE}; Quick Person and Face Masks needs neither") from error
    analysis = app.FaceAnalysis(name=pack, root=str(root), allowed_modules=["detection"])
    analysis.prepare(ctx_id=0, det_size=SIZE)
    return InsightFaces(analysis, pack)


def _roots() -> Iterator[Path]:
    """Folders that hold models/<pack>: those that other packs have registered, then ComfyUI's own."""
    if KEY in folder_paths.folder_names_and_paths:
        yield from map(Path, folder_paths.get_folder_paths(KEY))
    yield Path(folder_paths.models_dir) / KEY
