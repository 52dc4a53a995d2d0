"""Single pictures by ComfyUI's own sampler: what KSampler and VAE Decode make of one seed."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from .text import Conditioning

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

Watched = Callable[[int, Tensor, Tensor, int], None]  # step from 0, clean latent, noisy latent, steps
EMPTY_CELL = 8  # pixels to a cell of the empty latent, as core's nodes make it; the host fits it to the model


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """KSampler's settings and a size in pixels. Raises ValueError for settings that mean nothing."""

    steps: int = 20
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    width: int = 512
    height: int = 512

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"sampling steps is {self.steps}; use 1 or more")
        for name, known in (("sampler", comfy.samplers.SAMPLER_NAMES), ("scheduler", comfy.samplers.SCHEDULER_NAMES)):
            if getattr(self, name) not in known:  # the host would take its first one instead
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")


def sample_latent(patcher: ModelPatcher, sampling: Sampling, seed: int, positive: Conditioning, negative: Conditioning,
                  watched: Watched) -> Tensor:
    """One latent, (1, C, [T,] H, W), bit for bit that of KSampler behind an empty latent of one picture."""
    empty = comfy.sample.fix_empty_latent_channels(
        patcher, torch.zeros(1, 4, sampling.height // EMPTY_CELL, sampling.width // EMPTY_CELL), downscale_ratio_spacial=EMPTY_CELL)
    noise = comfy.sample.prepare_noise(empty, seed)
    return comfy.sample.sample(patcher, noise, sampling.steps, sampling.cfg, sampling.sampler, sampling.scheduler, positive, negative,
                               empty, callback=watched, disable_pbar=True, seed=seed)


def decode_first(vae: comfy.sd.VAE, latent: Tensor) -> Tensor:
    """The picture, (H, W, C) in 0..1; of a clip its first frame."""
    pixels: Tensor = vae.decode(latent)
    return pixels.reshape(-1, *pixels.shape[-3:])[0]
