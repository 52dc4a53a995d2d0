"""The diffusion objective: draw noise, ask the network, compare in the network's own prediction space.

A loss on x0 would weight the error of a flow model by sigma squared; the released models were trained on the raw prediction.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import ErrorKind, LossSpec, Weighting
from .example import Denoiser
from .seeds import generator

if TYPE_CHECKING:
    from .draws import Batch

WithoutAdapter = Callable[[], AbstractContextManager[None]]
DEBIASED_SNR = 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Of each value (B, C, [T,] H, W) in float32: against the target, and against the base model (zeros where none was asked for).

    level_B: what each picture's noise level counts.
    """

    target_BCHW: Tensor
    base_BCHW: Tensor | None
    level_B: Tensor


def noise_generator(seed: int, index: int) -> torch.Generator:
    """The generator of noise and noise level of the run's `index`-th drawn example."""
    return generator(seed, "noise", index)


def prediction_errors(model: Denoiser, batch: Batch, loss: LossSpec, without_adapter: WithoutAdapter) -> Errors:
    """The network is asked once, and once more without its adapter for the pictures that are to stay as they were outside the mask:
    the same noise, noise level and text, no gradient.
    """
    latent = batch.latent_BCHW
    sigma = model.sigma(torch.stack([d.level for d in batch.draws])).to(latent)
    noise = torch.stack([torch.randn(latent.shape[1:], generator=d.generator) for d in batch.draws]).to(latent)
    noisy = model.add_noise(latent, noise, sigma)
    prediction = model(noisy, sigma, batch.conds).float()
    error = elementwise(prediction - model.target(latent, noise, sigma).float(), loss)
    base_error = None
    if kept := [i for i, d in enumerate(batch.draws) if d.prior_1HW.any()]:
        with torch.no_grad(), without_adapter():
            base = model(noisy[kept], sigma[kept], [batch.conds[i] for i in kept]).float()
        places = torch.tensor(kept, device=error.device)
        base_error = torch.zeros_like(error).index_put((places,), elementwise(prediction[kept] - base, loss))
    return Errors(error, base_error, level_weight(model, sigma, loss))


def elementwise(difference: Tensor, loss: LossSpec) -> Tensor:
    if loss.error is ErrorKind.L1:
        return difference.abs()
    if loss.error is ErrorKind.HUBER:
        return loss.delta * ((difference.square() + loss.delta**2).sqrt() - loss.delta)
    if loss.error is ErrorKind.SMOOTH_L1:
        return torch.nn.functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=loss.delta)
    return difference.square()


def level_weight(model: Denoiser, sigma_B: Tensor, loss: LossSpec) -> Tensor:
    """What each noise level counts, (B,) float64. Raises ValueError for a weighting that the model's prediction has no formula for."""
    sigma_B = sigma_B.cpu().double()
    if loss.weighting is Weighting.NONE:
        return torch.ones_like(sigma_B)
    if loss.weighting is Weighting.MIN_SNR:
        return model.snr(sigma_B).clamp(max=loss.gamma) * model.gain(sigma_B).square()
    if loss.weighting is Weighting.DEBIASED and model.prediction in ("eps", "v"):
        return 1 / (model.snr(sigma_B) + 1) if model.prediction == "v" else model.snr(sigma_B).clamp(max=DEBIASED_SNR) ** -0.5
    if loss.weighting is Weighting.SIGMA_SQRT and model.prediction == "flow":
        return sigma_B**-2
    if loss.weighting is Weighting.COSMAP and model.prediction == "flow":
        return 2 / (math.pi * (1 - 2 * sigma_B + 2 * sigma_B.square()))
    raise ValueError(f"weighting {loss.weighting.value!r} has no formula for a model that predicts {model.prediction}; "
                     f"use {Weighting.MIN_SNR.value!r} or {Weighting.NONE.value!r}")
