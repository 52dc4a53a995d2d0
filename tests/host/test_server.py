"""The pack in a real ComfyUI server: loading, the shipped workflows, caching, Cancel, and core's own nodes on our outputs."""
from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_cli.workflow_to_api import convert_ui_to_api
from pack.tools.dev import report
from safetensors import safe_open
from safetensors.torch import load_file

from .defaults import new_graph
from .server import ROOT, Comfy, Graph, Node, Run, add_sampling, add_training, complaints, keep

ENCODE = "MaskedLoRA_EncodeTrainingSet"
WORKFLOWS = ROOT / "workflows"
PACK_NODES = {file.stem for file in (ROOT / "web" / "docs").glob("*.md")}
STEPS = 5
# What the preview of each says of its masks.
OTHER_WORKFLOWS = {
    "masks_from_folder": "12 masks, recipe: gamma 0.7, floor 0.05, grow 4 px, blur 1.00% of the short side",
    "masks_from_alpha": "6 masks, recipe: as drawn",
    "masks_from_graph": "12 masks, recipe: as drawn",
    "masks_for_video": "3 masks, recipe: as drawn",
    "automatic_masks": "3 masks, recipe: as drawn",
}


def is_ours(info: dict[str, Any], comfy: Comfy) -> bool:
    return bool(info["python_module"] == f"custom_nodes.{comfy.pack_name}")


def test_pack_loads_quickly_and_in_silence(comfy: Comfy) -> None:
    after_core = comfy.log_at_start.partition("[Prompt Server] web root")[2]
    assert comfy.pack_name in after_core
    assert not complaints(after_core)
    found = re.search(rf"([\d.]+) seconds( \(IMPORT FAILED\))?: .*{comfy.pack_name}", after_core)
    assert found is not None
    assert not found[2]
    assert float(found[1]) < 0.2


def test_every_node_is_listed_and_explained(comfy: Comfy) -> None:
    ours = {name: info for name, info in comfy.object_info.items() if is_ours(info, comfy)}
    assert ours.keys() == PACK_NODES
    silent = [name for name, info in ours.items() if not info["description"] or not info["search_aliases"]]
    assert not silent
    untold = [f"{name}.{key}" for name, info in ours.items() for group in ("required", "optional")
              for key, (_, *options) in info["input"].get(group, {}).items() if not (options and options[0].get("tooltip"))]
    assert not untold, f"inputs without a tooltip: {', '.join(untold)}"


@pytest.mark.parametrize("node", sorted(PACK_NODES))
def test_help_page_is_where_the_page_looks_for_it(comfy: Comfy, node: str) -> None:
    """The frontend takes the pack's name from the node's python_module."""
    pack = comfy.object_info[node]["python_module"].split(".")[1]
    page = comfy.server.get(f"/extensions/{pack}/docs/{node}.md").decode("utf-8")
    assert page.startswith("# ")
    assert comfy.object_info[node]["display_name"] in page


@dataclass(frozen=True)
class Quickstart:
    """The shipped workflow with few steps, and how it went the first time."""

    graph: Graph
    run: Run
    log: str

    def node(self, kind: str) -> Node:
        (number,) = self.graph.ids(kind)
        return Node(number)


def shipped(comfy: Comfy, name: str) -> Graph:
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    return Graph(convert_ui_to_api(workflow, comfy.object_info))


@pytest.fixture(scope="module")
def quickstart(comfy: Comfy) -> Quickstart:
    graph = shipped(comfy, "quickstart")
    (train,) = graph.ids(report.TRAIN)
    graph.prompt[train]["inputs"]["steps"] = STEPS
    start = len(comfy.log())
    run = comfy.run(graph)
    return Quickstart(graph, run, comfy.log()[start:])


def test_shipped_workflow_runs_without_complaint(quickstart: Quickstart) -> None:
    assert quickstart.run.entry["status"]["completed"]
    (mismatch,) = complaints(quickstart.log)  # its third row is sampled under another padding on purpose
    assert "text padding differs: positive: comfyui: " in mismatch
    assert f"step {STEPS}/{STEPS}" in quickstart.log


def test_shipped_workflow_draws_its_grid_and_loss_plot(comfy: Comfy, quickstart: Quickstart) -> None:
    pictures = {}
    for kind, prefix in ((report.GRID, report.GRID_PREFIX), (report.LOSS_PLOT, "")):
        assert comfy.server.view(report.reported_image(quickstart.run.entry, kind, prefix))
        (node,) = quickstart.graph.ids(kind)
        (picture,) = quickstart.run.images(Node(node))
        pictures[kind] = np.asarray(picture.convert("RGB"))
    grid = pictures[report.GRID]
    assert grid.shape[0] > 4 * 128
    assert grid.shape[1] > 4 * 128
    assert grid.std() > 10
    # core draws the curve in blue on white
    assert (pictures[report.LOSS_PLOT] == (0, 0, 255)).all(-1).sum() > 100


def test_shipped_workflow_saves_a_lora_that_tells_how_it_was_trained(comfy: Comfy, quickstart: Quickstart) -> None:
    file = report.saved_lora(quickstart.run.entry, comfy.server.output)
    assert file.parent == comfy.loras.resolve()
    tensors = load_file(file)
    assert any(key.endswith("lora_B.weight") and value.abs().max() > 0 for key, value in tensors.items())
    assert all(value.isfinite().all() for value in tensors.values())
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata["ss_steps"] == str(STEPS)
    assert metadata["ss_output_name"] == "quickstart"
    assert metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert metadata["masked_lora.version"] == "1"
    mask = json.loads(metadata["masked_lora.mask"])
    assert (mask["with_mask"], mask["without_mask"]) == (12, 0)
    assert 0 < mask["mean_coverage"] < 1


def test_shipped_workflow_reports_what_the_demo_reads(comfy: Comfy, quickstart: Quickstart) -> None:
    entry = quickstart.run.entry
    trained = report.numbers(report.reported(entry, report.TRAIN), report.TRAIN_NUMBERS, report.TRAIN)
    assert trained["steps"] == STEPS
    assert trained["loss_inside_first"] > 0
    padding = report.text_padding(entry, report.saved_lora(entry, comfy.server.output))
    assert padding["train"] == padding["inference"]
    assert padding["train"]["attend"] == "real", "the shipped workflow masks the padding; the default would match by accident"


def test_drift_is_measured_on_both_sides_of_the_mask(quickstart: Quickstart) -> None:
    drift = report.numbers(report.reported(quickstart.run.entry, report.DRIFT), report.DRIFT_NUMBERS, report.DRIFT)
    assert drift["drift_inside"] > 0
    assert math.isfinite(drift["drift_outside"])


def test_second_run_is_served_from_the_cache(comfy: Comfy, quickstart: Quickstart) -> None:
    start = len(comfy.log())
    again = comfy.run(quickstart.graph)
    assert again.cached == quickstart.graph.prompt.keys()
    assert "Masked LoRA: " not in comfy.log()[start:]
    assert again.entry["outputs"] == quickstart.run.entry["outputs"]


def without_sampling(graph: Graph) -> Graph:
    """A copy up to the LoRA; nothing asks for its pictures any more."""
    return Graph({number: node for number, node in json.loads(json.dumps(graph.prompt)).items() if node["class_type"] != report.GRID})


def test_new_mask_recipe_trains_again_and_encodes_nothing(comfy: Comfy, quickstart: Quickstart) -> None:
    graph = without_sampling(quickstart.graph)
    graph.prompt[quickstart.node("MaskedLoRA_MaskRecipe").id]["inputs"]["floor"] = 0.25
    start = len(comfy.log())
    run = comfy.run(graph)
    log = comfy.log()[start:]
    assert quickstart.node(ENCODE).id in run.cached
    assert quickstart.node(report.TRAIN).id not in run.cached
    assert f"step {STEPS}/{STEPS}" in log
    assert "from the cache" not in log, "the pictures were looked at again"
    before, after = (report.reported(entry, report.TRAIN)["mean_weight"] for entry in (quickstart.run.entry, run.entry))
    assert after == pytest.approx(0.25 + 0.75 * before, rel=1e-3)


def test_encoded_pictures_are_found_on_disk(comfy: Comfy, quickstart: Quickstart) -> None:
    """As after a restart: ComfyUI has no result for a node with another name, and nothing is encoded nevertheless."""
    encode = quickstart.node(ENCODE)
    graph = Graph(json.loads(json.dumps(quickstart.graph.prompt)))
    graph.prompt[encode.id]["inputs"]["name"] = "another name"
    kept = {encode.id, *(number for kind in ("DemoModel", "LoadFolder", "Arrange", "TextPadding")
                         for number in quickstart.graph.ids(f"MaskedLoRA_{kind}"))}
    graph.prompt = {number: node for number, node in graph.prompt.items() if number in kept}
    run = comfy.run(graph)
    assert encode.id not in run.cached
    lines = run.text(encode).splitlines()
    assert lines[:2] == ["12 pictures: 0 encoded, 12 from the cache", "12 masks: 0 stored, 12 from the cache"]
    assert re.fullmatch(r"(\d+) captions: 0 encoded, \1 from the cache", lines[2])


def test_every_shipped_workflow_is_run_here() -> None:
    in_test_workflows = {"resume", "warm_start", "sdxl_as_flow_matching", "video", "body_part_masks", "masks_from_words"}
    assert {file.stem for file in WORKFLOWS.glob("*.json")} == {
        "quickstart", "prior_preservation", "verify_lora", "padding_study", *OTHER_WORKFLOWS, *in_test_workflows}


@pytest.mark.parametrize(("name", "mismatches"), [("verify_lora", 0), ("padding_study", 6)])
def test_the_workflows_that_look_at_loras_run(comfy: Comfy, name: str, mismatches: int) -> None:
    """The study samples each LoRA under two paddings that are not its own, on purpose."""
    graph = shipped(comfy, name)
    for node in graph.prompt.values():
        node["inputs"] |= {name: few for name, few in (("steps", 2), ("every", 1)) if name in node["inputs"]}
    start = len(comfy.log())
    assert comfy.run(graph).entry["status"]["completed"]
    said = complaints(comfy.log()[start:])
    assert all("text padding differs: " in complaint for complaint in said), said
    assert len(said) == mismatches


def test_the_workflow_with_a_prior_trains_twice_and_compares(comfy: Comfy) -> None:
    graph = shipped(comfy, "prior_preservation")
    for kind, steps in ((report.TRAIN, 3), ("KSampler", 2)):
        for number in graph.ids(kind):
            graph.prompt[number]["inputs"]["steps"] = steps
    start = len(comfy.log())
    run = comfy.run(graph)
    log = comfy.log()[start:]
    assert not complaints(log)
    assert log.count(" times the change outside the masks") == 1, "one of the two trainings has a prior"
    (saved,) = graph.ids("SaveImage")
    (grid,) = run.images(Node(saved))
    assert grid.height > 6 * 128


@pytest.mark.parametrize(("name", "says"), OTHER_WORKFLOWS.items())
def test_the_other_shipped_workflows_run_without_complaint(comfy: Comfy, name: str, says: str) -> None:
    graph = shipped(comfy, name)
    start = len(comfy.log())
    run = comfy.run(graph)
    assert not complaints(comfy.log()[start:])
    (preview,) = graph.ids("MaskedLoRA_PreviewMask")
    assert run.text(Node(preview)).startswith(f"White = learn. {says}")
    for number in (preview, *graph.ids("PreviewImage")):
        assert all(np.asarray(picture.convert("RGB")).std() > 10 for picture in run.images(Node(number)))


def base_pictures(comfy: Comfy, unused: str) -> tuple[Run, Graph, torch.Tensor]:
    """Latents of the demo model without a LoRA, sampled anew for every `unused`."""
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    padding = graph.add("MaskedLoRA_TextPadding", preset="comfyui-mask")
    kept = keep(graph, add_sampling(graph, demo[0], demo, padding[0], unused=unused))
    run = comfy.run(graph)
    assert run.cached.isdisjoint(graph.ids("KSampler")), "the test would compare a result with itself"
    return run, graph, run.latent(kept)


def assert_same_model(run: Run, graph: Graph) -> None:
    assert graph.ids("MaskedLoRA_DemoModel") <= run.cached, "another copy of the model was loaded, which proves nothing"


def test_cancel_saves_what_was_learned_and_leaves_the_model_as_it_was(comfy: Comfy) -> None:
    _, _, before = base_pictures(comfy, "before Cancel")
    graph = new_graph(comfy)
    add_training(graph, steps=5000, name="quickstart")
    start = len(comfy.log())
    prompt_id = comfy.submit(graph)
    comfy.wait_for_log("step 1/5000", start)
    pressed = time.monotonic()
    comfy.post("/interrupt", {})
    cancelled = comfy.wait(prompt_id, patience=60)
    assert time.monotonic() - pressed < 10
    stopped = cancelled.message("execution_interrupted")
    assert stopped is not None
    assert stopped["node_type"] == report.TRAIN
    assert not cancelled.message("execution_error")

    (file,) = comfy.loras.glob("quickstart_stopped_at_step_*.safetensors")
    with safe_open(file, framework="pt") as opened:
        steps = int(opened.metadata()["ss_steps"])
        assert "masked_lora.text_padding" in opened.metadata()
    assert 1 <= steps < 5000
    assert file.stem.endswith(f"step_{steps:06d}")
    assert f"stopped after {steps} of 5000 steps" in comfy.log()[start:]
    assert any(value.abs().max() > 0 for key, value in load_file(file).items() if "lora_B" in key)

    run, graph, after = base_pictures(comfy, "after Cancel")
    assert_same_model(run, graph)
    assert torch.equal(before, after)


@dataclass(frozen=True)
class Applied:
    """One trained LoRA, applied in several ways and sampled with one seed; `saved` is its file's path below output/loras."""

    latents: dict[str, torch.Tensor]
    saved: str
    core_file: Path


@pytest.fixture(scope="module")
def applied(comfy: Comfy) -> Applied:
    graph = new_graph(comfy)
    training = add_training(graph, steps=3, learning_rate=1e-2)
    ours = graph.add("MaskedLoRA_ApplyLora", model=training.model[0], lora=training.trained[0], strength=1.0)
    core = graph.add("LoraModelLoader", model=training.model[0], lora=training.trained[0], strength_model=1.0, bypass=False)
    models = {"base": training.model[0], "ours": ours[0], "core": core[0]}
    kept = {name: keep(graph, add_sampling(graph, model, training.model, ours[1])) for name, model in models.items()}
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename="sub/applied")
    graph.add("SaveLoRA", lora=training.trained[0], prefix="loras/by_core")
    run = comfy.run(graph)
    (core_file,) = comfy.loras.glob("by_core*.safetensors")
    file = comfy.server.output / json.loads(run.text(saved))["file"]
    return Applied({name: run.latent(node) for name, node in kept.items()}, file.relative_to(comfy.loras).as_posix(), core_file)


def test_core_applies_our_lora_as_we_do(applied: Applied) -> None:
    assert not torch.allclose(applied.latents["base"], applied.latents["ours"], atol=1e-3), "the LoRA does nothing, any other would match"
    assert torch.equal(applied.latents["ours"], applied.latents["core"])


def test_core_saves_our_lora(comfy: Comfy, applied: Applied) -> None:
    ours, core = load_file(comfy.loras / applied.saved), load_file(applied.core_file)
    assert ours.keys() == core.keys()
    assert all(torch.equal(value, core[key]) for key, value in ours.items())


def test_saved_lora_loads_by_name_with_its_padding(comfy: Comfy, applied: Applied) -> None:
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    ours = graph.add("MaskedLoRA_LoadLora", model=demo[0], lora_name=applied.saved, strength=1.0)
    core = graph.add("LoraLoaderModelOnly", model=demo[0], lora_name=applied.saved, strength_model=1.0)
    kept = [keep(graph, add_sampling(graph, model, demo, ours[1])) for model in (ours[0], core[0])]
    run = comfy.run(graph)
    for node in kept:
        assert torch.equal(run.latent(node), applied.latents["ours"])
    told = json.loads(run.text(ours))
    assert told["text_padding"]["attend"] == "real"
    assert told["says"].startswith("trained with")


def test_file_without_our_metadata_is_loaded_and_said_to_be_a_guess(comfy: Comfy, applied: Applied) -> None:
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    loaded = graph.add("MaskedLoRA_LoadLora", model=demo[0], lora_name=applied.core_file.name, strength=1.0)
    told = json.loads(comfy.run(graph).text(loaded))
    assert told["says"].startswith("unknown")
    assert told["text_padding"]["attend"] == "all"


def test_finished_training_leaves_the_model_as_it_was(comfy: Comfy) -> None:
    _, _, before = base_pictures(comfy, "before training")
    graph = new_graph(comfy)
    training = add_training(graph, steps=2, name="finished")
    ours = graph.add("MaskedLoRA_ApplyLora", model=training.model[0], lora=training.trained[0], strength=1.0)
    keep(graph, add_sampling(graph, ours[0], training.model, ours[1]))
    comfy.run(graph)
    run, graph, after = base_pictures(comfy, "after training")
    assert_same_model(run, graph)
    assert torch.equal(before, after)
