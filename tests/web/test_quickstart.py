"""The shipped workflow in ComfyUI's real page: it loads whole, converts as comfy-cli does, runs, and shows what it found."""
from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api
from pack.tests.host.server import ROOT, Comfy, Run
from PIL import Image
from playwright.sync_api import Browser

from .page import Editor, chromium, editor, encloses, overlaps

FILE = ROOT / "workflows" / "quickstart.json"
WORKFLOW: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
SHOWS_REPORT = {"Train": "3 steps in ", "MeasureDrift": "Change inside the masks: ", "SaveLora": "Saved as loras/quickstart_",
                "ApplyLora": "Text padding: trained with ", "PreviewMask": "White = learn. 12 masks"}
LOWER_STEPS = """() => {
  for (const node of app.graph._nodes)
    for (const widget of node.widgets ?? [])
      if (widget.name === 'steps') widget.value = node.type === 'MaskedLoRA_Train' ? 3 : 2
}"""


@pytest.fixture(scope="module")
def chrome(browser: str) -> Iterator[Browser]:
    with chromium(browser) as running:
        yield running


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def loaded(request: pytest.FixtureRequest, chrome: Browser, comfy: Comfy) -> Iterator[Editor]:
    """The page with the workflow in it: dropped on the canvas in one mode, opened as a template in the other."""
    with editor(chrome, comfy, vue=request.param == "nodes 2.0") as page:
        if page.vue:
            page.open_template("quickstart", len(WORKFLOW["nodes"]))
        else:
            template = comfy.server.get(f"/api/workflow_templates/{comfy.pack_name}/quickstart.json")
            page.drop(template.decode("utf-8"), "quickstart.json", len(WORKFLOW["nodes"]))
        yield page


@pytest.fixture(scope="module")
def finished(loaded: Editor) -> Run:
    """The workflow after Run was pressed, with few steps; the second mode gets most of it from ComfyUI's cache."""
    loaded.page.evaluate(LOWER_STEPS)
    return loaded.comfy.wait(loaded.queue(), 120)


def links(workflow: dict[str, Any]) -> dict[tuple[int, str], tuple[int, int]]:
    """(node, input's name) -> (node, output's number). By name: the page may put a node's inputs in another order."""
    sources = {number: (node, slot) for number, node, slot, *_ in workflow["links"]}
    return {(node["id"], socket["name"]): sources[socket["link"]]
            for node in workflow["nodes"] for socket in node["inputs"] if socket.get("link") is not None}


def test_template_and_its_picture_are_served(comfy: Comfy) -> None:
    assert "quickstart" in comfy.server.get_json("/api/workflow_templates")[comfy.pack_name]
    address = f"/api/workflow_templates/{comfy.pack_name}/quickstart"
    assert comfy.server.get(f"{address}.json") == FILE.read_bytes()
    picture = comfy.server.get(f"{address}.jpg")
    assert len(picture) < 80_000
    thumbnail = Image.open(io.BytesIO(picture))
    assert thumbnail.format == "JPEG"
    assert thumbnail.width >= 600


def test_no_node_is_missing(loaded: Editor) -> None:
    missing = loaded.page.evaluate(
        "() => app.graph._nodes.filter(n => n.has_errors || !LiteGraph.registered_node_types[n.type]).map(n => n.type)")
    assert missing == []
    assert {node["type"] for node in loaded.serialized()["nodes"]} == {node["type"] for node in WORKFLOW["nodes"]}
    assert loaded.page.locator("[role=dialog]:visible").all_inner_texts() == []


def test_every_link_is_kept(loaded: Editor) -> None:
    kept = loaded.serialized()
    assert len(WORKFLOW["links"]) == len(links(WORKFLOW)) == len(kept["links"])
    assert links(kept) == links(WORKFLOW)


def test_every_widget_keeps_its_value(loaded: Editor) -> None:
    """Also the value that says whether a seed changes after a run."""
    kept = {node["id"]: node.get("widgets_values", []) for node in loaded.serialized()["nodes"]}
    assert kept == {node["id"]: node["widgets_values"] for node in WORKFLOW["nodes"]}
    controls = loaded.page.evaluate("() => app.graph._nodes.flatMap(n => (n.widgets ?? []).filter(w => w.name === 'seed')"
                                    ".map(w => w.linkedWidgets?.[0]?.value ?? 'fixed'))")
    assert set(controls) == {"fixed"}


def test_page_and_comfy_cli_convert_alike(loaded: Editor) -> None:
    converted = convert_ui_to_api(WORKFLOW, loaded.comfy.object_info)
    assert loaded.prompt() == {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in converted.items()}


def assert_tidy(page: Editor) -> None:
    """No node lies on another, and all but the note lie in a group."""
    nodes = page.rectangles()
    assert len(nodes) == len(WORKFLOW["nodes"])
    assert [f"{a} on {b}" for a, b in itertools.combinations(nodes, 2) if overlaps(nodes[a], nodes[b])] == []
    groups = [[x, y, x + width, y + height] for x, y, width, height in (group["bounding"] for group in WORKFLOW["groups"])]
    assert not any(overlaps(a, b) for a, b in itertools.combinations(groups, 2))
    homeless = [name for name, node in nodes.items() if not any(encloses(group, node) for group in groups)]
    assert [name.partition(" ")[2] for name in homeless] == ["MarkdownNote"]


def test_nodes_lie_apart_and_inside_their_groups(loaded: Editor) -> None:
    assert_tidy(loaded)


def test_every_row_of_the_grid_has_a_name_and_one_is_free(loaded: Editor) -> None:
    sockets = loaded.page.evaluate("() => app.graph._nodes.find(n => n.type === 'MaskedLoRA_CompareGrid').inputs"
                                   ".filter(i => i.name.startsWith('rows.')).map(i => [i.label, i.link !== null])")
    assert sockets == [["row0", True], ["row1", True], ["row2", True], ["row3", False]]


def test_it_runs(finished: Run) -> None:
    assert not finished.failure
    assert finished.entry["status"]["completed"]


def test_reports_are_shown_in_words(loaded: Editor, finished: Run) -> None:
    for name, words in SHOWS_REPORT.items():
        text = loaded.panel(f"MaskedLoRA_{name}")
        assert text.startswith(words)
        assert not re.search(r'[{}"_]', text.replace("pibo_", "").replace("quickstart_", "")), f"not for people: {text}"


def test_reports_fit_on_their_nodes(loaded: Editor, finished: Run) -> None:
    loaded.panel("MaskedLoRA_Train")
    assert_tidy(loaded)


def test_reports_come_back_with_the_tab(loaded: Editor, finished: Run) -> None:
    before = loaded.panel("MaskedLoRA_Train")
    loaded.command("Comfy.NewBlankWorkflow")
    loaded.page.wait_for_function("() => app.graph._nodes.length === 0")
    loaded.command("Workspace.PreviousOpenedWorkflow")
    loaded.wait_for_nodes(len(WORKFLOW["nodes"]))
    assert loaded.panel("MaskedLoRA_Train") == before


def test_reports_are_neither_saved_nor_sent(loaded: Editor, finished: Run) -> None:
    loaded.panel("MaskedLoRA_Train")
    assert {number: len(node["inputs"]) for number, node in loaded.prompt().items()} == {
        number: len(node["inputs"]) for number, node in finished.entry["prompt"][2].items()}
    sizes = {node["id"]: len(node["widgets_values"]) for node in WORKFLOW["nodes"]}
    assert {node["id"]: len(node.get("widgets_values", [])) for node in loaded.serialized()["nodes"]} == sizes


def test_pictures_are_shown(loaded: Editor, finished: Run) -> None:
    for kind in ("MaskedLoRA_PreviewMask", "LossGraphNode", "SaveImage"):
        loaded.page.wait_for_function("kind => app.graph._nodes.find(n => n.type === kind).imgs?.[0]?.naturalWidth > 300", arg=kind,
                                      timeout=10_000)


def test_browser_does_not_complain(loaded: Editor, finished: Run) -> None:
    """After loading, running and everything that the tests above did."""
    loaded.page.wait_for_timeout(200)
    assert loaded.complaints() == []


def test_help_page_opens(loaded: Editor) -> None:
    loaded.page.evaluate("() => app.canvas.selectNode(app.graph._nodes.find(n => n.type === 'MaskedLoRA_Train'))")
    page = f"/extensions/{loaded.comfy.pack_name}/docs/MaskedLoRA_Train.md"
    with loaded.page.expect_response(lambda answer: answer.url.endswith(page)) as answer:
        loaded.page.get_by_test_id("info-button").click()
    assert answer.value.ok
    assert answer.value.text() == (ROOT / "web" / "docs" / "MaskedLoRA_Train.md").read_text(encoding="utf-8")
    first_paragraph = answer.value.text().split("\n\n")[1].split(".")[0]
    loaded.page.locator(".node-help-content").wait_for(timeout=10_000)
    shown = loaded.page.locator(".node-help-content").inner_text()
    assert re.sub(r"[*`]", "", first_paragraph).replace("\n", " ") in shown.replace("\n", " ")
