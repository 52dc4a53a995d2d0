"""Points as text, as ComfyUI's SAM3 nodes and point editors write them."""
from __future__ import annotations

import json
from collections.abc import Mapping


def read_points(text: str, on_the_thing: bool) -> list[tuple[float, float, bool]]:
    """Points x, y, `on_the_thing` out of JSON `[{"x": 10, "y": 20}]` in pixels; an empty text has none. Raises ValueError otherwise."""
    if not text.strip():
        return []
    try:
        points = json.loads(text)
        return [_read_point(point, on_the_thing) for point in ([points] if isinstance(points, Mapping) else points)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f'the points are {text!r}; write them in pixels as [{{"x": 10, "y": 20}}]') from error


def _read_point(point: Mapping[str, float], on_the_thing: bool) -> tuple[float, float, bool]:
    return float(point["x"]), float(point["y"]), on_the_thing
