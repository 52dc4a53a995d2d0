"""The training loop: examples in, trained parameters out. No host, no files, no globals."""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import nn

from .config import TrainConfig
from .epoch import Epoch, draw_order
from .example import Batch, Denoiser, Example, StepReport
from .loss import image_scales, masked_mean
from .objective import noise_generator, squared_error

OnStep = Callable[[StepReport], None]


def train(model: Denoiser, parameters: Sequence[nn.Parameter], examples: Sequence[Example], config: TrainConfig, *,
          epoch: Epoch | None = None, on_step: OnStep = lambda report: None) -> None:
    """Train `parameters` in place. `on_step` is called after every step and may raise to stop; the caller decides what that is.

    `examples` may load an example when it is asked for; `epoch` says how often each is drawn (default: once).
    A step whose masks are all black teaches nothing: it is reported with a loss of zero and leaves weights and momentum alone.
    Raises FloatingPointError before the optimizer step when a loss or gradient is not finite.
    """
    if not examples:
        raise ValueError("there is nothing to train on; give at least one example")
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    optimizer.zero_grad(set_to_none=True)  # gradients of a run that failed
    for step, picks in enumerate(draw_order(epoch or Epoch(tuple(range(len(examples)))), config), start=1):
        chosen = [examples[i] for i in picks]
        if not any(e.loss_weight and e.weight_1HW.any() for e in chosen):
            on_step(StepReport(step, 0.0, math.nan, math.nan, 0.0, 0.0, config.learning_rate))
            continue
        # A video may have one weight for all its frames; it counts for every one of them.
        scale_B = image_scales([e.weight_1HW.expand(1, *e.latent_CHW.shape[1:]) for e in chosen], config.normalization)
        scale_B *= torch.tensor([e.loss_weight for e in chosen], dtype=scale_B.dtype)
        meter = Meter()
        for members in micro_batches(chosen, config.micro_batch):
            batch = Batch.stack([chosen[i] for i in members], parameters[0].device)
            draws = [noise_generator(config.seed, (step - 1) * config.batch_size + i) for i in members]
            error_BCHW = squared_error(model, batch, draws)
            share_B = masked_mean(error_BCHW, batch.weight_B1HW) * scale_B[members].to(error_BCHW)
            if not torch.isfinite(share_B).all():
                names = ", ".join(chosen[i].name for i, ok in zip(members, share_B.isfinite(), strict=True) if not ok)
                raise FloatingPointError(f"step {step}: the loss of {names} is not finite; look at them or lower the learning rate")
            share_B.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            meter.add(error_BCHW.detach(), batch.weight_B1HW, share_B.detach())
        grad_norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if not torch.isfinite(grad_norm):
            raise FloatingPointError(f"step {step}: the gradient is not finite; lower the learning rate {config.learning_rate:g}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(meter.report(step, grad_norm.item(), config.learning_rate))


def micro_batches(examples: Sequence[Example], limit: int) -> Iterator[list[int]]:
    """Positions of examples that can share a forward pass: equal sizes and equal token counts, at most `limit` (0 = no limit)."""
    groups: dict[Hashable, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault((example.latent_CHW.shape, example.group), []).append(i)
    for members in groups.values():
        size = limit or len(members)
        yield from (members[i:i + size] for i in range(0, len(members), size))


class Meter:
    """Sums of one step, kept in float64. Reading them costs one wait for the GPU a step, which a LoRA step hides."""

    def __init__(self) -> None:
        self.loss = self.inside = self.inside_weight = self.outside = self.outside_weight = 0.0

    def add(self, error_BCHW: torch.Tensor, weight_B1HW: torch.Tensor, share_B: torch.Tensor) -> None:
        error_B1HW = error_BCHW.double().mean(1, keepdim=True)
        weight = weight_B1HW.double().expand_as(error_B1HW)
        self.loss += share_B.double().sum().item()
        self.inside += (error_B1HW * weight).sum().item()
        self.inside_weight += weight.sum().item()
        self.outside += (error_B1HW * (1 - weight)).sum().item()
        self.outside_weight += (1 - weight).sum().item()

    def report(self, step: int, grad_norm: float, learning_rate: float) -> StepReport:
        def ratio(a: float, b: float) -> float:
            return a / b if b > 0 else math.nan

        mean_weight = ratio(self.inside_weight, self.inside_weight + self.outside_weight)
        return StepReport(step, self.loss, ratio(self.inside, self.inside_weight), ratio(self.outside, self.outside_weight),
                          mean_weight, grad_norm, learning_rate)
