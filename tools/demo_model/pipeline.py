"""The stages of the demo model's making, in order."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn

from .common import logger

AUTOENCODER_STEPS, TEXT_STEPS, PICTURES, CHECKED = 1500, 300, 8_000, 120


def export(module: nn.Module, file: Path) -> None:
    """Write a module's weights as float16 safetensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().half().contiguous() for k, v in module.state_dict().items()}, file)


def host_loader() -> ModuleType:
    """The pack's own loader, imported by file: the checkout's `nodes` folder must not shadow ComfyUI's nodes.py."""
    spec = importlib.util.spec_from_file_location("demo_model_loader", Path(__file__).parents[2] / "host" / "demo_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(workdir: Path, assets: Path, device: str, stage: str) -> None:
    """Run one stage, or all, and export its weights to assets/pico_flux."""
    out = assets / "pico_flux"
    if stage in ("autoencoder", "all"):
        from .autoencoder import train_autoencoder

        export(train_autoencoder(workdir, steps=AUTOENCODER_STEPS, device=device), out / "vae.safetensors")
    if stage in ("text", "all"):
        from .text import train_text_encoders

        t5, clip_l = train_text_encoders(workdir, steps=TEXT_STEPS, device=device)
        export(t5, out / "t5xxl.safetensors")
        export(clip_l, out / "clip_l.safetensors")
    if stage in ("base", "all"):
        from .base import train_base

        loader = host_loader()
        model = train_base(workdir, loader.load_text_encoders(out), loader.load_autoencoder(out), PICTURES, device)
        export(model, out / "flux.safetensors")
    if stage in ("check", "all"):
        report_check(out, assets.parent / "docs")


def report_check(weights: Path, docs: Path) -> None:
    """Sample held-out captions from the exported weights, print the scores and write the contact sheet."""
    from .check import check, contact_sheet
    from .scenes import split_scenes

    loader, (_, held_out) = host_loader(), split_scenes()
    scenes = held_out[:CHECKED]
    with torch.no_grad():
        parts = loader.load_diffusion_model(weights), loader.load_text_encoders(weights), loader.load_autoencoder(weights)
        scores, pictures = check(*parts, scenes)
    logger.info("%d held-out captions: %s", len(scenes), json.dumps(scores))
    contact_sheet(pictures[:40], scenes[:40]).save(docs / "demo_model.jpg", quality=88)
