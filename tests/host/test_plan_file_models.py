"""Mask plans in files that load models: tiny ones of each family, in the folders of ComfyUI. White = learn."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from pack.host import model_files
from pack.host.managed import Managed
from pack.host.mask_plan import MaskPlan
from pack.host.plan_file import read_plan
from pack.host.plan_segmenter import PlanSegmenter
from pack.segmentation.body_parts import BodyParts
from pack.tests.segmentation.tiny_body import save_sapiens2
from pack.tests.segmentation.tiny_words import noise, save_clipseg, save_grounding

PICTURE_HWC = noise(40, 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_sapiens2(folder / "sapiens" / "tiny")
    save_grounding(folder / "grounding-dino" / "tiny")
    save_clipseg(folder / "clipseg" / "tiny")
    return folder


@pytest.fixture(autouse=True)
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "models_dir", str(models))


def plan(**part: Any) -> MaskPlan:
    return read_plan(json.dumps({"parts": [part]}))


@pytest.mark.parametrize("part", [
    {"segmenter": "body parts", "model": "sapiens/tiny", "weights": {"face": 1, "hair": 0.3, "body": 0.5, "clothing": 0.5}},
    {"segmenter": "words", "detector": "grounding-dino/tiny", "weights": {"person": 1, "red hair": 0.5}, "threshold": 0.0, "most": 3},
    {"segmenter": "clipseg", "model": "clipseg/tiny", "weights": {"person": 1, "hair": 0.5}, "threshold": 0.0},
    {"segmenter": "quick", "weights": {"face": 1, "person": 0.5, "background": 0.1}},
])
def test_every_segmenter_is_made(part: dict[str, Any]) -> None:
    made = plan(**part).make(PICTURE_HWC)
    assert set(made.found) | set(made.missing) == set(part["weights"]) - {"background"}


def test_boxes_around_people() -> None:
    [part] = plan(segmenter="body parts", model="sapiens/tiny", detector="grounding-dino/tiny", weights={"face": 1}).parts
    assert isinstance(part.segmenter.boxes.detector, Managed)


@pytest.mark.parametrize(("part", "says"), [
    ({"segmenter": "clipseg"}, "part 1 of the plan: model is None; name a model as in the dropdown"),
    ({"segmenter": "clipseg", "model": "clipseg/none"}, "there is no model 'clipseg/none'"),
    ({"segmenter": "clipseg", "model": model_files.choices("clipseg")[-1]}, "licence"),
    ({"segmenter": "words", "detector": "grounding-dino/tiny", "source": "dreams"}, "source is 'dreams'"),
    ({"segmenter": "words"}, "connect a detector"),
    ({"segmenter": "clipseg", "model": "clipseg/tiny", "size": 3}, "size"),
    ({"segmenter": "quick", "size": 3}, "quick has no setting 'size'"),
])
def test_what_cannot_be_made(part: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plan(**part, weights={"face": 1})


DINO, CLIPSEG = {"segmenter": "words", "detector": "grounding-dino/tiny"}, {"segmenter": "clipseg", "model": "clipseg/tiny"}


@pytest.mark.parametrize(("part", "reads"), [
    (DINO, False), (DINO | {"source": "words in the caption"}, True), (CLIPSEG, False), (CLIPSEG | {"from_caption": True}, True)])
def test_a_plan_knows_whether_a_caption_decides_its_masks(part: dict[str, Any], reads: bool) -> None:
    """Write Masks makes a mask anew when the caption changes, but only where that can change the mask."""
    words = plan(**part, weights={"person": 1})
    assert words.reads_captions is reads
    parts = BodyParts(lambda: pytest.fail("not loaded"), "tiny", person=PlanSegmenter(words))
    assert parts.reads_captions is reads
    assert BodyParts(parts.parser, "tiny").reads_captions is False
