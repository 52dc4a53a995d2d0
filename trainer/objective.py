"""The diffusion objective: draw noise, ask the network, compare in the network's own prediction space.

A loss on x0 would weight the error of a flow model by sigma squared; the released models were trained on the raw prediction.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .example import Batch, Denoiser
from .seeds import generator


def noise_generator(seed: int, index: int) -> torch.Generator:
    """The generator of noise and noise level of the run's `index`-th drawn example."""
    return generator(seed, "noise", index)


def squared_error(model: Denoiser, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
    """Squared prediction error (B, C, [T,] H, W) in float32, at a noise level and noise drawn from each example's generator."""
    latent = batch.latent_BCHW
    draws = [(torch.randn((), generator=g), torch.randn(latent.shape[1:], generator=g)) for g in generators]
    sigma = model.sigma(torch.stack([level for level, _ in draws])).to(latent)
    noise = torch.stack([noise for _, noise in draws]).to(latent)
    prediction = model(model.add_noise(latent, noise, sigma), sigma, batch.conds)
    return (prediction.float() - model.target(latent, noise, sigma).float()).square()
