"""Folders of models as transformers saves them."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from .pretrained import first_line, read_config

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


def model_type(path: Path, advice: str) -> str:
    """What config.json calls the model in a folder; empty if it does not say. Raises ValueError, ending with `advice`, for no folder."""
    if path.is_file():
        raise ValueError(f"{path} is a file; {advice}")
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; {advice}")
    return str(read_config(path).get("model_type") or "")


def load_processor(kind: Any, path: Path) -> Any:
    """`kind.from_pretrained` of a model that reads text, without network. Raises ValueError where files are missing or damaged."""
    if not any((path / name).is_file() for name in VOCABULARIES):  # transformers would go on with an empty vocabulary
        raise ValueError(f"{path} has none of {', '.join(VOCABULARIES)}; download the folder again")
    return load_image_processor(kind, path)


def load_image_processor(kind: Any, path: Path) -> Any:
    """`kind.from_pretrained` of a folder, without network. Raises ValueError where files are missing or damaged."""
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{kind.__name__} cannot be loaded from {path} ({first_line(error)}); its small files (*.json, *.txt) are missing "
                         "or damaged: download the folder again") from error
