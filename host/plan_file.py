"""Mask plans from JSON, for runs without a graph: {"parts": [{"segmenter": "quick", "weights": {"face": 1}, ...}, ...]}. White = learn."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..masks.recipe import MaskRecipe
from ..segmentation.segmenter import Segmenter
from .folders import PACK_ROOT
from .mask_plan import MaskPlan, Part

OWN_KEYS = frozenset({"segmenter", "weights", "how", "recipe"})
Settings = dict[str, Any]
Builder = Callable[[Settings], Segmenter]


def quick(settings: Settings) -> Segmenter:
    from ..segmentation.quick import Quick, read_networks

    if settings:
        raise ValueError(f"quick has no setting {next(iter(settings))!r}")
    return Quick(read_networks(PACK_ROOT / "assets" / "quick_masks"))


# By the name in a plan's file: what makes the segmenter of the part's other values. Models are loaded when it is called.
SEGMENTERS: Mapping[str, Builder] = {"quick": quick}


def read_plan(text: str, segmenters: Mapping[str, Builder] = SEGMENTERS) -> MaskPlan:
    """A plan of the parts in order: "segmenter" (a name), "weights" (region -> 0..1), "how" and "recipe" (a list of steps) as in the nodes,
    both optional; all else of a part are settings of its segmenter. Raises ValueError that names the part and what is wrong."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the plan is not JSON ({error})") from error
    if not isinstance(values, dict) or set(values) != {"parts"} or not isinstance(values["parts"], list) or not values["parts"]:
        raise ValueError('the plan must be {"parts": [...]} with at least one part, such as '
                         '{"parts": [{"segmenter": "quick", "weights": {"face": 1, "person": 0.5}}]}')
    return MaskPlan(tuple(_read_part(number, part, segmenters) for number, part in enumerate(values["parts"], 1)))


def _read_part(number: int, part: Any, segmenters: Mapping[str, Builder]) -> Part:
    if not isinstance(part, dict) or part.get("segmenter") not in segmenters:
        named = part.get("segmenter") if isinstance(part, dict) else part
        raise ValueError(f"part {number} of the plan has the segmenter {named!r}; use {', '.join(segmenters)}")
    weights = part.get("weights")
    if not isinstance(weights, dict) or any(type(weight) not in (int, float) for weight in weights.values()):
        raise ValueError(f'part {number} of the plan has the weights {weights!r}; use numbers from 0 to 1, such as '
                         '{"face": 1, "hair": 0.3}')
    steps = part.get("recipe", [])
    try:
        recipe = MaskRecipe.from_json(json.dumps({"steps": steps, "version": 1}))
        segmenter = segmenters[part["segmenter"]]({name: value for name, value in part.items() if name not in OWN_KEYS})
        return Part(segmenter, weights, part.get("how", "max"), recipe)
    except (TypeError, ValueError) as error:  # TypeError: a setting that the segmenter does not have
        raise ValueError(f"part {number} of the plan: {error}") from error
