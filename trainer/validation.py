"""The error on pictures that are not trained on, on noise that never changes, so that numbers of different runs can be compared."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .example import Denoiser, Example
from .seeds import generator

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSpec:
    """`levels`: noise levels from 0 (clean) to 1 (noise). `draws`: noises of a picture, each at all levels. `seed`: of the noise alone;
    it is no part of the training's seed.
    """

    levels: tuple[float, ...] = LEVELS
    draws: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level < 1 for level in self.levels) or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"validation levels are {self.levels}; give rising numbers between 0 and 1, such as 0.2, 0.5, 0.8")
        if self.draws < 1:
            raise ValueError(f"validation draws are {self.draws}; use 1 or more")


@dataclass(frozen=True, slots=True)
class ErrorMeans:
    """Mean squared errors of the prediction: of all cells alike, weighted by the mask, and weighted by its complement.

    A mean over no cell at all is nan.
    """

    everywhere: float
    inside: float
    outside: float


@dataclass(frozen=True, slots=True)
class Validation:
    """`total` is the mean of the levels, each counting the same."""

    total: ErrorMeans
    levels: tuple[tuple[float, ErrorMeans], ...]


@torch.no_grad()
def validate(model: Denoiser, examples: Sequence[Example], spec: ValidationSpec, device: torch.device) -> Validation:
    """Errors of the examples with their weights (white = learn), one example in memory at a time.

    The error is always the squared one, whatever the training's loss is. Noise comes from the seed, the example's name and the
    draw, so that it stays the same when pictures are added or their order changes; it is the same at every level.
    """
    sums = torch.zeros(len(spec.levels), 3, 2, dtype=torch.float64)  # level x (everywhere, inside, outside) x (error, weight)
    for example in examples:
        latent = example.latent_CHW[None].to(device)
        weight_B1HW = example.weight_1HW.double().expand(1, *latent.shape[2:])[None]
        for draw in range(spec.draws):
            noise = torch.randn(latent.shape, generator=generator(spec.seed, f"validation {example.name}", draw)).to(latent)
            for row, level in enumerate(spec.levels):
                sums[row] += weighted_sums(error_of(model, example, latent, noise, level), weight_B1HW)
    means = sums[..., 0] / sums[..., 1]
    rows = [ErrorMeans(*row) for row in means.tolist()]
    return Validation(ErrorMeans(*means.mean(0).tolist()), tuple(zip(spec.levels, rows, strict=True)))


def error_of(model: Denoiser, example: Example, latent_BCHW: Tensor, noise_BCHW: Tensor, level: float) -> Tensor:
    """Squared error (1, 1, [T,] H, W), mean over channels, float64 on the CPU."""
    sigma = model.sigma(torch.tensor([level])).to(latent_BCHW)
    prediction = model(model.add_noise(latent_BCHW, noise_BCHW, sigma), sigma, [example.cond])
    difference = prediction.float() - model.target(latent_BCHW, noise_BCHW, sigma).float()
    return difference.cpu().double().square().mean(1, keepdim=True)


def weighted_sums(error_B1HW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """(3, 2): sum of weighted errors and sum of weights, for weights of 1, of the mask and of its complement."""
    weights = (torch.ones_like(weight_B1HW), weight_B1HW, 1 - weight_B1HW)
    return torch.stack([torch.stack([(error_B1HW * w).sum(), w.sum()]) for w in weights])
