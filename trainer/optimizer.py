"""Which optimizer moves the adapter, and how fast it may go at each step."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """`name`: a row of OPTIMIZERS."""

    name: str = "adamw"
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec:
    """A factor of the learning rate for each step, from the step's number alone, so that a resumed run needs no state."""

    name: str = "constant"
    warmup: int = 0

    def factor(self, step: int, steps: int) -> float:
        """`step` counts from 1."""
        return 1.0


def make_optimizer(parameters: Sequence[nn.Parameter], spec: OptimizerSpec, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=spec.weight_decay)
