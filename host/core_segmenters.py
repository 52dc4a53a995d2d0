"""Segmenters around models that ComfyUI's own nodes load: MediaPipe's face landmarks, and BiRefNet for what stands in front."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import comfy.model_management
import torch
from torch import Tensor

from ..segmentation.segmenter import Regions
from .fingerprints import weights_fingerprint

Variant = Literal["short", "full", "both"]
EYES, LIPS, OVAL = ("left_eye", "right_eye"), ("lips",), ("face_oval",)
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
        from comfy_extras.nodes_mediapipe import MediaPipeFaceLandmarker

        comfy.model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():  # as its executor has it: outside, the node fails
            landmarks, _ = MediaPipeFaceLandmarker.execute(
                self.model, picture_HWC[None].float() / 255, self.variant, 0, self.least_score, "empty").result
        if not landmarks["frames"][0]:
            return {}
        face_HW, eyes_HW, lips_HW = (_drawn(landmarks, parts) for parts in (OVAL, EYES, LIPS))
        eyes_HW = eyes_HW * (1 - lips_HW)
        return {"face": face_HW * (1 - eyes_HW) * (1 - lips_HW), "eyes": eyes_HW, "lips": lips_HW}


def _drawn(landmarks: dict[str, Any], parts: tuple[str, ...]) -> Tensor:
    """The parts of all faces of the first picture, (H, W)."""
    from comfy_extras.nodes_mediapipe import MediaPipeFaceMask

    chosen = {name: name in parts for name in (*OVAL, *LIPS, *EYES, "irises")}
    with torch.inference_mode():
        mask_BHW: Tensor = MediaPipeFaceMask.execute(landmarks, {"regions": "custom", **chosen}).result[0]
    return as_region(mask_BHW)


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
        subject_HW = as_region(mask_BHW)
        return {"subject": subject_HW} if (subject_HW >= 0.5).float().mean() >= LEAST_SHARE else {}


def as_region(mask_BHW: Tensor) -> Tensor:
    """The first mask as an ordinary float32 tensor (H, W) in 0..1 on the CPU, which may be changed outside of inference mode."""
    return mask_BHW[0].to("cpu", torch.float32, copy=True).clone().clamp_(0, 1)
