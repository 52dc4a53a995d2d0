"""A real ComfyUI server for the tests, in folders of its own, and a small client that runs graphs on it."""
from __future__ import annotations

import io
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pack.tools.dev import report
from pack.tools.dev.comfyui import ComfyUI
from pack.tools.dev.environment import Environment
from pack.tools.dev.server import COLOUR, Server, running_server
from PIL import Image
from safetensors.torch import load as load_tensors
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds that any one prompt may take
SEGMENTERS = ("sapiens", "face_parsing", "sams", "sam2", "grounding-dino", "LLM", "clipseg")
MODELS = ("checkpoints", "diffusion_models", "text_encoders", "vae", *SEGMENTERS)
Json = dict[str, Any]
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph; node[0] is its first output, to be given as another node's input."""

    id: str

    def __getitem__(self, slot: int) -> list[Any]:
        return [self.id, slot]


@dataclass(slots=True)
class Graph:
    """A prompt in API form under construction."""

    prompt: dict[str, Json] = field(default_factory=dict)

    def add(self, kind: str, /, **inputs: Any) -> Node:
        node = Node(str(len(self.prompt) + 1))
        self.prompt[node.id] = {"class_type": kind, "inputs": inputs}
        return node

    def ids(self, kind: str) -> set[str]:
        return {number for number, node in self.prompt.items() if node["class_type"] == kind}


@dataclass(frozen=True, slots=True)
class Run:
    """A prompt that ended, well or not; `entry` is its value in GET /history."""

    entry: Json
    server: Server

    @property
    def failure(self) -> str:
        """Node and message as the page shows them; empty if all went well."""
        return report.failure(self.entry)

    def message(self, kind: str) -> Json | None:
        return next((details for name, details in self.entry["status"]["messages"] if name == kind), None)

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes that were not executed, because ComfyUI had their results."""
        return set((self.message("execution_cached") or {"nodes": []})["nodes"])

    def text(self, node: Node) -> str:
        (text,) = self.entry["outputs"][node.id]["text"]
        return str(text)

    def images(self, node: Node) -> list[Image.Image]:
        return [Image.open(io.BytesIO(self.server.view(file))) for file in self.entry["outputs"][node.id]["images"]]

    def latent(self, node: Node) -> Tensor:
        """What a SaveLatent node kept, (B, C, H, W), bit for bit."""
        (file,) = self.entry["outputs"][node.id]["latents"]
        return load_tensors(self.server.view(file))["latent_tensor"]


class Comfy:
    """A client of one running server."""

    def __init__(self, server: Server, pack_name: str) -> None:
        self.server, self.pack_name = server, pack_name
        self.log_at_start = self.log()
        self.object_info: Json = server.get_json("/object_info")

    @property
    def input(self) -> Path:
        return self.server.data / "input"

    @property
    def models(self) -> Path:
        return self.server.data / "models"

    @property
    def loras(self) -> Path:
        return self.server.output / "loras"

    def log(self) -> str:
        """All lines so far, with their levels: "[INFO] ..."."""
        return COLOUR.sub("", self.server.log.read_text(encoding="utf-8", errors="replace"))

    def post(self, path: str, body: Json) -> tuple[int, Json]:
        """Status and JSON of the answer, also where the status tells of a refusal."""
        request = urllib.request.Request(self.server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with _open(request, timeout=30) as response:
                status, content = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        return status, json.loads(content or b"{}")

    def submit(self, graph: Graph) -> str:
        status, answer = self.post("/prompt", {"prompt": graph.prompt})
        assert status == 200, json.dumps(answer)
        assert not answer["node_errors"], json.dumps(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, patience: float = PATIENCE) -> Run:
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if entry := self.server.get_json(f"/history/{prompt_id}").get(prompt_id):
                return Run(entry, self.server)
            time.sleep(0.1)
        raise AssertionError(f"the prompt did not end within {patience:.0f} s; the end of the log:\n{self.log()[-3000:]}")

    def run(self, graph: Graph) -> Run:
        """Run a graph that must go well."""
        run = self.wait(self.submit(graph))
        assert not run.failure, f"{run.failure}\n{self.log()[-3000:]}"
        return run

    def error(self, graph: Graph, kind: str) -> str:
        """The message of the node of class `kind`, at which running the graph must fail."""
        run = self.wait(self.submit(graph))
        details = run.message("execution_error")
        assert details is not None, f"ended with {run.entry['status']['status_str']}"
        assert details["node_type"] == kind, run.failure
        assert details["exception_type"] == "ValueError", run.failure
        return str(details["exception_message"])

    def refusal(self, graph: Graph, node: Node) -> str:
        """What the server says of one node as it refuses a graph before running anything."""
        status, answer = self.post("/prompt", {"prompt": graph.prompt})
        assert status == 400, json.dumps(answer)
        assert list(answer["node_errors"]) == [node.id], json.dumps(answer)
        (problem,) = answer["node_errors"][node.id]["errors"]
        return f"{problem['message']}: {problem['details']}"

    def wait_for_log(self, text: str, start: int, patience: float = 120) -> None:
        """Until `text` appears in the log behind its first `start` characters."""
        end = time.monotonic() + patience
        while text not in self.log()[start:]:
            assert time.monotonic() < end, f"{text!r} did not appear within {patience:.0f} s:\n{self.log()[-3000:]}"
            time.sleep(0.1)


COMPLAINT = re.compile(r"^\[(WARNING|ERROR|CRITICAL)\]|^Traceback|\w+(Warning|Error|Exception): ")


def complaints(log: str) -> list[str]:
    """The warnings and errors in a log."""
    return [line for line in log.splitlines() if COMPLAINT.search(line)]


@dataclass(slots=True)
class Training:
    """The nodes from demo model to trained LoRA, as the quickstart connects them, small enough for a test."""

    graph: Graph
    model: Node
    loaded: Node
    arranged: Node
    encoded: Node
    padding: Node
    trained: Node


def add_data_set(graph: Graph, vae: list[Any], *, folder: str = "demo", size: int = 128, **settings: Any) -> tuple[Node, Node]:
    """Load Training Folder, and Crop and Bucket behind it: squares of `size` pixels."""
    chosen = {"mask_source": "folder", "missing_mask": "error", "content": "pictures", "captions": "automatic", "repeats": 1,
              "weight": 1.0, "regularisation": False, "mask_folder": "masks", "channel": "luminance", "mask_size": "error",
              "caption_field": "caption", "recursive": True, "hidden_colours": "keep", "colour": "#808080", "seed": 0, **settings}
    loaded = graph.add("MaskedLoRA_LoadFolder", folder=folder, **chosen)
    arranged = graph.add("MaskedLoRA_Arrange", data_set=loaded[0], vae=vae, size=size, shape="square", crop="centre", small="enlarge",
                         flip=False, variants=0, rotation=0.0, zoom=0.0, shift=0.0, seed=0, step=16, longest=2.0)
    return loaded, arranged


def add_training(graph: Graph, *, folder: str = "demo", mask_source: str = "folder", steps: int = 3, name: str = "test",
                 learning_rate: float = 2e-3) -> Training:
    model = graph.add("MaskedLoRA_DemoModel")
    loaded, arranged = add_data_set(graph, model[2], folder=folder, mask_source=mask_source)
    padding = graph.add("MaskedLoRA_TextPadding", preset="comfyui-mask")
    encoded = graph.add("MaskedLoRA_EncodeTrainingSet", data_set=arranged[0], clip=model[1], vae=model[2], padding=padding[0], name="")
    trained = graph.add("MaskedLoRA_Train", model=model[0], training_set=encoded[0], steps=steps, batch_size=2, micro_batch=0,
                        learning_rate=learning_rate, rank=4, alpha=4.0, normalization="step", shift=1.0, gradient_checkpointing=False,
                        seed=0, name=name)
    return Training(graph, model, loaded, arranged, encoded, padding, trained)


def add_sampling(graph: Graph, model: list[Any], demo: Node, padding: list[Any], *, unused: str = "", text: str = "a pibo") -> Node:
    """Two pictures of 128 x 128 in two steps; returns the sampler.

    At cfg 1 the negative prompt `unused` changes nothing but the key under which ComfyUI caches the result.
    """
    positive = graph.add("MaskedLoRA_TextEncode", clip=demo[1], text=text, padding=padding)
    negative = graph.add("MaskedLoRA_TextEncode", clip=demo[1], text=unused, padding=padding)
    latent = graph.add("EmptySD3LatentImage", width=128, height=128, batch_size=2)
    return graph.add("KSampler", model=model, seed=5, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", positive=positive[0],
                     negative=negative[0], latent_image=latent[0], denoise=1.0)


def keep(graph: Graph, sampled: Node) -> Node:
    return graph.add("SaveLatent", samples=sampled[0], filename_prefix="latents/test")


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """One ComfyUI for the whole session. It gets this checkout from a custom_nodes folder of its own: others stay out of it.

    It has `tiny_nodes` too, and lists what lies in folders of `Comfy.models`.
    """
    data = tmp_path_factory.mktemp("comfyui")
    # A name that no other copy of the pack has, should the ComfyUI under test have one.
    pack_name = f"masked_lora_{zlib.crc32(str(data).encode()):08x}"
    (data / "custom_nodes").mkdir()
    packs = {pack_name: ROOT, f"{pack_name}_tiny": ROOT / "tests" / "host" / "tiny_nodes"}
    for name, folder in packs.items():
        os.symlink(folder, data / "custom_nodes" / name, target_is_directory=True)
    folders = {"custom_nodes": data / "custom_nodes", **{kind: data / "models" / kind for kind in MODELS}}
    for kind in MODELS:
        folders[kind].mkdir(parents=True)
    paths = data / "paths.yaml"
    paths.write_text(json.dumps({"tests": {kind: str(folder) for kind, folder in folders.items()}}), encoding="utf-8")  # JSON is YAML
    host = ComfyUI(Path(os.environ["COMFYUI_PATH"]).resolve(), ours=False)
    environment = Environment(Path(sys.executable), host, pack_name, cuda=False)
    extra = ("--extra-model-paths-config", str(paths), "--whitelist-custom-nodes", *packs)  # the last of two lists counts
    with running_server(environment, data=data, log=data / "server.log", extra=extra) as server:
        yield Comfy(server, pack_name)


def write_picture(file: Path, size: tuple[int, int] = (160, 128), seed: int = 0) -> None:
    """A picture of smooth random colours."""
    noise = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file)


def write_mask(file: Path, size: tuple[int, int] = (160, 128)) -> None:
    """White on the left, black on the right, grey between."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").rotate(90).resize(size).save(file)
