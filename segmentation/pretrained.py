"""Networks of the transformers library out of local files, with the reason in words where they do not load."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def transformers_class(name: str, needs: str) -> Any:
    """A class of transformers. Raises ValueError that names the class where the installed version, older than `needs`, lacks it."""
    import transformers

    try:
        return getattr(transformers, name)
    except (AttributeError, ImportError) as error:
        raise ValueError(f"{name} needs transformers >= {needs}, this is {transformers.__version__}; update it in ComfyUI's Python "
                         "with: python -m pip install -U transformers") from error


def all_loaded(network: Any, path: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """`network.from_pretrained` of a directory, or of a file whose weights and config are given; in inference mode (eval).

    Raises ValueError where weights are missing or damaged: transformers would go on with random ones.
    """
    if path.is_dir() and not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        raise ValueError(f"{path} has no .safetensors; take model.safetensors of the repository that the folder came from")
    try:
        model, told = network.from_pretrained(
            None if path.is_file() else path, local_files_only=True, use_safetensors=True, output_loading_info=True, **settings)
    except load_faults() as error:
        raise ValueError(f"{path} cannot be loaded as {network.__name__} ({first_line(error)}); download it again") from error
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{path} lacks {len(missing)} weights of {network.__name__}, such as {missing[0]}: another model, or damaged")
    return model.eval().to(dtype)  # the setting for it has another name in transformers before 4.56


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises ValueError for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({first_line(error)}); download it again") from error


def read_config(folder: Path) -> dict[str, Any]:
    """A directory's config.json. Raises ValueError where there is none or it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read ({first_line(error)}); download the model again") from error
    return config if isinstance(config, dict) else {}


def load_faults() -> tuple[type[Exception], ...]:
    """What transformers raises for files that are missing or damaged, and for values that config.json lacks or has of a wrong type."""
    import huggingface_hub.errors
    from safetensors import SafetensorError

    wrong_type: type[Exception] = getattr(huggingface_hub.errors, "StrictDataclassError", TypeError)  # older versions have none
    return OSError, RuntimeError, TypeError, KeyError, SafetensorError, wrong_type


def first_line(error: Exception) -> str:
    """What an error says first, in at most 200 signs; with the next line where the first one ends in a colon."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join([first, *(line.strip() for line in more[:1] if first.endswith(":"))])[:200]
