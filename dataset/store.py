"""One safetensors file for each key, sharded by the key's first two digits: written whole or not at all, checked when read."""
from __future__ import annotations

import logging
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from .keys import FORMAT_VERSION, KEY

logger = logging.getLogger(__name__)

ENDING = ".safetensors"
PARTIAL = ".partial"


class DamagedFile(ValueError):
    """A stored file whose contents are not what was written."""


class TensorStore:
    """Tensors by content key in one folder, which is made when first written to. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, key: str) -> Path:
        """Where the key's tensors lie; raises ValueError for what is no key and could name another file."""
        if not KEY.fullmatch(key):
            raise ValueError(f"cache key is {key!r}; make keys with content_key")
        return self.folder / key[:2] / f"{key}{ENDING}"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors, on the CPU; None if there are none, or if the file is damaged, which is logged."""
        try:
            return self.load(key)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            logger.warning("%s; it will be made again", error)
            return None

    def load(self, key: str) -> dict[str, Tensor]:
        """The tensors, on the CPU. Raises FileNotFoundError, or DamagedFile (a ValueError) naming the file and what is wrong."""
        file = self.file(key)
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                facts = opened.metadata() or {}
                # Copies, because Windows cannot replace a file that is still mapped.
                tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, UnicodeDecodeError) as error:
            raise DamagedFile(f"{file} is damaged ({error})") from error
        if facts.get("format_version") != FORMAT_VERSION:
            raise DamagedFile(f"{file} has format version {facts.get('format_version')}, not {FORMAT_VERSION}")
        if facts.get("key") != key or facts.get("crc32") != checksum(tensors):
            raise DamagedFile(f"{file} is damaged (its checksum is wrong)")
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes the file whole or not at all: another process sees the old file or the new one."""
        file = self.file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{key}.{uuid.uuid4().hex}{PARTIAL}")
        # Copies, because safetensors refuses tensors that overlap in memory, as parts of one encoding may.
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(own, partial, metadata={"format_version": FORMAT_VERSION, "key": key, "crc32": checksum(own)})
            replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)

    def use(self, key: str) -> dict[str, Tensor] | None:
        """`get`, of a file that is first marked as used now, so that pruning leaves it to a run that has not saved its set yet."""
        return self.get(key) if self.touch(key) else None

    def touch(self, key: str) -> bool:
        """Marks the file as used now; false if there is none."""
        try:
            os.utime(self.file(key))
        except FileNotFoundError:
            return False
        return True

    def files(self) -> Iterator[os.DirEntry[str]]:
        """Everything that lies in the shards, one folder at a time."""
        for shard in shards(self.folder):
            with os.scandir(shard) as entries:
                yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))

    def missing(self, keys: set[str]) -> set[str]:
        """Those of the keys that have no file. Reads the names in the shards and opens nothing."""
        found = {entry.name.removesuffix(ENDING) for shard in shards(self.folder) for entry in _listed(shard)}
        return keys - found


def shards(folder: Path) -> list[Path]:
    """The folders 00 to ff that are there."""
    with_digits = (folder / f"{number:02x}" for number in range(256))
    return [shard for shard in with_digits if shard.is_dir()]


def replace(partial: Path, file: Path) -> None:
    """os.replace; on Windows a reader may hold the old file, which then has the same contents and stays."""
    try:
        os.replace(partial, file)
    except PermissionError:
        if os.name != "nt" or not file.is_file():
            raise


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes: finds flipped bits, which safetensors does not look for."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode(), crc)
        crc = zlib.crc32(tensor.contiguous().reshape(-1).view(uint8).numpy().data, crc)
    return f"{crc:08x}"


def _listed(shard: Path) -> list[os.DirEntry[str]]:
    with os.scandir(shard) as entries:
        return list(entries)
