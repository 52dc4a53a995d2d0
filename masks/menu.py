"""The steps of a mask recipe as a person picks them from a list, lengths as shares or in pixels. White = learn."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .operations import Blobs, Blur, CircularShrink, Feather, FillHoles, Floor, Gamma, Grow, Invert, RegionWeights, Threshold
from .step import Step

AFFINE, CLAMP = "floor (ai-toolkit, blissful-tuner)", "floor (OneTrainer)"
DISC = "random disc (OneTrainer)"
REGION_LEVELS = "255 1.0\n128 0.502\n80 0.314\n0 0"  # face, body, hair, background in blissful-tuner's guide


def make_step(choice: str, values: Mapping[str, Any]) -> Step:
    """The step of one entry of the list. Raises ValueError for an unknown entry and for values outside a step's limits."""
    length = {"amount": values["unit"]["amount"], "unit": values["unit"]["unit"]} if "unit" in values else {}
    if choice == "shrink":
        length["amount"] = -length["amount"]
    if choice == "region weights":
        return RegionWeights(read_levels(values["levels"]))
    kinds: dict[str, tuple[type[Step], dict[str, Any]]] = {
        "invert": (Invert, {}), "threshold": (Threshold, {}), "gamma": (Gamma, {}), "fill holes": (FillHoles, {}),
        AFFINE: (Floor, {"kind": "affine"}), CLAMP: (Floor, {"kind": "clamp"}), "blur": (Blur, length), "grow": (Grow, length),
        "shrink": (Grow, length), "feather": (Feather, length), "random blobs": (Blobs, {}), DISC: (CircularShrink, {})}
    if choice not in kinds:
        raise ValueError(f"{choice!r} is no mask step; pick one of {', '.join(kinds)}, region weights")
    kind, fixed = kinds[choice]
    return kind(**{name: value for name, value in values.items() if name not in ("step", "unit")}, **fixed)


def read_levels(text: str) -> tuple[tuple[float, float], ...]:
    """One grey level 0..255 and its weight 0..1 a line, such as "128 0.502". Raises ValueError that names a wrong line."""
    levels = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            level, weight = map(float, line.split())
        except ValueError as error:
            raise ValueError(f"line {number} of the levels is {line!r}; write a grey level and a weight, such as: 128 0.502") from error
        if not 0 <= level <= 255 or not 0 <= weight <= 1:
            raise ValueError(f"line {number} of the levels is {line!r}; use a level from 0 to 255 and a weight from 0 to 1")
        levels.append((level / 255, weight))
    return tuple(levels)
