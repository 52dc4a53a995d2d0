"""The training loop: examples in, trained parameters out. No host, no files, no globals."""
from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .draws import Batch, Draw, draw
from .epoch import Epoch, draw_order
from .example import Denoiser, Example, StepReport
from .loss import image_scales, masked_mean
from .objective import Errors, WithoutAdapter, level_weight, prediction_errors
from .state import TrainingState

OnStep = Callable[[StepReport], None]
Around = Callable[[Batch], AbstractContextManager[None]]


def train(model: Denoiser, parameters: Sequence[nn.Parameter], examples: Sequence[Example], config: TrainConfig, *,
          epoch: Epoch | None = None, state: TrainingState | None = None, without_adapter: WithoutAdapter = nullcontext,
          around: Around = lambda batch: nullcontext(), on_step: OnStep = lambda report: None) -> None:
    """Train `parameters` in place. `on_step` is called after every step and may raise to stop; the caller decides what that is.

    `examples` may load an example when it is asked for; `epoch` says how often each is drawn (default: once). A `state` with
    finished steps goes on behind them. Within `without_adapter` the model predicts as if `parameters` were not there.
    Each forward pass is made together with its backward pass within `around`.
    A step whose masks are all black teaches nothing: it is reported with a loss of zero and leaves weights and momentum alone.
    Raises FloatingPointError before the optimizer step when a loss or gradient is not finite.
    """
    if not examples:
        raise ValueError("there is nothing to train on; give at least one example")
    level_weight(model, model.sigma(torch.tensor([0.5])), config.loss)  # a weighting without a formula is told now
    state = state or TrainingState(parameters, config)
    order = draw_order(epoch or Epoch(tuple(range(len(examples)))), config)
    for step, picks in islice(enumerate(order, start=1), state.step, None):
        rate = state.start(step)
        draws = [draw(examples[i], config, step, place) for place, i in enumerate(picks)]
        meter, grad_norm = Meter(draws), 0.0
        if any(d.teaches for d in draws):
            learn_B, keep_B = scales(draws, config)
            for members in micro_batches(draws, config.micro_batch):
                batch = Batch.stack([draws[i] for i in members], parameters[0].device)
                with around(batch):
                    errors = prediction_errors(model, batch, config.loss, without_adapter)
                    share_B = step_share(errors, batch, learn_B[members], keep_B[members])
                    require_finite(share_B, batch, step)
                    share_B.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                meter.add(errors.target_BCHW.detach(), batch.weight_B1HW, share_B.detach())
            grad_norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or math.inf).item()
            require_finite_gradient(grad_norm, draws, step, config)
            state.move()
        state.step = step
        on_step(meter.report(step, grad_norm, rate))


def step_share(errors: Errors, batch: Batch, learn_B: Tensor, keep_B: Tensor) -> Tensor:
    """What each picture of a forward pass adds to the step's loss, (B,)."""
    share_B = masked_mean(errors.target_BCHW, batch.weight_B1HW) * (learn_B * errors.level_B).to(batch.latent_BCHW)
    if errors.base_BCHW is not None:
        share_B = share_B + masked_mean(errors.base_BCHW, batch.prior_B1HW) * (keep_B * errors.level_B).to(share_B)
    return share_B


def require_finite(share_B: Tensor, batch: Batch, step: int) -> None:
    if not torch.isfinite(share_B).all():
        names = ", ".join(d.example.name for d, ok in zip(batch.draws, share_B.isfinite(), strict=True) if not ok)
        raise FloatingPointError(f"step {step}: the loss of {names} is not finite; look at them or lower the learning rate")


def require_finite_gradient(grad_norm: float, draws: Sequence[Draw], step: int, config: TrainConfig) -> None:
    if not math.isfinite(grad_norm):
        names = ", ".join(d.example.name for d in draws if d.teaches)
        raise FloatingPointError(f"step {step}: the gradient of {names} is not finite; look at them or lower the learning rate "
                                 f"{config.learning_rate:g}")


def scales(draws: Sequence[Draw], config: TrainConfig) -> tuple[Tensor, Tensor]:
    """What one unit of masked mean error counts in the step's loss, (B,) each: learned, and kept as it was."""
    weight_B = torch.tensor([d.example.loss_weight for d in draws], dtype=torch.float64)
    learn_B = image_scales([d.weight_1HW for d in draws], config.normalization, config.loss.damping)
    keep_B = image_scales([d.prior_1HW for d in draws], config.normalization, config.loss.damping)
    return learn_B * weight_B, keep_B * weight_B * config.prior.weight


def micro_batches(draws: Sequence[Draw], limit: int) -> Iterator[list[int]]:
    """Positions of draws that can share a forward pass: equal sizes and equal token counts, at most `limit` (0 = no limit)."""
    groups: dict[Hashable, list[int]] = {}
    for i, example in enumerate(d.example for d in draws):
        groups.setdefault((example.latent_CHW.shape, example.group), []).append(i)
    for members in groups.values():
        size = limit or len(members)
        yield from (members[i:i + size] for i in range(0, len(members), size))


class Meter:
    """Sums of one step, kept in float64. Reading them costs one wait for the GPU a step, which a LoRA step hides."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self.masked = sum(d.masked for d in draws) / len(draws)
        self.loss = self.inside = self.inside_weight = self.outside = self.outside_weight = 0.0

    def add(self, error_BCHW: Tensor, weight_B1HW: Tensor, share_B: Tensor) -> None:
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

        pixels = self.inside_weight + self.outside_weight
        mean_weight = self.inside_weight / pixels if pixels else 0.0
        return StepReport(step, self.loss, ratio(self.inside, self.inside_weight), ratio(self.outside, self.outside_weight),
                          mean_weight, self.masked, grad_norm, learning_rate)
