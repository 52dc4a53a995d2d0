"""Graphs as the page sends them: an input that is not given has the schema's default."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .server import Comfy, Graph, Json, Node


@dataclass(slots=True)
class Page(Graph):
    """A graph that adds the defaults of required inputs, so that a test names only what it is about."""

    schemas: Json = field(default_factory=dict, kw_only=True)

    def add(self, kind: str, /, **inputs: Any) -> Node:
        required = self.schemas[kind]["input"]["required"]
        defaults = {name: spec[1]["default"] for name, spec in required.items() if len(spec) > 1 and "default" in spec[1]}
        return Graph.add(self, kind, **defaults | inputs)


def new_graph(comfy: Comfy) -> Page:
    return Page(schemas=comfy.object_info)
