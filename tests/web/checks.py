"""What is asked of every shipped workflow in the page."""
from __future__ import annotations

import itertools
import json
import re
from typing import Any

from comfy_cli.workflow_to_api import convert_ui_to_api
from pack.tests.host.server import ROOT, Run

from .page import Editor

Workflow = dict[str, Any]
WORKFLOWS = ROOT / "workflows"
# Of files, inputs, layers: these a report may say.
NAMES = re.compile(r"pibo_\w+|demo_masks|sapiens2_\S+|mask_source|\w+_blocks|\w+_\d+\.safetensors")
MISSING = "() => app.graph._nodes.filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).map(n => n.type)"
SEED_CONTROLS = ("() => app.graph._nodes.flatMap(n => (n.widgets ?? []).filter(w => w.name === 'seed')"
                 ".map(w => w.linkedWidgets?.[0]?.value ?? 'fixed'))")
Rectangle = list[float]  # left, top, right, bottom


def read_workflow(name: str) -> Workflow:
    workflow: Workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return workflow


def links(workflow: Workflow) -> dict[tuple[int, str], tuple[int, int]]:
    """(node, input's name) -> (node, output's number). By name: the page may put a node's inputs in another order."""
    sources = {number: (node, slot) for number, node, slot, *_ in workflow["links"]}
    return {(node["id"], socket["name"]): sources[socket["link"]]
            for node in workflow["nodes"] for socket in node["inputs"] if socket.get("link") is not None}


def assert_no_node_is_missing(editor: Editor, workflow: Workflow) -> None:
    assert editor.page.evaluate(MISSING) == []
    assert {node["type"] for node in editor.serialized()["nodes"]} == {node["type"] for node in workflow["nodes"]}
    assert editor.page.locator("[role=dialog]:visible").all_inner_texts() == []


def assert_every_link_is_kept(editor: Editor, workflow: Workflow) -> None:
    kept = editor.serialized()
    assert len(workflow["links"]) == len(links(workflow)) == len(kept["links"])
    assert links(kept) == links(workflow)


def assert_every_widget_keeps_its_value(editor: Editor, workflow: Workflow) -> None:
    """Also the value that says whether a seed changes after a run."""
    kept = {node["id"]: node.get("widgets_values", []) for node in editor.serialized()["nodes"]}
    assert kept == {node["id"]: node["widgets_values"] for node in workflow["nodes"]}
    assert set(editor.page.evaluate(SEED_CONTROLS)) == {"fixed"}


def assert_page_and_comfy_cli_convert_alike(editor: Editor, workflow: Workflow) -> None:
    converted = convert_ui_to_api(workflow, editor.comfy.object_info)
    assert editor.prompt() == {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in converted.items()}


def assert_tidy(editor: Editor, workflow: Workflow) -> None:
    """No node lies on another, and all but the note lie in a group."""
    nodes = editor.rectangles()
    assert len(nodes) == len(workflow["nodes"])
    assert [f"{a} on {b}" for a, b in itertools.combinations(nodes, 2) if overlaps(nodes[a], nodes[b])] == []
    groups = [[x, y, x + width, y + height] for x, y, width, height in (group["bounding"] for group in workflow["groups"])]
    assert not any(overlaps(a, b) for a, b in itertools.combinations(groups, 2))
    homeless = [name for name, node in nodes.items() if not any(encloses(group, node) for group in groups)]
    assert [name.partition(" ")[2] for name in homeless] == ["MarkdownNote"]


def assert_reports_are_in_words(editor: Editor, run: Run) -> dict[str, str]:
    """Every node of the pack that reported something shows it; returns what they show, by the numbers of the nodes."""
    prompt = run.entry["prompt"][2]
    reported = [number for number, output in run.entry["outputs"].items()
                if output.get("text") and prompt[number]["class_type"].startswith("MaskedLoRA_")]
    shown = editor.panels(reported)
    for number, text in shown.items():
        assert not re.search(r'[{}"_]', NAMES.sub("", text)), f"not for people, node {number}: {text}"
    return shown


def overlaps(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def encloses(outer: Rectangle, inner: Rectangle) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]
