"""Encoded examples and the files that keep them. Masks are stored raw, so that a new recipe needs no new encoding.

Shapes: C channels, H height, W width; a latent's H and W count cells, a mask's count pixels.
"""
from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
CONDITION = "cond."
KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, eq=False)
class CachedExample:
    """One picture, encoded. mask_HW: raw, pixel size, 0..1, white = learn; text_padding: the spec as JSON."""

    name: str
    caption: str
    latent_CHW: Tensor
    mask_HW: Tensor
    cond: Mapping[str, Tensor]
    text_padding: str


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Examples that were encoded under one text padding spec (JSON), and what a person should know about them."""

    examples: tuple[CachedExample, ...]
    text_padding: str
    report: str

    def __post_init__(self) -> None:
        if not self.examples:
            raise ValueError("the training set is empty; give it at least one picture")
        for example in self.examples:
            if example.text_padding != self.text_padding:
                raise ValueError(f"{example.name} was encoded with text padding {example.text_padding}, the set has "
                                 f"{self.text_padding}; encode it again")


def content_key(*parts: bytes | str) -> str:
    """SHA-256 (hex) of the parts; their number, kinds, lengths and order all count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(f"{type(part).__name__} {len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


class ExampleCache:
    """One safetensors file for each key, in one folder that is made when first written to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> CachedExample | None:
        """The example, on the CPU; None if it is not there, damaged, or of another format (the last two are logged)."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            return _read(file)
        except (SafetensorError, KeyError) as error:
            logger.warning("%s is damaged or of another format (%s); it will be made again", file, error)
            return None

    def put(self, key: str, example: CachedExample) -> None:
        """Writes the example whole or not at all: another process sees the old file or the new one."""
        file = self._file(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{key}.{uuid.uuid4().hex}.partial")
        try:
            save_file(_tensors(example), partial, metadata=_metadata(example))
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"cache key is {key!r}; make keys with content_key")
        return self.folder / f"{key}.safetensors"


def _tensors(example: CachedExample) -> dict[str, Tensor]:
    named = {"latent": example.latent_CHW, "mask": example.mask_HW}
    named |= {CONDITION + name: tensor for name, tensor in example.cond.items()}
    # Copies, because safetensors refuses tensors that overlap in memory, as parts of one encoding may.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in named.items()}


def _metadata(example: CachedExample) -> dict[str, str]:
    own = {"name": example.name, "caption": example.caption, "text_padding": example.text_padding}
    return {"format_version": FORMAT_VERSION, **own}


def _read(file: Path) -> CachedExample:
    with safe_open(file, framework="pt", device="cpu") as opened:
        facts = opened.metadata() or {}
        if facts["format_version"] != FORMAT_VERSION:
            raise KeyError(f"format_version {facts['format_version']}")
        # Copies, because Windows cannot replace a file that is still mapped.
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - not a mapping
    cond = {name.removeprefix(CONDITION): tensor for name, tensor in tensors.items() if name.startswith(CONDITION)}
    return CachedExample(facts["name"], facts["caption"], tensors["latent"], tensors["mask"], cond, facts["text_padding"])
