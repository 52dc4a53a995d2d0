"""What a person may do to a raw mask before it weighs the loss, as one frozen value. White = learn.

Shapes: B batch, H height, W width in pixels.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .operations import STEPS, Blur, Floor, Gamma, Invert
from .step import Plane, Step

VERSION = 1
FIRST_FORM = frozenset({"invert", "blur", "gamma", "floor"})  # LoRA files of masked-lora 0.1 hold these four and no steps


@dataclass(frozen=True, slots=True)
class MaskRecipe:
    """Steps in the order in which they run; without steps the mask counts as drawn.

    Raises ValueError for a step that is not one of operations.STEPS.
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        for step in self.steps:
            if type(step) not in STEPS.values():
                raise ValueError(f"{step!r} is not a mask step; use {', '.join(kind.__name__ for kind in STEPS.values())}")

    def then(self, *steps: Step) -> MaskRecipe:
        """A new recipe with more steps at its end."""
        return MaskRecipe((*self.steps, *steps))

    def describe(self) -> str:
        """One line for a person, the steps in the order in which they run."""
        return ", ".join(step.describe() for step in self.steps) or "as drawn"

    def to_json(self) -> str:
        """{"steps": [{"op": ..., ...}, ...], "version": 1} with sorted keys: equal recipes give equal text."""
        steps = [{"op": step.op, **asdict(step)} for step in self.steps]  # type: ignore[call-overload]  # every step is a dataclass
        return json.dumps({"version": VERSION, "steps": steps}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MaskRecipe:
        """Inverse of to_json; also reads the form of masked-lora 0.1. Raises ValueError for text that is not a recipe."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"mask recipe {text!r} is not JSON ({error}); make one with the Mask Recipe node") from error
        if not isinstance(values, dict):
            raise ValueError(f"mask recipe {text!r} is not an object; make one with the Mask Recipe node")
        if "steps" not in values:
            return _read_first_form(values)
        if set(values) != {"steps", "version"} or not isinstance(values["steps"], list):
            raise ValueError(f"mask recipe {text!r} must hold a version, a list of steps, and nothing else")
        if values["version"] is True or values["version"] != VERSION:
            raise ValueError(f"mask recipe has version {values['version']!r}; this masked-lora reads version {VERSION}: update it")
        return cls(tuple(_read_step(step) for step in values["steps"]))


def simple_recipe(invert: bool = False, blur: float = 0.0, gamma: float = 1.0, floor: float = 0.0) -> MaskRecipe:
    """Invert, blur (share of the short side), gamma, affine floor, in this order, without those that would change nothing.

    Raises ValueError for a value outside the limits of the steps.
    """
    if not isinstance(invert, bool):
        raise ValueError(f"invert is {invert!r}; use true or false")
    blurred, bent, raised = Blur(blur), Gamma(gamma), Floor(floor)
    chosen = [(invert, Invert()), (blurred.amount != 0, blurred), (bent.exponent != 1, bent), (raised.weight != 0, raised)]
    return MaskRecipe(tuple(step for wanted, step in chosen if wanted))


def apply_recipe(mask_BHW: Tensor, recipe: MaskRecipe, names: Sequence[str] = ()) -> Tensor:
    """The loss weight of every pixel as a new float32 tensor (B, H, W) in 0..1 on the mask's device.

    names: one for each mask, the seed of random steps together with their own; without them "0", "1", and so on. Values
    outside 0..1 are clamped first. Raises ValueError for another number of dimensions, for masks without pixels, for whole
    numbers, for NaN or infinity, and for another number of names than masks.
    """
    if mask_BHW.ndim != 3 or 0 in mask_BHW.shape[1:]:
        raise ValueError(f"mask has shape {tuple(mask_BHW.shape)}; give batch, height, width with at least one pixel")
    if not mask_BHW.is_floating_point() and mask_BHW.dtype != torch.bool:
        raise ValueError(f"mask has type {mask_BHW.dtype}; give floating point weights 0 to 1 (divide 8-bit grey by 255)")
    names = names or [str(i) for i in range(len(mask_BHW))]
    if len(names) != len(mask_BHW):
        raise ValueError(f"{len(mask_BHW)} masks but {len(names)} names; give one name for each mask")
    # numpy takes large arrays from huge pages and copies in this thread: 2 ms a megapixel less than torch, more on a busy machine.
    weight_BHW = np.empty(tuple(mask_BHW.shape), np.float32)
    # One mask at a time: it stays in the processor's cache from the first step to the last.
    for mask_HW, plane_HW, name in zip(mask_BHW.detach(), weight_BHW, names, strict=True):
        np.copyto(plane_HW, mask_HW.to("cpu", torch.float32).numpy())
        _require_weights(plane_HW, name)
        result_HW = _run(plane_HW, recipe.steps, name)
        if result_HW is not plane_HW:
            np.copyto(plane_HW, result_HW)
    return torch.from_numpy(weight_BHW).to(mask_BHW.device)


def _run(plane_HW: Plane, steps: tuple[Step, ...], name: str) -> Plane:
    for step in steps:
        plane_HW = step.apply(plane_HW, name)
    return plane_HW


def _require_weights(plane_HW: Plane, name: str) -> None:
    """Clamp to 0..1 in place; refuse what is not finite."""
    low, high = plane_HW.min(), plane_HW.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError(f"mask {name} of shape {plane_HW.shape} holds NaN or infinity; check the node that made it")
    if low < 0 or high > 1:
        np.clip(plane_HW, 0, 1, out=plane_HW)


def _read_step(values: object) -> Step:
    if not isinstance(values, dict) or not isinstance(values.get("op"), str):
        raise ValueError(f"mask recipe has the step {values!r}; a step is an object with an \"op\"")
    arguments: dict[str, Any] = dict(values)
    op = arguments.pop("op")
    if op not in STEPS:
        raise ValueError(f"mask recipe has the unknown step {op!r}; this masked-lora knows {', '.join(STEPS)}")
    kind = STEPS[op]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # every step is a dataclass
    if unknown := sorted(set(arguments) - set(known)):
        raise ValueError(f"mask recipe: {op} has the unknown value {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return kind(**arguments)


def _read_first_form(values: dict[str, Any]) -> MaskRecipe:
    if unknown := sorted(set(values) - FIRST_FORM):
        raise ValueError(f"mask recipe holds {unknown[0]!r} but no steps; make one with the Mask Recipe node")
    return simple_recipe(**values)
