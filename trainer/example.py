"""The values that flow through training."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One picture to learn: latent (C, [T,] H, W) in the model's own space and loss weight (1, [T or 1,] H, W) in 0..1.

    `cond` is what the model is told about it and means nothing to the trainer; examples with an equal `group` may share a
    forward pass. `loss_weight` multiplies its loss and stays out of denominators, so that half the weight is half the gradient.
    """

    name: str
    latent_CHW: Tensor
    weight_1HW: Tensor
    cond: Any
    group: Hashable = None
    loss_weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Examples of one group, stacked on `device`; one cond an example."""

    latent_BCHW: Tensor
    weight_B1HW: Tensor
    conds: tuple[Any, ...]

    @classmethod
    def stack(cls, examples: Sequence[Example], device: torch.device) -> Batch:
        return cls(torch.stack([e.latent_CHW for e in examples]).to(device),
                   torch.stack([e.weight_1HW for e in examples]).to(device), tuple(e.cond for e in examples))


class Denoiser(Protocol):
    """A network in its own prediction space, with the noise schedule that it will be sampled with."""

    def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Sequence[Any]) -> Tensor:
        """The raw prediction for latents at noise level sigma, same shape as `noisy_BCHW`."""

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """The network's noisy input at noise level sigma, as the sampler would make it."""

    def target(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """What a perfect network would predict."""

    def sigma(self, normal_B: Tensor) -> Tensor:
        """Noise levels to train at, from standard normal draws."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. `loss_inside` and `loss_outside` are mean errors where the mask learns and where it does not
    (nan when the step had no such pixel, and for an all-black step, which is not computed)."""

    step: int
    loss: float
    loss_inside: float
    loss_outside: float
    mean_weight: float
    grad_norm: float
    learning_rate: float
