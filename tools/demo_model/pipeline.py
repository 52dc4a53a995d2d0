"""The stages of the demo model's making, in order."""
from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import nn

AUTOENCODER_STEPS, TEXT_STEPS, PICTURES, SHORT_STEPS, FULL_STEPS = 1500, 300, 8_000, 5_000, 700


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
        from .base import prepare_pictures, train_base

        loader = host_loader()
        with torch.no_grad():
            pictures = prepare_pictures(workdir, loader.load_text_encoders(out), loader.load_autoencoder(out), PICTURES)
        export(train_base(workdir, pictures, short_steps=SHORT_STEPS, full_steps=FULL_STEPS, device=device), out / "flux.safetensors")
