"""Saved training sets: one JSON file a set, with the names, keys and shapes of its examples. Tensors stay in the cache."""
from __future__ import annotations

import json
import logging
import os
import re
import uuid
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .cache import ExampleCache, StoredExamples, TrainingSet
from .refs import ExampleRef, RefTable
from .store import PARTIAL, replace

logger = logging.getLogger(__name__)

SETS = "sets"
ENDING = ".json"
LOSS = ".lost"  # beside a set's file: a stamp that changes when files of the set were found damaged or gone
LAST = "last encoded"  # the set that was encoded last without a name, so that pruning does not take its files
MANIFEST_VERSION = 1
HEAD = '{"crc32": "%08x", '


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
    """Writes the set whole or not at all; another set of this name is replaced.

    Raises ValueError, and writes nothing, if files that the set needs are gone.
    """
    file = set_file(cache.folder, name)
    table = refs if isinstance(refs, RefTable) else RefTable(refs)
    if lost := cache.lost(table):
        raise ValueError(f"training set {name!r} cannot be saved, because something removed its files from {cache.folder}: "
                         f"{lost.describe(table)}; run again")
    contents = {"manifest_version": MANIFEST_VERSION, "text_padding": text_padding, "report": report, **table.to_columns()}
    # The checksum is the first of the file's values and covers all that follows it.
    rest = json.dumps(contents, separators=(",", ":"))[1:].encode()
    write_whole(file, (HEAD % zlib.crc32(rest)).encode() + rest)
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Another process sees the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        partial_file.write_bytes(data)
        replace(partial_file, file)
    finally:
        partial_file.unlink(missing_ok=True)


def open_set(folder: Path, name: str) -> TrainingSet:
    """The saved set; tensors are read when an example is asked for, but that their files are there is checked now.

    Raises ValueError if there is no such set, if its file is damaged, or if files are missing, with how many and which.
    """
    text_padding, report, refs = read_set(set_file(folder, name))
    examples = stored_examples(ExampleCache(folder), refs, text_padding, name)
    try:
        examples.check_files()
    except ValueError as error:
        raise ValueError(f"training set {name!r}: {error}") from error
    return TrainingSet(examples, text_padding, report)


def stored_examples(cache: ExampleCache, refs: RefTable, text_padding: str, name: str) -> StoredExamples:
    """The examples of the set `name`; if files are found damaged or gone, its `loss_stamp` changes."""
    return StoredExamples(cache, refs, text_padding, partial(note_loss, cache.folder, name))


def note_loss(folder: Path, name: str) -> None:
    """Changes the set's `loss_stamp`. The error that tells of the loss is on its way, so failing to write is only logged."""
    try:
        write_whole(set_file(folder, name).with_suffix(LOSS), uuid.uuid4().hex.encode())
    except OSError as error:
        logger.warning("Masked LoRA: the loss of files of training set %r could not be noted (%s)", name, error)


def loss_stamp(folder: Path, name: str | None) -> str:
    """Another value after each loss that was noted of the set, empty before the first. None: of any set.

    It stays when the set was encoded again, so that the host goes on serving that from its own cache.
    """
    files = sorted((folder / SETS).glob(f"*{LOSS}")) if name is None else [set_file(folder, name).with_suffix(LOSS)]
    return " ".join(file.read_text("ascii", "replace") for file in files if file.is_file())


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
