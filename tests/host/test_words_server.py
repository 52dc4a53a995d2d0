"""Masks of words in a real ComfyUI: models found in models/, boxes for core's nodes, plans run on pictures. White = learn."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.segmentation.clipseg import load_clipseg
from pack.segmentation.detector import load_detector
from pack.segmentation.grounded import box_mask
from pack.tests.segmentation.tiny_words import noise, save_clipseg, save_florence, save_florence_as_microsoft, save_grounding
from PIL import Image
from torch import Tensor

from .defaults import new_graph
from .server import Comfy, Graph, Node

PICTURE_HWC = noise(48, 72)
MODELS = ("grounding-dino/tiny", "LLM/Florence-2-tiny")


@pytest.fixture(scope="module")
def models(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_grounding(comfy.models / "grounding-dino" / "tiny")
    save_florence_as_microsoft(comfy.models / "LLM" / "Florence-2-tiny", save_florence(tmp_path_factory.mktemp("native") / "florence"))
    save_clipseg(comfy.models / "clipseg" / "tiny")
    Image.fromarray(PICTURE_HWC.numpy()).save(comfy.input / "words.png")
    return comfy.models


def detector(graph: Graph, model: str = MODELS[0]) -> Node:
    return graph.add("MaskedLoRA_LoadDetector", model=model)


def weights(comfy: Comfy, graph: Graph, plan: Node, caption: str = "") -> Tensor:
    """The mask (H, W) that the plan makes, as core's nodes save it."""
    image = graph.add("LoadImage", image="words.png")
    made = graph.add("MaskedLoRA_MakeMasks", plan=plan[0], image=image[0], caption=caption)
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=made[0])[0], filename_prefix="words")
    return torch.from_numpy(np.array(comfy.run(graph).images(saved)[0].convert("L"))).float() / 255


@pytest.mark.parametrize("model", MODELS)
def test_boxes_reach_other_nodes(comfy: Comfy, models: Path, model: str) -> None:
    graph = new_graph(comfy)
    found = graph.add("MaskedLoRA_FindBoxes", detector=detector(graph, model)[0], image=graph.add("LoadImage", image="words.png")[0],
                      words="person\nhair", threshold=0.0, text_threshold=0.0, most=100)
    shown = graph.add("PreviewAny", source=found[0])
    drawn = graph.add("DrawBBoxes", bboxes=found[0], image=graph.add("LoadImage", image="words.png")[0])
    graph.add("PreviewImage", images=drawn[0])
    [boxes] = json.loads(comfy.run(graph).text(shown))
    expected = load_detector(models / model, torch.float32, lambda file: {}).find(PICTURE_HWC, ["person", "hair"], 0.0, 0.0)
    assert boxes == [pytest.approx(box.to_dict(), abs=0.01) for box in expected]
    assert boxes or model != MODELS[0]


def test_a_plan_of_words_runs(comfy: Comfy, models: Path) -> None:
    graph = new_graph(comfy)
    plan = graph.add("MaskedLoRA_WordMasks", detector=detector(graph)[0], weights="person 0.4\nhair 0.8\nface 1.0",
                     source="words in the caption", threshold=0.0, text_threshold=0.0, most=2)
    boxes = load_detector(models / MODELS[0], torch.float32, lambda file: {}).find(PICTURE_HWC, ["person", "hair"], 0.0, 0.0)
    expected = torch.zeros(48, 72)
    for word, weight in (("person", 0.4), ("hair", 0.8)):
        expected = torch.maximum(expected, weight * box_mask([box for box in boxes if box.label == word][:2], (48, 72)))
    found = weights(comfy, graph, plan, "two persons with long hair")
    assert expected.max() > 0
    assert (found - expected).abs().max() < 1 / 255


def test_clipseg_joins_a_plan(comfy: Comfy, models: Path) -> None:
    graph = new_graph(comfy)
    first = graph.add("MaskedLoRA_ClipSegMasks", clipseg=graph.add("MaskedLoRA_LoadClipSeg", model="clipseg/tiny")[0], weights="face 1.0",
                      threshold=0.0)
    plan = graph.add("MaskedLoRA_WordMasks", detector=detector(graph)[0], weights="hair 1.0\nbackground 0.5", threshold=0.0,
                     text_threshold=0.0, plan=first[0], how="multiply")
    [face_HW] = load_clipseg(models / "clipseg" / "tiny", torch.float32).masks(PICTURE_HWC, ["face"])
    boxes = load_detector(models / MODELS[0], torch.float32, lambda file: {}).find(PICTURE_HWC, ["hair"], 0.0, 0.0)[:10]
    expected = face_HW * box_mask(boxes, (48, 72)).clamp(min=0.5)
    assert (weights(comfy, graph, plan) - expected).abs().max() < 1.01 / 255


def test_nothing_found_is_said(comfy: Comfy, models: Path) -> None:
    graph = new_graph(comfy)
    plan = graph.add("MaskedLoRA_WordMasks", detector=detector(graph)[0], weights="face 1.0", source="words in the caption")
    made = graph.add("MaskedLoRA_MakeMasks", plan=plan[0], image=graph.add("LoadImage", image="words.png")[0], caption="a castle")
    graph.add("PreviewImage", images=graph.add("MaskToImage", mask=made[0])[0])
    assert "found" in comfy.error(graph, "MaskedLoRA_MakeMasks")


def test_a_broken_folder_is_named(comfy: Comfy, models: Path) -> None:
    save_grounding(models / "grounding-dino" / "broken")
    file = models / "grounding-dino" / "broken" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    graph = new_graph(comfy)
    graph.add("PreviewAny", source=detector(graph, "grounding-dino/broken")[0])
    message = comfy.error(graph, "MaskedLoRA_LoadDetector")
    assert str(models / "grounding-dino" / "broken") in message
    assert "download it again" in message
