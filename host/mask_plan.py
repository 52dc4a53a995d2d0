"""From what segmenters find in a picture to one mask of weights. White = learn.

Shapes: H height, W width in pixels, C = 3 colours.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..masks.combine import HOW, How, combine_masks
from ..masks.recipe import MaskRecipe, apply_recipe
from ..masks.regions import combine_regions
from ..segmentation.segmenter import Regions, Segmenter

BACKGROUND = "background"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One segmenter, the weight (0..1) of each of its regions, and how its mask joins that of the parts before.

    "background" in `weights` is the weight where no region lies. recipe: for this part's mask alone, such as grow and blur.
    Raises ValueError for an unknown `how`, a weight outside 0..1, and weights that select nothing.
    """

    segmenter: Segmenter
    weights: Mapping[str, float]
    how: How = "max"
    recipe: MaskRecipe = field(default_factory=MaskRecipe)

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise ValueError(f"how is {self.how!r}; use {', '.join(HOW)}")
        if wrong := [(name, weight) for name, weight in self.weights.items() if not 0 <= weight <= 1]:
            raise ValueError(f"the weight of {wrong[0][0]!r} is {wrong[0][1]}; use 0 to 1")
        if not any(self.weights.values()):
            raise ValueError(f"all weights of {self.segmenter.name} are 0: nothing would be learned; give one region a weight")


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """weight_HW: float32 0..1, or None where nothing was found. found: region -> its mask, of all parts.
    missing: regions with a weight that were not found."""

    weight_HW: Tensor | None
    found: dict[str, Tensor]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MaskPlan:
    """Parts in the order in which they are joined: the first one's mask, then each next one by its `how`."""

    parts: tuple[Part, ...] = ()

    def then(self, part: Part) -> MaskPlan:
        return MaskPlan((*self.parts, part))

    def to_json(self) -> str:
        """All that decides the masks, with sorted keys: equal plans give equal text."""
        return json.dumps([{"segmenter": part.segmenter.describe(), "weights": dict(part.weights), "how": part.how,
                            "recipe": json.loads(part.recipe.to_json())} for part in self.parts], sort_keys=True)

    def make(self, picture_HWC: Tensor, caption: str = "", name: str = "") -> Made:
        """picture_HWC: uint8 RGB on the CPU. name: seeds random steps of a recipe.

        A part that finds nothing leaves the mask at its background weight. If no part finds anything, or one that multiplies
        does not, there is no mask: an all-black one would look like a decision. Raises ValueError for a plan without parts.
        """
        if not self.parts:
            raise ValueError("the mask plan is empty; connect at least one segmenter")
        found: dict[str, Tensor] = {}
        missing: list[str] = []
        weight_HW: Tensor | None = None
        anything = False
        for part in self.parts:
            regions = part.segmenter.segment(picture_HWC, caption)
            wanted = {region: regions[region] for region in part.weights if region in regions and region != BACKGROUND}
            missing += [region for region, weight in part.weights.items() if weight and region not in regions and region != BACKGROUND]
            found.update(wanted)
            if not wanted and part.how == "multiply":
                return Made(None, found, tuple(missing))
            anything = anything or bool(wanted)
            mask_HW = _weigh(part, wanted, picture_HWC.shape[:2], name)
            weight_HW = mask_HW if weight_HW is None else combine_masks({"before": weight_HW[None], "part": mask_HW[None]}, part.how)[0]
        return Made(weight_HW if anything else None, found, tuple(missing))


def _weigh(part: Part, found: Regions, size_HW: tuple[int, ...], name: str) -> Tensor:
    """The part's mask of weights (H, W)."""
    background = part.weights.get(BACKGROUND, 0.0)
    if part.segmenter.exclusive:
        # The mean weight over the classes of a pixel: the greatest of weight x share would draw dark seams between regions.
        rest_HW, mask_HW = torch.ones(size_HW), torch.zeros(size_HW)
        for region, share_HW in found.items():
            mask_HW += part.weights[region] * share_HW
            rest_HW -= share_HW
        mask_HW += background * rest_HW.clamp_(0, 1)
    elif found:
        mask_HW = combine_regions({region: mask[None] for region, mask in found.items()},
                                  {**{region: part.weights[region] for region in found}, BACKGROUND: background})[0]
    else:
        mask_HW = torch.full(tuple(size_HW), background)
    return apply_recipe(mask_HW[None].clamp(0, 1), part.recipe, [name] if name else ())[0]
