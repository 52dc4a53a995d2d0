"""Mask plans from JSON, for runs without a graph: {"parts": [{"segmenter": "quick", "weights": {"face": 1}, ...}, ...]}. White = learn."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..masks.recipe import MaskRecipe
from ..segmentation.catalogue import Family
from ..segmentation.segmenter import Segmenter
from .folders import PACK_ROOT
from .managed import Managed, inference_dtype, manage
from .mask_plan import BACKGROUND, MaskPlan, Part

OWN_KEYS = frozenset({"segmenter", "weights", "how", "recipe"})
FILE_KEYS = frozenset({"model", "detector", "sam", "accept_licence"})
QUICK_REGIONS = ("face", "person")
QUICK_PLAN = json.dumps({"parts": [{"segmenter": "quick", "weights": {"face": 1, "person": 0.502}}]})  # 255, 128, 0
Settings = dict[str, Any]
Builder = Callable[[tuple[str, ...], Settings], Segmenter]


def quick(regions: tuple[str, ...], settings: Settings) -> Segmenter:
    from ..segmentation.quick import Quick, read_networks

    if settings:
        raise ValueError(f"quick has no setting {next(iter(settings))!r}")
    _require_known(regions, QUICK_REGIONS)
    return Quick(read_networks(PACK_ROOT / "assets" / "quick_masks"))


def body_parts(regions: tuple[str, ...], settings: Settings) -> Segmenter:
    """Settings: "model"; "detector" for boxes around people."""
    from ..segmentation.body_models import load_body_parser
    from ..segmentation.body_parts import BodyParts, DetectedPeople
    from ..segmentation.body_tables import GROUPS

    _require_known(regions, GROUPS)
    path, detector = _file(settings, "model", "sapiens", "face parsing"), _detector(settings)
    parser = load_body_parser(path, inference_dtype())
    people = None if detector is None else DetectedPeople(detector, detector.model.name)
    return BodyParts(manage(parser, parser.module), parser.name, people, **_without_files(settings))


def words(regions: tuple[str, ...], settings: Settings) -> Segmenter:
    """The regions are the words. Settings: "detector", "sam", or both; "source", "threshold", "text_threshold", "most"."""
    from ..segmentation.grounded import Grounded
    from .sam_masks import load_managed_sam

    detector = _detector(settings)
    sam = load_managed_sam(_file(settings, "sam", "sam")) if "sam" in settings else None
    names = tuple(managed.model.name for managed in (detector, sam) if managed is not None)
    return Grounded(detector, sam, names, regions, **_without_files(settings))


def clipseg(regions: tuple[str, ...], settings: Settings) -> Segmenter:
    """The regions are the words. Settings: "model"; "threshold", "from_caption"."""
    from ..segmentation.clipseg import ClipSegWords, load_clipseg

    model = load_clipseg(_file(settings, "model", "clipseg"), inference_dtype())
    return ClipSegWords(manage(model, model.module), model.name, regions, **_without_files(settings))


# By the name in a plan's file: what makes the segmenter out of its regions and the part's other values.
SEGMENTERS: Mapping[str, Builder] = {"quick": quick, "body parts": body_parts, "words": words, "clipseg": clipseg}


def _require_known(regions: tuple[str, ...], known: tuple[str, ...]) -> None:
    for region in regions:
        if region not in known:
            raise ValueError(f"there is no region {region!r}; use {', '.join((*known, BACKGROUND))}")


def _detector(settings: Settings) -> Managed[Any] | None:
    if "detector" not in settings:
        return None
    from ..segmentation.detector import load_detector
    from .weights import read_weights

    detector = load_detector(_file(settings, "detector", "detector"), inference_dtype(), read_weights)
    return manage(detector, detector.module)


def _file(settings: Settings, key: str, *families: Family) -> Path:
    """As in the dropdowns of the nodes: "folder/file", or a known model's "name (download)" with "accept_licence": true."""
    from .model_files import find

    if not isinstance(settings.get(key), str):
        raise ValueError(f'{key} is {settings.get(key)!r}; name a model as in the dropdown of the node that loads it, such as "sam2/file"')
    return find(settings[key], families, settings.get("accept_licence") is True, None)


def _without_files(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name not in FILE_KEYS}


def read_plan(text: str, segmenters: Mapping[str, Builder] = SEGMENTERS) -> MaskPlan:
    """A plan of the parts in order: "segmenter" (a name), "weights" (region -> 0..1), "how" and "recipe" (a list of steps) as in the nodes,
    both optional; all else of a part are settings of its segmenter. Raises ValueError that names the part and what is wrong."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the plan is not JSON that can be read ({error})") from error
    if not isinstance(values, dict) or set(values) != {"parts"} or not isinstance(values["parts"], list) or not values["parts"]:
        raise ValueError('the plan must be {"parts": [...]} with at least one part, such as '
                         '{"parts": [{"segmenter": "quick", "weights": {"face": 1, "person": 0.5}}]}')
    return MaskPlan(tuple(_read_part(number, part, segmenters) for number, part in enumerate(values["parts"], 1)))


def _read_part(number: int, part: Any, segmenters: Mapping[str, Builder]) -> Part:
    named = part.get("segmenter") if isinstance(part, dict) else part
    if not isinstance(part, dict) or not isinstance(named, str) or named not in segmenters:
        raise ValueError(f"part {number} of the plan has the segmenter {named!r}; use {', '.join(segmenters)}")
    weights = part.get("weights")
    if not isinstance(weights, dict) or any(type(weight) not in (int, float) for weight in weights.values()):
        raise ValueError(f'part {number} of the plan has the weights {weights!r}; use numbers from 0 to 1, such as '
                         '{"face": 1, "hair": 0.3}')
    steps = part.get("recipe", [])
    try:
        recipe = MaskRecipe.from_json(json.dumps({"steps": steps, "version": 1}))
        settings = {name: value for name, value in part.items() if name not in OWN_KEYS}
        segmenter = segmenters[named](tuple(region for region in weights if region != BACKGROUND), settings)
        return Part(segmenter, weights, part.get("how", "max"), recipe)
    except (RecursionError, TypeError, ValueError) as error:  # TypeError: a setting that the segmenter does not have
        raise ValueError(f"part {number} of the plan: {error}") from error
