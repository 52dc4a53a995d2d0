"""Everything that one optimizer step hands to the next. A run that is stopped and goes on from here ends as if it had not been."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from .config import TrainConfig
from .optimizer import make_optimizer


class TrainingState:
    """Parameters with their optimizer, and how many steps are done. Noise, order and dropout need no state: they are drawn from
    the seed and the number of the step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig) -> None:
        self.parameters, self.config = parameters, config
        self.optimizer = make_optimizer(parameters, config.optimizer, config.learning_rate)
        self.step = 0

    def start(self, step: int) -> float:
        """Sets and returns the learning rate of a step, and forgets gradients of a step that failed."""
        rate = self.config.learning_rate * self.config.schedule.factor(step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        return rate

    def move(self) -> None:
        """One optimizer step along the gradients that are there."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """Inside, the parameters are what a LoRA file would hold; the run goes on with its own afterwards."""
        yield
