"""Everything that one optimizer step hands to the next. A run that is stopped and goes on from here ends as if it had not been."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .config import TrainConfig
from .ema import Ema
from .optimizer import Averaging, make_optimizer


class TrainingState:
    """Parameters with their optimizer and average, and how many steps are done. Noise, order and dropout need no state: they are
    drawn from the seed and the number of the step; so is the learning rate. `others` learn at `rate` times that of `parameters`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig, others: Sequence[nn.Parameter] = (), rate: float = 1.0
                 ) -> None:
        self.parameters, self.config = [*parameters, *others], config
        if others and rate != 1 and config.optimizer.name == "prodigy":
            raise ValueError(f"prodigy finds one learning rate for all parameters, and the text encoders' is {rate:g} times the model's; "
                             "set it to 1, or choose another optimizer")
        self.optimizer = make_optimizer(parameters, config.optimizer, config.learning_rate)
        if others:
            self.optimizer.add_param_group({"params": list(others), "rate": rate})
        self.ema = Ema(self.parameters, config.ema) if config.ema else None
        self.step = 0

    def start(self, step: int) -> float:
        """Sets and returns the learning rate of a step, and forgets gradients of a step that failed. What Prodigy has found out
        about the rate so far is in the returned one.
        """
        rate = self.config.learning_rate * self.config.schedule.factor(step, self.config.steps)
        for group in self.optimizer.param_groups:
            own = rate * group.get("rate", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own)  # torchao's compiled step reads it from where it is
            else:
                group["lr"] = own
        self.optimizer.zero_grad(set_to_none=True)
        return rate * float(self.optimizer.param_groups[0].get("d", 1.0))

    def move(self) -> None:
        """One optimizer step along the gradients that are there."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.parameters)

    @contextmanager
    def final_weights(self) -> Iterator[None]:
        """Inside, the parameters are what a LoRA file would hold: the average, where there is one. Afterwards they are, bit for bit,
        those that the run goes on with.
        """
        if self.ema is None and not isinstance(self.optimizer, Averaging):
            yield
            return
        live = [p.detach().clone() for p in self.parameters]
        try:
            if isinstance(self.optimizer, Averaging):
                self.optimizer.eval()
            if self.ema:
                self.put(self.ema.average)
            yield
        finally:
            if isinstance(self.optimizer, Averaging):
                self.optimizer.train()  # brings the weights back up to rounding
            self.put(live)

    @torch.no_grad()
    def put(self, tensors: Sequence[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.copy_(tensor)
