"""The shipped workflows as prompts, as small as a test needs them."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_cli.workflow_to_api import convert_ui_to_api
from pack.tests.segmentation import tiny_body, tiny_sams, tiny_words

from . import tiny_files
from .server import ROOT, Comfy, Graph, Node

WORKFLOWS = ROOT / "workflows"


def save_sam2(folder: Path) -> None:
    tiny_sams.save(folder, tiny_sams.sam2(), tiny_sams.sam2_processor())


TRAIN, SAVE = "MaskedLoRA_Train", "MaskedLoRA_SaveLora"
# Which files those that load models ask for, and who makes tiny ones. A text encoder in a file is never tiny: see `swap_text_encoder`.
FILES = {
    "sdxl_as_flow_matching": {"checkpoints/bigASP_v2.5.safetensors": tiny_files.save_sdxl},
    "video": {"diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": tiny_files.save_wan, "vae/wan_2.1_vae.safetensors":
              tiny_files.save_wan_vae, "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": lambda file: file.touch()},
    "body_part_masks": {"sapiens/sapiens2_0.4b_seg.safetensors": tiny_body.save_sapiens2_file},
    "masks_from_words": {"grounding-dino/grounding-dino-tiny": tiny_words.save_grounding, "sam2/sam2.1-hiera-tiny": save_sam2},
}
FEW = {TRAIN: {"steps": 3}, "KSampler": {"steps": 2}}
SMALL: dict[str, dict[str, dict[str, Any]]] = {
    "resume": {TRAIN: {"steps": 12, "name": "resume_small"}, "MaskedLoRA_Checkpoints": {"every": 2},
               "MaskedLoRA_Previews": {"every": 6, "width": 64, "height": 64, "steps": 1}, "MaskedLoRA_Validation": {"every": 6}},
    "warm_start": FEW | {TRAIN: {"steps": 4}},
    "sdxl_as_flow_matching": FEW | {TRAIN: {"steps": 2, "batch_size": 1}, "MaskedLoRA_Optimizer": {"warmup": 1},
                                    "MaskedLoRA_Arrange": {"size": 64}, "EmptyLatentImage": {"width": 64, "height": 64}},
    "video": FEW | {"MaskedLoRA_Arrange": {"size": 64}, "EmptyHunyuanLatentVideo": {"width": 64, "height": 64, "length": 5}},
    "body_part_masks": {},
    "masks_from_words": {"MaskedLoRA_WordMasks": {"threshold": 0.0, "text_threshold": 0.0}},  # random weights are sure of nothing
}


@dataclass(slots=True)
class Workflow(Graph):
    """A shipped workflow that a test may add to."""

    def only(self, kind: str, title: str = "") -> Node:
        """The one node of a class whose title has these words."""
        (number,) = [n for n in self.ids(kind) if title in self.prompt[n]["_meta"]["title"]]
        return Node(number)

    def inputs(self, node: Node) -> dict[str, Any]:
        inputs: dict[str, Any] = self.prompt[node.id]["inputs"]
        return inputs

    def add(self, kind: str, /, **inputs: Any) -> Node:
        node = Node(str(1 + max(map(int, self.prompt))))
        self.prompt[node.id] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        return node


def workflow(comfy: Comfy, name: str) -> Workflow:
    """workflows/<name>.json with the sizes and numbers of steps in SMALL, and the models that it names in tiny."""
    for file, write in FILES.get(name, {}).items():
        if not (comfy.models / file).exists():
            write(comfy.models / file)
    shipped = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    graph = Workflow(convert_ui_to_api(shipped, comfy.object_info))
    for kind, changes in SMALL[name].items():
        for number in graph.ids(kind):
            assert changes.keys() <= graph.prompt[number]["inputs"].keys()
            graph.prompt[number]["inputs"] |= changes
    swap_text_encoder(graph)
    return graph


def swap_text_encoder(graph: Workflow) -> None:
    """A tiny one in place of core's, which has hundreds of millions of weights whatever the file."""
    for loader, slot, kind in (("CheckpointLoaderSimple", 1, "sdxl"), ("CLIPLoader", 0, "wan")):
        for number in graph.ids(loader):
            tiny = graph.add("TinyTextEncoder", kind=kind)
            for node in graph.prompt.values():
                node["inputs"] |= {name: tiny[0] for name, value in node["inputs"].items() if value == [number, slot]}
