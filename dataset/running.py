"""Signs of life of runs that fill the cache: pruning leaves what they made until they have saved their set."""
from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

FOLDER = "running"
ENDING = ".run"
KEPT_SECONDS = 24 * 3600.0  # after the last sign of life: a run that was stopped may go on where it was
BEAT_SECONDS = 60.0
CLOCK_SECONDS = 2.0  # to which some file systems round times


@dataclass(frozen=True, slots=True)
class Mark:
    """A run's file. started, alive_ns: its first (in seconds) and last sign of life, by the clock of the file system."""

    path: Path
    size: int
    started: float
    alive_ns: int

    def holds(self, now: float) -> bool:
        """Whether what the run made must stay."""
        return now - self.alive_ns / 1e9 < KEPT_SECONDS


class Running:
    """A context for a run that fills the cache in `folder`. The mark stays when the run fails, is stopped or is killed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FOLDER / f"{uuid.uuid4().hex}{ENDING}"
        self.started, self.beaten = 0.0, 0.0

    def __enter__(self) -> Running:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        self.started = self.file.stat().st_mtime
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.file.unlink(missing_ok=True)

    def beat(self) -> None:
        """A sign of life; cheap enough to be given all the time."""
        if time.monotonic() - self.beaten >= BEAT_SECONDS:
            self._write()

    def _write(self) -> None:
        self.beaten = time.monotonic()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(repr(self.started), "ascii")


def marks(folder: Path) -> Iterator[Mark]:
    """Of all runs that have not saved their set. What cannot be read counts as begun at its last sign of life."""
    if not (folder / FOLDER).is_dir():
        return
    with os.scandir(folder / FOLDER) as entries:
        for entry in entries:
            if not entry.name.endswith(ENDING) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                facts = entry.stat()
                text = Path(entry.path).read_text("ascii", "replace")
            except FileNotFoundError:  # it has just saved its set
                continue
            try:
                started = float(text)
            except ValueError:
                started = facts.st_mtime
            yield Mark(Path(entry.path), facts.st_size, min(started, facts.st_mtime) - CLOCK_SECONDS, facts.st_mtime_ns)
