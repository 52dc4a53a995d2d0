"""What every step of a mask recipe is. Shapes: H height, W width in pixels."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Unit = Literal["share", "pixels"]
UNITS = ("share", "pixels")
BLACK = 1 / 510  # half of one 8-bit grey level: what is darker counts as black where a step must tell black from grey


class Step(ABC):
    """One operation on a mask: a frozen value whose fields are numbers and words that JSON can hold.

    op: its name in JSON. apply: takes float32 weights 0..1 and returns such weights; it may write into what it is given.
    name: the item's name, which seeds the random steps.
    """

    __slots__ = ()
    op: ClassVar[str]

    @abstractmethod
    def describe(self) -> str:
        """A few words for a person, with the numbers."""

    @abstractmethod
    def apply(self, plane_HW: Plane, name: str) -> Plane:
        """The weights after this step; all-white stays exactly 1 and all-black exactly 0 unless the step says otherwise."""


def set_number(step: Step, name: str, low: float, high: float, remedy: str) -> None:
    """Check the field `name` of a frozen step and keep it as a float, so that equal steps give equal text."""
    value = getattr(step, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{step.op}: {name} is {value!r}; use {remedy}")
    object.__setattr__(step, name, float(value) + 0.0)  # + 0.0: minus zero becomes zero


def set_seed(step: Step) -> None:
    """Check the field `seed` of a step."""
    value = getattr(step, "seed")  # noqa: B009 - a Step in general has no such field
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise ValueError(f"{step.op}: seed is {value!r}; use a whole number from 0 to 2**64 - 1")


def check_choice(step: Step, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a field that is not one of a few words."""
    value = getattr(step, name)
    if value not in choices:
        raise ValueError(f"{step.op}: {name} is {value!r}; use {' or '.join(choices)}")


def in_pixels(amount: float, unit: Unit, plane_HW: Plane) -> float:
    """A length in pixels; a share counts from the picture's short side."""
    return amount * min(plane_HW.shape) if unit == "share" else amount


def describe_length(amount: float, unit: Unit) -> str:
    return f"{amount:.2%} of the short side" if unit == "share" else f"{amount:g} px"
