"""A mask plan in the place of a segmenter, for segmenters that ask another where something is. White = learn.

Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

import json
from dataclasses import dataclass

from torch import Tensor

from ..segmentation.segmenter import Regions
from .mask_plan import MaskPlan

REGION = "mask"


@dataclass(frozen=True, slots=True, eq=False)
class PlanSegmenter:
    """Its one region is the plan's mask with all weights; absent where the plan finds nothing."""

    plan: MaskPlan

    @property
    def name(self) -> str:
        return ", ".join(part.segmenter.name for part in self.plan.parts)

    @property
    def exclusive(self) -> bool:
        return False

    @property
    def reads_captions(self) -> bool:
        return self.plan.reads_captions

    def describe(self) -> dict[str, object]:
        return {"plan": json.loads(self.plan.to_json())}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        mask_HW = self.plan.make(picture_HWC, caption).weight_HW
        return {} if mask_HW is None else {REGION: mask_HW}
