"""Weights in files that people have, read by ComfyUI without running code that a file may hold."""
from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import comfy.utils
from safetensors import SafetensorError
from torch import Tensor


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file. Raises ValueError that names the file for a damaged one and for another kind."""
    pickled = file.suffix not in (".safetensors", ".sft")
    if pickled and not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is no whole PyTorch file; if its download broke off, download it again")
    try:
        weights = comfy.utils.load_torch_file(str(file), safe_load=True)
    except (OSError, ValueError, RuntimeError, EOFError, AttributeError, SafetensorError) as error:  # AttributeError: it holds a list
        raise ValueError(f"{file} cannot be read ({error}); if its download broke off, download it again") from error
    if not isinstance(weights, Mapping):
        raise ValueError(f"{file} holds {type(weights).__name__} and no named weights; it is another kind of file")
    return {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
