"""Which modules of a network are linear layers that an adapter can be added to."""
from __future__ import annotations

from torch import nn


def is_linear(module: nn.Module) -> bool:
    """nn.Linear, and layers that behave as one over a quantized weight without being one (ComfyUI's mixed-precision Linear)."""
    if isinstance(module, nn.Linear):
        return True
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return all(isinstance(size, int) for size in sizes) and getattr(module, "weight", None) is not None
