"""Which files of the cache no saved training set needs, and their removal."""
from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .cache import KINDS, ExampleCache
from .manifest import SETS, list_sets, read_set, set_file
from .running import marks
from .store import ENDING, PARTIAL
from .words import counted

DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Unused:
    """A file that no saved set refers to. kind: latents, masks, texts, or unfinished for the rest of an interrupted write.

    used_ns: when it was made or last used.
    """

    path: Path
    kind: str
    size: int
    used_ns: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The cache's contents: what is in use, what is not, and how many unused files are too recent to touch.

    held: unused files that runs made which have not saved their set yet.
    """

    sets: int
    used: int
    used_bytes: int
    unused: tuple[Unused, ...]
    recent: int
    held: int


def survey(folder: Path, recent_seconds: float = 3600.0) -> Survey:
    """Looks at names, sizes and times alone. Left out are files used within recent_seconds, and, whatever that is, those used
    since a run began that has not saved its set and gave a sign of life within a day.

    Raises ValueError if a saved set cannot be read, because what it needs is then unknown.
    """
    now, used, used_bytes, recent, held = time.time(), 0, 0, 0, 0
    # Before the sets: a run saves its set and then removes its mark.
    runs = list(marks(folder))
    since = min([now, *(run.started for run in runs if run.holds(now))])
    names = list_sets(folder)
    needed = keys_of_sets(folder, names)
    unused = [Unused(run.path, "unfinished", run.size, run.alive_ns) for run in runs if not run.holds(now)]
    for kind, entry in _entries(folder):
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # another process has just finished or pruned it
            continue
        partial = entry.name.endswith(PARTIAL)
        if not partial and entry.name.removesuffix(ENDING) in needed.get(kind, ()):
            used, used_bytes = used + 1, used_bytes + facts.st_size
        elif now - facts.st_mtime < (DAY if partial else recent_seconds):
            recent += 1
        elif facts.st_mtime >= since:
            held += 1
        else:
            unused.append(Unused(Path(entry.path), "unfinished" if partial else kind, facts.st_size, facts.st_mtime_ns))
    return Survey(len(names), used, used_bytes, tuple(sorted(unused, key=lambda each: each.path)), recent, held)


def keys_of_sets(folder: Path, names: list[str]) -> dict[str, set[str]]:
    """Of each kind the keys that any of the sets needs."""
    needed: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for name in names:
        _, _, refs = read_set(set_file(folder, name))
        for kind in KINDS:
            needed[kind] |= refs.keys(kind)
    return needed


def prune(found: Survey) -> int:
    """Removes the unused files; how many there were to remove. One that is already gone is no error, one used since then stays."""
    removed = 0
    for each in found.unused:
        try:
            if os.stat(each.path).st_mtime_ns != each.used_ns:
                continue
            os.unlink(each.path)
        except FileNotFoundError:
            continue
        removed += 1
    return removed


def describe(found: Survey) -> str:
    """Counts and sizes as text."""
    lines = [f"in use by {counted(found.sets, 'saved training set')}: {counted(found.used, 'file')}, {megabytes(found.used_bytes)}",
             f"unused: {counted(len(found.unused), 'file')}, {megabytes(sum(each.size for each in found.unused))}"]
    for kind in (*KINDS, "unfinished"):
        sizes = [each.size for each in found.unused if each.kind == kind]
        if sizes:
            lines.append(f"  {kind}: {counted(len(sizes), 'file')}, {megabytes(sum(sizes))}")
    if found.recent:
        lines.append(f"unused but too recent to remove: {counted(found.recent, 'file')}")
    if found.held:
        lines.append(f"kept for runs that have not saved their set yet: {counted(found.held, 'file')}")
    return "\n".join(lines)


def megabytes(size: int) -> str:
    return f"{size} bytes" if size < 10_000 else f"{size / 1e6:.2f} MB"


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files that this cache wrote, with their kind. Others that a person put there are never listed."""
    cache = ExampleCache(folder)
    for kind in KINDS:
        for entry in cache.store(kind).files():
            if entry.name.endswith((ENDING, PARTIAL)):
                yield kind, entry
    if (folder / SETS).is_dir():
        with os.scandir(folder / SETS) as entries:
            yield from ((SETS, entry) for entry in entries if entry.name.endswith(PARTIAL) and entry.is_file(follow_symlinks=False))
