"""Detectors, CLIPSeg and their nodes in the real host: managed models, plans, masks."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
import torch
from pack.host import model_files
from pack.host.mask_plan import MaskPlan
from pack.host.weights import read_weights
from pack.masks.operations import Invert
from pack.masks.recipe import MaskRecipe
from pack.nodes.words import SOURCES, ClipSegMasks, FindBoxes, LoadClipSeg, LoadDetector, WordMasks
from pack.segmentation import grounded
from pack.segmentation.detector import load_detector
from pack.tests.segmentation.tiny_words import (
    noise,
    save_clipseg,
    save_florence,
    save_florence_as_microsoft,
    save_grounding,
    save_grounding_file,
)

PICTURE_HWC = noise(40, 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_grounding(folder / "grounding-dino")
    save_florence_as_microsoft(folder / "florence", save_florence(folder / "florence2"), pickled=True)
    save_clipseg(folder / "clipseg")
    return folder


@pytest.fixture(autouse=True)
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Choices are the folders made above; notes what was asked for."""
    asked: list[tuple[Any, ...]] = []

    def find(*arguments: Any) -> Path:
        asked.append(arguments)
        return models / str(arguments[0])

    monkeypatch.setattr(model_files, "find", find)
    monkeypatch.setattr(model_files, "choices", lambda *families: ["a", "b"])
    return asked


def run(node: Any, **inputs: Any) -> Any:
    """The node's first output, as ComfyUI runs it."""
    with torch.inference_mode():
        return type(node.__name__, (node,), {"hidden": SimpleNamespace(unique_id="7")}).execute(**inputs).result[0]


THRESHOLDS = {"threshold": 0.0, "text_threshold": 0.0, "most": 3}


@pytest.mark.parametrize("name", ["grounding-dino", "florence2", "florence"])
def test_a_detector_is_loaded_managed_and_finds_boxes(models: Path, here: list[Any], name: str) -> None:
    detector = run(LoadDetector, model=name, accept_licence=True)
    assert here == [(name, ("detector",), True, "7")]
    image = torch.stack([PICTURE_HWC, noise(40, 60, 1)]).float() / 255
    boxes = run(FindBoxes, detector=detector, image=image, words="a person\n\n  red hair ", **THRESHOLDS)
    assert detector.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]
    expected = load_detector(models / name, torch.float32, read_weights).find(PICTURE_HWC, ["a person", "red hair"], 0.0, 0.0)
    assert len(boxes) == 2
    for label in ("a person", "red hair"):
        assert [box for box in boxes[0] if box["label"] == label] == [box.to_dict() for box in expected if box.label == label][:3]
    assert name != "grounding-dino" or (boxes[0] and boxes[0] != boxes[1])


def test_the_original_file_is_loaded_without_running_it(models: Path) -> None:
    save_grounding_file(models / "bert-base-uncased", models / "groundingdino_swint_ogc.pth")
    detector = run(LoadDetector, model="groundingdino_swint_ogc.pth", accept_licence=False)
    image = PICTURE_HWC[None].float() / 255
    assert run(FindBoxes, detector=detector, image=image, words="person", **THRESHOLDS)[0]
    (models / "page.pth").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="page.pth is no whole PyTorch file"):
        run(LoadDetector, model="page.pth", accept_licence=False)


def test_no_words_for_boxes() -> None:
    with pytest.raises(ValueError, match="there are no words to search for"):
        run(FindBoxes, detector=None, image=torch.zeros(1, 8, 8, 3), words=" \n", **THRESHOLDS)


def plan_of(detector: Any, **inputs: Any) -> MaskPlan:
    inputs = {"weights": "person 0.5\nface 1.0\nbackground 0.25", "source": SOURCES[0], "sam": None, **THRESHOLDS} | inputs
    plan = run(WordMasks, detector=detector, **inputs)
    assert isinstance(plan, MaskPlan)
    return plan


def test_a_plan_of_words_makes_weights() -> None:
    plan = plan_of(run(LoadDetector, model="grounding-dino", accept_licence=False))
    made = plan.make(PICTURE_HWC)
    assert set(made.found) | set(made.missing) == {"person", "face"}
    assert made.found
    weights = {"person": 0.5, "face": 1.0}
    expected = torch.full((40, 60), 0.25)
    for region, mask_HW in made.found.items():
        expected = torch.maximum(expected, mask_HW * weights[region])
    assert made.weight_HW is not None
    assert torch.allclose(made.weight_HW, expected)


def test_words_that_no_caption_has_make_no_mask() -> None:
    detector = run(LoadDetector, model="grounding-dino", accept_licence=False)
    made = plan_of(detector, source=SOURCES[1]).make(PICTURE_HWC, "a castle")
    assert made.weight_HW is None
    assert made.missing == ("person", "face")
    assert "face" in plan_of(detector, source=SOURCES[1]).make(PICTURE_HWC, "two faces").found
    other = plan_of(detector, source=SOURCES[2], weights="face 1.0\nother 0.5").make(PICTURE_HWC, "a person, cat")
    assert list(other.found) == ["other"]


def test_plans_are_joined_and_told_apart() -> None:
    detector = run(LoadDetector, model="grounding-dino", accept_licence=False)
    first = plan_of(detector)
    both = plan_of(detector, plan=first, how="multiply", recipe=MaskRecipe((Invert(),)), threshold=0.5)
    assert both.parts[0] is first.parts[0]
    assert (both.parts[1].how, both.parts[1].recipe.steps) == ("multiply", (Invert(),))
    assert first.parts[0].segmenter.describe() == {
        "kind": "words", "models": ["grounding-dino grounding-dino"], "words": ["person", "face"], "source": "the words", "threshold": 0.0,
        "text_threshold": 0.0, "most": 3}
    texts = {plan.to_json() for plan in (first, both, plan_of(detector, threshold=0.5), plan_of(detector, weights="face 1.0"))}
    assert len(texts) == 4


@pytest.mark.parametrize(("weights", "message"), [
    ("", "there are no words to search for"), ("background 1.0", "there are no words"), ("face", "line 1 of the weights is 'face'"),
    ("face 0", "all weights of words by .* are 0")])
def test_weights_that_say_nothing(weights: str, message: str) -> None:
    detector = run(LoadDetector, model="grounding-dino", accept_licence=False)
    with pytest.raises(ValueError, match=message):
        plan_of(detector, weights=weights)
    clipseg = run(LoadClipSeg, model="clipseg", accept_licence=False)
    with pytest.raises(ValueError, match=message.replace("words by", "clipseg")):
        run(ClipSegMasks, clipseg=clipseg, weights=weights, source=SOURCES[0], threshold=0.0)


def test_a_plan_without_anything_that_reads() -> None:
    with pytest.raises(ValueError, match="connect a detector, a SAM that reads text"):
        plan_of(None)


def test_clipseg_plans_soft_masks(here: list[Any]) -> None:
    clipseg = run(LoadClipSeg, model="clipseg", accept_licence=False)
    assert here == [("clipseg", ("clipseg",), False, "7")]
    plan = run(ClipSegMasks, clipseg=clipseg, weights="face 1.0\nhair 0.5", source=SOURCES[0], threshold=0.0)
    made = plan.make(PICTURE_HWC)
    face_HW, hair_HW = clipseg().masks(PICTURE_HWC, ["face", "hair"])
    assert made.weight_HW is not None
    assert torch.allclose(made.weight_HW, torch.maximum(face_HW, hair_HW / 2), atol=1e-6)
    captioned = run(ClipSegMasks, clipseg=clipseg, weights="face 1.0\nhair 0.5", source=SOURCES[1], threshold=0.0)
    assert list(captioned.make(PICTURE_HWC, "hair").found) == ["hair"]
    assert clipseg.patcher in [loaded.model for loaded in comfy.model_management.current_loaded_models]


def test_cancel_stops_before_the_next_picture() -> None:
    detector = run(LoadDetector, model="grounding-dino", accept_licence=False)
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(FindBoxes, detector=detector, image=torch.zeros(1, 8, 8, 3), words="face", **THRESHOLDS)


def test_the_wrong_folder_is_told_at_the_node() -> None:
    with pytest.raises(ValueError, match="holds clipseg, which is no detector"):
        run(LoadDetector, model="clipseg", accept_licence=False)
    with pytest.raises(ValueError, match="holds grounding-dino, not CLIPSeg"):
        run(LoadClipSeg, model="grounding-dino", accept_licence=False)


def test_dropdowns() -> None:
    assert grounded.SOURCES == SOURCES
    for node in (LoadDetector, LoadClipSeg):
        (model, *_) = node.define_schema().inputs
        assert model.options == ["a", "b"]
