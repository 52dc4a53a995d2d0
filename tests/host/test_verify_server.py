"""The verification nodes in a running ComfyUI, after a real training with checkpoints."""
from __future__ import annotations

import json
from typing import Any

import pytest

from .defaults import Page, new_graph
from .server import Comfy, Node, add_training

SIZE = {"width": 64, "height": 64, "steps": 2, "guidance": 4.0, "seed": 5}
TEXT = "a pibo on the middle, striped pink background"


def by_core(graph: Page, demo: Node, model: list[Any], padding: list[Any], seed: int = 5) -> list[Any]:
    """One picture by core's own nodes."""
    texts = [graph.add("MaskedLoRA_TextEncode", clip=demo[1], text=text, padding=padding) for text in (TEXT, "")]
    positive, negative = (graph.add("FluxGuidance", conditioning=text[0], guidance=4.0) for text in texts)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    sampled = graph.add("KSampler", model=model, seed=seed, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
                        positive=positive[0], negative=negative[0], latent_image=latent[0], denoise=1.0)
    return graph.add("VAEDecode", samples=sampled[0], vae=demo[2])[0]


def difference(graph: Page, one: list[Any], other: list[Any]) -> Node:
    """A Bleed Score with a white mask, whose JSON is shown: its inside is the change of all pixels."""
    mask = graph.add("SolidMask", value=1.0, width=64, height=64)
    found = graph.add("MaskedLoRA_BleedScore", base=one, changed=other, mask=mask[0])
    return graph.add("PreviewAny", source=found[4])


def pick(graph: Page, pictures: list[Any], index: int) -> list[Any]:
    return graph.add("ImageFromBatch", image=pictures, batch_index=index, length=1)[0]


def test_everything_after_a_training(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    training = add_training(graph, name="verified", learning_rate=2e-2)
    checkpoints = graph.add("MaskedLoRA_Checkpoints", every=1, keep=9, resume="never")
    graph.prompt[training.trained.id]["inputs"]["checkpoints"] = checkpoints[0]
    lora, demo = training.trained[0], training.model
    common = {"model": demo[0], "lora": lora, "clip": demo[1], "vae": demo[2], **SIZE}
    compared = graph.add("MaskedLoRA_CompareLora", **common, with_trigger=TEXT, without_trigger="a red star", count=2)
    grid = graph.add("MaskedLoRA_LoraGrid", **common, loras="verified", checkpoints=9, strengths="0.5 1", prompt=TEXT)
    mapped = graph.add("MaskedLoRA_DriftMap", model=demo[0], lora=lora, training_set=training.encoded[0], vae=demo[2])
    measured = graph.add("MaskedLoRA_MeasureDrift", model=demo[0], lora=lora, training_set=training.encoded[0])
    shown = {name: graph.add("PreviewAny", source=source) for name, source in {
        "compared": compared[6], "grid": grid[3], "map": mapped[5], "measured": measured[2]}.items()}
    applied = graph.add("MaskedLoRA_ApplyLora", model=demo[0], lora=lora, strength=1.0)
    half = graph.add("LoraModelLoader", model=demo[0], lora=lora, strength_model=0.5, bypass=False)
    equal = [
        difference(graph, by_core(graph, demo, applied[0], applied[1]), pick(graph, compared[4], 0)),
        difference(graph, by_core(graph, demo, demo[0], applied[1], seed=6), pick(graph, compared[3], 1)),
        difference(graph, by_core(graph, demo, half[0], applied[1]), pick(graph, grid[1], 4)),
        difference(graph, by_core(graph, demo, applied[0], applied[1]), pick(graph, grid[1], 5))]
    different = difference(graph, pick(graph, compared[3], 0), pick(graph, compared[4], 0))
    run = comfy.run(graph)
    for node in equal:
        assert json.loads(run.text(node))["change_inside"] == 0
    told = {name: json.loads(run.text(node)) for name, node in shown.items()}
    assert json.loads(run.text(different))["change_inside"] == pytest.approx(told["compared"]["each_with_trigger"][0], rel=1e-9)
    assert told["compared"]["each_with_trigger"][0] > 0
    assert [row["label"] for row in told["grid"]["rows"]] == ["verified step 1", "verified step 2", "connected LoRA"]
    assert {name: told["map"][name] for name in told["measured"]} == told["measured"]
    assert len(told["map"]["pictures"]) == 12
    for node in (compared, grid, mapped):
        (picture,) = run.images(node)
        assert picture.width > 500
    assert run.text(mapped).startswith("White = learn = inside. 12 pictures; ")
    assert run.text(compared).startswith("Without the trigger the LoRA changes the pictures by ")


def test_loras_by_name_and_loaded_ones(comfy: Comfy) -> None:
    """Core's own loader of files, and the LoRA that Load LoRA hands on."""
    first = new_graph(comfy)
    training = add_training(first, name="named", learning_rate=2e-2)
    first.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename="named")
    comfy.run(first)
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    loaded = graph.add("MaskedLoRA_LoadLora", model=demo[0], lora_name="named_00001.safetensors", strength=1.0)
    core = graph.add("LoraLoaderModelOnly", model=demo[0], lora_name="named_00001.safetensors", strength_model=0.75)
    common = {"model": demo[0], "clip": demo[1], "vae": demo[2], **SIZE}
    grid = graph.add("MaskedLoRA_LoraGrid", **common, loras="named_00001", strengths="0.75", prompt=TEXT)
    connected = graph.add("MaskedLoRA_LoraGrid", **common, loras="", lora=loaded[3], strengths="0.75", prompt=TEXT)
    expected = by_core(graph, demo, core[0], loaded[1])
    equal = [difference(graph, expected, grid[1]), difference(graph, expected, connected[1])]
    run = comfy.run(graph)
    for node in equal:
        assert json.loads(run.text(node))["change_inside"] == 0
    assert "Text padding: trained with comfyui-mask" in run.text(grid)


def test_what_is_wrong_is_told(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    graph.add("MaskedLoRA_LoraGrid", model=demo[0], clip=demo[1], vae=demo[2], loras="../input/x", prompt=TEXT, **SIZE)
    assert "neither a LoRA that ComfyUI lists" in comfy.error(graph, "MaskedLoRA_LoraGrid")
    graph = new_graph(comfy)
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    mask = graph.add("SolidMask", value=1.0, width=32, height=64)
    graph.add("MaskedLoRA_BleedScore", base=image[0], changed=image[0], mask=mask[0])
    assert "the mask is 32x64 and the pictures are 64x64" in comfy.error(graph, "MaskedLoRA_BleedScore")
