"""Review Masks in ComfyUI's real page: the gallery, its buttons and keys, and the real mask editor."""
from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pack.host import mask_journal
from pack.tests.host.reviewed import write_folder, write_many
from pack.tests.host.server import Comfy, Run, write_mask
from PIL import Image
from playwright.sync_api import Browser, Locator

from .page import Editor, editor

ADD = """([folder, wait]) => {
  const node = LiteGraph.createNode('MaskedLoRA_ReviewMasks')
  node.pos = [100, 100]
  app.graph.add(node)
  for (const widget of node.widgets) if (widget.name in { folder, wait }) widget.value = { folder, wait }[widget.name]
}"""
CARD = ".masked_lora_review_card"
# What is painted in the mask editor: the alpha of the canvas above the picture and the layer of colours.
PAINTED = """() => {
  const mask = document.querySelectorAll('.mask-editor-dialog canvas')[2]
  const { data } = mask.getContext('2d').getImageData(0, 0, mask.width, mask.height)
  return [...data].filter((_, index) => index % 4 === 3)
}"""


@dataclass
class Shown:
    """The gallery of a folder of its own."""

    editor: Editor
    masks: Path

    def card(self, name: str) -> Locator:
        return self.editor.page.locator(CARD, has_text=f"{name}.png")

    def button(self, name: str, action: str) -> Locator:
        return self.card(name).get_by_role("button", name=f"{action} {name}.png")

    def head(self) -> str:
        return self.editor.page.locator(".masked_lora_review_head").inner_text()

    def review(self, name: str) -> str:
        return mask_journal.read(self.masks)[f"../{name}.png"].review

    def wait_for(self, name: str, review: str) -> None:
        self.editor.page.locator(f"{CARD}[data-review='{review}']", has_text=f"{name}.png").wait_for(timeout=10_000)


@pytest.fixture(scope="module", params=["canvas", "nodes 2.0"])
def page(request: pytest.FixtureRequest, chrome: Browser, comfy: Comfy) -> Iterator[Editor]:
    with editor(chrome, comfy, vue=request.param == "nodes 2.0") as opened:
        opened.open()
        yield opened


@pytest.fixture
def shown(page: Editor) -> Shown:
    folder = new_folder(page)
    masks = write_folder(folder)
    assert not run_node(page, folder).failure
    return Shown(page, masks)


def new_folder(page: Editor) -> Path:
    return page.comfy.input / f"review_{uuid.uuid4().hex[:8]}"


def run_node(page: Editor, folder: Path, *, wait: bool = False) -> Run:
    """The node alone in a new workflow; until it shows its masks."""
    page.command("Comfy.NewBlankWorkflow")
    page.page.wait_for_function("() => app.graph._nodes.length === 0")
    page.page.evaluate(ADD, [folder.name, wait])
    page.wait_for_nodes(1)
    run = page.comfy.wait(page.queue(), 60)
    page.page.locator(CARD).nth(3).wait_for(state="attached", timeout=10_000)
    page.command("Comfy.Canvas.FitView")
    page.page.wait_for_timeout(500)
    return run


def test_it_shows_the_masks_and_writes_what_is_said(shown: Shown) -> None:
    page = shown.editor.page
    assert [title.inner_text() for title in page.locator(".masked_lora_review_title").all()] == ["d.png", "c.png", "b.png", "a.png"]
    assert shown.head() == "4 masks: 4 not reviewed"
    page.wait_for_function("() => [...document.querySelectorAll('.masked_lora_review_picture')].every(i => i.naturalWidth === 160)")
    assert "no face" in shown.card("b").inner_text()
    before = shown.editor.serialized()
    shown.button("a", "Accept").click()
    shown.wait_for("a", "accepted")
    shown.button("b", "Redo").click()
    shown.wait_for("b", "redo")
    assert (shown.review("a"), shown.review("b")) == ("accepted", "redo")
    assert shown.head() == "4 masks: 2 not reviewed, 1 accepted, 1 to be made anew"
    shown.button("a", "Accept").click()
    shown.wait_for("a", "")
    assert shown.review("a") == ""
    assert shown.editor.serialized() == before, "the gallery left something in the workflow"
    assert shown.editor.complaints() == []


def test_keys(shown: Shown) -> None:
    page = shown.editor.page
    shown.button("b", "Redo").focus()
    page.keyboard.press("r")
    shown.wait_for("b", "redo")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("a")
    shown.wait_for("c", "accepted")
    page.wait_for_function("() => document.activeElement.closest('li')?.innerText.includes('b.png')")
    assert (shown.review("b"), shown.review("c")) == ("redo", "accepted")
    names = [button.get_attribute("aria-label") for button in page.locator(f"{CARD} button").all()]
    assert len(set(names)) == 12
    assert shown.button("c", "Accept").get_attribute("aria-pressed") == "true"
    assert shown.editor.complaints() == []


def test_a_mask_that_changed_since_it_was_shown_is_shown_and_not_accepted(shown: Shown) -> None:
    page, picture = shown.editor.page, shown.card("a").locator("img")
    before = picture.get_attribute("src")
    write_mask(shown.masks / "a.png", (64, 48))
    shown.button("a", "Accept").click()
    page.get_by_text("a.png has changed since it was shown").first.wait_for(timeout=10_000)
    page.wait_for_function("([image, before]) => image.getAttribute('src') !== before", arg=[picture.element_handle(), before])
    assert shown.review("a") == ""
    shown.button("a", "Accept").click()
    shown.wait_for("a", "accepted")
    assert shown.review("a") == "accepted"
    assert all("409" in complaint for complaint in shown.editor.complaints())
    shown.editor.console_errors.clear()  # the browser notes each status that is an error


def test_the_mask_editor_opens_with_the_mask_and_its_save_changes_the_file(shown: Shown) -> None:
    page, dialog = shown.editor.page, shown.editor.page.locator(".mask-editor-dialog")
    before = np.asarray(Image.open(shown.masks / "a.png")).astype(int)
    shown.button("a", "Edit").click()
    open_editor(shown)
    dialog.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="detached", timeout=10_000)
    assert shown.review("a") == ""
    assert (np.asarray(Image.open(shown.masks / "a.png")) == before).all(), "Cancel changed the mask"
    shown.button("a", "Edit").click()
    open_editor(shown)
    painted = page.evaluate(PAINTED)
    assert np.abs(np.array(painted, int).reshape(before.shape) - before).max() == 0, "the editor does not show the mask"
    area = dialog.locator("canvas").first.bounding_box()
    assert area is not None
    left, top = area["x"] + area["width"] * 0.2, area["y"] + area["height"] * 0.5
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + area["width"] * 0.3, top, steps=8)
    page.mouse.up()
    dialog.get_by_role("button", name="Save").click()
    shown.wait_for("a", "accepted")
    after = np.asarray(Image.open(shown.masks / "a.png")).astype(int)
    changed = after != before
    assert (after[changed] > before[changed]).all(), "painting takes away"
    assert changed[60:68, 32:80].all()
    assert not changed[:50].any()
    assert not changed[78:].any()
    assert not list(shown.editor.comfy.input.glob("clipspace-*"))
    assert len(page.evaluate("() => Object.keys(app.nodeOutputs)")) == 1, "the editor left something in the page"
    assert shown.editor.complaints() == []


def open_editor(shown: Shown) -> None:
    """Until the editor has drawn the picture in its canvases."""
    shown.editor.page.locator(".mask-editor-dialog").wait_for(timeout=20_000)
    shown.editor.page.wait_for_function(f"() => ({PAINTED})()?.some(alpha => alpha > 0)", timeout=20_000)
    shown.editor.page.wait_for_timeout(500)


def test_it_is_shown_too_when_the_graph_stops_here(page: Editor) -> None:
    folder = new_folder(page)
    write_folder(folder)
    assert "4 of 4 masks are not reviewed yet" in run_node(page, folder, wait=True).failure


def test_two_hundred_pictures_are_loaded_as_they_come_into_sight(page: Editor) -> None:
    folder = new_folder(page)
    asked: list[str] = []
    write_many(folder, 200)
    page.page.on("request", lambda request: asked.append(request.url) if "/review/tile" in request.url else None)
    run_node(page, folder)
    page.page.wait_for_timeout(1000)
    assert page.page.locator(CARD).count() == 100
    assert 0 < len(asked) <= 40
    page.page.get_by_role("button", name="Show 100 more of 100").click()
    assert page.page.locator(CARD).count() == 200
    page.page.locator(CARD).last.scroll_into_view_if_needed()
    last = "() => document.querySelector('.masked_lora_review_card:last-child img').naturalWidth > 0"
    page.page.wait_for_function(last, timeout=10_000)
    assert page.complaints() == []
