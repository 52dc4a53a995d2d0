"""A denoiser of one convolution, in float64, and examples for it. Shapes: B batch, C channels, H and W latent grid."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pack.trainer.config import Normalization, TrainConfig
from pack.trainer.epoch import Epoch, draw_order
from pack.trainer.example import Example, StepReport
from pack.trainer.loop import train
from pack.trainer.objective import noise_generator
from torch import Tensor, nn

CHANNELS = 2


@dataclass(frozen=True, eq=False)
class Cond:
    """What an example tells the model: its name, and numbers to add to its output."""

    name: str
    plus: Tensor | float = 0.0


class ConvDenoiser:
    """`convolution(noisy) (1 + sigma) + plus`, rectified flow. `calls` lists the names of each forward pass."""

    def __init__(self, seed: int = 0, kernel: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            self.conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2).double()
        for parameter in self.conv.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.first = [p.data.clone() for p in self.conv.parameters()]
        self.calls: list[list[str]] = []

    @contextmanager
    def base(self) -> Iterator[None]:
        """The "adapter" is what training changed: inside, the convolution is as it was made."""
        now = [p.data for p in self.parameters]
        for parameter, first in zip(self.parameters, self.first, strict=True):
            parameter.data = first
        try:
            yield
        finally:
            for parameter, data in zip(self.parameters, now, strict=True):
                parameter.data = data

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.conv.parameters())

    def snapshot(self) -> Tensor:
        return torch.cat([p.detach().flatten().clone() for p in self.parameters])

    def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Sequence[Cond]) -> Tensor:
        self.calls.append([c.name for c in conds])
        out = self.conv(noisy_BCHW) * (1 + sigma_B.view(-1, 1, 1, 1))
        return out + torch.stack([torch.zeros_like(out[0]) + c.plus for c in conds])

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        sigma = sigma_B.view(-1, 1, 1, 1)
        return (1 - sigma) * latent_BCHW + sigma * noise_BCHW

    def target(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        return noise_BCHW - latent_BCHW

    prediction = "flow"

    def snr(self, sigma_B: Tensor) -> Tensor:
        return ((1 - sigma_B) / sigma_B).square()

    def gain(self, sigma_B: Tensor) -> Tensor:
        return sigma_B

    def sigma(self, level_B: Tensor) -> Tensor:
        return level_B


def make_example(name: str, size: tuple[int, int] = (5, 4), *, weight: float | None = None, group: str = "",
                 plus: Tensor | float = 0.0) -> Example:
    """Random latent and random weight, or `weight` everywhere; both depend on the name alone."""
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
    latent = torch.randn(CHANNELS, *size, generator=generator, dtype=torch.float64)
    drawn = torch.rand(1, *size, generator=generator, dtype=torch.float64).square()
    return Example(name, latent, drawn if weight is None else torch.full_like(drawn, weight), Cond(name, plus), group)


def run(examples: Sequence[Example], *, model: ConvDenoiser | None = None, **settings: object) -> tuple[Tensor, list[StepReport]]:
    """Parameters after training a fresh denoiser, and every step's report."""
    model, reports = model or ConvDenoiser(), list[StepReport]()
    train(model, model.parameters, examples, TrainConfig(**settings), without_adapter=model.base, on_step=reports.append)
    return model.snapshot(), reports


def error_of(model: ConvDenoiser, example: Example, seed: int, index: int) -> Tensor:
    """Squared error (C, H, W) of one example alone, with the noise of the run's `index`-th draw: no batch, no trainer."""
    generator = noise_generator(seed, index)
    sigma = torch.randn((), generator=generator).sigmoid().double()
    noise = torch.randn(example.latent_CHW.shape, generator=generator).double()
    noisy = (1 - sigma) * example.latent_CHW + sigma * noise
    out = nn.functional.conv2d(noisy[None], model.conv.weight, model.conv.bias, padding=model.conv.kernel_size[0] // 2)[0]
    return (out * (1 + sigma) + example.cond.plus - noise + example.latent_CHW).square()


def picks(examples: Sequence[Example], config: TrainConfig, step: int) -> list[tuple[int, Example]]:
    """The draws of a step, as (index of the draw in the run, example)."""
    order = list(draw_order(Epoch(tuple(range(len(examples)))), config))[step - 1]
    return [((step - 1) * config.batch_size + i, examples[k]) for i, k in enumerate(order)]


def reference_loss(errors: Sequence[NDArray[np.float64]], weights: Sequence[NDArray[np.float64]], normalization: Normalization) -> float:
    """The step's loss in plain numpy, written from the formulas of the tools. Errors (C, [T,] H, W), weights (1, [T or 1,] H, W)."""
    weights = [np.broadcast_to(w, e.shape) for e, w in zip(errors, weights, strict=True)]
    sums = [((e * w).sum(), w.sum(), e.size) for e, w in zip(errors, weights, strict=True)]
    if normalization is Normalization.STEP:
        total = sum(w for _, w, _ in sums)
        return float(sum(e for e, _, _ in sums) / total) if total else 0.0
    if normalization is Normalization.IMAGE:
        return float(np.mean([e / w if w else 0.0 for e, w, _ in sums]))
    return float(np.mean([e / size for e, _, size in sums]))
