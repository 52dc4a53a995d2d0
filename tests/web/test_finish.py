"""Finish now, pressed on the node in ComfyUI's real page."""
from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pack.tests.host.server import ROOT, Comfy
from playwright.sync_api import Browser

from .page import Editor, editor

FILE = ROOT / "workflows" / "quickstart.json"
NODES = len(json.loads(FILE.read_text(encoding="utf-8"))["nodes"])
BUTTON = ".masked_lora_finish button"
# What training needs and no more; steps that no test waits for, and a seed that no cached result has.
LONG_TRAINING = """seed => {
  const train = app.graph._nodes.find(node => node.type === 'MaskedLoRA_Train')
  for (const widget of train.widgets) {
    if (widget.name === 'steps') widget.value = 100000
    if (widget.name === 'seed') widget.value = seed
  }
  const needed = new Set([train])
  for (const node of needed)
    for (let i = 0; i < node.inputs.length; i++) if (node.getInputNode(i)) needed.add(node.getInputNode(i))
  for (const node of [...app.graph._nodes]) if (!needed.has(node)) app.graph.remove(node)
}"""


@pytest.fixture(params=["canvas", "nodes 2.0"])
def page(request: pytest.FixtureRequest, chrome: Browser, comfy: Comfy) -> Iterator[Editor]:
    with editor(chrome, comfy, vue=request.param == "nodes 2.0") as opened:
        opened.open()
        opened.drop(FILE.read_text(encoding="utf-8"), "quickstart.json", NODES)
        yield opened


def widgets_of(workflow: dict[str, Any]) -> list[Any]:
    return [node["widgets_values"] for node in workflow["nodes"] if node["type"] == "MaskedLoRA_Train"]


def test_button_is_there_while_training_runs_and_ends_it(page: Editor) -> None:
    page.page.evaluate(LONG_TRAINING, 7 + page.vue)
    page.command("Comfy.Canvas.FitView")
    assert page.page.locator(BUTTON).count() == 0
    before = page.serialized()
    prompt = page.queue()
    button = page.page.locator(BUTTON)
    start = page.comfy.log().count("Masked LoRA: step 5/")
    button.wait_for(state="visible", timeout=60_000)
    while page.comfy.log().count("Masked LoRA: step 5/") == start and "step 5/" not in page.comfy.log()[-500:]:
        page.page.wait_for_timeout(200)
    button.click()
    run = page.comfy.wait(prompt, 90)
    assert not run.failure
    (report,) = [json.loads(output["text"][0]) for output in run.entry["outputs"].values() if "outcome" in str(output.get("text"))]
    assert report["outcome"].startswith("finished early at step ")
    button.wait_for(state="detached", timeout=10_000)
    page.page.wait_for_timeout(500)
    assert widgets_of(page.serialized()) == widgets_of(before), "the button left something in the workflow"
    assert page.complaints() == []
