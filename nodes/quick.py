"""Masks of people and faces without a download. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .plan_inputs import CATEGORY, joined, joining, plan_output

if TYPE_CHECKING:
    from ..host.mask_plan import MaskPlan
    from ..masks.combine import How
    from ..masks.recipe import MaskRecipe


def weight(name: str, default: float, of: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.05, round=0.001,
                          tooltip=f"How much {of} is learned. White = learn.")


class QuickMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_QuickMasks",
            display_name="Quick Person and Face Masks",
            category=CATEGORY,
            description="Plans masks (white = learn) of people and their faces by small networks that come with the pack: nothing to "
            "download, no GPU. For pictures of one or a few people near the camera.",
            search_aliases=["person mask", "face mask", "mediapipe", "selfie segmentation", "blazeface", "portrait mask", "no download",
                            "automatic mask", "auto mask"],
            inputs=[
                weight("face", 1.0, "each face, from chin to hairline,"),
                weight("person", 0.502, "the rest of a person: hair, body, clothes,"),
                weight("background", 0.0, "all else"),
                *joining(),
            ],
            outputs=[plan_output()],
        )

    @classmethod
    def execute(cls, face: float, person: float, background: float, plan: MaskPlan | None = None, how: How = "max",
                recipe: MaskRecipe | None = None) -> io.NodeOutput:
        from ..host.folders import PACK_ROOT
        from ..segmentation.quick import Quick, read_networks

        quick = Quick(read_networks(PACK_ROOT / "assets" / "quick_masks"))
        return io.NodeOutput(joined(quick, {"face": face, "person": person, "background": background}, plan, how, recipe))
