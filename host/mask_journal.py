"""What was made for each picture of a folder: one hidden file of JSON lines beside the masks. The last line of a picture counts.

It is what a run that was cut off goes on from, and what tells a mask of ours from one that a person made or changed.
"""
from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import stat
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import folder_paths

from ..dataset.manifest import write_whole

logger = logging.getLogger(__name__)

JOURNAL = ".masked_lora_masks.jsonl"
# Held by who looks at a journal or a mask and then writes by what it saw, until both are written. The functions here take it too.
EDITING = threading.RLock()
Status = Literal["made", "nothing found", "kept", "failed"]
Review = Literal["", "accepted", "redo"]


@dataclass(frozen=True, slots=True)
class Entry:
    """picture, mask: paths relative to the journal's folder, with forward slashes ("../a.png"), or absolute ones where another
    drive leaves no relative path; whoever opens them checks that they lie where they may be read. No mask: None.

    plan: hash of the mask plan. picture_id: size and time of the picture's file, "size-mtime_ns". mask_sha256: of the mask's file as it
    was written; one with another hash was edited. coverage: the mask's mean, 0..1. found, missing: regions. error: why it failed, with
    a remedy. review: what a person said of it; "redo" makes it anew in the next run.
    """

    picture: str
    mask: str | None = None
    status: Status = "made"
    plan: str = ""
    picture_id: str = ""
    mask_sha256: str = ""
    coverage: float = 0.0
    found: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    review: Review = ""


NAMES = frozenset(field.name for field in fields(Entry))
KEPT = 8  # journals that are kept parsed
OVERLAP = 256  # bytes before the place that was read to, by which a journal that was replaced is told


def read(folder: Path) -> dict[str, Entry]:
    """The last entry of each picture, by its path, in the order of their first lines. Without a journal: empty."""
    with EDITING:
        return dict(_journal(folder).read_on().entries)


def latest(folder: Path, picture: str) -> Entry | None:
    """The last entry of one picture, as the journal is now."""
    with EDITING:
        return _journal(folder).read_on().entries.get(picture)


def is_ours(folder: Path, picture: str, mask_sha256: str) -> bool:
    """Whether a mask that was ever made for the picture has this hash: such a file is ours and was not edited."""
    with EDITING:
        return mask_sha256 in _journal(folder).read_on().made.get(picture, ())


def append(folder: Path, entry: Entry) -> None:
    """Adds one line, which from now on counts for its picture. The folder must be there. "redo" and "failed" change the folder's stamp.

    Raises ValueError for a journal that is a link.
    """
    require_no_link(folder)
    line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
    with EDITING, (folder / JOURNAL).open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill in the middle of a line; ours would end with it
                line = b"\n" + line
        file.write(line)
    if entry.review == "redo" or entry.status == "failed":
        try:
            write_whole(_stamp(folder), uuid.uuid4().hex.encode())
        except OSError as error:  # the journal itself is written
            logger.warning("Masked LoRA: ComfyUI may not run Write Masks again by itself, %s cannot be written: %s", _stamp(folder), error)


def require_no_link(folder: Path) -> None:
    """Raises ValueError for a journal that is a link: it could make any file longer."""
    if (folder / JOURNAL).is_symlink():
        raise ValueError(f"{folder / JOURNAL} is a link and is neither read nor written; remove it")


def stamp(folder: Path | None = None) -> str:
    """Another text when there is more to do in the folder, or without one in any: after a "redo", and after a run with failures.

    ComfyUI does not see journals; by this the node that writes masks runs again.
    """
    files = [_stamp(folder)] if folder is not None else sorted(_stamps().glob("*")) if _stamps().is_dir() else []
    return " ".join(file.read_text("ascii", "replace") for file in files if file.is_file())


def _stamps() -> Path:
    return Path(folder_paths.get_user_directory()) / "masked_lora" / "masks_to_do"


def _stamp(folder: Path) -> Path:
    return _stamps() / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]


class _Journal:
    """A parsed journal. Only what was appended since is read, so that a long one may be asked before each mask that is written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._forget()

    def read_on(self) -> _Journal:
        try:
            facts = self.file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            self._forget()
            return self
        seen = facts.st_ino, facts.st_mtime_ns, facts.st_size
        if stat.S_ISLNK(facts.st_mode):
            logger.warning("Masked LoRA: %s is a link and is not read; remove it", self.file)
            self._forget()
        elif seen != self.seen:
            self._read(seen)
        return self

    def _forget(self) -> None:
        self.seen: tuple[int, int, int] | None = None
        self.end, self.overlap = 0, b""
        self.entries: dict[str, Entry] = {}
        self.made: dict[str, set[str]] = defaultdict(set)

    def _read(self, seen: tuple[int, int, int]) -> None:
        with self.file.open("rb") as file:
            file.seek(self.end - len(self.overlap))
            if file.read(len(self.overlap)) != self.overlap or (self.seen and self.seen[2] == seen[2]):
                self._forget()  # it was not only appended to
                file.seek(0)
            data = file.read()
        for entry in _lines(data.split(b"\n"), self.file):
            self.entries[entry.picture] = entry
            if entry.status == "made":
                self.made[entry.picture].add(entry.mask_sha256)
        whole = data[:data.rfind(b"\n") + 1]  # a line without its end is read once more
        self.overlap = (self.overlap + whole)[-OVERLAP:]
        self.end += len(whole)
        self.seen = seen


@lru_cache(maxsize=KEPT)
def _journal(folder: Path) -> _Journal:
    return _Journal(folder / JOURNAL)


def _lines(lines: Iterable[bytes], file: Path) -> Iterator[Entry]:
    """A line that cannot be read, as a kill in the middle of writing leaves it, does not count: its mask is then not known as ours."""
    for line in filter(bytes.strip, lines):
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, OverflowError, RecursionError):
            logger.warning("Masked LoRA: a line of %s cannot be read and does not count: %.80r", file, line)
            continue
        yield entry


def _entry(values: Any) -> Entry:
    """A journal may come from a stranger with the pictures: raises ValueError for values of other types than ours."""
    known = {name: value for name, value in values.items() if name in NAMES} if isinstance(values, dict) else {}
    for name in ("found", "missing"):
        known[name] = _texts(known.get(name) or [])
    for name in ("coverage", "seconds"):
        known[name] = _number(known.get(name) or 0)
    entry = Entry(**known)
    texts = [entry.picture, entry.plan, entry.picture_id, entry.mask_sha256, entry.error, *([] if entry.mask is None else [entry.mask])]
    _texts(texts)
    if entry.status not in get_args(Status) or entry.review not in get_args(Review):
        raise ValueError(f"status is {entry.status!r} and review {entry.review!r}")
    return entry


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} are no texts")
    return tuple(values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
