"""ComfyUI's page in a headless Chromium, with the workflow of a test in it, and what the browser complained about."""
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pack.tests.host.server import Comfy, Run
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")
PATIENCE = 60_000  # milliseconds
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.RightSidePanel.IsOpen": False,
            "LiteGraph.Canvas.MinFontSizeForLOD": 0}  # 0: reports stay in sight however small a large workflow is drawn
# Until the page has put up its own first workflow: it would replace one that came earlier.
READY = "!!(window.app?.extensionManager?.workflow?.activeWorkflow && window.LiteGraph?.registered_node_types?.['MaskedLoRA_Train'])"
DROP = "([text, name]) => app.handleFile(new File([text], name, {type: 'application/json'}), 'file_drop', {})"
# The visible rectangle of each node, [left, top, right, bottom] in the graph's own units, as either of the page's two modes draws it.
RECTANGLES = """() => Object.fromEntries(app.graph._nodes.map(node => {
  const [x, y] = node.pos, element = document.querySelector(`[data-node-id="${node.id}"]`)
  const drawn = element?.getBoundingClientRect(), scale = app.canvas.ds.scale
  const [width, height] = drawn ? [drawn.width / scale, drawn.height / scale] : [node.size[0], node.size[1] + LiteGraph.NODE_TITLE_HEIGHT]
  const top = y - LiteGraph.NODE_TITLE_HEIGHT
  return [`${node.id} ${node.type}`, [x, top, x + width, top + height]]
}))"""
# What the panels say that can be seen, by the numbers of their nodes.
PANELS = """() => Object.fromEntries(app.graph._nodes.flatMap(node => {
  const element = node.widgets?.find(widget => widget.name === 'masked_lora_report')?.element
  return element?.checkVisibility() && element.innerText ? [[String(node.id), element.innerText]] : []
}))"""
# Whether a node shows a picture, in either of the page's two modes.
PICTURE = """([id, vue]) => {
  const drawn = vue ? document.querySelectorAll(`[data-node-id="${id}"] img`) : app.graph.getNodeById(id).imgs ?? []
  return [...drawn].some(picture => picture.naturalWidth > 64)
}"""
FEW_STEPS = """() => {
  for (const node of app.graph._nodes)
    for (const widget of node.widgets ?? [])
      if (widget.name === 'steps') widget.value = node.type === 'MaskedLoRA_Train' ? 3 : 2
      else if (widget.name === 'every') widget.value = 1
}"""


@dataclass(slots=True)
class Editor:
    """The page of one server, in one of its two modes: classic canvas, or Nodes 2.0 (`vue`)."""

    page: Page
    comfy: Comfy
    vue: bool
    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)

    def listen(self) -> None:
        def on_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                self.console_errors.append(f"{message.text} ({message.location.get('url', '')})")

        self.page.on("console", on_console)
        self.page.on("pageerror", lambda error: self.page_errors.append(f"{error}\n{error.stack}"))

    def open(self, query: str = "") -> None:
        self.page.goto(f"{self.comfy.server.url}/{query}", wait_until="load")
        self.page.wait_for_function(READY, timeout=PATIENCE)

    def open_template(self, name: str, nodes: int) -> None:
        """Load a template of the pack through the link that the page has for it."""
        self.open(f"?template={name}&source={self.comfy.pack_name}")
        self.wait_for_nodes(nodes)

    def drop(self, text: str, name: str, nodes: int) -> None:
        """Load a workflow as if its file were dropped on the canvas of the open page."""
        self.page.evaluate(DROP, [text, name])
        self.wait_for_nodes(nodes)

    def wait_for_nodes(self, count: int) -> None:
        self.page.wait_for_function("count => app.graph._nodes.length === count", arg=count, timeout=PATIENCE)
        self.command("Comfy.Canvas.FitView")
        if self.vue:
            drawn = "count => document.querySelectorAll('[data-node-id]').length === count"
            self.page.wait_for_function(drawn, arg=count, timeout=PATIENCE)
        self.page.wait_for_timeout(500)  # milliseconds, for layout and for complaints that come late

    def command(self, name: str) -> None:
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def serialized(self) -> dict[str, Any]:
        """The workflow as the page would save it."""
        workflow: dict[str, Any] = json.loads(self.page.evaluate("() => JSON.stringify(app.graph.serialize())"))
        return workflow

    def prompt(self) -> dict[str, dict[str, Any]]:
        """The workflow in API form, by the page's own conversion, without titles."""
        prompt: dict[str, dict[str, Any]] = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in prompt.items()}

    def rectangles(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = self.page.evaluate(RECTANGLES)
        return found

    def queue(self) -> str:
        """Press Run; returns the prompt's id."""
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST") as answer:
            self.page.get_by_test_id("queue-button").click()
        reply = answer.value.json()
        assert answer.value.ok, json.dumps(reply)
        assert not reply["node_errors"], json.dumps(reply)
        return str(reply["prompt_id"])

    def run(self) -> Run:
        """Press Run, with few steps of training and sampling; the second mode gets most of it from ComfyUI's cache."""
        self.page.evaluate(FEW_STEPS)
        return self.comfy.wait(self.queue(), 120)

    def run_prompt(self, prompt: dict[str, Any]) -> Run:
        """Run a prompt whose nodes have the numbers of those in the page, as if the page had sent it."""
        status, answer = self.comfy.post("/prompt", {"prompt": prompt, "client_id": self.page.evaluate("() => app.api.clientId")})
        assert status == 200, json.dumps(answer)
        return self.comfy.wait(answer["prompt_id"], 120)

    def panels(self, numbers: Iterable[str]) -> dict[str, str]:
        """The words on these nodes after a run; waits until all have some."""
        wanted = sorted(numbers)
        self.page.wait_for_function(f"wanted => {{ const shown = ({PANELS})(); return wanted.every(id => shown[id]) }}", arg=wanted,
                                    timeout=10_000)
        shown: dict[str, str] = self.page.evaluate(PANELS)
        return {number: shown[number] for number in wanted}

    def panel(self, kind: str) -> str:
        """The words on the only node of a class."""
        (number,) = [node.partition(" ")[0] for node in self.rectangles() if node.endswith(f" {kind}")]
        return self.panels([number])[number]

    def wait_for_picture(self, number: int) -> None:
        self.page.wait_for_function(PICTURE, arg=[number, self.vue], timeout=10_000)

    def complaints(self) -> list[str]:
        """Uncaught errors, whoever's, and console errors that name the pack, its files or its nodes."""
        names = (self.comfy.pack_name, "masked_lora", "maskedlora", "masked lora", "masked-lora")
        return self.page_errors + [line for line in self.console_errors if any(name in line.lower() for name in names)]


@pytest.fixture(scope="package")
def chrome(browser: str) -> Iterator[Browser]:
    """One Chromium for all tests of the page."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=list(ARGUMENTS))
        yield running
        running.close()


@contextmanager
def editor(browser: Browser, comfy: Comfy, *, vue: bool) -> Iterator[Editor]:
    """A fresh page; nothing is loaded yet."""
    status, _ = comfy.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": vue})
    assert status == 200
    page = browser.new_page(viewport={"width": 1800, "height": 1100})
    result = Editor(page, comfy, vue)
    result.listen()
    try:
        yield result
    finally:
        page.close()
