"""Saved training sets: one JSON file a set, with the names, keys and shapes of its examples. Tensors stay in the cache."""
from __future__ import annotations

import json
import os
import re
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

from .cache import KINDS, ExampleCache, ExampleRef, StoredExamples, TrainingSet
from .refs import RefTable
from .store import PARTIAL, replace

SETS = "sets"
ENDING = ".json"
LAST = "last encoded"  # the set that was encoded last without a name, so that pruning does not take its files
MANIFEST_VERSION = 1
HEAD = '{"crc32": "%08x", '
SHOWN = 5


def set_file(folder: Path, name: str) -> Path:
    """<folder>/sets/<name>.json; raises ValueError for a name that is no file name."""
    stem = name.strip().removesuffix(ENDING)
    if len(stem.encode()) > 200:
        raise ValueError(f"{name[:40]!r}... is too long to name a training set; use at most 200 characters")
    if not re.fullmatch(r"\w[\w .\-]*", stem) or stem.endswith("."):
        raise ValueError(f"{name!r} cannot name a training set; use letters, digits, spaces, '-', '_' and '.'")
    return folder / SETS / f"{stem}{ENDING}"


def list_sets(folder: Path) -> list[str]:
    """Names of the saved sets, sorted."""
    places = folder / SETS
    if not places.is_dir():
        return []
    return sorted(file.name.removesuffix(ENDING) for file in places.iterdir()
                  if file.name.endswith(ENDING) and not file.name.startswith(".") and file.is_file())


def save_set(cache: ExampleCache, refs: Sequence[ExampleRef], text_padding: str, report: str, name: str) -> Path:
    """Writes the set whole or not at all; another set of this name is replaced."""
    file = set_file(cache.folder, name)
    table = refs if isinstance(refs, RefTable) else RefTable(refs)
    contents = {"manifest_version": MANIFEST_VERSION, "text_padding": text_padding, "report": report, **table.to_columns()}
    # The checksum is the first of the file's values and covers all that follows it.
    rest = json.dumps(contents, separators=(",", ":"))[1:].encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        partial.write_bytes((HEAD % zlib.crc32(rest)).encode() + rest)
        replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def open_set(folder: Path, name: str) -> TrainingSet:
    """The saved set; tensors are read when an example is asked for, but that their files are there is checked now.

    Raises ValueError if there is no such set, if its file is damaged, or if files are missing, with how many and which.
    """
    cache = ExampleCache(folder)
    text_padding, report, refs = read_set(set_file(folder, name))
    missing = {kind: cache.store(kind).missing(refs.keys(kind)) for kind in KINDS}
    if any(missing.values()):
        raise ValueError(_missing_message(name, refs, missing))
    return TrainingSet(StoredExamples(cache, refs, text_padding), text_padding, report)


def read_set(file: Path) -> tuple[str, str, RefTable]:
    """Text padding, report and references of a set's file; raises ValueError naming the file and what is wrong."""
    remedy = "run Encode Training Set again with this name"
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"there is no training set {file.stem!r} ({file}); {remedy}") from error
    head, rest = data[:len(HEAD % 0)], data[len(HEAD % 0):]
    if head != (HEAD % zlib.crc32(rest)).encode():
        raise ValueError(f"{file} is damaged (its checksum is wrong); {remedy}")
    contents = json.loads(b"{" + rest)
    if contents.get("manifest_version") != MANIFEST_VERSION:
        raise ValueError(f"{file} has version {contents.get('manifest_version')}, this pack reads {MANIFEST_VERSION}; {remedy}")
    try:
        return str(contents["text_padding"]), str(contents["report"]), RefTable.from_columns(contents)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}); {remedy}") from error


def set_fingerprint(folder: Path, name: str) -> str:
    """Changes when the set is saved again; empty if there is none."""
    file = set_file(folder, name)
    if not file.is_file():
        return ""
    facts = os.stat(file)
    return f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}"


def _missing_message(name: str, refs: RefTable, missing: dict[str, set[str]]) -> str:
    lost = [ref.name for ref in refs if ref.latent_key in missing["latents"] or ref.mask_key in missing["masks"]
            or ref.text_key in missing["texts"]]
    shown = ", ".join(lost[:SHOWN]) + (f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else "")
    kinds = ", ".join(f"{len(keys)} {kind}" for kind, keys in missing.items() if keys)
    return f"training set {name!r}: {len(lost)} of {len(refs)} examples have lost files ({kinds}): {shown}; run Encode Training Set again"
