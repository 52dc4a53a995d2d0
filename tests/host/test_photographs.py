"""The graph of the quickstart on photographs, with greyscale masks in files and in alpha channels, from loading to sampling; and
photographs of several shapes in one run.

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
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file

from .defaults import new_graph
from .server import Comfy, Run, add_sampling, add_training, complaints, keep

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


def central_square(mask: Image.Image, side: int) -> np.ndarray:
    """The middle of a mask (of an odd margin the smaller half is left and on top) in side x side means over the area of each cell."""
    whole = np.asarray(mask, np.float64)
    kept = min(whole.shape)
    top, left = ((length - kept) // 2 for length in whole.shape)
    pixels = whole[top:top + kept, left:left + kept]
    for _ in range(2):  # rows, then columns
        total = np.concatenate([np.zeros((1, pixels.shape[1])), pixels.cumsum(0)])
        edges = np.linspace(0, kept, side + 1)
        pixels = np.diff(np.stack([np.interp(edges, np.arange(kept + 1), column) for column in total.T], 1), axis=0).T * side / kept
    return pixels


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
    arrangement: str
    encoding: list[str]
    masks: list[Image.Image]
    sheet: Image.Image
    base: torch.Tensor
    adapted: torch.Tensor
    lora: dict[str, torch.Tensor]


def train_on_photographs(comfy: Comfy, mask_source: str) -> Trained:
    folder = comfy.input / f"photographs_{mask_source}"
    write_photographs(folder, mask_source)
    graph = new_graph(comfy)
    training = add_training(graph, folder=folder.name, mask_source=mask_source, learning_rate=1e-2, name=f"photographs_{mask_source}")
    recipe = graph.add("MaskedLoRA_MaskRecipe")
    graph.prompt[training.trained.id]["inputs"]["recipe"] = recipe[0]
    preview = graph.add("MaskedLoRA_PreviewMask", data_set=training.arranged[0], recipe=recipe[0], vae=training.model[2])
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=training.arranged[0])
    masks = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=lists[1])[0])
    graph.add("MaskedLoRA_MeasureDrift", model=training.model[0], lora=training.trained[0], training_set=training.encoded[0],
              recipe=recipe[0])
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename=f"photographs_{mask_source}")
    applied = graph.add("MaskedLoRA_ApplyLora", model=training.model[0], lora=training.trained[0])
    base, adapted = (keep(graph, add_sampling(graph, model, training.model, applied[1], text="a photo of a cat"))
                     for model in (training.model[0], applied[0]))
    start = len(comfy.log())
    run = comfy.run(graph)
    file = comfy.server.output / json.loads(run.text(saved))["file"]
    (sheet,) = run.images(preview)
    return Trained(run, comfy.log()[start:], run.text(training.loaded), run.text(training.arranged),
                   run.text(training.encoded).splitlines(), run.images(masks), sheet, run.latent(base), run.latent(adapted),
                   load_file(file))


@pytest.fixture(scope="module")
def trained(comfy: Comfy) -> dict[str, Trained]:
    return {source: train_on_photographs(comfy, source) for source in ("folder", "alpha")}


@pytest.mark.parametrize(("source", "origin"), [("folder", "from masks/"), ("alpha", "from alpha channels")])
def test_photographs_are_loaded_with_their_masks(trained: dict[str, Trained], source: str, origin: str) -> None:
    scan, arrangement = trained[source].scan, trained[source].arrangement
    assert "4 pictures, 4 with a mask" in scan
    assert f"masks: 4 {origin}" in scan
    assert "without" not in scan
    assert "128x128: 4 (100.0%)" in arrangement
    (cut,) = (line for line in arrangement.splitlines() if line.startswith("pixels cut off"))
    assert [name for name in ("astronaut", "chelsea", "coffee", "rocket") if name in cut] == ["chelsea", "coffee", "rocket"]
    assert "enlarged" not in arrangement


@pytest.mark.parametrize("source", ["folder", "alpha"])
def test_masks_stay_grey_and_on_their_subjects(trained: dict[str, Trained], source: str) -> None:
    """Every mask against the central square of its soft ellipse, cut and resized here; core's nodes round it down on the way."""
    result = trained[source]
    assert np.asarray(result.sheet.convert("RGB")).std() > 10
    assert len(result.masks) == len(SUBJECTS)
    for (name, (box, _)), mask in zip(sorted(SUBJECTS.items()), result.masks, strict=True):
        wanted = central_square(soft_ellipse(Image.open(wheel_data() / name).size, box), 128)
        difference = wanted - np.asarray(mask.convert("L"), np.float64)
        assert -0.1 < difference.min() <= difference.max() < 1.1, name
        assert ((wanted > 20) & (wanted < 235)).mean() > 0.05, "a mask without grey would not show lost greys"


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
    """The pixels are the same and so is the LoRA, bit for bit.

    Pictures and masks are found in the cache by the bytes of their files. A picture with its mask in it is another file, so both are
    encoded again; the captions are not.
    """
    files, alpha = trained["folder"], trained["alpha"]
    assert files.encoding[:3] == ["4 pictures: 4 encoded, 0 from the cache", "4 masks: 4 stored, 0 from the cache",
                                  "4 captions: 4 encoded, 0 from the cache"]
    assert alpha.encoding[:3] == ["4 pictures: 4 encoded, 0 from the cache", "4 masks: 4 stored, 0 from the cache",
                                  "4 captions: 0 encoded, 4 from the cache"]
    assert files.lora.keys() == alpha.lora.keys()
    assert all(torch.equal(value, alpha.lora[key]) for key, value in files.lora.items())
    assert torch.equal(files.adapted, alpha.adapted)


def test_photographs_of_several_shapes_share_a_run(comfy: Comfy) -> None:
    """A square one, wide ones and a tall one, in batches of three that hold several shapes."""
    folder = comfy.input / "shapes"
    write_photographs(folder, "folder")
    for file in (folder / "rocket.jpg", folder / "masks" / "rocket.png"):
        Image.open(file).crop((180, 0, 460, 427)).save(file)
    graph = new_graph(comfy)
    training = add_training(graph, folder=folder.name, name="shapes", steps=4, learning_rate=1e-2)
    graph.prompt[training.arranged.id]["inputs"] |= {"shape": "buckets", "size": 128, "step": 16}
    graph.prompt[training.trained.id]["inputs"] |= {"batch_size": 3}
    alone = graph.add(report.TRAIN, **graph.prompt[training.trained.id]["inputs"] | {"micro_batch": 1})
    saved = [graph.add(report.SAVE, lora=node[0], filename="shapes") for node in (training.trained, alone)]
    start = len(comfy.log())
    run = comfy.run(graph)
    assert not complaints(comfy.log()[start:])

    arrangement, encoding = run.text(training.arranged), run.text(training.encoded)
    assert "buckets: 3" in arrangement
    for width, height, count in ((160, 96, 2), (128, 128, 1), (96, 160, 1)):
        assert f"{width}x{height}: {count}" in arrangement
        assert f"{width // 8}x{height // 8} cells" in encoding
    together, single = (comfy.server.output / json.loads(run.text(node))["file"] for node in saved)
    metadata = report.lora_metadata(together)
    assert metadata["ss_num_train_images"] == "4"
    assert json.loads(metadata["masked_lora.mask"])["with_mask"] == 4
    told = json.loads(run.text(training.trained))
    assert told["steps"] == 4
    assert 0 < told["loss_inside_last"] < 10
    lora, other = load_file(together), load_file(single)
    assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_B" in key)
    assert all(torch.allclose(value, other[key], atol=1e-4) for key, value in lora.items()), "a picture's shape got lost in its batch"
