"""Training sets and settings in a real ComfyUI server: several folders in one run, the options of the loss, sets opened by name."""
from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pack.tools.dev import report
from safetensors.torch import load_file

from .defaults import new_graph
from .server import Comfy, Graph, Node, Run, add_training, complaints, write_picture

ENCODE = "MaskedLoRA_EncodeTrainingSet"


@dataclass(frozen=True)
class Saved:
    """A LoRA file that a graph saved."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @classmethod
    def of(cls, comfy: Comfy, run: Run, node: Node) -> Saved:
        file = comfy.server.output / json.loads(run.text(node))["file"]
        return cls(load_file(file), report.lora_metadata(file))

    def json(self, key: str) -> dict[str, Any]:
        return dict(json.loads(self.metadata[f"masked_lora.{key}"]))

    def equals(self, other: Saved) -> bool:
        return self.tensors.keys() == other.tensors.keys() and all(
            torch.equal(value, other.tensors[key]) for key, value in self.tensors.items())


def add_saved(graph: Graph, trained: Node, name: str) -> Node:
    return graph.add(report.SAVE, lora=trained[0], filename=name)


def train_again(graph: Graph, trained: Node, **changes: Any) -> Node:
    """Another Train node with the inputs of `trained` but for the changes."""
    return graph.add(report.TRAIN, **graph.prompt[trained.id]["inputs"] | changes)


@pytest.fixture(scope="module")
def class_pictures(comfy: Comfy) -> str:
    """A folder of two pictures without masks or captions."""
    for seed, name in enumerate(("first", "second")):
        write_picture(comfy.input / "class pictures" / f"{name}.png", seed=40 + seed)
    return "class pictures"


@pytest.mark.parametrize(("regularisation", "batch_size", "drawn"), [(True, 24, 12), (False, 18, 6)])
def test_folders_are_combined_with_repeats_and_weights(comfy: Comfy, class_pictures: str, regularisation: bool, batch_size: int,
                                                       drawn: int) -> None:
    """12 pictures with masks, and 2 without that come 3 times each, in one step of an epoch.

    Regularisation pictures are drawn in turn with the others, so there are 12 of them in 24; else they come 6 times in 18.
    """
    graph = new_graph(comfy)
    name = f"combined_{regularisation}"
    training = add_training(graph, steps=1, name=name)
    trained = {}
    for weight in (0.5, 2.0):
        more = graph.add("MaskedLoRA_LoadFolder", folder=class_pictures, mask_source="none", repeats=3, weight=weight,
                         regularisation=regularisation)
        both = graph.add("MaskedLoRA_CombineDataSets", **{"data_sets.data_set0": training.loaded[0], "data_sets.data_set1": more[0]})
        arranged = graph.add("MaskedLoRA_Arrange", **graph.prompt[training.arranged.id]["inputs"] | {"data_set": both[0]})
        encoded = graph.add(ENCODE, **graph.prompt[training.encoded.id]["inputs"] | {"data_set": arranged[0]})
        trained[weight] = train_again(graph, training.trained, training_set=encoded[0], batch_size=batch_size)
    saved = {weight: add_saved(graph, node, name) for weight, node in trained.items()}
    del graph.prompt[training.trained.id]
    start = len(comfy.log())
    run = comfy.run(graph)
    log = comfy.log()[start:]

    told = run.text(both)
    for words in ("14 items of 2 data sets", "12 pictures, 12 with a mask", "no masks by choice", "repeats of the whole folder: 3x",
                  "loss weight: 2", "without a caption, trained on empty text: 2"):
        assert words in told
    assert ("regularisation pictures" in told) == regularisation
    assert "pictures: 14, 12 with a mask and 2 without" in log
    assert ("; 2 for regularisation" in log) == regularisation

    light, heavy = (Saved.of(comfy, run, saved[weight]) for weight in (0.5, 2.0))
    mask = light.json("mask")
    assert (mask["with_mask"], mask["without_mask"]) == (12, 2)
    assert light.metadata["ss_num_train_images"] == "14"
    assert light.json("data") == {"regularisation": 2 * regularisation, "repeats": {"1": 12, "3": 2}, "weights": {"0.5": 2, "1": 12}}
    demo_weight = 14 * mask["mean_coverage"] - 2  # of all 12 together
    assert 0.5 < demo_weight < 6
    expected = (demo_weight + drawn) / batch_size
    assert json.loads(run.text(trained[0.5]))["mean_weight"] == pytest.approx(expected, abs=1e-5)
    assert not light.equals(heavy), "the weight of the second folder changes nothing"


def test_prior_loss_options_and_noise_levels_reach_training_and_file(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    training = add_training(graph, steps=2, name="options")
    settings = {
        "prior": graph.add("MaskedLoRA_Prior", weight=0.75, every=2),
        "loss_options": graph.add("MaskedLoRA_LossOptions", error="huber", weighting="min-snr", mask_probability=0.9, damping=0.5),
        "noise_levels": graph.add("MaskedLoRA_Noise", distribution="uniform", shift=3.0, maximum=0.9),
    }
    nodes = {name: add_saved(graph, train_again(graph, training.trained, **{name: node[0]}), "options") for name, node in settings.items()}
    plain = add_saved(graph, training.trained, "options")
    start = len(comfy.log())
    run = comfy.run(graph)
    log = comfy.log()[start:]
    assert not complaints(log)
    assert log.count("0.75 times the change outside the masks") == 1
    assert "uniform" in log

    base, saved = Saved.of(comfy, run, plain), {name: Saved.of(comfy, run, node) for name, node in nodes.items()}
    for name, lora in saved.items():
        assert all(value.isfinite().all() for value in lora.tensors.values())
        assert not lora.equals(base), f"{name} changes nothing"
    assert base.json("mask")["prior"] == {}
    assert saved["prior"].json("mask")["prior"] == {"weight": 0.75, "every": 2}
    assert saved["loss_options"].json("mask")["probability"] == 0.9
    assert saved["loss_options"].json("objective")["loss"] == {"error": "huber", "weighting": "min-snr", "damping": 0.5}
    noise = saved["noise_levels"].json("objective")["noise_levels"]
    assert (noise["distribution"], noise["shift"], noise["maximum"]) == ("uniform", 3.0, 0.9)
    assert base.json("objective")["noise_levels"]["distribution"] == "logit-normal"


@pytest.fixture(scope="module")
def opened(comfy: Comfy) -> tuple[Run, Graph, Saved]:
    """A set encoded under a name and trained on."""
    graph = new_graph(comfy)
    training = add_training(graph, steps=2, name="opened")
    graph.prompt[training.encoded.id]["inputs"]["name"] = "pibo set 1.0"
    node = add_saved(graph, training.trained, "opened")
    run = comfy.run(graph)
    return run, graph, Saved.of(comfy, run, node)


def test_saved_training_set_opens_and_trains_to_the_same_lora(comfy: Comfy, opened: tuple[Run, Graph, Saved]) -> None:
    """Without the pictures, the VAE and the text encoders."""
    encoding, before, expected = opened
    listed = comfy.server.get_json("/object_info/MaskedLoRA_OpenTrainingSet")["MaskedLoRA_OpenTrainingSet"]["input"]["required"]["name"]
    assert "pibo set 1.0" in listed[1]["options"]
    graph = new_graph(comfy)
    model = graph.add("MaskedLoRA_DemoModel")
    training_set = graph.add("MaskedLoRA_OpenTrainingSet", name="pibo set 1.0")
    (train,), (encode,) = before.ids(report.TRAIN), before.ids(ENCODE)
    trained = graph.add(report.TRAIN, **before.prompt[train]["inputs"] | {"model": model[0], "training_set": training_set[0]})
    saved = add_saved(graph, trained, "opened")
    run = comfy.run(graph)
    assert trained.id not in run.cached
    assert run.text(training_set) == encoding.text(Node(encode))
    lora = Saved.of(comfy, run, saved)
    assert lora.equals(expected)
    assert lora.metadata | {"modelspec.date": ""} == expected.metadata | {"modelspec.date": ""}


def test_training_set_that_is_not_there_is_refused(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    node = graph.add("MaskedLoRA_OpenTrainingSet", name="../quickstart")
    assert "'../quickstart' not in" in comfy.refusal(graph, node)


def test_cache_is_listed_and_then_cleaned(comfy: Comfy, opened: tuple[Run, Graph, Saved]) -> None:
    cache = comfy.server.data / "user" / "masked_lora" / "cache"
    needed = next((cache / "latents").rglob("*.safetensors"))
    unused = cache / "latents" / "ff" / f"{'f' * 64}.safetensors"
    unused.parent.mkdir(exist_ok=True)
    unused.write_bytes(needed.read_bytes())
    os.utime(unused, (0, 0))
    before = set(cache.rglob("*.safetensors"))
    sets = len(list((cache / "sets").glob("*.json")))

    graph = new_graph(comfy)
    node = graph.add("MaskedLoRA_CleanCache", action="list", unused_hours=24.0)
    told = comfy.run(graph).text(node)
    in_use = re.search(r"in use by (\d+) saved training sets?: (\d+) files", told)
    assert in_use is not None
    assert int(in_use[1]) == sets
    assert int(in_use[2]) >= 12 * 3, "latents, masks and captions of the named set"
    assert "unused: 1 file," in told
    assert set(cache.rglob("*.safetensors")) == before

    graph.prompt[node.id]["inputs"]["action"] = "prune"
    assert "removed: 1 file" in comfy.run(graph).text(node)
    assert set(cache.rglob("*.safetensors")) == before - {unused}
    again = comfy.run(graph)
    assert node.id not in again.cached, "the disk changes, so the node looks again"
    assert "removed: 0 files" in again.text(node)
