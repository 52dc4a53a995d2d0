"""The graph of the quickstart on photographs, with greyscale masks in files and in alpha channels, from loading to sampling.

The photographs come inside scikit-image's wheel: astronaut (NASA, public domain), rocket (SpaceX, public domain), chelsea
(CC0, Stefan van der Walt) and coffee (CC0, Rachel Michetti), as skimage/data/_fetchers.py says. The masks are drawn here.
"""
from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.tools.dev import report
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from safetensors.torch import load_file

from .server import Comfy, Graph, Run, add_sampling, add_training, complaints, keep

# An ellipse round the subject (left, top, right, bottom), and the words for it.
SUBJECTS = {
    "astronaut.png": ((60, 10, 390, 510), "a photo of a woman in an orange space suit"),
    "chelsea.png": ((95, 20, 365, 290), "a photo of a cat"),
    "coffee.png": ((130, 40, 470, 330), "a photo of a cup of coffee"),
    "rocket.jpg": ((270, 50, 380, 400), "a photo of a rocket"),
}


def wheel_data() -> Path:
    """skimage/data, without importing scikit-image: nothing may be downloaded in place of a file that is not there."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None, "scikit-image is not installed; it is in requirements-dev.txt"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def soft_ellipse(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(min(size) / 25))


def write_photographs(folder: Path, mask_source: str) -> None:
    """Pictures and captions, and masks beside them or as their alpha channel: the same pixels either way."""
    (folder / "masks").mkdir(parents=True)
    for name, (box, caption) in SUBJECTS.items():
        source = wheel_data() / name
        photograph = Image.open(source).convert("RGB")
        mask = soft_ellipse(photograph.size, box)
        stem = folder / source.stem
        stem.with_suffix(".txt").write_text(caption, encoding="utf-8")
        if mask_source == "alpha":
            photograph.putalpha(mask)
            photograph.save(stem.with_suffix(".png"))
        else:
            (folder / name).write_bytes(source.read_bytes())
            mask.save(folder / "masks" / f"{source.stem}.png")


@dataclass(frozen=True)
class Trained:
    """One run of the graph on the photographs."""

    run: Run
    log: str
    scan: str
    encoding: str
    masks: list[Image.Image]
    sheet: Image.Image
    base: torch.Tensor
    adapted: torch.Tensor
    lora: dict[str, torch.Tensor]


def train_on_photographs(comfy: Comfy, mask_source: str) -> Trained:
    folder = comfy.input / f"photographs_{mask_source}"
    write_photographs(folder, mask_source)
    graph = Graph()
    training = add_training(graph, folder=folder.name, mask_source=mask_source, learning_rate=1e-2, name=f"photographs_{mask_source}")
    recipe = graph.add("MaskedLoRA_MaskRecipe", invert=False, blur=0.0, gamma=1.0, floor=0.0)
    graph.prompt[training.trained.id]["inputs"]["recipe"] = recipe[0]
    preview = graph.add("MaskedLoRA_PreviewMask", images=training.images[0], masks=training.images[1], recipe=recipe[0],
                        vae=training.model[2], names=training.images[3])
    masks = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=training.images[1])[0])
    graph.add("MaskedLoRA_MeasureDrift", model=training.model[0], lora=training.trained[0], training_set=training.encoded[0],
              recipe=recipe[0], seed=0)
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename=f"photographs_{mask_source}")
    scan, encoding = (graph.add("PreviewAny", source=source) for source in (training.images[4], training.encoded[1]))
    applied = graph.add("MaskedLoRA_ApplyLora", model=training.model[0], lora=training.trained[0], strength=1.0)
    base, adapted = (keep(graph, add_sampling(graph, model, training.model, applied[1], text="a photo of a cat"))
                     for model in (training.model[0], applied[0]))
    start = len(comfy.log())
    run = comfy.run(graph)
    file = comfy.server.output / json.loads(run.text(saved))["file"]
    (sheet,) = run.images(preview)
    return Trained(run, comfy.log()[start:], run.text(scan), run.text(encoding), run.images(masks), sheet, run.latent(base),
                   run.latent(adapted), load_file(file))


@pytest.fixture(scope="module")
def trained(comfy: Comfy) -> dict[str, Trained]:
    return {source: train_on_photographs(comfy, source) for source in ("folder", "alpha")}


@pytest.mark.parametrize(("source", "origin"), [("folder", "from masks/"), ("alpha", "from alpha channels")])
def test_photographs_are_loaded_with_their_masks(trained: dict[str, Trained], source: str, origin: str) -> None:
    scan = trained[source].scan
    assert f"4 pictures, 4 masks {origin}" in scan
    assert "without" not in scan
    assert "not square, cropped to the centre: 3" in scan
    assert "enlarged" not in scan


@pytest.mark.parametrize("source", ["folder", "alpha"])
def test_masks_stay_grey_and_on_their_subjects(trained: dict[str, Trained], source: str) -> None:
    """Every mask against the central square of its soft ellipse, cut and resized by Pillow here."""
    result = trained[source]
    assert np.asarray(result.sheet.convert("RGB")).std() > 10
    assert len(result.masks) == len(SUBJECTS)
    for (name, (box, _)), mask in zip(sorted(SUBJECTS.items()), result.masks, strict=True):
        drawn = soft_ellipse(Image.open(wheel_data() / name).size, box)
        wanted = ImageOps.fit(drawn, (128, 128), Image.Resampling.BILINEAR)
        difference = np.asarray(mask.convert("L"), np.float32) - np.asarray(wanted, np.float32)
        assert np.abs(difference).max() <= 4, name
        assert ((np.asarray(wanted) > 20) & (np.asarray(wanted) < 235)).mean() > 0.05, "a mask without grey would not show lost greys"


@pytest.mark.parametrize("source", ["folder", "alpha"])
def test_photographs_are_trained_and_sampled(trained: dict[str, Trained], source: str) -> None:
    result = trained[source]
    assert not complaints(result.log)
    told = report.reported(result.run.entry, report.TRAIN)
    assert told["steps"] == 3
    assert 0 < told["loss_inside_last"] < 10
    assert 0.05 < told["mean_weight"] < 0.6
    drift = report.numbers(report.reported(result.run.entry, report.DRIFT), report.DRIFT_NUMBERS, report.DRIFT)
    assert drift["drift_inside"] > 0
    for latent in (result.base, result.adapted):
        assert latent.shape == (2, 16, 16, 16)
        assert latent.isfinite().all()
        assert latent.std() > 0.1
    assert not torch.allclose(result.base, result.adapted, atol=1e-3)


def test_alpha_channels_teach_what_mask_files_teach(trained: dict[str, Trained]) -> None:
    """The pixels are the same, so are the encoded pictures (found on disk the second time) and the LoRA, bit for bit."""
    files, alpha = trained["folder"], trained["alpha"]
    assert files.encoding.startswith("4 pictures: 0 from the cache, 4 encoded")
    assert alpha.encoding.startswith("4 pictures: 4 from the cache, 0 encoded")
    assert files.lora.keys() == alpha.lora.keys()
    assert all(torch.equal(value, alpha.lora[key]) for key, value in files.lora.items())
    assert torch.equal(files.adapted, alpha.adapted)
