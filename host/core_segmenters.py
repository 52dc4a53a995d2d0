"""Segmenters around models that ComfyUI's own nodes load: MediaPipe's face landmarks, and BiRefNet for what stands in front."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import comfy.model_management
import numpy as np
import torch
from torch import Tensor

from ..segmentation.polygons import fill
from ..segmentation.segmenter import Regions
from .fingerprints import weights_fingerprint

Variant = Literal["short", "full", "both"]
EYES, LIPS, OVAL = ("left_eye", "right_eye"), ("lips",), ("face_oval",)
DETECTORS: dict[Variant, tuple[str, ...]] = {"short": ("short",), "full": ("full",), "both": ("short", "full")}
LEAST_SHARE = 0.001  # of the picture's pixels: less is noise and no subject


@dataclass(frozen=True, slots=True, eq=False)
class CoreFaces:
    """Regions "face", from chin to hairline without eyes and lips, "eyes" and "lips" of all faces in a picture.

    model: the FACE_DETECTION_MODEL of LoadMediaPipeFaceLandmarker. variant: short for near faces, full for far ones, both takes of the
    two detectors the one that finds more. least_score: of a face, 0..1.
    """

    model: Any
    variant: Variant = "both"
    least_score: float = 0.5
    name: str = "face landmarks (core)"
    exclusive: bool = True

    def describe(self) -> dict[str, object]:
        weights = [weights_fingerprint(self.model.models[variant]) for variant in sorted(self.model.models)]
        return {"segmenter": "core faces", "variant": self.variant, "least_score": self.least_score, "weights": weights}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = [np.ascontiguousarray(picture_HWC.numpy())]
        with torch.inference_mode():  # as its node has it: outside, it fails
            runs = [self.model.detect_batch(pixels, num_faces=0, score_thresh=self.least_score, variant=variant)[0]
                    for variant in DETECTORS[self.variant]]
        faces = max(runs, key=len)
        if not faces:
            return {}
        face_HW, eyes_HW, lips_HW = (self._filled(faces, parts, picture_HWC.shape[:2]) for parts in (OVAL, EYES, LIPS))
        eyes_HW = eyes_HW * (1 - lips_HW)
        return {"face": face_HW * (1 - eyes_HW) * (1 - lips_HW), "eyes": eyes_HW, "lips": lips_HW}

    def _filled(self, faces: list[dict[str, Any]], parts: tuple[str, ...], size_HW: tuple[int, ...]) -> Tensor:
        """The parts of all faces, (H, W). Core's node that draws them would move the bar of the node that runs here."""
        import cv2

        rings = [sorted({point for edge in self.model.connection_sets[part] for point in edge}) for part in parts]
        polygons = [cv2.convexHull(np.float32(face["landmarks_xy"][ring]))[:, 0] for face in faces for ring in rings]
        return torch.from_numpy(fill(polygons, size_HW))


@dataclass(frozen=True, slots=True, eq=False)
class CoreSubject:
    """Region "subject": what a background removal model takes for the foreground.

    model: the BACKGROUND_REMOVAL of LoadBackgroundRemovalModel.
    """

    model: Any
    name: str = "background removal (core)"
    exclusive: bool = True

    def describe(self) -> dict[str, object]:
        return {"segmenter": "core subject", "weights": weights_fingerprint(self.model.model)}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        from comfy_extras.nodes_bg_removal import RemoveBackground

        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():
            mask_BHW: Tensor = RemoveBackground.execute(self.model, picture_HWC[None].float() / 255).result[0]
        subject_HW = mask_BHW[0].to("cpu", torch.float32).clamp(0, 1)
        return {"subject": subject_HW} if (subject_HW >= 0.5).float().mean() >= LEAST_SHARE else {}
