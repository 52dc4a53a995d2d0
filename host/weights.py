"""Weights in files that people have, read by ComfyUI without running code that a file may hold."""
from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import comfy.utils
import torch.serialization
from safetensors import SafetensorError
from torch import Tensor

# What torch raises for a file that asks for more than tensors and plain values; the library that it comes from is not used here.
HoldsMore = torch.serialization.pickle.UnpicklingError
OLD_START = b"\x80"  # how PyTorch began its files before 1.6


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file, also where training saved them as "model" with its own state beside them.

    Raises ValueError that names the file for a damaged one and for another kind.
    """
    if file.suffix not in (".safetensors", ".sft") and not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is {_kind(file)}")
    try:
        weights = comfy.utils.load_torch_file(str(file), safe_load=True)
    except HoldsMore as error:
        raise ValueError(f"{file} holds more than weights, which could be harmful code; take the model's .safetensors") from error
    except (OSError, ValueError, RuntimeError, EOFError, AttributeError, SafetensorError) as error:  # AttributeError: it holds a list
        raise ValueError(f"{file} cannot be read ({error}); if its download broke off, download it again") from error
    if isinstance(weights, Mapping) and isinstance(weights.get("model"), Mapping):
        weights = weights["model"]
    if not isinstance(weights, Mapping):
        raise ValueError(f"{file} holds {type(weights).__name__} and no named weights; it is another kind of file")
    return {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}


def _kind(file: Path) -> str:
    with file.open("rb") as opened:
        if opened.read(1) == OLD_START:
            return "in PyTorch's old format, of before 1.6; save it again with a newer PyTorch, or take the model's .safetensors"
    return "no whole PyTorch file; if its download broke off, download it again"
