"""Mask nodes in the real server: recipes chained by hand, one step at a time, presets, and masks out of masks."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pack.masks.blobs import blob_mask
from pack.masks.combine import combine_masks
from pack.masks.operations import Blobs, Blur, CircularShrink, Feather, FillHoles, Floor, Gamma, Grow, Invert, RegionWeights, Threshold
from pack.masks.presets import PRESETS
from pack.masks.recipe import MaskRecipe, apply_recipe, simple_recipe
from pack.masks.regions import REGION_PRESETS
from pack.masks.step import Step
from PIL import Image
from skimage import data
from torch import Tensor

from .server import Comfy, Graph, Node

SIZE = (96, 80)


def write_masks(comfy: Comfy) -> tuple[Tensor, Tensor]:
    """Two real pictures as grey masks in the input folder."""
    masks = []
    for name, pixels in (("recipe_horse.png", (~data.horse()).astype(np.uint8) * 255), ("recipe_coins.png", data.coins())):
        picture = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BILINEAR)
        picture.convert("RGB").save(comfy.input / name)
        masks.append(torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None])
    return masks[0], masks[1]


def load(graph: Graph, name: str) -> Node:
    return graph.add("LoadImageMask", image=name, channel="red")


def seen(comfy: Comfy, graph: Graph, *masks: Node) -> list[Tensor]:
    """The masks, each (B, H, W), as core's nodes save them: 8 bits a pixel."""
    saved = [graph.add("SaveImage", images=graph.add("MaskToImage", mask=mask[0])[0], filename_prefix="recipe") for mask in masks]
    run = comfy.run(graph)
    return [torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image in run.images(node)]).float() / 255 for node in saved]


def assert_same(result: Tensor, expected: Tensor) -> None:
    assert result.shape == expected.shape
    assert (result - expected).abs().max().item() < 1.01 / 255
    assert expected.max().item() > expected.min().item()


STEPS: list[tuple[str, dict[str, Any], Step]] = [
    ("blur", {"unit": "share", "unit.amount": 0.03}, Blur(0.03)),
    ("blur", {"unit": "pixels", "unit.amount": 2.5}, Blur(2.5, "pixels")),
    ("grow", {"unit": "pixels", "unit.amount": 3.0}, Grow(3, "pixels")),
    ("shrink", {"unit": "share", "unit.amount": 0.05}, Grow(-0.05)),
    ("feather", {"unit": "pixels", "unit.amount": 6.0}, Feather(6, "pixels")),
    ("fill holes", {}, FillHoles()),
    ("invert", {}, Invert()),
    ("threshold", {"level": 0.4}, Threshold(0.4)),
    ("gamma", {"exponent": 0.5}, Gamma(0.5)),
    ("floor (ai-toolkit, blissful-tuner)", {"weight": 0.2}, Floor(0.2)),
    ("floor (OneTrainer)", {"weight": 0.3}, Floor(0.3, "clamp")),
    ("region weights", {"levels": "255 0.2\n100 1.0\n0 0"}, RegionWeights(((1.0, 0.2), (100 / 255, 1.0), (0.0, 0.0)))),
    ("random blobs", {"coverage": 0.6, "size": 0.3, "seed": 4}, Blobs(0.6, 0.3, 4)),
    ("random disc (OneTrainer)", {"least": 0.3, "most": 0.5, "seed": 4}, CircularShrink(0.3, 0.5, 4)),
]


@pytest.mark.parametrize(("choice", "settings", "step"), STEPS, ids=[step.describe() for _, _, step in STEPS])
def test_every_step_on_a_mask_and_in_a_recipe(comfy: Comfy, choice: str, settings: dict[str, Any], step: Step) -> None:
    _, coins = write_masks(comfy)
    expected = apply_recipe(coins, MaskRecipe((step,)))
    inputs = {"step": choice, **{f"step.{name}": value for name, value in settings.items()}}
    graph = Graph()
    mask, recipe = load(graph, "recipe_coins.png"), graph.add("MaskedLoRA_MaskStep", **inputs)
    at_once = graph.add("MaskedLoRA_StepMask", mask=mask[0], **inputs)
    by_recipe = graph.add("MaskedLoRA_EditMask", mask=mask[0], recipe=recipe[0])
    for result in seen(comfy, graph, at_once, by_recipe):
        assert_same(result, expected)


def test_a_chain_of_recipe_nodes_runs_in_its_order(comfy: Comfy) -> None:
    _, coins = write_masks(comfy)
    graph = Graph()
    first = graph.add("MaskedLoRA_MaskStep", step="threshold", **{"step.level": 0.5})
    second = graph.add("MaskedLoRA_MaskRecipe", recipe=first[0], invert=True, blur=0.05, gamma=2.0, floor=0.0)
    third = graph.add("MaskedLoRA_MaskPreset", recipe=second[0], preset="OneTrainer default")
    edited = graph.add("MaskedLoRA_EditMask", mask=load(graph, "recipe_coins.png")[0], recipe=third[0])
    expected = MaskRecipe((Threshold(0.5), *simple_recipe(True, 0.05, 2.0).steps, Floor(0.1, "clamp")))
    assert_same(seen(comfy, graph, edited)[0], apply_recipe(coins, expected))


def test_presets(comfy: Comfy) -> None:
    _, coins = write_masks(comfy)
    graph = Graph()
    mask = load(graph, "recipe_coins.png")
    recipes = [graph.add("MaskedLoRA_MaskPreset", preset=preset) for preset in PRESETS]
    edited = [graph.add("MaskedLoRA_EditMask", mask=mask[0], recipe=recipe[0]) for recipe in recipes]
    for result, recipe in zip(seen(comfy, graph, *edited), PRESETS.values(), strict=True):
        assert_same(result, apply_recipe(coins, recipe))


@pytest.mark.parametrize("how", ["max", "add", "multiply", "replace"])
def test_masks_are_combined_with_weights(comfy: Comfy, how: str) -> None:
    horse, coins = write_masks(comfy)
    graph = Graph()
    masks = {"masks.mask0": load(graph, "recipe_horse.png")[0], "masks.mask1": load(graph, "recipe_coins.png")[0]}
    combined = graph.add("MaskedLoRA_CombineMasks", **masks, how=how, weights="\n0.4")
    assert_same(seen(comfy, graph, combined)[0], combine_masks({"a": horse, "b": coins}, how, [1.0, 0.4]))  # type: ignore[arg-type]


def test_regions_by_preset_and_by_an_own_table(comfy: Comfy) -> None:
    horse, coins = write_masks(comfy)
    preset = next(name for name, table in REGION_PRESETS.items() if len(table) == 3)
    graph = Graph()
    masks = {"masks.mask0": load(graph, "recipe_horse.png")[0], "masks.mask1": load(graph, "recipe_coins.png")[0]}
    region = graph.add("MaskedLoRA_RegionMask", **masks, table=preset)
    assert_same(seen(comfy, graph, region)[0], torch.maximum(horse, coins * 0.5).clamp(min=0.25))
    graph.prompt[region.id]["inputs"] |= {"table": "own table", "table.weights": "mane 0.3\nlegs 1.0"}
    assert_same(seen(comfy, graph, region)[0], torch.maximum(horse * 0.3, coins))


def test_random_blobs(comfy: Comfy) -> None:
    graph = Graph()
    blobs = graph.add("MaskedLoRA_RandomBlobs", width=72, height=56, count=3, coverage=0.3, size=0.2, seed=9)
    expected = torch.from_numpy(np.stack([blob_mask(56, 72, 0.3, 0.2, 9, str(i)) for i in range(3)]))
    assert_same(seen(comfy, graph, blobs)[0], expected)


def test_errors_name_the_value(comfy: Comfy) -> None:
    write_masks(comfy)
    graph = Graph()
    small = graph.add("MaskedLoRA_RandomBlobs", width=72, height=56, count=1, coverage=0.3, size=0.2, seed=9)
    masks = {"masks.mask0": load(graph, "recipe_horse.png")[0], "masks.mask1": small[0]}
    combined = graph.add("MaskedLoRA_CombineMasks", **masks, how="max", weights="")
    graph.add("PreviewImage", images=graph.add("MaskToImage", mask=combined[0])[0])
    assert "mask 'mask0' is 96x80, mask 'mask1' is 72x56" in comfy.error(graph, "MaskedLoRA_CombineMasks")
    graph.prompt[combined.id]["inputs"] |= {"masks.mask1": masks["masks.mask0"], "weights": "1\nhalf"}
    assert "line 2 of the weights is 'half'" in comfy.error(graph, "MaskedLoRA_CombineMasks")
    graph = Graph()
    step = graph.add("MaskedLoRA_StepMask", mask=load(graph, "recipe_horse.png")[0], step="region weights", **{"step.levels": "0 0\n300 1"})
    graph.add("PreviewImage", images=graph.add("MaskToImage", mask=step[0])[0])
    assert "line 2 of the levels is '300 1'" in comfy.error(graph, "MaskedLoRA_StepMask")
