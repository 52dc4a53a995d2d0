"""The shipped workflows about training runs, whole, in a real ComfyUI: with the demo model, or with tiny SDXL and WAN files."""
from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import av
import numpy as np
import pytest
import torch
from pack.host.lora_format import load_lora
from PIL import Image

from .server import Comfy, Node, Run
from .test_server_training import Saved
from .workflow import SAVE, TRAIN, Workflow, workflow


def report(run: Run, node: Node) -> dict[str, Any]:
    return dict(json.loads(run.text(node)))


def file_of(run: Run, node: Node) -> str:
    """What Save LoRA has written, as a loader lists it."""
    return str(report(run, node)["file"]).removeprefix("loras/")


def losses(run: Run, node: Node) -> dict[str, float]:
    found = {k: v for k, v in report(run, node).items() if k.startswith("loss_")}
    assert len(found) == 4
    assert all(math.isfinite(value) for value in found.values())
    return found


def test_a_run_that_is_cancelled_goes_on_when_run_is_pressed_again(comfy: Comfy) -> None:
    graph = workflow(comfy, "resume")
    train, save = graph.only(TRAIN), graph.only(SAVE)
    start = len(comfy.log())
    prompt = comfy.submit(graph)
    comfy.wait_for_log("the run is saved at step 4 ", start)
    assert comfy.post("/interrupt", {})[0] == 200
    assert comfy.wait(prompt).message("execution_interrupted")
    *_, stopped = [int(line.partition("the run is saved at step ")[2].split()[0])
                   for line in comfy.log()[start:].splitlines() if "the run is saved at step " in line]
    assert 4 <= stopped < 12
    run = comfy.run(graph)
    assert report(run, train)["outcome"] == f"resumed at step {stopped} of 12"
    assert report(run, train)["steps"] == 12
    losses(run, train)
    runs = comfy.server.output / "masked_lora"
    rows = list(csv.DictReader(io.StringIO((runs / "resume_small_logs" / "steps.csv").read_text(encoding="utf-8"))))
    assert [int(row["step"]) for row in rows] == list(range(13))
    assert "resumed" in rows[stopped + 1]["events"]
    assert {f.name for f in (runs / "resume_small_previews").iterdir()} == {
        "grid.png", *(f"step_{step:06d}_{number}.png" for step in (0, 6, 12) for number in (0, 1))}
    assert len(list((runs / "resume_small_checkpoints").glob("step_*.safetensors"))) == 3
    assert load_lora(comfy.loras / file_of(run, save)).metadata["ss_steps"] == "12"


def test_the_second_training_starts_where_the_first_lora_ended(comfy: Comfy) -> None:
    """As it would with that LoRA applied to the model and a fresh one on top, which changes nothing at first."""
    graph = workflow(comfy, "warm_start")
    first, second = (Node(n) for n in sorted(graph.ids(TRAIN), key=int))
    for node in (first, second):
        graph.inputs(node)["learning_rate"] = 2e-2  # so that four steps change something
    run = comfy.run(graph)
    fresh = losses(run, second)
    saved = next(Node(n) for n in graph.ids(SAVE) if graph.prompt[n]["inputs"]["lora"] == first[0])
    graph.inputs(graph.only("MaskedLoRA_Adapter"))["start_from"] = file_of(run, saved)
    applied = graph.add("MaskedLoRA_ApplyLora", model=graph.inputs(second)["model"], lora=first[0], strength=1.0)
    plain = {k: v for k, v in graph.inputs(second).items() if k != "adapter"}
    reference = graph.add(TRAIN, **plain | {"model": applied[0], "name": "reference"})
    start = len(comfy.log())
    run = comfy.run(graph)
    assert first.id in run.cached
    layers = sum(name.endswith("lora_A.weight") for name in load_lora(comfy.loras / file_of(run, saved)))
    assert f"starts from {layers} layers of the LoRA, rank 8 ({file_of(run, saved)})" in comfy.log()[start:]
    warm, expected = losses(run, second), losses(run, reference)
    for where in ("loss_inside_first", "loss_outside_first"):
        assert warm[where] == pytest.approx(expected[where], rel=1e-4)
        assert abs(warm[where] - fresh[where]) > 1e-2 * fresh[where]


def with_cores_loader(comfy: Comfy, graph: Workflow, run: Run) -> tuple[Workflow, Node]:
    """The workflow with its sampling behind core's own LoRA loader, and the sampler; nothing may be left out of the file."""
    name = file_of(run, graph.only(SAVE))
    model = graph.inputs(graph.only(TRAIN))["model"]
    loaded = graph.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    sampler = next(Node(n) for n in graph.ids("KSampler") if graph.prompt[n]["inputs"]["model"] == graph.only("MaskedLoRA_ApplyLora")[0])
    again = graph.add("KSampler", **graph.inputs(sampler) | {"model": loaded[0]})
    return graph, again


def kept_latents(comfy: Comfy, graph: Workflow, *samplers: Node) -> list[torch.Tensor]:
    nodes = [graph.add("SaveLatent", samples=sampler[0], filename_prefix="latents/test") for sampler in samplers]
    start = len(comfy.log())
    run = comfy.run(graph)
    assert "not loaded" not in comfy.log()[start:]
    return [run.latent(node) for node in nodes]


def check_file(comfy: Comfy, run: Run, graph: Workflow) -> Saved:
    saved = Saved.of(comfy, run, graph.only(SAVE))
    assert all(value.isfinite().all() for value in saved.tensors.values())
    assert any(value.any() for name, value in saved.tensors.items() if "lora_B" in name)
    assert saved.metadata["ss_network_dim"] == "32"
    losses(run, graph.only(TRAIN))
    return saved


def test_sdxl_trains_and_samples_as_a_flow_model(comfy: Comfy) -> None:
    graph = workflow(comfy, "sdxl_as_flow_matching")
    flow = graph.only("ModelSamplingSD3")
    pictures = graph.add("PreviewImage", images=graph.inputs(graph.only("MaskedLoRA_CompareGrid"))["rows.row1"])
    run = comfy.run(graph)
    saved = check_file(comfy, run, graph)
    assert saved.json("objective")["prediction"] == "flow"
    assert saved.json("objective")["sampling_shift"] == 3
    assert saved.json("objective")["noise_levels"]["shift"] == 3
    assert saved.json("base")["architecture"] == "SDXL"
    assert [picture.size for picture in run.images(pictures)] == [(64, 64)]

    before, after = (graph.only("KSampler", words) for words in ("before", "after"))
    assert graph.inputs(before)["model"] == graph.inputs(graph.only(TRAIN))["model"] == flow[0]
    assert graph.inputs(graph.only("MaskedLoRA_ApplyLora"))["model"] == flow[0]
    graph, by_core = with_cores_loader(comfy, graph, run)
    without_flow = graph.add("KSampler", **graph.inputs(before) | {"model": graph.inputs(flow)["model"]})
    base, ours, cores, eps = kept_latents(comfy, graph, before, after, by_core, without_flow)
    assert ours.shape == (1, 4, 8, 8)
    assert torch.equal(ours, cores)
    assert not torch.equal(ours, base)
    assert not torch.allclose(base, eps, atol=1e-2)


def test_a_video_model_trains_on_clips_and_samples_one(comfy: Comfy) -> None:
    graph = workflow(comfy, "video")
    run = comfy.run(graph)
    saved = check_file(comfy, run, graph)
    assert saved.json("base")["architecture"] == "WAN21"
    assert saved.json("objective")["prediction"] == "flow"
    assert saved.json("mask")["with_mask"] == 2
    (file,) = run.entry["outputs"][graph.only("SaveVideo").id]["images"]
    with av.open(io.BytesIO(comfy.server.view({key: file[key] for key in ("filename", "subfolder", "type")}))) as film:
        frames = [frame.to_ndarray(format="rgb24").shape for frame in film.decode(video=0)]
    assert frames == [(64, 64, 3)] * 5
    sampler = graph.only("KSampler")
    graph, by_core = with_cores_loader(comfy, graph, run)
    ours, cores = kept_latents(comfy, graph, sampler, by_core)
    assert ours.shape == (1, 16, 2, 8, 8)
    assert torch.equal(ours, cores)


@pytest.mark.parametrize(("name", "segmenter"), [("body_part_masks", "sapiens2"), ("masks_from_words", "grounding")])
def test_masks_are_tried_on_a_picture_and_written_for_the_folder(comfy: Comfy, name: str, segmenter: str) -> None:
    """The same plan in both places: the mask that was tried is the one that is written."""
    graph = workflow(comfy, name)
    write = graph.only("MaskedLoRA_WriteMasks")
    graph.inputs(write)["layout.folder"] = f"{name} [output]"
    tried = graph.add("MaskToImage", mask=graph.only("MaskedLoRA_MakeMasks")[0])
    kept = graph.add("PreviewImage", images=tried[0])
    run = comfy.run(graph)
    assert segmenter in run.text(write)
    assert run.text(write).startswith("3 pictures: 3 masks made, ")
    (shown,) = run.images(kept)
    mask_HW = np.asarray(Image.open(comfy.server.output / name / "astronaut.png"))
    assert mask_HW.std() > 1
    assert np.abs(np.asarray(shown.convert("L")).astype(int) - mask_HW).max() <= 1  # PreviewImage cuts where we round
