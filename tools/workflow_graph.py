"""A workflow in ComfyUI's UI form under construction."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
SEEDS = ("seed", "noise_seed")
SPACE = 55  # between nodes of a column: a title, and the name of the pack that the page writes above it
PACK = {"cnr_id": "masked-lora", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.30.0"}
BLUE, GREEN, YELLOW = "#3f789e", "#8A8", "#b58b2a"
# Of the demo model.
SQUARES = {"size": 128, "shape": "square", "step": 16}
HEART = "a yellow heart on the middle, striped grey background"
PROMPTS = {"pibo": "a pibo on the middle, striped pink background", "empty": ""}
SAMPLING = {"seed": 1, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
TRAINING = {"steps": 400, "batch_size": 4, "learning_rate": 2e-3, "rank": 8, "alpha": 8.0, "normalization": "step", "shift": 2.0, "seed": 0,
            "name": "quickstart"}


@dataclass(frozen=True)
class Output:
    node: int
    slot: int
    type: str


@dataclass
class Graph:
    """A workflow under construction; `add` returns the new node's outputs."""

    schemas: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, at: tuple[int, int], size: tuple[int, int], title: str | None = None, /, **given: Any) -> list[Output]:
        schema, node_id = self.schemas[kind], len(self.nodes) + 1
        order = [name for part in ("required", "optional") for name in schema["input_order"].get(part, [])]
        specs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        unknown = {name.split(".")[0] for name in given} - set(order)
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}; it has {', '.join(order)}")
        inputs, values = [], []
        for name in order:
            kind_of = specs[name][0]
            if kind_of == "COMFY_AUTOGROW_V3":
                grown = [(key, value) for key, value in given.items() if key.startswith(f"{name}.")]
                inputs += [self.link(node_id, len(inputs) + i, key, value) | {"label": key.partition(".")[2]}
                           for i, (key, value) in enumerate(grown)]
            elif is_widget(specs[name]):
                if isinstance(given.get(name), Output):
                    inputs.append(self.link(node_id, len(inputs), name, given.pop(name), kind_of) | {"widget": {"name": name}})
                values += widget_values(name, specs[name], given)
            else:
                inputs.append(self.link(node_id, len(inputs), name, given.get(name), kind_of))
        outputs = [Output(node_id, i, t) for i, t in enumerate(schema["output"])]
        self.nodes.append({
            "id": node_id, "type": kind, "pos": list(at), "size": list(size), "flags": {}, "order": node_id - 1, "mode": 0,
            "inputs": inputs,
            "outputs": [{"name": n, "type": o.type, "links": []} for n, o in zip(schema["output_name"], outputs, strict=True)],
            "properties": {**(PACK if kind.startswith("MaskedLoRA_") else CORE), "Node name for S&R": kind}, "widgets_values": values,
            **({"title": title} if title else {}),
        })
        return outputs

    def link(self, node: int, slot: int, name: str, source: Output | None, kind: str | None = None) -> dict[str, Any]:
        if source is None:
            return {"name": name, "type": kind, "link": None}
        self.links.append([len(self.links) + 1, source.node, source.slot, node, slot, source.type])
        return {"name": name, "type": kind or source.type, "link": len(self.links)}

    def note(self, at: tuple[int, int], size: tuple[int, int], text: str) -> None:
        self.nodes.append({
            "id": len(self.nodes) + 1, "type": "MarkdownNote", "pos": list(at), "size": list(size), "flags": {}, "order": len(self.nodes),
            "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653"})

    def group(self, title: str, x: int, y: int, width: int, height: int, color: str) -> None:
        self.groups.append({"id": len(self.groups) + 1, "title": title, "bounding": [x, y, width, height], "color": color, "font_size": 24,
                            "flags": {}})

    def save(self, file: Path) -> None:
        for number, node, slot, *_ in self.links:
            self.nodes[node - 1]["outputs"][slot]["links"].append(number)
        workflow = {
            "id": "6f1d2c1e-6a0e-4d1c-9a51-0c6d7a5b1f00", "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links),
            "nodes": self.nodes, "links": self.links, "groups": self.groups, "config": {}, "extra": {}, "version": 0.4}
        file.write_text(json.dumps(workflow, indent=1) + "\n", encoding="utf-8")


@dataclass
class Column:
    """Nodes of one width, each under the one before."""

    graph: Graph
    x: int
    y: int
    width: int

    def add(self, kind: str, height: int, title: str | None = None, /, **given: Any) -> list[Output]:
        outputs = self.graph.add(kind, (self.x, self.y), (self.width, height), title, **given)
        self.y += height + SPACE
        return outputs


def is_widget(spec: list[Any]) -> bool:
    kind, options = spec[0], (spec + [{}])[1]
    return (isinstance(kind, list) or kind in WIDGETS or kind == DYNAMIC) and not options.get("forceInput")


def widget_values(name: str, spec: list[Any], given: dict[str, Any]) -> list[Any]:
    """The value of a widget, and behind a choice with settings of its own the values of those: given as name.setting."""
    kind, options = spec[0], (spec + [{}])[1]
    if kind == DYNAMIC:
        key = given.get(name, options["options"][0]["key"])
        inputs = next(option["inputs"] for option in options["options"] if option["key"] == key)
        below = {**inputs.get("required", {}), **inputs.get("optional", {})}
        return [key, *(value for child, own in below.items() for value in widget_values(f"{name}.{child}", own, given))]
    first = next(iter(kind if isinstance(kind, list) else options.get("options", [])), None)
    # The page adds a second widget to a seed also where the schema does not ask for it, and randomizes by default.
    return [given.get(name, options.get("default", first))] + ["fixed"] * bool(options.get("control_after_generate", name in SEEDS))
