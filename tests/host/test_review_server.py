"""The addresses behind Review Masks on a real ComfyUI, and the node in a graph."""
from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from pack.host import mask_journal
from PIL import Image

from .reviewed import write_folder
from .server import Comfy, Graph, Run, add_data_set, write_mask

REVIEW = "MaskedLoRA_ReviewMasks"
PATH = "/masked_lora/review"


class Opened:
    """A folder with masks and its key."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy, self.name = comfy, f"review_{uuid.uuid4().hex[:8]}"
        self.masks: Path = write_folder(comfy.input / self.name)
        self.run = run_node(comfy, self.name)
        (output,) = self.run.entry["outputs"].values()
        (self.key,) = output["masked_lora_review"]

    def post(self, what: str, **body: Any) -> tuple[int, dict[str, Any]]:
        return self.comfy.post(f"{PATH}/{what}", {"set": self.key, **body})

    def get(self, what: str, **query: str) -> tuple[int, bytes, str]:
        return fetch(self.comfy, f"{PATH}/{what}?{urlencode({'set': self.key, **query})}")

    def mark(self, picture: str, review: str) -> tuple[int, dict[str, Any]]:
        """As a page does that shows the mask as it is now."""
        (version,) = [card["version"] for card in self.cards() if card["picture"] == picture]
        return self.post("mark", picture=picture, review=review, version=version)

    def cards(self) -> list[dict[str, Any]]:
        status, body, _ = self.get("list")
        assert status == 200
        found: list[dict[str, Any]] = json.loads(body)["pictures"]
        return found


def fetch(comfy: Comfy, path: str, data: bytes | None = None) -> tuple[int, bytes, str]:
    request = urllib.request.Request(comfy.server.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Content-Type"]


def run_node(comfy: Comfy, folder: str, wait: bool = False) -> Run:
    graph = Graph()
    graph.add(REVIEW, folder=folder, wait=wait)
    return comfy.wait(comfy.submit(graph))


@pytest.fixture(scope="module")
def opened(comfy: Comfy) -> Opened:
    return Opened(comfy)


def test_list_and_pictures(opened: Opened) -> None:
    assert not opened.run.failure
    assert {card["title"] for card in opened.cards()} == {"a.png", "b.png", "c.png", "d.png"}
    status, body, kind = opened.get("tile", picture="../a.png", version="1")
    assert (status, kind) == (200, "image/webp")
    assert Image.open(BytesIO(body)).size == (160, 128)


def test_marks_reach_the_journal(opened: Opened) -> None:
    for said in ("accepted", "redo", ""):
        status, card = opened.mark("../b.png", said)
        assert (status, card["review"]) == (200, said)
        assert mask_journal.read(opened.masks)["../b.png"].review == said


def test_a_page_that_shows_an_old_mask_gets_the_new_one(opened: Opened) -> None:
    (old,) = [card for card in opened.cards() if card["title"] == "b.png"]
    write_mask(opened.masks / "b.png")
    status, answer = opened.post("mark", picture="../b.png", review="accepted", version=old["version"])
    assert status == 409
    assert "has changed since it was shown" in answer["error"]
    assert answer["card"] in opened.cards()
    assert (answer["card"]["picture"], answer["card"]["review"]) == ("../b.png", "")


def edit(opened: Opened, number: int) -> tuple[int, dict[str, Any]]:
    """As the page does when a person paints the upper rows of a.png."""
    status, image = opened.post("edit", picture="../a.png")
    assert (status, image["type"]) == (200, "temp")
    status, body, _ = fetch(opened.comfy, f"/view?{urlencode(image)}")
    pixels = np.asarray(Image.open(BytesIO(body))).copy()
    pixels[:30, :, 3] = 0
    for layer in ("mask", "paint", "painted", "painted-masked"):
        Image.fromarray(pixels).save(opened.comfy.input / f"clipspace-{layer}-{number}.png")
    saved = {"filename": f"clipspace-painted-masked-{number}.png", "subfolder": "", "type": "input"}
    return opened.post("edited", picture="../a.png", image=saved)


def test_to_the_editor_and_back(opened: Opened) -> None:
    status, card = edit(opened, 5)
    assert (status, card["review"]) == (200, "accepted")
    assert (np.asarray(Image.open(opened.masks / "a.png"))[:30] == 255).all()
    assert not list(opened.comfy.input.glob("clipspace-*"))


@pytest.mark.parametrize("picture", ["../../../../../etc/hostname", "a.png", "../e.png", "..", "", "/etc/hostname", "../a.png\0"])
def test_pictures_that_the_journal_does_not_list(opened: Opened, picture: str) -> None:
    assert opened.get("tile", picture=picture)[0] == 404
    for what, more in (("mark", {"review": "redo", "version": "1"}), ("edit", {}), ("edited", {"image": {}})):
        status, answer = opened.post(what, picture=picture, **more)
        assert status == 404
        assert answer["error"]


@pytest.mark.parametrize("key", ["", "..", "0" * 16, None, 5, ["x"]])
def test_folders_that_no_node_opened(opened: Opened, key: Any) -> None:
    status, answer = opened.post("mark", set=key, picture="../a.png", review="redo")
    assert (status, answer["error"]) == (404, "these masks are not open; run Review Masks again")
    assert opened.get("list", set=str(key))[0] == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"set": NaN', b"[" * 100_000])
@pytest.mark.parametrize("what", ["mark", "edit", "edited"])
def test_bad_json(opened: Opened, what: str, body: bytes) -> None:
    status, answer, _ = fetch(opened.comfy, f"{PATH}/{what}", body)
    assert (status, json.loads(answer)) == (400, {"error": "send a JSON object"})


@pytest.mark.parametrize(("what", "body"), [
    ("mark", {"picture": "../a.png", "review": "fine", "version": "1"}), ("mark", {"picture": "../a.png", "review": "redo"}),
    ("mark", {"picture": "../a.png"}), ("mark", {"picture": 1, "review": ""}),
    ("mark", {"picture": "x" * 6000, "review": ""}), ("edit", {}), ("edited", {"picture": "../a.png"}),
    ("edited", {"picture": "../a.png", "image": {"filename": "../secret.png", "subfolder": "", "type": "input"}})])
def test_values_that_make_no_sense(opened: Opened, what: str, body: dict[str, Any]) -> None:
    before = (opened.masks / mask_journal.JOURNAL).read_bytes()
    status, answer = opened.post(what, **body)
    assert status == 400
    assert answer["error"]
    assert (opened.masks / mask_journal.JOURNAL).read_bytes() == before


def test_wait_stops_the_graph_until_all_are_accepted(comfy: Comfy) -> None:
    name = f"review_{uuid.uuid4().hex[:8]}"
    write_folder(comfy.input / name)
    graph = Graph()
    node = graph.add(REVIEW, folder=name, wait=True)
    assert comfy.error(graph, REVIEW) == "4 of 4 masks are not reviewed yet. Accept them on this node, or switch wait off\n"
    key = run_node(comfy, name).entry["outputs"][node.id]["masked_lora_review"][0]
    for card in json.loads(fetch(comfy, f"{PATH}/list?set={key}")[1])["pictures"]:
        said = {"set": key, "picture": card["picture"], "version": card["version"], "review": "accepted"}
        assert comfy.post(f"{PATH}/mark", said)[0] == 200
    assert not run_node(comfy, name, wait=True).failure


def test_a_named_folder_is_read_again_when_a_mask_has_changed_and_with_wait_after_a_mark(comfy: Comfy) -> None:
    opened = Opened(comfy)
    assert run_node(comfy, opened.name).cached
    opened.mark("../b.png", "redo")
    assert run_node(comfy, opened.name).cached, "a mark changes no mask"
    assert edit(opened, 7)[0] == 200
    assert not run_node(comfy, opened.name).cached
    for picture in mask_journal.read(opened.masks):
        opened.mark(picture, "accepted")
    assert not run_node(comfy, opened.name, wait=True).failure
    opened.mark("../b.png", "redo")
    assert "1 to be made anew" in run_node(comfy, opened.name, wait=True).failure


def test_masks_of_a_data_set_which_is_passed_on(opened: Opened) -> None:
    graph = Graph()
    loaded, _ = add_data_set(graph, graph.add("MaskedLoRA_DemoModel")[2], folder=opened.name, mask_source="none")
    node = graph.add(REVIEW, data_set=loaded[0])
    behind = graph.add("MaskedLoRA_PreviewMask", data_set=node[0])
    run = opened.comfy.run(graph)
    assert run.entry["outputs"][node.id]["masked_lora_review"] == [opened.key]
    assert "4 without a mask" in run.text(behind)


def test_an_edit_is_read_by_what_comes_behind_and_a_mark_trains_nothing_anew(opened: Opened) -> None:
    comfy = opened.comfy
    graph = Graph()
    # A folder that another node names is not known when ComfyUI asks what has changed.
    node = graph.add(REVIEW, folder=graph.add("PrimitiveString", value=opened.name)[0])
    comfy.run(graph)
    opened.mark("../b.png", "accepted")
    assert node.id in comfy.run(graph).cached
    edit(opened, 6)
    assert node.id not in comfy.run(graph).cached
    graph.prompt[node.id]["inputs"]["wait"] = True
    for picture in mask_journal.read(opened.masks):
        opened.mark(picture, "accepted")
    comfy.run(graph)
    opened.mark("../b.png", "")
    assert comfy.error(graph, REVIEW).startswith("1 of 4 masks is not reviewed yet")


def test_a_folder_without_masks(comfy: Comfy) -> None:
    (comfy.input / "no_masks").mkdir()
    graph = Graph()
    graph.add(REVIEW, folder="no_masks", wait=False)
    assert "run Write Masks first" in comfy.error(graph, REVIEW)
