"""Content keys: what decides an encoded picture, mask or caption, and nothing else.

A key never holds a file's name or time, so renaming and copying encode nothing; it holds the bytes, so a changed file is seen.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from torch import Tensor, uint8

from .item import ImageFiles, Item, MaskFiles, OwnAlpha

FORMAT_VERSION = "2"  # of the cache: raise it when equal inputs give other pixels, masks or files
KEY = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 20
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a placed picture is encoded: its first `frames` frames, and a centred window of whole latent cells."""

    frames: int
    rows: slice
    columns: slice

    def describe(self) -> str:
        return f"{self.frames} {self.rows.start}:{self.rows.stop} {self.columns.start}:{self.columns.stop}"


@dataclass(frozen=True, slots=True)
class FileHash:
    """SHA-256 of a file's bytes, and its size and time when they were read."""

    digest: str
    size: int
    mtime_ns: int


def content_key(*parts: bytes | str) -> str:
    """SHA-256 (hex) of the parts; their number, kinds, lengths and order all count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(f"{type(part).__name__} {len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path) -> FileHash:
    """Reads the file in pieces; raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        facts = path.stat()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return FileHash(digest.hexdigest(), facts.st_size, facts.st_mtime_ns)


def hash_tensor(tensor: Tensor) -> str:
    """SHA-256 (hex) of a tensor's shape, type and values."""
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(plain.shape)} {plain.dtype}:".encode())
    digest.update(plain.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Sources:
    """Hashes of the files and tensors of one run; the last few thousand files are remembered, as variants share them.

    has_alpha tells from a picture file's header whether it has transparency.
    """

    has_alpha: Callable[[Path], bool]
    file: Callable[[Path], FileHash] = field(default_factory=lambda: lru_cache(maxsize=REMEMBERED)(hash_file))

    def files(self, paths: tuple[Path, ...]) -> str:
        return " ".join(self.file(path).digest for path in paths)

    def image(self, item: Item) -> str:
        if isinstance(item.image, ImageFiles):
            return f"files {self.files(item.image.paths)}"
        return f"pixels {hash_tensor(item.image.image_THWC)}"

    def shown(self, picture: Item) -> str:
        """A reference picture: its bytes, and how it is loaded."""
        return f"{self.image(picture)} {self.hidden_colours(picture)} {_place(picture)}"

    def mask(self, item: Item) -> str:
        if isinstance(item.mask, MaskFiles):
            return f"files {item.mask.channel} {self.files(item.mask.paths)}"
        if isinstance(item.mask, OwnAlpha):
            return f"alpha of {self.image(item)}"
        return "none" if item.mask is None else f"pixels {hash_tensor(item.mask.mask_THW)}"

    def hidden_colours(self, item: Item) -> str:
        """How colours under transparent pixels are treated; "keep" for a picture without any, whatever the item says."""
        way = item.transparency
        if way.hidden == "keep" or not self.transparent(item):
            return "keep"
        details = {"fill": repr(way.colour), "random": f"{way.seed} {item.name}", "extend": ""}
        return f"{way.hidden} {details[way.hidden]}"

    def transparent(self, item: Item) -> bool:
        if isinstance(item.image, ImageFiles):
            return any(self.has_alpha(path) for path in item.image.paths)
        return item.image.image_THWC.shape[-1] == 4

    def check_unchanged(self, item: Item) -> None:
        """Raises ValueError if a file was written since it was hashed: its pixels would be kept under another file's key."""
        for source in (item.image, item.mask, *(one.image for one in item.references)):
            for path in source.paths if isinstance(source, ImageFiles | MaskFiles) else ():
                now, then = path.stat(), self.file(path)
                if (now.st_size, now.st_mtime_ns) != (then.size, then.mtime_ns):
                    raise ValueError(f"{path} changed while it was read; run again when it is no longer written")


def has_mask(item: Item) -> bool:
    """Whether load_item gives a mask: a rotated picture has one even where none was given, for the corners outside it."""
    return item.mask is not None or (item.placement is not None and item.placement.angle != 0)


def latent_key(item: Item, cut: Cut, vae: str, sources: Sources) -> str:
    """Key of the item's latent. vae: what identifies the VAE and its weights."""
    return content_key("latent", FORMAT_VERSION, vae, sources.image(item), sources.hidden_colours(item), _place(item), cut.describe())


def reference_key(picture: Item, scaling: str, vae: str, sources: Sources) -> str:
    """Key of a reference picture's latent. scaling: what identifies how its size is chosen."""
    return content_key("reference", FORMAT_VERSION, vae, sources.shown(picture), scaling)


def mask_key(item: Item, cut: Cut, sources: Sources) -> str | None:
    """Key of the item's raw mask; None for an item without one. No VAE is part of it, beyond the cells it cuts to."""
    if not has_mask(item):
        return None
    return content_key("mask", FORMAT_VERSION, sources.mask(item), repr(item.size), str(item.fit_mask), _place(item), cut.describe())


def text_key(caption: str, encoder: str, padding: str) -> str:
    """Key of a caption's embeddings. encoder: what identifies the text encoders; padding: the specification as JSON."""
    return content_key("text", FORMAT_VERSION, encoder, padding, caption)


def _place(item: Item) -> str:
    return "own size" if item.placement is None else item.placement.to_json()
