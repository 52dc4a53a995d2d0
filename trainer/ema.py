"""A running average of the adapter: smoother than the weights of any one step."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class EmaSpec:
    """average = decay average + (1 - decay) weights, every `every` steps. `warmup`: the n-th update, counted from 0, takes
    min(decay, (1 + n) / (10 + n)), so that a short run does not end at weights from its start.
    """

    decay: float = 0.999
    every: int = 1
    warmup: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"EMA decay is {self.decay}; use a number between 0 and 1, such as 0.999")
        if self.every < 1:
            raise ValueError(f"the EMA is updated every {self.every} steps; use 1 or more")


class Ema:
    """`average` (tensors like the parameters) and `moves` (a number) are all that a resumed run needs."""

    def __init__(self, parameters: Sequence[nn.Parameter], spec: EmaSpec) -> None:
        self.spec = spec
        self.average: list[Tensor] = [p.detach().clone() for p in parameters]
        self.moves = 0

    @torch.no_grad()
    def update(self, parameters: Sequence[nn.Parameter]) -> None:
        """To be called after each step that moved the parameters."""
        self.moves += 1
        if self.moves % self.spec.every == 0:
            rate = 1 - decay(self.spec, self.moves // self.spec.every - 1)
            torch._foreach_lerp_(self.average, [p.detach() for p in parameters], rate)


def decay(spec: EmaSpec, update: int) -> float:
    """Of an update, counted from 0."""
    return min(spec.decay, (1 + update) / (10 + update)) if spec.warmup else spec.decay
