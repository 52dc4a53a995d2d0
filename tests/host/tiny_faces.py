"""A file of face landmarks as ComfyUI's own loader reads it: the real detector for near faces, and a mesh that always says the same."""
from __future__ import annotations

import math
from pathlib import Path

import cv2
import torch
from comfy_extras.mediapipe.face_landmarker import FaceLandmarker
from pack.host.folders import PACK_ROOT
from pack.segmentation.tflite import read_network
from safetensors.torch import save_file
from torch import Tensor

MESH_SIZE = 192
# Rings of landmarks: the first, how many, and the ellipse (x, y, half width, half height) that they lie on, in the mesh's pixels.
RINGS = {
    "face_oval": (0, 36, (96, 90, 60, 70)),
    "left_eye": (40, 16, (74, 75, 12, 6)),
    "right_eye": (60, 16, (118, 75, 12, 6)),
    "lips": (100, 20, (96, 125, 20, 9)),
    "irises": (120, 8, (96, 75, 2, 2)),
    "nose": (130, 10, (96, 100, 6, 10)),
    "left_eyebrow": (80, 10, (74, 65, 12, 3)),
    "right_eyebrow": (90, 10, (118, 65, 12, 3)),
    "tesselation": (0, 36, (96, 90, 60, 70)),
}


def real_detector() -> dict[str, Tensor]:
    """The weights of BlazeFace for near faces, which come with this pack, under the names that core gives them."""
    network = read_network(PACK_ROOT / "assets" / "quick_masks" / "face_detection_short_range.tflite")
    layers = [network.getLayer(name) for name in network.getLayerNames()]
    blobs = [torch.from_numpy(blob).clone() for layer in layers if layer.type == "Convolution" for blob in layer.blobs]
    blocks = [f"blocks.{number}.{kind}" for number in range(16) for kind in ("depthwise", "pointwise")]
    names = [f"{name}.{what}" for name in ("stem", *blocks, "cls_16", "cls_8", "reg_16", "reg_8") for what in ("weight", "bias")]
    return dict(zip(names, blobs, strict=True))


def save_face_landmarker(file: Path) -> None:
    torch.manual_seed(0)
    short, full = (FaceLandmarker(detector_variant=variant, operations=None) for variant in ("short", "full"))
    shapes = {name: value.shape for name, value in short.detector.state_dict().items()}
    short.detector.load_state_dict({name: value.reshape(shapes[name]) for name, value in real_detector().items()})
    torch.nn.init.constant_(full.detector.cls_dw.bias, -100)  # it never finds anything
    points = torch.full((478, 3), 96.0)
    for first, count, (x, y, half_width, half_height) in RINGS.values():
        for step in range(count):
            angle = 2 * math.pi * step / count
            points[first + step, :2] = torch.tensor([x + half_width * math.cos(angle), y + half_height * math.sin(angle)])
    torch.nn.init.zeros_(short.mesh.head_landmarks.weight)
    short.mesh.head_landmarks.bias.data = points.reshape(-1)
    weights = {name: value for name, value in short.state_dict().items() if not name.startswith("detector.")}
    for variant, network in (("short", short), ("full", full)):
        weights |= {f"detector_{variant}.{name}": value for name, value in network.detector.state_dict().items()}
    for name, (first, count, _) in RINGS.items():
        ring = [[first + step, first + (step + 1) % count] for step in range(count)]
        weights[f"topology.{name}"] = torch.tensor(ring, dtype=torch.int32)
    weights |= {"canonical_vertices": torch.randn(468, 3), "procrustes_indices": torch.arange(0, 468, 14, dtype=torch.int32),
                "procrustes_weights": torch.ones(34)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().contiguous() for name, value in weights.items()}, file)


def ellipse(name: str, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Where a ring of the mesh lies in a picture of `size` (height, width) with an upright face in `box` (left, top, right, bottom)."""
    left, top, right, bottom = box
    x, y, half_width, half_height = RINGS[name][2]
    scale = 1.5 * (right - left) / MESH_SIZE
    centre = ((left + right) / 2 + (x - 96) * scale, (top + bottom) / 2 + (y - 96) * scale)
    drawn = torch.zeros(size, dtype=torch.uint8).numpy()
    halves = (half_width * scale, half_height * scale)
    cv2.ellipse(drawn, *([round(value) for value in pair] for pair in (centre, halves)), 0, 0, 360, 1, cv2.FILLED)
    return torch.from_numpy(drawn).float()
