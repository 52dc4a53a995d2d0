"""What was made for each picture of a folder: one hidden file of JSON lines beside the masks. The last line of a picture counts.

It is what a run that was cut off goes on from, and what tells a mask of ours from one that a person made or changed.
"""
from __future__ import annotations

import json
import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import folder_paths

from ..dataset.manifest import write_whole

logger = logging.getLogger(__name__)

JOURNAL = ".masked_lora_masks.jsonl"
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


def read(folder: Path) -> dict[str, Entry]:
    """The last entry of each picture, by its path, in the order of their first lines. Without a journal: empty."""
    return {entry.picture: entry for entry in _lines(folder)}


def written(folder: Path) -> dict[str, frozenset[str]]:
    """For each picture the hashes of all masks that were ever made for it: a file with one of them is ours and was not edited."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for entry in _lines(folder):
        if entry.status == "made":
            hashes[entry.picture].add(entry.mask_sha256)
    return {picture: frozenset(found) for picture, found in hashes.items()}


def append(folder: Path, entry: Entry) -> None:
    """Adds one line, which from now on counts for its picture. The folder must be there. "redo" also changes `redo_stamp`."""
    line = json.dumps(asdict(entry), ensure_ascii=False).encode() + b"\n"
    with (folder / JOURNAL).open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill in the middle of a line; ours would end with it
                line = b"\n" + line
        file.write(line)
    if entry.review == "redo":
        write_whole(_stamp(), uuid.uuid4().hex.encode())


def redo_stamp() -> str:
    """Another value after each "redo", so that ComfyUI, which does not see journals, runs the node that writes masks again."""
    return _stamp().read_text("ascii", "replace") if _stamp().is_file() else ""


def _stamp() -> Path:
    return Path(folder_paths.get_user_directory()) / "masked_lora" / "redo_masks"


def _lines(folder: Path) -> Iterator[Entry]:
    """A line that cannot be read, as a kill in the middle of writing leaves it, does not count: its mask is then not known as ours."""
    try:
        lines = (folder / JOURNAL).read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in filter(bytes.strip, lines):
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            logger.warning("Masked LoRA: a line of %s cannot be read and does not count: %.80r", folder / JOURNAL, line)
            continue
        yield entry


def _entry(values: Any) -> Entry:
    known = {name: value for name, value in values.items() if name in NAMES} if isinstance(values, dict) else {}
    if not isinstance(known.get("picture"), str):
        raise ValueError("no picture")
    for name in ("found", "missing"):
        known[name] = tuple(map(str, known.get(name) or ()))
    for name in ("coverage", "seconds"):
        known[name] = float(known.get(name) or 0)
    return Entry(**known)
