"""Which example comes when."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from .config import TrainConfig
from .seeds import generator


@dataclass(frozen=True, slots=True)
class Epoch:
    """Indices of the examples that one epoch draws, an example with repeats several times.

    regularisation: drawn in turn with the others, one for one, however many there are (as sd-scripts balances them).
    """

    examples: tuple[int, ...]
    regularisation: tuple[int, ...] = ()

    @classmethod
    def of(cls, repeats: Sequence[int], regularisation: Sequence[bool]) -> Epoch:
        """From the repeats of every example and whether it is a regularisation example."""
        both: tuple[list[int], list[int]] = [], []
        for i, (times, regular) in enumerate(zip(repeats, regularisation, strict=True)):
            if times < 0:
                raise ValueError(f"example {i} has {times} repeats; use 0 (left out) or more")
            both[regular].extend([i] * times)
        if not both[False]:
            raise ValueError("there is nothing to train on but regularisation pictures; add a folder of the subject")
        return cls(tuple(both[False]), tuple(both[True]))


def draw_order(epoch: Epoch, config: TrainConfig) -> Iterator[list[int]]:
    """Each step's example indices: every one of an epoch in a random order before any comes again."""
    streams = [_shuffled(indices, config.seed, name) for indices, name in
               ((epoch.examples, "order"), (epoch.regularisation, "order of regularisation")) if indices]
    endless = (next(stream) for stream in cycle(streams))
    for _ in range(config.steps):
        yield list(islice(endless, config.batch_size))


def _shuffled(indices: Sequence[int], seed: int, name: str) -> Iterator[int]:
    shuffle = generator(seed, name)
    while True:
        yield from (indices[i] for i in torch.randperm(len(indices), generator=shuffle).tolist())
