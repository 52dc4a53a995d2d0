"""Work in batches that fit the memory."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(items: Sequence[Item], run: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> list[Result]:
    """The results of `run` on batches of at most `most` items; a batch that is out of memory is halved, and so are those after it.

    Raises torch.OutOfMemoryError where not even one item fits.
    """
    results: list[Result] = []
    while len(results) < len(items):
        batch = items[len(results):len(results) + most]
        try:
            results += run(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            most = len(batch) // 2
    return results
