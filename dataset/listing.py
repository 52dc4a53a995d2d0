"""Which files a folder holds. Nothing outside of the folder is listed, whatever links say."""
from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

PICTURE_TYPES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
CAPTION_TYPES = frozenset({".txt", ".caption", ".json", ".jsonl"})
# Folders of other programs beside a data set: ai-toolkit's control pictures, and what macOS packs into zip files.
FOREIGN_FOLDERS = frozenset({"_controls", "__MACOSX"})


class Found(NamedTuple):
    """A file. relative: its path below the listed folder as it is on disk, with forward slashes."""

    path: str
    relative: str
    time_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """files: in no order. set_aside: relative folders that were not entered. refused: links that were not read, and why."""

    files: tuple[Found, ...]
    set_aside: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


def list_files(top: Path, types: frozenset[str], *, inside: Path | None = None, depth: int | None = None,
               apart: Callable[[str], bool] = lambda relative: False) -> Listing:
    """Files below `top` whose ending is one of `types`. Hidden files and folders are left out.

    inside: links to files are followed while they stay in this folder (default: top). Links to folders are not followed.
    depth: how many levels of sub-folders are entered; None for all. apart: whether a sub-folder, by its relative path, is
    set aside instead of entered. Raises ValueError for a folder that cannot be listed.
    """
    root, allowed = os.path.realpath(top), os.path.realpath(inside or top)
    files: list[Found] = []
    aside: list[str] = []
    refused: list[tuple[str, str]] = []
    pending = [(root, "", 0)]
    while pending:
        folder, prefix, level = pending.pop()
        for entry in _entries(folder):
            relative = prefix + entry.name
            kind = _kind(entry, types)
            away = _leads_away(entry.path, allowed) if kind in ("file", "folder") else ""
            if kind == "file" and not away:
                facts = entry.stat()
                files.append(Found(entry.path, relative, facts.st_mtime_ns, facts.st_size))
            elif kind == "folder" and apart(relative) and not away:
                aside.append(relative)
            elif kind == "folder" and not apart(relative) and os.path.realpath(entry.path) == entry.path:
                if depth is None or level < depth:
                    pending.append((entry.path, f"{relative}/", level + 1))
            elif kind != "other":
                # Links to folders, also junctions, which Windows does not call links, could run in circles.
                refused.append((relative, "leads nowhere" if kind == "lost" else away or "links to a folder; name that folder itself"))
    return Listing(tuple(files), tuple(aside), tuple(refused))


def _kind(entry: os.DirEntry[str], types: frozenset[str]) -> Literal["file", "folder", "lost", "other"]:
    """A file of one of the types, a folder to look into, a link of such a name that leads nowhere, or nothing of interest."""
    if entry.name.startswith("."):  # macOS leaves "._name.png" beside files on foreign disks
        return "other"
    wanted = os.path.splitext(entry.name)[1].lower() in types
    if wanted and _is_file(entry):
        return "file"
    if _is_folder(entry):
        return "other" if entry.name in FOREIGN_FOLDERS else "folder"
    return "lost" if wanted and entry.is_symlink() else "other"


def same_name(relative: str) -> str:
    """The path as it is compared: macOS writes letters with accents as two characters, others as one."""
    return unicodedata.normalize("NFC", relative)


def printable(name: str) -> str:
    """The name with what is no Unicode text, as another system's encoding leaves it, spelled out."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def without_ending(relative: str) -> str:
    return os.path.splitext(relative)[0]


def natural_order(relative: str) -> tuple[object, ...]:
    """Sorts frame2 before frame10, folder by folder."""
    parts = [[int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name.casefold()))]
             for name in relative.split("/")]
    return (parts, relative)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed ({error}); make it readable or move it away") from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_away(path: str, allowed: str) -> str:
    target = os.path.realpath(path)
    return "" if target == allowed or target.startswith(os.path.join(allowed, "")) else "leads out of the folder"
