"""The preview of masks and their growth in a real ComfyUI: what is shown is what training reads, and nothing is left unsaid."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import pytest
import torch
from pack.dataset.geometry import Placement
from pack.dataset.item import DataSet, ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.encode import encode_data_set
from pack.host.examples import loss_weight
from pack.host.folders import DEMO_MODEL
from pack.host.preview import latent_grid, preview_sources
from pack.host.progress import Progress
from pack.host.text_padding import PRESETS
from pack.masks import review as module
from pack.masks.operations import Blobs, Feather, Floor, Gamma
from pack.masks.preview import Frame
from pack.masks.recipe import MaskRecipe
from PIL import Image
from skimage import data

from .server import Comfy, Graph, Node
from .tiny_vae import tiny_wan_vae

PREVIEW, GROW = "MaskedLoRA_PreviewMask", "MaskedLoRA_GrowForLatentGrid"
RECIPE = MaskRecipe((Blobs(coverage=0.7, seed=5), Feather(0.02), Gamma(0.7), Floor(0.05)))


def ellipse(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2 < radius**2) * 255).astype(np.uint8)


def photographs(folder: Path) -> dict[str, np.ndarray]:
    """Photographs under names that are hard to draw, with masks from ordinary to inverted; the masks, by name."""
    pictures = {"cat": data.chelsea(), "coffee größe": data.coffee(), "rocket": data.rocket(), "астронавт": data.astronaut()}
    masks = {}
    (folder / "masks").mkdir(parents=True)
    for name, picture in pictures.items():
        height, width = picture.shape[:2]
        Image.fromarray(picture).save(folder / f"{name}.png")
        masks[name] = {"cat": ellipse(height, width, 0.3), "coffee größe": 255 - ellipse(height, width, 0.35),
                       "rocket": np.zeros((height, width), np.uint8), "астронавт": ellipse(height, width, 0.03)}[name]
        Image.fromarray(masks[name]).save(folder / "masks" / f"{name}.png")
    return masks


def listed(text: str) -> list[str]:
    return [line.split(":")[0] for line in text.splitlines() if "% of pixels;" in line]


def load(comfy: Comfy, graph: Graph, folder: str, missing_mask: str = "error") -> Node:
    """Load Training Folder with its own defaults."""
    required = comfy.object_info["MaskedLoRA_LoadFolder"]["input"]["required"]
    defaults = {name: options[0]["default"] for name, (_, *options) in required.items()}
    return graph.add("MaskedLoRA_LoadFolder", **defaults | {"folder": folder, "missing_mask": missing_mask})


def test_a_folder_is_shown_worst_first(comfy: Comfy) -> None:
    masks = photographs(comfy.input / "preview")
    (comfy.input / "preview" / "masks" / "cat.png").unlink()
    graph = Graph()
    model = graph.add("MaskedLoRA_DemoModel")
    loaded = load(comfy, graph, "preview", "all ones")
    shown = graph.add(PREVIEW, data_set=loaded[0], vae=model[2], shown=3, order="worst first")
    plain = graph.add(PREVIEW, data_set=loaded[0], shown=30, order="as loaded")
    statistics = graph.add("PreviewAny", source=shown[1])
    run = comfy.run(graph)
    text = run.text(shown)
    assert listed(text) == ["rocket", "coffee größe", "астронавт", "cat"]
    assert listed(run.text(plain)) == sorted(masks)
    assert text.startswith("White = learn. 3 masks, 1 without a mask (learned everywhere), recipe: as drawn")
    assert "To look at: all black: 1, looks inverted: 1, under 1% white: 1, over 50% white: 1" in text
    white = (masks["coffee größe"] > 127).mean()
    assert f"coffee größe: white (learn): {white:.1%} of pixels" in text
    assert "cat: white (learn): 100.0% of pixels; weight mean 1.000, from 1.000 to 1.000; no mask: learned everywhere" in text
    assert run.text(statistics) == text
    (three,), (four,) = run.images(shown), run.images(plain)
    assert three.width == four.width  # two cards beside each other
    assert three.height > 900


def test_pictures_and_masks_from_the_graph_are_shown(comfy: Comfy) -> None:
    photographs(comfy.input / "preview_lists")
    graph = Graph()
    image = graph.add("LoadImage", image="preview_lists/cat.png")
    mask = graph.add("LoadImageMask", image="preview_lists/masks/cat.png", channel="red")
    recipe = graph.add("MaskedLoRA_MaskRecipe", invert=True, blur=0.0, gamma=1.0, floor=0.0)
    shown = graph.add(PREVIEW, images=image[0], masks=mask[0], recipe=recipe[0])
    text = comfy.run(graph).text(shown)
    seen = 255 - ellipse(300, 451, 0.3)[2:298, 1:449]  # 451 x 300 in cells of 8
    assert f"picture 1: white (learn): {(seen > 127).mean():.1%} of pixels" in text


def test_what_to_show_is_asked_for_in_words(comfy: Comfy) -> None:
    photographs(comfy.input / "preview_errors")
    both, neither, half = Graph(), Graph(), Graph()
    image, mask = (both.add("LoadImage", image="preview_errors/cat.png")[0],
                   both.add("LoadImageMask", image="preview_errors/masks/cat.png", channel="red")[0])
    both.add(PREVIEW, data_set=load(comfy, both, "preview_errors")[0], images=image, masks=mask)
    assert "a data set and images and masks are connected" in comfy.error(both, PREVIEW)
    neither.add(PREVIEW)
    assert "connect a data set, or images and masks" in comfy.error(neither, PREVIEW)
    picture = half.add("LoadImage", image="preview_errors/cat.png")
    half.add(PREVIEW, images=picture[0])
    assert "nothing to show: connect masks" in comfy.error(half, PREVIEW)


def test_a_line_is_grown_for_the_grid_of_the_vae(comfy: Comfy) -> None:
    line = np.zeros((128, 128), np.uint8)
    line[:, 40] = 255  # the first column of a cell of 8, which needs 4
    (comfy.input / "grow").mkdir()
    Image.fromarray(line).save(comfy.input / "grow" / "line.png")
    graph = Graph()
    model = graph.add("MaskedLoRA_DemoModel")
    mask = graph.add("LoadImageMask", image="grow/line.png", channel="red")
    grown = graph.add(GROW, mask=mask[0], vae=model[2], keep=0.99, threshold=0.5, largest=16)
    picture = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=grown[0])[0])
    growth, report = graph.add("PreviewAny", source=grown[2]), graph.add("PreviewAny", source=grown[3])
    run = comfy.run(graph)
    assert run.text(growth) == "3"
    assert "mask 1: 100.0% of its white pixels vanish as drawn, 0.0% grown" in run.text(report)
    assert run.text(grown) == run.text(report)
    (drawn,) = run.images(picture)
    white = np.asarray(drawn.convert("L")) > 127
    assert np.flatnonzero(white.any(0)).tolist() == list(range(37, 44))
    assert white[:, 37:44].all()
    (shown,) = run.images(grown)
    assert (np.asarray(shown.convert("RGB")) == (255, 45, 155)).all(-1).sum() > 400


def test_the_grid_is_the_one_of_the_vae() -> None:
    vae = load_autoencoder(DEMO_MODEL)
    assert latent_grid(vae).cell == latent_grid(None).cell == 8
    vae.downscale_ratio = 16  # as Flux 2 has it
    assert latent_grid(vae).cell == 16
    assert latent_grid(None).clip(6) == (6, 6)
    assert [latent_grid(tiny_wan_vae()).clip(frames) for frames in (1, 4, 5, 6, 9)] == [(1, 1), (1, 1), (5, 2), (5, 2), (9, 3)]


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Frame]]:
    """The frames that are drawn, by the item's name."""
    seen: dict[str, list[Frame]] = {}

    def draw(title: str, frames: list[Frame], count: int, numbers: object) -> np.ndarray:
        seen[title] = frames
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(module, "card", draw)
    return seen


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[DataSet, comfy.sd.VAE], dict[str, torch.Tensor]]:
    """What reaches the loss of a data set that was really encoded, by name."""
    def run(data_set: DataSet, vae: comfy.sd.VAE) -> dict[str, torch.Tensor]:
        padding = next(iter(PRESETS.values()))
        with torch.inference_mode():
            encoded = encode_data_set(data_set, load_text_encoders(DEMO_MODEL), vae, padding, tmp_path / "cache", Progress(None))
        return {one.name: loss_weight(one.mask_THW, tuple(one.latent_CHW.shape), RECIPE, one.name) for one in encoded.examples}

    return run


def test_pictures_are_shown_as_they_are_trained(tmp_path: Path, cells: dict[str, list[Frame]], weights: Any) -> None:
    """Resized masks, kept in half precision by the cache, under a recipe that the name seeds."""
    masks = photographs(tmp_path / "set")
    items = []
    for name, mask in masks.items():
        height, width = mask.shape
        files = (ImageFiles((tmp_path / "set" / f"{name}.png",)), MaskFiles((tmp_path / "set" / "masks" / f"{name}.png",)))
        items.append(Item(name, *files, "", (width, height), placement=Placement((136, 100), (0, 0, width, height))))
    items.append(Item("no mask", items[0].image, None, "", items[0].size))
    vae = load_autoencoder(DEMO_MODEL)
    trained = weights(DataSet(tuple(items), ""), vae)
    module.review(preview_sources(DataSet(tuple(items), ""), None, None, None), RECIPE, latent_grid(vae))
    assert cells.keys() == trained.keys()
    for name, weight_1HW in trained.items():
        assert torch.equal(cells[name][0].cells_hw, weight_1HW[0]), name
    assert cells["cat"][0].cells_hw.unique().numel() > 20


def test_clips_are_shown_as_they_are_trained(cells: dict[str, list[Frame]], weights: Any) -> None:
    moving = torch.stack([torch.from_numpy(ellipse(72, 64, 0.1 + 0.03 * index)) for index in range(10)]).float() / 255
    cat = torch.from_numpy(data.chelsea()[:72, :64].copy()).float().div(255).expand(10, -1, -1, -1)
    items = (Item("moving", ImagePixels(cat), MaskPixels(moving), "", (64, 72), 10),
             Item("still", ImagePixels(cat[:5]), MaskPixels(moving[9:]), "", (64, 72), 5))
    vae = tiny_wan_vae()
    trained = weights(DataSet(items, ""), vae)
    module.review(preview_sources(DataSet(items, ""), None, None, None), RECIPE, latent_grid(vae))
    assert trained["moving"].shape[1] == 3  # 9 of 10 frames
    assert [frame.number for frame in cells["moving"]] == [1, 4, 6, 9]
    for frame, latent_frame in zip(cells["moving"], (0, 1, 2, 2), strict=True):
        assert torch.equal(frame.cells_hw, trained["moving"][0, latent_frame])
    for frame in cells["still"]:
        assert torch.equal(frame.cells_hw, trained["still"][0, 1])
    with pytest.raises(ValueError, match="the clip has 10 frames and needs a video VAE"):
        module.review(preview_sources(DataSet(items, ""), None, None, None), RECIPE, latent_grid(load_autoencoder(DEMO_MODEL)))
