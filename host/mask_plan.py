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
from ..segmentation.segmenter import Regions, Segmenter

BACKGROUND = "background"
DARKEST = 0.5 / 255  # below it a weight is black in a file of 8 bits


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One segmenter, the weight (0..1) of each of its regions, and how its mask joins that of the parts before.

    "background" in `weights` is the weight where none of these regions lies, 0 without it. recipe: for this part's mask alone, such as
    grow and blur. Raises ValueError for an unknown `how`, a weight outside 0..1, and weights that are all 0.
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
        object.__setattr__(self, "weights", {region: float(weight) for region, weight in self.weights.items()})

    @property
    def background(self) -> float:
        return self.weights.get(BACKGROUND, 0.0)

    @property
    def asked(self) -> tuple[str, ...]:
        """The regions that are to be learned."""
        return tuple(region for region, weight in self.weights.items() if weight and region != BACKGROUND)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """weight_HW: float32 0..1, or None where there is nothing to learn. found: region -> its mask, of all parts, whatever its weight.
    missing: regions with a weight that no part found."""

    weight_HW: Tensor | None
    found: dict[str, Tensor]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MaskPlan:
    """Parts in the order in which they are joined: the first one's mask, then each next one by its `how`."""

    parts: tuple[Part, ...] = ()

    def then(self, part: Part) -> MaskPlan:
        return MaskPlan((*self.parts, part))

    @property
    def reads_captions(self) -> bool:
        """Whether another caption may give another mask."""
        return any(getattr(part.segmenter, "reads_captions", False) for part in self.parts)

    def to_json(self) -> str:
        """All that decides the masks, with sorted keys: equal plans give equal text."""
        return json.dumps([{"segmenter": part.segmenter.describe(), "weights": dict(part.weights), "how": part.how,
                            "recipe": json.loads(part.recipe.to_json())} for part in self.parts], sort_keys=True)

    def make(self, picture_HWC: Tensor, caption: str = "", name: str = "") -> Made:
        """picture_HWC: uint8 RGB on the CPU. name: seeds random steps of a recipe.

        A part that finds none of the regions that it is asked for leaves the mask at its background weight; one that only takes regions
        out (weight 0) has then nothing to take out. There is no mask where no part finds anything, where one that multiplies does not
        and has no background weight, and where nothing is left of what was found: an all-black mask would look like a decision.
        Raises ValueError for a plan without parts and for regions of another size than the picture, or that hold NaN.
        """
        if not self.parts:
            raise ValueError("the mask plan is empty; connect at least one segmenter")
        found: dict[str, Tensor] = {}
        weight_HW: Tensor | None = None
        something, nothing_left = False, False
        for part in self.parts:
            regions = _find(part, picture_HWC, caption)
            found |= regions
            hit = not part.asked or any(region in regions for region in part.asked)
            something |= hit
            nothing_left |= not hit and part.how == "multiply" and not part.background
            if not nothing_left:
                mask_HW = _weigh(part, regions, picture_HWC.shape[:2], name)
                weight_HW = mask_HW if weight_HW is None else combine_masks({"before": weight_HW[None], "part": mask_HW[None]}, part.how)[0]
        missing = dict.fromkeys(region for part in self.parts for region in part.asked if region not in found)
        if nothing_left or not something or weight_HW is None or weight_HW.max() < DARKEST:
            weight_HW = None
        return Made(weight_HW, found, tuple(missing))


def _find(part: Part, picture_HWC: Tensor, caption: str) -> Regions:
    """The part's regions that were found."""
    regions = part.segmenter.segment(picture_HWC, caption)
    found = {region: regions[region].float() for region in part.weights if region in regions and region != BACKGROUND}
    for region, mask_HW in found.items():
        if mask_HW.shape != picture_HWC.shape[:2]:
            raise ValueError(f"{part.segmenter.name} gave {region!r} the shape {tuple(mask_HW.shape)}, the picture is "
                             f"{picture_HWC.shape[1]}x{picture_HWC.shape[0]}; use another segmenter for this picture")
        if not torch.isfinite(mask_HW).all():
            raise ValueError(f"{part.segmenter.name} gave NaN for {region!r}, as too small a number type does; run it in float32")
    return found


def _weigh(part: Part, found: Regions, size_HW: tuple[int, ...], name: str) -> Tensor:
    """The part's mask of weights (H, W)."""
    mask_HW, covered_HW = torch.zeros(size_HW), torch.zeros(size_HW)
    for region, share_HW in found.items():
        if part.segmenter.exclusive:
            # The mean weight over the classes of a pixel: the greatest of weight x share would draw dark seams between regions.
            mask_HW += part.weights[region] * share_HW
            covered_HW += share_HW
        else:
            mask_HW = torch.maximum(mask_HW, part.weights[region] * share_HW)
            covered_HW = torch.maximum(covered_HW, share_HW)
    if part.background:
        mask_HW += part.background * (1 - covered_HW.clamp_(0, 1))
    return apply_recipe(mask_HW[None], part.recipe, [name] if name else ())[0]
