"""What the nodes that plan masks have in common: the plan before, how masks join, the weights' text. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..masks.combine import HOW
from . import types

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..host.mask_plan import MaskPlan
    from ..masks.combine import How
    from ..masks.recipe import MaskRecipe
    from ..segmentation.segmenter import Segmenter

CATEGORY = "masked lora/automatic masks"


def joining() -> list[io.Input]:
    """The last inputs of every planning node; their values go to `joined`."""
    return [
        types.MaskPlan.Input("plan", optional=True, tooltip="Segmenters whose masks come first. White = learn."),
        io.Combo.Input(
            "how", options=list(HOW), default="max", optional=True,
            tooltip="How this mask joins that of the plan before. max: the greatest weight. add: the sum, at most 1. multiply: the "
            "product, such as all people x one person. replace: this one covers the earlier where it is not black. White = learn."),
        types.MaskRecipe.Input("recipe", optional=True, tooltip="For this mask alone, such as grow and blur. White = learn."),
    ]


def plan_output() -> io.Output:
    return types.MaskPlan.Output(display_name="plan", tooltip="For Make Masks (one picture) and Write Masks (a folder). White = learn.")


def joined(segmenter: Segmenter, weights: Mapping[str, float], plan: MaskPlan | None, how: How, recipe: MaskRecipe | None) -> MaskPlan:
    """The plan with one more part."""
    from ..host.mask_plan import MaskPlan as Plan
    from ..host.mask_plan import Part
    from ..masks.recipe import MaskRecipe as Recipe

    return (plan or Plan()).then(Part(segmenter, weights, how, recipe or Recipe()))
