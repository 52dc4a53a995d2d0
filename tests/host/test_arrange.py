"""The Crop and Bucket Pictures node: what VAE and model need is asked from them, and the report is shown."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.sd
import numpy as np
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from pack.dataset.buckets import Arrangement, arrange
from pack.dataset.item import DataSet, ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels
from pack.dataset.load import load_item
from pack.host.crop_masks import recipe_mask
from pack.host.demo_model import load_autoencoder
from pack.host.folders import DEMO_MODEL
from pack.host.picture_multiple import patch_size, picture_multiple
from pack.masks.recipe import simple_recipe
from pack.nodes.arrange import Arrange
from PIL import Image

from .tiny import ARCHITECTURES, tiny_patcher

READY = Arrange.PREPARE_CLASS_CLONE({})  # as ComfyUI calls it
DEFAULTS: dict[str, Any] = {
    "size": 128, "shape": "buckets", "crop": "centre", "small": "enlarge", "flip": False, "variants": 0, "rotation": 0.0, "zoom": 0.0,
    "shift": 0.0, "seed": 0, "step": 16, "longest": 2.0}


@pytest.fixture(scope="module")
def vae() -> comfy.sd.VAE:
    return load_autoencoder(DEMO_MODEL)


def wan_vae_ratio(ratio: Any) -> comfy.sd.VAE:
    """A VAE object that only tells its compression."""
    vae = comfy.sd.VAE.__new__(comfy.sd.VAE)
    vae.downscale_ratio = ratio
    return vae


def pibo(root: Path) -> DataSet:
    folder = root / "assets" / "pibo"
    files = sorted(folder.glob("*.png"))
    return DataSet(tuple(Item(file.stem, ImageFiles((file,)), MaskFiles((folder / "masks" / file.name,)), "", Image.open(file).size)
                         for file in files), f"{len(files)} pictures")


def off_centre(size: tuple[int, int]) -> Item:
    """A picture whose red channel is its mask, white at the right edge."""
    mask_THW = torch.zeros(1, size[1], size[0])
    mask_THW[:, :, -60:-10] = 1
    image_THWC = torch.stack([mask_THW, torch.zeros_like(mask_THW), torch.zeros_like(mask_THW)], -1)
    return Item("right", ImagePixels(image_THWC), MaskPixels(mask_THW), "", size)


# As their checkpoints are; all others have 2, and UNets none.
PATCHES = {"flux2": 1, "hunyuan_video_15": 1, "hunyuan_image": 1, "chroma_radiance": 16}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_model_tells_its_patches(name: str, vae: comfy.sd.VAE) -> None:
    patcher, _ = tiny_patcher(name)
    expected = 1 if isinstance(patcher.model.diffusion_model, UNetModel) else PATCHES.get(name, 2)
    assert patch_size(patcher) == expected
    found = picture_multiple(vae, patcher)
    assert found.pixels == 8 * expected
    assert found.source == (f"sides are multiples of {8 * expected}: 8 pixels for a latent cell of the VAE x {expected} (the model's "
                            "patch size)")
    # What the network itself was built with, read from the shape of its first layer where it has one.
    embedding = getattr(patcher.model.diffusion_model, "patch_embedding", None)
    if embedding is not None:
        assert embedding.weight.shape[-1] == expected


def test_a_model_with_another_name_or_form_for_it_is_understood(vae: comfy.sd.VAE) -> None:
    patcher, _ = tiny_patcher("flux")
    network = patcher.model.diffusion_model
    for value, expected in ((1, 1), ((1, 4, 4), 4), ([1, 2, 2], 2)):
        network.patch_size = value
        assert patch_size(patcher) == expected
    del network.patch_size
    network.patch_spatial = 2
    assert patch_size(patcher) == 2


@pytest.mark.parametrize(("ratio", "cell"), [(8, 8), (16, 16), ((lambda frames: frames, 16, 16), 16), (32, 32), (1, 1)])
def test_the_vae_tells_its_cells(ratio: Any, cell: int) -> None:
    found = picture_multiple(wan_vae_ratio(ratio), None)
    assert found.pixels == cell * 2
    assert found.source.endswith(f"{cell} pixels for a latent cell of the VAE x 2 (assumed, because no model is connected)")


@pytest.mark.parametrize("ratio", [2048, 512 * (44100 / 16000), 0])
def test_a_vae_for_sound_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="connect a VAE for pictures or video"):
        picture_multiple(wan_vae_ratio(ratio), None)


def test_the_node_arranges_the_demo_pictures(root: Path, vae: comfy.sd.VAE) -> None:
    result = READY.execute(pibo(root), vae, **DEFAULTS)
    arranged, report = result.args
    assert [item.placement.size for item in arranged.items] == [(128, 128)] * 12
    assert report == arranged.report
    (shown,) = result.ui.as_dict()["text"]
    assert sorted(filter(None, shown.splitlines())) == sorted(report.splitlines())
    assert shown.splitlines()[-1] == "12 pictures", "what this node adds comes first, because a node shows a few lines"
    lines = report.splitlines()
    assert lines[0] == "12 pictures"
    assert "  128x128: 12 (100.0%)" in lines
    assert lines[-1].startswith("sides are multiples of 16: 8 pixels for a latent cell")
    loaded = load_item(arranged.items[0])
    source = np.asarray(Image.open(root / "assets" / "pibo" / "pibo_01.png").convert("RGB"))
    assert source.shape[:2] == (128, 128)
    assert torch.equal(loaded.image_THWC[0], torch.from_numpy(source.astype(np.float32)) / 255)
    latent = vae.encode(loaded.image_THWC)
    assert latent.shape[-2:] == (16, 16)


def test_mask_and_picture_stay_together_through_the_loader(vae: comfy.sd.VAE) -> None:
    settings = DEFAULTS | {"size": 64, "shape": "square", "crop": "mask", "flip": True, "variants": 2, "rotation": 20.0, "zoom": 0.3,
                           "shift": 0.1}
    arranged = READY.execute(DataSet((off_centre((300, 100)),), ""), vae, **settings).args[0]
    assert [item.name for item in arranged.items] == ["right", "right (variant 1)", "right (variant 2)", "right (mirrored)"]
    assert arranged.items[0].placement.box[2] > 250
    for item in arranged.items:
        loaded = load_item(item)
        assert loaded.image_THWC.shape == (1, 64, 64, 3)
        assert loaded.mask_THW is not None
        known = loaded.mask_THW > 0
        assert (loaded.image_THWC[..., 0][known] - loaded.mask_THW[known]).abs().mean() < 0.02
        assert loaded.mask_THW.mean() > 0.2
    plain, mirrored = load_item(arranged.items[0]), load_item(arranged.items[3])
    assert torch.equal(plain.image_THWC.flip(2), mirrored.image_THWC)
    assert torch.equal(plain.mask_THW.flip(2), mirrored.mask_THW)


def test_a_step_that_does_not_fit_is_refused_with_one_that_does(root: Path, vae: comfy.sd.VAE) -> None:
    with pytest.raises(ValueError, match="step is 24, .* multiples of 16; set step to 16, the smallest that fits, or to 32"):
        READY.execute(pibo(root), vae, **DEFAULTS | {"step": 24})
    patcher, _ = tiny_patcher("sdxl")
    arranged = READY.execute(pibo(root), vae, **DEFAULTS | {"step": 24}, model=patcher).args[0]
    assert {item.placement.size for item in arranged.items} == {(120, 120)}


def test_the_schema_says_what_white_means_and_explains_everything() -> None:
    schema = Arrange.GET_SCHEMA()
    assert schema.node_id == "MaskedLoRA_Arrange"
    assert schema.is_output_node
    assert "white = learn" in schema.description
    assert all(field.tooltip for field in (*schema.inputs, *schema.outputs))
    assert json.dumps([field.get_io_type() for field in schema.outputs]) == '["MASKED_LORA_DATA_SET", "STRING"]'


def test_a_recipe_decides_what_an_inverted_mask_crops_to() -> None:
    """The subject is the black part of an inverted mask; without the recipe the crop keeps what is not learned."""
    mask_THW = torch.ones(1, 64, 192)
    mask_THW[..., 128:] = 0
    item = Item("1", ImagePixels(torch.rand(1, 64, 192, 3)), MaskPixels(mask_THW), "", (192, 64))
    boxes = []
    for recipe in (None, simple_recipe(invert=True)):
        arranged = arrange(DataSet((item,), ""), Arrangement(side=64, step=16, shape="square", crop="mask"), recipe_mask(recipe))
        boxes.append(arranged.items[0].placement.box)
    assert boxes == [(64, 0, 128, 64), (128, 0, 192, 64)]
