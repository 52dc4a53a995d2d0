"""The values that flow through training."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """What the model is told about a picture in place of its own `cond`, and the group that its example then belongs to."""

    cond: Any
    group: Hashable = None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One picture to learn: latent (C, [T,] H, W) in the model's own space and loss weight (1, [T or 1,] H, W) in 0..1.

    `cond` is what the model is told about it and means nothing to the trainer; examples with an equal `group` may share a
    forward pass. A draw shows `cond` or one of the `alternatives`, each alike, or, at the rate of caption dropout, one of `dropped`;
    these are made when they are called. `loss_weight` multiplies its loss and stays out of denominators, so that half the weight is
    half the gradient.
    """

    name: str
    latent_CHW: Tensor
    weight_1HW: Tensor
    cond: Any
    group: Hashable = None
    loss_weight: float = 1.0
    alternatives: tuple[Callable[[], Text], ...] = ()
    dropped: tuple[Callable[[], Text], ...] = ()


class Denoiser(Protocol):
    """A network in its own prediction space, with the noise schedule that it will be sampled with."""

    def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Sequence[Any]) -> Tensor:
        """The raw prediction for latents at noise level sigma, same shape as `noisy_BCHW`."""

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """The network's noisy input at noise level sigma, as the sampler would make it."""

    def target(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """What a perfect network would predict."""

    @property
    def prediction(self) -> str:
        """What the network predicts: flow, eps, v or another name."""

    def snr(self, sigma_B: Tensor) -> Tensor:
        """Signal-to-noise ratio of the noisy latent, (B,)."""

    def gain(self, sigma_B: Tensor) -> Tensor:
        """How far the clean latent moves when the prediction moves by one, (B,), without its sign."""

    def sigma(self, level_B: Tensor) -> Tensor:
        """The model's own noise strength at levels 0 (clean) to 1 (noise)."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimizer step did. `loss_inside` and `loss_outside` are mean errors where the mask learns and where it does not
    (nan when the step had no such pixel, and for an all-black step, which is not computed). `masked`: share of the step's pictures
    whose mask left something out."""

    step: int
    loss: float
    loss_inside: float
    loss_outside: float
    mean_weight: float
    masked: float
    grad_norm: float
    learning_rate: float
