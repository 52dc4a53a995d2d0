"""Boxes around things, in pixels."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Box:
    """x, y: the upper left corner. label: what it was found as, empty if nobody said. score: 0..1."""

    x: float
    y: float
    width: float
    height: float
    label: str = ""
    score: float = 1.0

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def to_dict(self) -> dict[str, Any]:
        """As ComfyUI's BOUNDING_BOX has it."""
        return {"x": self.x, "y": self.y, "width": self.width, "height": self.height, "label": self.label, "score": self.score}


def read_boxes(value: object, pictures: int) -> list[list[Box]]:
    """Boxes of each picture out of ComfyUI's BOUNDING_BOX: one box, a list of boxes, or a list of boxes for each picture.

    One list serves all pictures. Raises ValueError for another number of lists than pictures and for what is no box.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"the boxes are {value!r}; connect a BOUNDING_BOX output")
    lists = [value] if all(isinstance(box, Mapping) for box in value) else value
    if len(lists) not in (1, pictures):
        raise ValueError(f"there are boxes for {len(lists)} pictures, but {pictures} pictures; connect the boxes of these pictures")
    boxes = [[_read_box(box) for box in one] for one in lists]
    return boxes * pictures if len(boxes) == 1 else boxes


def _read_box(value: Any) -> Box:
    try:
        x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
        return Box(x, y, width, height, str(value.get("label") or ""), float(value.get("score", 1.0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a box is {value!r}; it needs numbers x, y, width and height in pixels") from error
