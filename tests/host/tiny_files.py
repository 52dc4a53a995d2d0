"""Files of tiny random models that core's own loaders recognize and load."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .tiny import KW, random_weights, sdxl, wan, wan_network


def sdxl_network() -> nn.Module:
    """What ComfyUI takes for SDXL's smaller sister Segmind Vega, by its 320 channels, its depths, and the widths of text and pooled text.

    The real one has 2 and 4 times as many channels further down; here there are 320 everywhere.
    """
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth = [0, 0, 1, 1, 2, 2]
    config: dict[str, Any] = sdxl().config | {
        "model_channels": 320, "channel_mult": [1, 1, 1], "context_dim": 2048, "transformer_depth": depth, "num_head_channels": 64,
        "transformer_depth_output": [d for d in depth[::2] for _ in range(3)], "transformer_depth_middle": 1}
    return UNetModel(**KW, **config)


def save_sdxl(file: Path) -> None:
    """A checkpoint of the U-Net and, for a VAE, of core's small TAESD; without text encoders."""
    from comfy.taesd.taesd import TAESD

    save(file, {**prefixed("model.diffusion_model.", random_weights(sdxl_network())),
                **prefixed("first_stage_model.", random_weights(TAESD(latent_channels=4)))}, torch.float16)


def save_wan(file: Path) -> None:
    """WAN 2.1, 128 wide, with 4096 numbers to a token as the real one."""
    save(file, random_weights(wan_network(wan().config | {"text_dim": 4096})))


def save_wan_vae(file: Path) -> None:
    from comfy.ldm.wan.vae import WanVAE

    save(file, random_weights(WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True])))


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


def save(file: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(dtype).contiguous() for name, value in weights.items()}, file)
