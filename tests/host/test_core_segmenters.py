"""Plans by ComfyUI's own face landmarks and background removal, through the real nodes, and by a stand-in for InsightFace.

The picture is scikit-image's astronaut (NASA, public domain).
"""
from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import numpy as np
import pytest
import torch
from comfy.bg_removal_model import BackgroundRemovalModel
from comfy_extras.mediapipe.face_landmarker import _decode_blazeface
from comfy_extras.nodes_mediapipe import LoadMediaPipeFaceLandmarker, MediaPipeFaceLandmarker, MediaPipeFaceMask
from pack.host.core_segmenters import CoreFaces, CoreSubject
from pack.host.folders import PACK_ROOT
from pack.host.mask_plan import MaskPlan
from pack.nodes.core_masks import CoreFaceMasks, CoreSubjectMasks, InsightFaceMasks
from pack.nodes.quick import QuickMasks
from pack.segmentation import quick_faces
from pack.segmentation.square import Square
from pack.segmentation.tflite import read_network
from PIL import Image
from torch import Tensor, nn

from .test_photographs import wheel_data
from .tiny_faces import RINGS, ellipse, save_face_landmarker

BOX = (178.7, 82.3, 271.2, 174.8)  # of the face, measured elsewhere


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    return torch.from_numpy(np.array(Image.open(wheel_data() / "astronaut.png").convert("RGB")))


@pytest.fixture
def landmarker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What core's loader makes of the file."""
    save_face_landmarker(tmp_path / "tiny_faces.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([str(tmp_path)], {".safetensors"}))
    with torch.inference_mode():
        return LoadMediaPipeFaceLandmarker.execute("tiny_faces.safetensors").result[0]


class Bright(nn.Module):
    """Stands for BiRefNet: what is bright is the subject."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(20.0))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return (pixel_values.mean(1, keepdim=True) - 0.5) * self.weight


@pytest.fixture
def remover() -> BackgroundRemovalModel:
    """Core's own object around a small network: the real one has 220 million weights and takes half a minute."""
    model = BackgroundRemovalModel.__new__(BackgroundRemovalModel)
    model.image_size, model.image_mean, model.image_std = 64, [0.0] * 3, [1.0] * 3
    model.model, model.load_device = Bright().eval(), torch.device("cpu")
    model.patcher = comfy.model_patcher.CoreModelPatcher(model.model, load_device=model.load_device, offload_device=model.load_device)
    return model


def iou(first: Tensor, second: Tensor) -> float:
    a, b = first >= 0.5, second >= 0.5
    return float((a & b).sum() / (a | b).sum())


def plan_of(node: type, *values: Any, **options: Any) -> MaskPlan:
    """As ComfyUI's executor runs a node."""
    with torch.inference_mode():
        plan = node.execute(*values, **options).result[0]
    assert isinstance(plan, MaskPlan)
    return plan


def test_core_and_quick_faces_read_the_same_network_alike(landmarker: Any, astronaut: Tensor) -> None:
    """Core has the detector in PyTorch, with anchors and decoding of its own."""
    detector = read_network(PACK_ROOT / "assets" / "quick_masks" / "face_detection_short_range.tflite")
    for picture in (astronaut, astronaut[:300], astronaut[:, 100:350], astronaut[20:250, 90:400]):
        pixels = np.ascontiguousarray(picture.numpy())
        height, width = pixels.shape[:2]
        side = max(height, width)
        view = Square(width / 2, height / 2, side)
        input_HWC = view.cut(pixels, 128, beyond="black") / 127.5 - 1
        with torch.inference_mode():
            numbers, scores = landmarker.models["short"].detector(torch.from_numpy(input_HWC).permute(2, 0, 1)[None])
        theirs = _decode_blazeface(numbers[0].numpy(), scores[0].numpy())
        theirs = theirs[np.argsort(-theirs[:, 16])]
        ours = quick_faces.boxes_in(detector, pixels, view)
        assert len(ours) == len(theirs) > 0
        start = np.array([width - side, height - side]) / 2
        for box, row in zip(ours, theirs, strict=True):
            assert box.score == pytest.approx(float(row[16]), abs=1e-4)
            assert np.array(box.corners).reshape(2, 2) == pytest.approx(row[:4].reshape(2, 2) * side + start, abs=0.02)
            assert box.keys == pytest.approx(row[4:16].reshape(6, 2) * side + start, abs=0.02)


def middle(ring: str) -> tuple[int, int]:
    """x and y of the middle of a ring in the astronaut's face."""
    rows, columns = torch.nonzero(ellipse(ring, BOX, (512, 512)), as_tuple=True)
    return int(columns.float().mean()), int(rows.float().mean())


def test_face_eyes_and_lips_lie_where_the_face_is(landmarker: Any, astronaut: Tensor) -> None:
    found = CoreFaces(landmarker, "short").segment(astronaut)
    assert found.keys() == {"face", "eyes", "lips"}
    assert all(mask.shape == (512, 512) and mask.dtype == torch.float32 and not mask.is_inference() for mask in found.values())
    assert sum(found.values()).max() <= 1 + 1e-6
    whole, lips = ellipse("face_oval", BOX, (512, 512)), ellipse("lips", BOX, (512, 512))
    assert iou(sum(found.values()), whole) > 0.9
    assert iou(found["lips"], lips) > 0.6
    assert (found["eyes"] + found["lips"])[whole < 0.5].sum() < 10


def test_the_regions_are_those_that_cores_node_draws(landmarker: Any, astronaut: Tensor) -> None:
    found = CoreFaces(landmarker, "short").segment(astronaut)
    parts = {"face_oval": sum(found.values()), "lips": found["lips"],
             "left_eye": found["eyes"][:, :225], "right_eye": found["eyes"][:, 225:]}
    with torch.inference_mode():
        landmarks, _ = MediaPipeFaceLandmarker.execute(landmarker, astronaut[None] / 255, "short", 0, 0.5, "empty").result
        for name, ours in parts.items():
            drawn = MediaPipeFaceMask.execute(landmarks, {"regions": "custom", **dict.fromkeys(RINGS, False), name: True}).result[0][0]
            theirs = {"left_eye": drawn[:, :225], "right_eye": drawn[:, 225:]}.get(name, drawn)
            assert iou(ours, theirs) > {"face_oval": 0.97, "lips": 0.85}.get(name, 0.75), name
            assert theirs.sum() > 50


def test_two_faces_are_one_region(landmarker: Any, astronaut: Tensor) -> None:
    one = astronaut[:400, 100:350]
    pair = CoreFaces(landmarker, "short").segment(torch.cat([one, one], 1))
    for side in (pair["face"][:, :250], pair["face"][:, 250:]):
        assert iou(side, CoreFaces(landmarker, "short").segment(one)["face"]) > 0.8


def test_a_cup_has_no_face(landmarker: Any) -> None:
    coffee = torch.from_numpy(np.array(Image.open(wheel_data() / "coffee.png").convert("RGB")))
    assert CoreFaces(landmarker, "both", 0.6).segment(coffee) == {}


def test_the_face_node_plans_the_weights(landmarker: Any, astronaut: Tensor) -> None:
    plan = plan_of(CoreFaceMasks, landmarker, 0.75, 0.0, 1.0, 0.25, "both", 0.5)
    made = plan.make(astronaut)
    assert made.weight_HW is not None
    for ring, weight in (("face_oval", 0.75), ("lips", 1.0), ("left_eye", 0.0)):
        x, y = middle(ring)
        assert made.weight_HW[y - 14 if ring == "face_oval" else y, x] == pytest.approx(weight, abs=0.06), ring
    assert made.weight_HW[400, 200] == 0.25


def test_the_subject_is_what_the_model_says(remover: BackgroundRemovalModel) -> None:
    picture = torch.zeros(80, 120, 3, dtype=torch.uint8)
    picture[20:60, 30:90] = 255
    found = CoreSubject(remover).segment(picture)["subject"]
    assert not found.is_inference()
    assert iou(found, (picture[..., 0] > 0).float()) > 0.9
    assert CoreSubject(remover).segment(torch.zeros_like(picture)) == {}


def test_the_subject_node_joins_a_plan(remover: BackgroundRemovalModel, astronaut: Tensor) -> None:
    """Half a weight for the subject, the face of the next plan whole: what its help page recommends."""
    first = plan_of(CoreSubjectMasks, remover, 0.5, 0.0)
    plan = plan_of(QuickMasks, 1.0, 0.0, 0.0, plan=first, how="max")
    made = plan.make(astronaut)
    assert made.weight_HW is not None
    assert made.weight_HW[120, 225] == pytest.approx(1, abs=0.01)
    assert made.weight_HW.max() <= 1
    assert [part.how for part in plan.parts] == ["max", "max"]
    assert ((made.weight_HW > 0.45) & (made.weight_HW < 0.55)).float().mean() > 0.2


def test_another_model_or_setting_makes_masks_anew(landmarker: Any, remover: BackgroundRemovalModel) -> None:
    plans = [CoreFaces(landmarker).describe(), CoreFaces(landmarker, "full").describe(), CoreFaces(landmarker, "both", 0.4).describe()]
    with torch.inference_mode():
        landmarker.models["short"].mesh.stem.bias.add_(1)
    plans.append(CoreFaces(landmarker).describe())
    before = CoreSubject(remover).describe()
    with torch.no_grad():
        remover.model.weight.add_(1)
    plans += [before, CoreSubject(remover).describe()]
    assert all(plan not in plans[:number] for number, plan in enumerate(plans))


def test_cancel_stops_between_pictures(landmarker: Any, remover: BackgroundRemovalModel, astronaut: Tensor) -> None:
    for segmenter in (CoreFaces(landmarker), CoreSubject(remover)):
        comfy.model_management.interrupt_current_processing()
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            segmenter.segment(astronaut)


@pytest.fixture
def insightface_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for models/insightface, registered as other packs do."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "insightface", ([str(tmp_path / "faces")], {".onnx"}))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "none"))
    return tmp_path / "faces" / "models"


class FakeAnalysis:
    """Stands for insightface.app.FaceAnalysis; finds a face wherever there is blue."""

    def __init__(self, name: str, root: str, allowed_modules: list[str]) -> None:
        assert (Path(root) / "models" / name).is_dir(), "it would download"
        assert allowed_modules == ["detection"]

    def prepare(self, ctx_id: int, det_size: tuple[int, int]) -> None:
        self.size = det_size

    def get(self, picture: np.ndarray) -> list[Any]:
        assert self.size == (640, 640)
        rows, columns = np.nonzero(picture[..., 0] > 100)  # blue comes first
        return [types.SimpleNamespace(bbox=np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]))] if len(rows) else []


def test_insightface_models_must_be_there(insightface_models: Path) -> None:
    (insightface_models / "buffalo_l").mkdir(parents=True)
    (insightface_models / "buffalo_s").mkdir()
    (insightface_models / "buffalo_s" / "det.onnx").touch()
    with pytest.raises(ValueError, match=r"'buffalo_l' are not there; unpack buffalo_l\.zip.*non-commercial research only") as caught:
        plan_of(InsightFaceMasks, "buffalo_l", 1.0, 0.0)
    assert str(insightface_models / "buffalo_l") in str(caught.value)


def test_a_missing_insightface_says_what_to_install(insightface_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (insightface_models / "buffalo_l").mkdir(parents=True)
    (insightface_models / "buffalo_l" / "det_10g.onnx").touch()
    monkeypatch.setitem(sys.modules, "insightface", None)
    with pytest.raises(ValueError, match=r"pip install insightface onnxruntime\. InsightFace's models are for non-comm"):
        plan_of(InsightFaceMasks, "buffalo_l", 1.0, 0.0)


def test_insightface_boxes_become_ellipses(insightface_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (insightface_models / "buffalo_s").mkdir(parents=True)
    (insightface_models / "buffalo_s" / "det.onnx").touch()
    app = types.ModuleType("insightface.app")
    app.FaceAnalysis = FakeAnalysis  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "insightface", types.ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", app)
    plan = plan_of(InsightFaceMasks, "buffalo_s", 1.0, 0.0)
    picture = torch.zeros(100, 90, 3, dtype=torch.uint8)
    picture[20:80, 30:70, 2] = 200
    made = plan.make(picture)
    assert made.weight_HW is not None
    assert made.weight_HW.sum() == pytest.approx(torch.pi * 30 * 20, rel=0.02)
    assert made.weight_HW[50, 50] == 1
    assert made.weight_HW[22, 32] == 0
    assert plan.make(torch.zeros_like(picture)).weight_HW is None
    assert plan.parts[0].segmenter.describe() == {"segmenter": "insightface", "pack": "buffalo_s"}
