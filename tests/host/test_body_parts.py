"""Loader and nodes of body part models in the real ComfyUI, under its model management. White = learn."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import pytest
import torch
from pack.host.managed import Managed
from pack.host.mask_plan import MaskPlan
from pack.nodes.body_parts import BodyPartMasks, BodyParts, LoadBodyParser
from pack.segmentation.body_parser import BodyParser
from pack.segmentation.boxes import Box
from pack.segmentation.segmenter import to_bytes
from pack.tests.segmentation.tiny_body import SAPIENS1_FILE, paint, save_face_parsing, save_sapiens1, save_sapiens2
from PIL import Image
from skimage import data
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

WEIGHTS = {"face": 1.0, "hair": 0.314, "body": 0.502, "clothing": 0.502, "background": 0.0}
FACE, HAIR, TORSO, SHIRT = 2, 3, 21, 22  # ids of Sapiens 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_sapiens1(folder / SAPIENS1_FILE)
    save_sapiens2(folder / "sapiens2")
    save_face_parsing(folder / "face-parsing")
    return folder


@pytest.fixture
def load(models: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The loader node on a model of this folder, under inference mode as ComfyUI runs nodes."""
    monkeypatch.setattr("pack.host.model_files.find", lambda choice, families, accept_licence, node_id: models / choice)

    def loaded(choice: str) -> Managed[BodyParser]:
        with torch.inference_mode():
            node = LoadBodyParser.PREPARE_CLASS_CLONE({})
            [parser] = node.execute(choice, False).result
        assert isinstance(parser, Managed)
        return parser

    return loaded


def run(node: Any, **inputs: Any) -> Any:
    with torch.inference_mode():
        return node.PREPARE_CLASS_CLONE({}).execute(**WEIGHTS | inputs).result


def planned(**inputs: Any) -> MaskPlan:
    [plan] = run(BodyParts, **inputs)
    assert isinstance(plan, MaskPlan)
    return plan


def person(left: int) -> list[tuple[int, int, int, int, int]]:
    return [(number, left, 20 + 40 * row, left + 60, 60 + 40 * row) for row, number in enumerate((HAIR, FACE, SHIRT, TORSO))]


def image(*areas: tuple[int, int, int, int, int]) -> Tensor:
    """As ComfyUI has pictures: (1, 240, 320, 3) float32 0..1."""
    return paint(240, 320, *areas)[None].float() / 255


def levels(mask_HW: Tensor, x: int) -> list[int]:
    return [round(255 * mask_HW[y, x].item()) for y in (40, 80, 120, 160, 220)]


def loaded_sizes() -> list[int]:
    return [held.model.loaded_size() for held in comfy.model_management.current_loaded_models]


def test_torchscript_lives_under_the_hosts_model_management(load: Any) -> None:
    parser = load(SAPIENS1_FILE)
    assert loaded_sizes() == []
    picture = image(*person(40))
    [weight, face, *_, report] = run(BodyPartMasks, parser=parser, image=picture)
    size = sum(value.numel() * value.element_size() for value in parser.model.module.parameters())
    assert loaded_sizes() == [size]
    assert levels(weight[0], 70) == [80, 255, 128, 128, 0]
    assert weight.shape == face.shape == (1, 240, 320)
    assert report.startswith("picture 1: face 3.")
    comfy.model_management.unload_all_models()
    assert loaded_sizes() == []
    [again, *_] = run(BodyPartMasks, parser=parser, image=picture)
    assert torch.equal(again, weight)


@pytest.mark.parametrize("name", ["sapiens2", "face-parsing"])
def test_a_photograph_gets_the_shares_of_the_reference(load: Any, models: Path, name: str) -> None:
    photograph = np.ascontiguousarray(data.astronaut()[:, ::2])
    processor = AutoImageProcessor.from_pretrained(models / name)
    model = AutoModelForSemanticSegmentation.from_pretrained(models / name).eval()
    with torch.no_grad():
        outputs = model(**processor(images=Image.fromarray(photograph), return_tensors="pt"))
    [told] = processor.post_process_semantic_segmentation(outputs, target_sizes=[photograph.shape[:2]], return_segmentation_scores=True)
    probability_KHW = told["segmentation_scores"].softmax(0)
    parser = load(name)
    with torch.inference_mode():
        [shares] = parser().group_shares([to_bytes(torch.from_numpy(photograph).float() / 255)])
    for group, ids in parser.model.table.groups.items():
        torch.testing.assert_close(shares[group], probability_KHW[list(ids)].sum(0), atol=2e-5, rtol=0)


def test_a_plan_makes_the_weights_and_says_what_decides_them(load: Any) -> None:
    parser = load(SAPIENS1_FILE)
    plan = planned(parser=parser)
    assert loaded_sizes() == []  # planning computes nothing
    assert SAPIENS1_FILE.removesuffix(".pt2") in plan.to_json()
    assert plan.to_json() == planned(parser=parser).to_json() != planned(parser=parser, hair=0.5).to_json()
    made = plan.make(to_bytes(image(*person(40))[0]))
    assert made.weight_HW is not None
    assert levels(made.weight_HW, 70) == [80, 255, 128, 128, 0]
    nobody = plan.make(torch.zeros(64, 64, 3, dtype=torch.uint8))
    assert nobody.weight_HW is None
    assert nobody.missing == ("face", "hair", "body", "clothing")


def test_plans_tell_the_person_and_the_face(load: Any) -> None:
    """A plan of its own finds the person, another the oval; here the parser itself stands for both."""
    parser = load(SAPIENS1_FILE)
    picture = to_bytes(image(*person(40), *[area for area in person(200) if area[0] != HAIR])[0])
    only_hair = planned(parser=parser, face=0.0, body=0.0, clothing=0.0, hair=1.0)
    made = planned(parser=parser, face_oval=only_hair).make(picture)
    assert made.weight_HW is not None
    assert levels(made.weight_HW, 70) == [80, 128, 128, 128, 0]  # no face lies in the hair: all of it falls to the body
    assert made.missing == ("face",)
    made = planned(parser=parser, person=only_hair).make(picture)
    assert made.weight_HW is not None
    assert levels(made.weight_HW, 70) == [80, 0, 0, 0, 0]
    assert levels(made.weight_HW, 230) == [0] * 5
    other = planned(parser=parser, hair=0.0)
    texts = {planned(parser=parser, **inputs).to_json() for inputs in
             ({}, {"person": only_hair}, {"person": other}, {"face_oval": only_hair}, {"face_oval": other})}
    assert len(texts) == 5


class Detector:
    name = "a detector"

    def find(self, picture_HWC: Tensor, phrases: tuple[str, ...], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
        assert phrases == ("person",)
        return [Box(200, 20, 60, 160, "person", 0.9)]


class Ready:
    model = Detector()

    def __call__(self) -> Detector:
        return self.model


def test_a_detectors_people_are_parsed_by_themselves(load: Any) -> None:
    plan = planned(parser=load(SAPIENS1_FILE), detector=Ready())
    assert '"person": "a detector"' in plan.to_json()
    made = plan.make(to_bytes(image(*person(40), *person(200))[0]))
    assert made.weight_HW is not None
    assert levels(made.weight_HW, 230) == [80, 255, 128, 128, 0]
    assert levels(made.weight_HW, 70) == [0] * 5


def test_boxes_and_masks_of_other_nodes(load: Any) -> None:
    parser, picture = load(SAPIENS1_FILE), image(*person(40), *person(200)).expand(2, -1, -1, -1)
    boxes = [[{"x": 40, "y": 20, "width": 60, "height": 160}], [{"x": 200, "y": 20, "width": 60, "height": 160, "label": "person"}]]
    [weight, *_] = run(BodyPartMasks, parser=parser, image=picture, boxes=boxes)
    assert [levels(weight[frame], x) for frame, x in ((0, 70), (1, 230))] == [[80, 255, 128, 128, 0]] * 2
    assert [levels(weight[frame], x) for frame, x in ((1, 70), (0, 230))] == [[0] * 5] * 2
    she, oval = torch.zeros(1, 240, 320), torch.zeros(1, 240, 320)
    she[:, :, 180:] = 1
    oval[:, 60:80] = 1
    [weight, face, _, body, _, report] = run(BodyPartMasks, parser=parser, image=picture, person=she, face_oval=oval)
    assert levels(weight[0], 70) == [0] * 5
    assert (face[0, 70, 230] > 0.9, face[0, 90, 230] < 0.1, body[0, 90, 230] > 0.9) == (True, True, True)
    assert report.splitlines()[1].startswith("picture 2: face 1.")


def test_what_is_not_found_is_said(load: Any) -> None:
    parser = load(SAPIENS1_FILE)
    picture = torch.cat([image(*[area for area in person(40) if area[0] != FACE]), image()])
    [weight, face, *_, report] = run(BodyPartMasks, parser=parser, image=picture)
    first, second, _ = report.splitlines()
    assert first.endswith("; not found: face")
    assert second == "picture 2: nothing was found, the masks are black"
    assert face.max() == 0
    assert weight[1].max() == 0


def test_masks_that_do_not_fit_are_named(load: Any) -> None:
    parser = load(SAPIENS1_FILE)
    with pytest.raises(ValueError, match="the person mask is 64x64, the picture 320x240"):
        run(BodyPartMasks, parser=parser, image=image(), person=torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="there are 2 face oval masks for 1 pictures"):
        run(BodyPartMasks, parser=parser, image=image(), face_oval=torch.zeros(2, 240, 320))
    with pytest.raises(ValueError, match="boxes for 3 pictures, but 1"):
        run(BodyPartMasks, parser=parser, image=image(), boxes=[[], [], []])


def test_cancel_stops_between_pictures(load: Any) -> None:
    parser = load(SAPIENS1_FILE)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(BodyPartMasks, parser=parser, image=image(*person(40)))
