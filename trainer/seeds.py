"""Random numbers of a run: one CPU generator for each purpose and index."""
from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator: the same on every device, and for every split of a batch into micro-batches or ranks.

    torch's CPU generator reads only the low 32 bits of a seed, so seeds are hashed down to them rather than added up.
    """
    digest = hashlib.sha256(f"{purpose} {seed} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
