"""Which body part model a file or directory is."""
from __future__ import annotations

from pathlib import Path

import torch

from .body_parser import BodyParser
from .face_parsing import load_face_parsing
from .pretrained import read_config
from .sapiens import load_sapiens2_file, load_sapiens2_folder
from .sapiens1 import load_sapiens1

USE = "body parts need Sapiens2, Sapiens (TorchScript) or SegFormer face parsing"
WEIGHTS = (".safetensors", ".pt2")


def load_body_parser(path: Path, dtype: torch.dtype) -> BodyParser:
    """path: a model's directory with config.json, a directory of one file of weights, or that file.

    Raises ValueError that says what it is for anything else, for damage, and for a transformers that is too old.
    """
    if path.is_dir():
        if (path / "config.json").is_file() and any(path.glob("model*.safetensors")):
            return _load_folder(path, dtype)
        files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
        if len(files) != 1:
            raise ValueError(f"{path} has {len(files)} files of weights and no config.json with model.safetensors; {USE}")
        path = files[0]
    if not path.is_file():
        raise ValueError(f"{path} is not there; {USE}")
    if path.suffix == ".safetensors":
        return load_sapiens2_file(path, dtype)
    if path.suffix in (".pt2", ".pt"):
        return load_sapiens1(path)
    raise ValueError(f"{path} is a {path.suffix or 'file without a suffix'}; {USE}: .safetensors or _torchscript.pt2, or a directory")


def _load_folder(folder: Path, dtype: torch.dtype) -> BodyParser:
    kind = read_config(folder).get("model_type")
    if kind == "sapiens2":
        return load_sapiens2_folder(folder, dtype)
    if kind == "segformer":
        return load_face_parsing(folder, dtype)
    raise ValueError(f"{folder} holds a model of type {kind!r}; {USE}")
