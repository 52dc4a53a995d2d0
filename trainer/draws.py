"""An example as one step sees it: its noise level, whether its mask applies, and where the base model is to be kept."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .config import TrainConfig
from .example import Example
from .objective import noise_generator
from .seeds import generator


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """weight_1HW and prior_1HW: what each cell counts for learning and for staying as it was, of the latent's size (1, [T,] H, W).

    `index`: which draw of the run it is, from 0. `generator` has given the noise level and gives the noise next.
    """

    example: Example
    index: int
    level: Tensor
    generator: torch.Generator
    weight_1HW: Tensor
    prior_1HW: Tensor
    masked: bool

    @property
    def teaches(self) -> bool:
        return bool(self.example.loss_weight and (self.weight_1HW.any() or self.prior_1HW.any()))


def draw(example: Example, config: TrainConfig, step: int, place: int) -> Draw:
    """`place`: which picture of the step it is. Each choice has a generator of its own, from the seed and the run's draw count."""
    index = (step - 1) * config.batch_size + place
    example = told(example, config, index)
    noise = noise_generator(config.seed, index)
    normal = torch.randn((), generator=noise)
    weight_1HW = example.weight_1HW.expand(1, *example.latent_CHW.shape[1:])  # a clip may have one weight for all its frames
    if config.mask.threshold is not None:
        weight_1HW = (weight_1HW >= config.mask.threshold).to(weight_1HW)
    if config.mask.probability < 1 and torch.rand((), generator=generator(config.seed, "mask", index)) >= config.mask.probability:
        weight_1HW = torch.ones_like(weight_1HW)
    masked = bool((weight_1HW < 1).any())
    rows, columns = example.latent_CHW.shape[-2:]
    level = config.noise.levels(normal[None], rows * columns)[0] * (config.mask.level_cap if masked else 1.0)
    weight_1HW, prior_1HW = split(weight_1HW, config, step, level)
    return Draw(example, index, level, noise, weight_1HW, prior_1HW, masked)


def told(example: Example, config: TrainConfig, index: int) -> Example:
    """The example with the text that this draw shows."""
    def pick(number: int) -> int:
        return int(torch.randint(number, (), generator=generator(config.seed, "caption", index)))

    if config.caption_dropout and torch.rand((), generator=generator(config.seed, "caption dropout", index)) < config.caption_dropout:
        if not example.dropped:
            raise ValueError(f"caption dropout is {config.caption_dropout:g} and {example.name} has no text for a dropped caption; "
                             "encode the set with one, or set caption dropout to 0")
        text = example.dropped[pick(len(example.dropped))]()
    elif example.alternatives and (place := pick(1 + len(example.alternatives))):
        text = example.alternatives[place - 1]()
    else:
        return example
    return replace(example, cond=text.cond, group=text.group)


def split(weight_1HW: Tensor, config: TrainConfig, step: int, level: Tensor) -> tuple[Tensor, Tensor]:
    """What is learned and what is kept; nothing is kept where the prior is off, for this step or at this noise level."""
    prior = config.prior
    if not prior.weight or step % prior.every or not prior.minimum <= level <= prior.maximum:
        return weight_1HW, torch.zeros_like(weight_1HW)
    if prior.threshold is None:
        return weight_1HW, 1 - weight_1HW
    outside_1HW = (weight_1HW < prior.threshold).to(weight_1HW)
    return weight_1HW * (1 - outside_1HW), outside_1HW


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Draws of one group, stacked on `device`; one cond an example."""

    draws: tuple[Draw, ...]
    latent_BCHW: Tensor
    weight_B1HW: Tensor
    prior_B1HW: Tensor

    @classmethod
    def stack(cls, draws: Sequence[Draw], device: torch.device) -> Batch:
        def stacked(tensors: list[Tensor]) -> Tensor:
            return torch.stack(tensors).to(device)

        return cls(tuple(draws), stacked([d.example.latent_CHW for d in draws]), stacked([d.weight_1HW for d in draws]),
                   stacked([d.prior_1HW for d in draws]))

    @property
    def conds(self) -> tuple[Any, ...]:
        return tuple(d.example.cond for d in self.draws)
