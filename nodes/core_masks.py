"""Plans of masks by models that ComfyUI's own nodes load, and by InsightFace. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .plan_inputs import CATEGORY, joined, joining, plan_output
from .quick import weight

if TYPE_CHECKING:
    from ..host.core_segmenters import Variant
    from ..host.mask_plan import MaskPlan
    from ..masks.combine import How
    from ..masks.recipe import MaskRecipe

FaceDetectionModel = io.Custom("FACE_DETECTION_MODEL")


class CoreFaceMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CoreFaceMasks",
            display_name="Face, Eyes and Lips Masks",
            category=CATEGORY,
            description="Plans masks (white = learn) of faces, eyes and lips by ComfyUI's own MediaPipe face landmarks.",
            search_aliases=["face mask", "mediapipe", "face landmarks", "eyes mask", "lips mask", "mouth", "blazeface", "automatic mask"],
            inputs=[
                FaceDetectionModel.Input("face_detection_model",
                                         tooltip="From Load Face Detection Model (MediaPipe). For training masks, where white = learn."),
                weight("face", 1.0, "each face, from chin to hairline,"),
                weight("eyes", 1.0, "the eyes of each face"),
                weight("lips", 1.0, "the lips and mouth of each face"),
                weight("background", 0.0, "all else"),
                io.Combo.Input("detector", options=["both", "short", "full"], default="both",
                               tooltip="short: near faces. full: also far, small ones. both: the one that finds more faces."),
                io.Float.Input("min_confidence", default=0.5, min=0.05, max=1.0, step=0.05, round=0.001,
                               tooltip="Less finds more faces and more that are none."),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, face_detection_model: Any, face: float, eyes: float, lips: float, background: float, detector: Variant,
                min_confidence: float, plan: MaskPlan | None = None, how: How = "max",
                recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..host.core_segmenters import CoreFaces

        faces = CoreFaces(face_detection_model, detector, min_confidence)
        return io.NodeOutput(joined(faces, {"face": face, "eyes": eyes, "lips": lips, "background": background}, plan, how, recipe))


class CoreSubjectMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CoreSubjectMasks",
            display_name="Subject Masks (Background Removal)",
            category=CATEGORY,
            description="Plans masks (white = learn) of what stands in front, by ComfyUI's own background removal (BiRefNet).",
            search_aliases=["background removal", "birefnet", "rembg", "foreground mask", "subject mask", "cut out", "automatic mask"],
            inputs=[
                io.BackgroundRemoval.Input("bg_removal_model",
                                           tooltip="From Load Background Removal Model. For training masks, where white = learn."),
                weight("subject", 1.0, "what stands in front"),
                weight("background", 0.0, "all else"),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, bg_removal_model: Any, subject: float, background: float, plan: MaskPlan | None = None, how: How = "max",
                recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..host.core_segmenters import CoreSubject

        return io.NodeOutput(joined(CoreSubject(bg_removal_model), {"subject": subject, "background": background}, plan, how, recipe))


class InsightFaceMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_InsightFaceMasks",
            display_name="Face Masks (InsightFace)",
            category=CATEGORY,
            description="Plans masks (white = learn) of faces by InsightFace, if its package and models are installed. The models are for "
            "non-commercial research only.",
            search_aliases=["insightface", "buffalo_l", "antelopev2", "face mask", "face detection", "automatic mask"],
            inputs=[
                io.Combo.Input("pack", options=["buffalo_l", "buffalo_m", "buffalo_s", "antelopev2"], default="buffalo_l",
                               tooltip="A folder in models/insightface/models. It is never downloaded. Non-commercial research only. For "
                               "training masks, where white = learn."),
                weight("face", 1.0, "each face, from chin to hairline,"),
                weight("background", 0.0, "all else"),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, pack: str, face: float, background: float, plan: MaskPlan | None = None, how: How = "max",
                recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..host.insight_faces import load_insight_faces

        return io.NodeOutput(joined(load_insight_faces(pack), {"face": face, "background": background}, plan, how, recipe))
