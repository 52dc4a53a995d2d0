"""The shipped workflow in ComfyUI's real page: it loads whole, converts as comfy-cli does, runs, and shows what it found."""
from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from pack.tests.host.server import ROOT, Comfy, Run
from PIL import Image
from playwright.sync_api import Browser

from . import checks
from .page import Editor, editor

FILE = checks.WORKFLOWS / "quickstart.json"
WORKFLOW = checks.read_workflow("quickstart")
SHOWS_REPORT = {
    "LoadFolder": "pibo: 12 pictures, 12 with a mask", "Arrange": "squares of 128x128", "PreviewMask": "White = learn. 12 masks",
    "EncodeTrainingSet": "12 pictures: ", "Train": "3 steps in ", "MeasureDrift": "Change inside the masks: ",
    "SaveLora": "Saved as loras/quickstart_", "ApplyLora": "Text padding: trained with "}


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def loaded(request: pytest.FixtureRequest, chrome: Browser, comfy: Comfy) -> Iterator[Editor]:
    """The page with the workflow in it: dropped on the canvas in one mode, opened as a template in the other."""
    with editor(chrome, comfy, vue=request.param == "nodes 2.0") as page:
        if page.vue:
            page.open_template("quickstart", len(WORKFLOW["nodes"]))
        else:
            template = comfy.server.get(f"/api/workflow_templates/{comfy.pack_name}/quickstart.json")
            page.open()
            page.drop(template.decode("utf-8"), "quickstart.json", len(WORKFLOW["nodes"]))
        yield page


@pytest.fixture(scope="module")
def finished(loaded: Editor) -> Run:
    return loaded.run()


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
    checks.assert_no_node_is_missing(loaded, WORKFLOW)


def test_every_link_is_kept(loaded: Editor) -> None:
    checks.assert_every_link_is_kept(loaded, WORKFLOW)


def test_every_widget_keeps_its_value(loaded: Editor) -> None:
    checks.assert_every_widget_keeps_its_value(loaded, WORKFLOW)


def test_page_and_comfy_cli_convert_alike(loaded: Editor) -> None:
    checks.assert_page_and_comfy_cli_convert_alike(loaded, WORKFLOW)


def test_nodes_lie_apart_and_inside_their_groups(loaded: Editor) -> None:
    checks.assert_tidy(loaded, WORKFLOW)


def test_every_row_of_the_grid_has_a_name_and_one_is_free(loaded: Editor) -> None:
    sockets = loaded.page.evaluate("() => app.graph._nodes.find(n => n.type === 'MaskedLoRA_CompareGrid').inputs"
                                   ".filter(i => i.name.startsWith('rows.')).map(i => [i.label, i.link !== null])")
    assert sockets == [["row0", True], ["row1", True], ["row2", True], ["row3", False]]


def test_it_runs(finished: Run) -> None:
    assert not finished.failure
    assert finished.entry["status"]["completed"]


def test_reports_are_shown_in_words(loaded: Editor, finished: Run) -> None:
    shown = checks.assert_reports_are_in_words(loaded, finished)
    kinds = {str(node["id"]): node["type"] for node in WORKFLOW["nodes"]}
    assert {kinds[number] for number in shown} == {f"MaskedLoRA_{name}" for name in SHOWS_REPORT}
    for number, text in shown.items():
        assert SHOWS_REPORT[kinds[number].partition("_")[2]] in text


def test_reports_fit_on_their_nodes(loaded: Editor, finished: Run) -> None:
    checks.assert_reports_are_in_words(loaded, finished)
    checks.assert_tidy(loaded, WORKFLOW)


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
        (number,) = [node["id"] for node in WORKFLOW["nodes"] if node["type"] == kind]
        loaded.wait_for_picture(number)


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
