"""The bundled demo model: what it is, and that it draws what a caption says."""
from __future__ import annotations

import importlib
import sys
from pathlib import Path

import comfy.ldm.flux.model
import comfy.model_patcher
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
from pack.host.folders import DEMO_MODEL

CAPTIONS = slice(40, 80)  # the first 40 were looked at while the model was made


@pytest.fixture(scope="module")
def drawing(root: Path):
    """tools/demo_model, which is a program and no part of the pack."""
    sys.path.insert(0, str(root / "tools"))
    try:
        yield importlib.import_module("demo_model.check"), importlib.import_module("demo_model.scenes")
    finally:
        sys.path.remove(str(root / "tools"))


def test_it_is_a_real_flux_of_the_promised_size() -> None:
    model = load_diffusion_model(DEMO_MODEL)
    network = model.model.diffusion_model
    assert isinstance(network, comfy.ldm.flux.model.Flux)
    assert 5e6 <= sum(p.numel() for p in network.parameters()) <= 15e6
    files = [f for f in DEMO_MODEL.parent.rglob("*") if f.is_file() and f.parent.name != "quick_masks"]
    assert sum(f.stat().st_size for f in files) <= 24_000_000


def test_its_text_encoder_pads_as_flux_does() -> None:
    clip = load_text_encoders(DEMO_MODEL)
    assert len(clip.tokenize("a red star")["t5xxl"][0]) == 256
    assert set(clip.tokenize("a red star")) == {"l", "t5xxl"}


def test_it_lies_in_memory_as_a_whole_also_where_other_models_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be trained under dynamic VRAM, which ComfyUI has on a GPU alone."""
    class Dynamic(ModelPatcher):
        pass

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    assert not isinstance(load_diffusion_model(DEMO_MODEL), Dynamic)


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vae.safetensors is missing; reinstall"):
        load_autoencoder(tmp_path)


def test_the_judge_reads_drawn_scenes_right(drawing) -> None:
    check, _ = drawing
    assert check.drawn_accuracy(200) >= 0.98


def test_the_judge_tells_wrong_pictures(drawing) -> None:
    """Scenes judged against the caption of another scene: nearly all are wrong."""
    import random

    check, scenes = drawing
    rng = random.Random(1)
    pairs = [(rng.choice(scenes.ALL_SCENES), rng.choice(scenes.ALL_SCENES)) for _ in range(100)]
    right = [check.judge(scenes.draw(shown, rng)[0], told).right for shown, told in pairs]
    assert sum(right) <= 5


def test_it_draws_what_held_out_captions_say(drawing) -> None:
    """Colour and kind of the subject, found where they should be, in captions that no training step of the Flux saw."""
    check, scenes = drawing
    held_out = scenes.split_scenes()[1][CAPTIONS]
    with torch.no_grad():
        scores, _ = check.check(load_diffusion_model(DEMO_MODEL), load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL), held_out)
    assert scores["right"] >= 0.8, scores
