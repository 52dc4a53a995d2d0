"""The demo model: a Flux of a few million parameters, loaded by ComfyUI's own loaders from committed weights."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def load_diffusion_model(folder: Path) -> ModelPatcher:
    """The pico Flux, in memory as a whole also under dynamic VRAM; raises FileNotFoundError that names a missing file."""
    return comfy.sd.load_diffusion_model_state_dict(read_weights(folder, "flux"), disable_dynamic=True)


def load_text_encoders(folder: Path) -> comfy.sd.CLIP:
    """A small T5 and a small CLIP-L behind Flux's own tokenizers."""
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # ComfyUI reads CLIP-L's sizes from "model_config" alone: load_clip overwrites "clip_l_model_config".
    options: dict[str, Any] = {"t5xxl_model_config": sizes["t5xxl"], "model_config": sizes["clip_l"]}
    weights = [read_weights(folder, "t5xxl"), read_weights(folder, "clip_l")]
    return comfy.sd.load_text_encoder_state_dicts(weights, clip_type=comfy.sd.CLIPType.FLUX, model_options=options)


def load_autoencoder(folder: Path) -> comfy.sd.VAE:
    """The 16-channel tiny autoencoder, 8 pixels to a latent cell."""
    return comfy.sd.VAE(sd=read_weights(folder, "vae"))


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; reinstall the pack to get the demo model's weights back")
    weights: dict[str, Tensor] = comfy.utils.load_torch_file(str(file), safe_load=True)
    return weights
