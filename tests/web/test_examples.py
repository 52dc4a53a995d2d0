"""The shipped workflows beside the quickstart in ComfyUI's real page: they load whole, run, and show what they found."""
from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pack.tests.host.server import Comfy, Run
from pack.tests.host.workflow import FILES, workflow
from PIL import Image
from playwright.sync_api import Browser

from . import checks
from .page import Editor, editor

NAMES = sorted(file.stem for file in checks.WORKFLOWS.glob("*.json") if file.stem != "quickstart")
# Words that some node shows after a run, beside what every node reports.
SAYS = {
    "masks_from_folder": ["White = learn. 12 masks, recipe: gamma 0.7, floor 0.05, grow 4 px, blur", "White = learn. Grown by 4 px"],
    "masks_from_alpha": ["masks: 6 from alpha channels", "White = learn. 6 masks", "6 pictures: "],
    "masks_from_graph": ["no masks by choice", "now masks from the graph for 12 of 12 items", "White = learn. 12 masks"],
    "masks_for_video": ["2 clips (18 frames), 2 with a mask", "3 items of 2 data sets", "White = learn. 3 masks"],
    "automatic_masks": ["3 pictures: 3 masks made", "coffee: person; no face", "White = learn. 3 masks, recipe: as drawn"],
    "body_part_masks": ["3 pictures: ", "White = learn. 1 masks"],
    "masks_from_words": ["3 pictures: ", "White = learn. 1 masks"],
    "verify_lora": ["Without the trigger the LoRA changes the pictures by ", "White = learn = inside. 6 of 12 pictures; ",
                    "White = learn = inside. Bleed ", "3 LoRAs at strengths 0.5, 0.75, 1, seed 1: 9 pictures"],
    "padding_study": ["3 steps in ", "Text padding: trained with "],
    "prior_preservation": ["3 steps in ", "Change outside the masks: ", "Text padding: trained with "],
    "resume": ["Loss inside the masks: ", "6 pictures: ", "Saved as loras/resume_"],
    "warm_start": ["3 steps in ", "lora rank 8 alpha 8; on ", "Saved as loras/warm_start_first_"],
    "sdxl_as_flow_matching": ["2 steps in ", "77 tokens: 12 examples", "Saved as loras/sdxl_flow_"],
    "video": ["3 steps in ", "2 clips (18 frames), 2 with a mask", "512 tokens: 2 examples", "Saved as loras/video_"],
}
PICTURES = ("MaskedLoRA_PreviewMask", "MaskedLoRA_GrowForLatentGrid", "PreviewImage", "SaveImage", "MaskedLoRA_CompareLora",
            "MaskedLoRA_DriftMap", "MaskedLoRA_LoraGrid")


@dataclass(frozen=True, slots=True)
class Shown:
    """A workflow in the page, as it was loaded."""

    name: str
    page: Editor
    workflow: checks.Workflow


# Of a wider scope than `shown`: pytest then runs all workflows in one mode before it opens the page in the other.
@pytest.fixture(scope="package", params=["canvas", "nodes 2.0"])
def page(request: pytest.FixtureRequest, chrome: Browser, comfy: Comfy) -> Iterator[Editor]:
    with editor(chrome, comfy, vue=request.param == "nodes 2.0") as opened:
        for name in FILES:
            workflow(comfy, name)  # before the page asks which files there are
        opened.open()
        yield opened


@pytest.fixture(scope="module", params=NAMES)
def shown(request: pytest.FixtureRequest, page: Editor) -> Shown:
    name = request.param
    workflow = checks.read_workflow(name)
    page.drop((checks.WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"), f"{name}.json", len(workflow["nodes"]))
    return Shown(name, page, workflow)


@pytest.fixture(scope="module")
def finished(shown: Shown) -> Run:
    """Of workflows that load models only small sizes and steps, and tiny models."""
    return shown.page.run_prompt(workflow(shown.page.comfy, shown.name).prompt) if shown.name in FILES else shown.page.run()


@pytest.mark.parametrize("name", NAMES)
def test_template_and_its_picture_are_served(comfy: Comfy, name: str) -> None:
    assert name in comfy.server.get_json("/api/workflow_templates")[comfy.pack_name]
    address = f"/api/workflow_templates/{comfy.pack_name}/{name}"
    assert comfy.server.get(f"{address}.json") == (checks.WORKFLOWS / f"{name}.json").read_bytes()
    picture = comfy.server.get(f"{address}.jpg")
    assert len(picture) < 80_000
    thumbnail = Image.open(io.BytesIO(picture))
    assert thumbnail.format == "JPEG"
    assert thumbnail.width >= 600


def test_it_loads_whole(shown: Shown) -> None:
    checks.assert_no_node_is_missing(shown.page, shown.workflow)
    checks.assert_every_link_is_kept(shown.page, shown.workflow)
    checks.assert_every_widget_keeps_its_value(shown.page, shown.workflow)


def test_page_and_comfy_cli_convert_alike(shown: Shown) -> None:
    checks.assert_page_and_comfy_cli_convert_alike(shown.page, shown.workflow)


def test_nodes_lie_apart_and_inside_their_groups(shown: Shown) -> None:
    checks.assert_tidy(shown.page, shown.workflow)


def test_it_runs_and_says_in_words_what_it_found(shown: Shown, finished: Run) -> None:
    assert not finished.failure
    texts = list(checks.assert_reports_are_in_words(shown.page, finished).values())
    assert [words for words in SAYS[shown.name] if not any(words in text for text in texts)] == []


def test_pictures_are_shown(shown: Shown, finished: Run) -> None:
    numbers = [node["id"] for node in shown.workflow["nodes"] if node["type"] in PICTURES]
    assert numbers
    for number in numbers:
        shown.page.wait_for_picture(number)


def test_reports_and_pictures_fit(shown: Shown, finished: Run) -> None:
    checks.assert_reports_are_in_words(shown.page, finished)
    checks.assert_tidy(shown.page, shown.workflow)


def test_browser_does_not_complain(shown: Shown, finished: Run) -> None:
    assert shown.page.complaints() == []
