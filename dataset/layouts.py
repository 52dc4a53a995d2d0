"""Folder layouts of other trainers: repeats in folder names (sd-scripts), captions in metadata files (sd-scripts, musubi-tuner,
Hugging Face). Paths in such files are compared with the pictures that were found and never opened."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .listing import Found, same_name

METADATA = "metadata.json"
PATH_FIELDS = ("image_path", "file_name", "video_path", "image", "path")  # musubi-tuner, Hugging Face, other writers
TEXT_FIELDS = ("caption", "text")
MOST_REPEATS = 999  # above it a number is a year or a date, as in "2024_summer"
REPEATS = re.compile(r"(\d+)_(.*)")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Captions by picture name, each as texts_of has it. unmatched: for each file how many entries there are and how many match no
    picture.
    """

    captions: Mapping[str, tuple[str, ...]]
    conflicts: tuple[str, ...]
    unmatched: tuple[tuple[str, int, int], ...]
    unreadable: tuple[tuple[str, str], ...]


def folder_repeats(relative: str) -> tuple[str, int] | None:
    """The first folder of a path and its repeats, if it is named as sd-scripts wants it: "10_name class" means 10."""
    first, slash, _ = relative.partition("/")
    match = REPEATS.fullmatch(first) if slash else None
    repeats = int(match[1]) if match else 0
    return (first, repeats) if match and repeats <= MOST_REPEATS else None


def is_metadata(relative: str) -> bool:
    name = relative.rpartition("/")[2].lower()
    return name == METADATA or name.endswith(".jsonl")


def read_metadata(texts: Sequence[tuple[Found, str]], pictures: Mapping[str, str], field: str) -> Metadata:
    """Captions from metadata.json ({path: {"caption", "tags"}}) and *.jsonl (one {"image_path" or "file_name", "caption" or
    "text"} a line). texts: the files with their contents. pictures: relative path with and without ending -> picture name.

    A path is matched by its longest ending that is a picture below the file's folder, or below the listed folder; so paths of
    another machine or of Windows work. Of two captions for one picture the longer match wins, then the first.
    """
    captions: dict[str, tuple[int, tuple[str, ...]]] = {}
    conflicts: list[str] = []
    unmatched: list[tuple[str, int, int]] = []
    unreadable: list[tuple[str, str]] = []
    for found, text in texts:
        base = found.relative.rpartition("/")[0]
        try:
            entries = list(_entries(found.relative, text, field))
        except (ValueError, RecursionError) as error:
            unreadable.append((found.relative, str(error) if isinstance(error, ValueError) else "nested too deeply"))
            continue
        hits = 0
        for path, caption in entries:
            match = longest_ending(path, pictures, base)
            if match is None:
                continue
            hits += 1
            name, length = match
            known = captions.get(name)
            if known is not None and known[1] != caption and known[0] == length:
                conflicts.append(name)
            if known is None or known[0] < length:
                captions[name] = (length, caption)
        if hits < len(entries):
            unmatched.append((found.relative, len(entries), len(entries) - hits))
    return Metadata({name: caption for name, (_, caption) in captions.items()}, tuple(dict.fromkeys(conflicts)), tuple(unmatched),
                    tuple(unreadable))


def longest_ending(path: str, pictures: Mapping[str, str], base: str = "") -> tuple[str, int] | None:
    """The picture that a foreign path means, and how many parts of its relative path are certain; None if no ending is a picture.

    base: the folder of the file that has the path. A path of several parts may also start at the top; a bare name means a picture
    beside its file and never one of the same name elsewhere.
    """
    parts = [part for part in same_name(path).replace("\\", "/").split("/") if part not in ("", ".")]
    depth = len(base.split("/")) if base else 0
    for start in range(len(parts)):
        ending, length = "/".join(parts[start:]), len(parts) - start
        for candidate, certain in ((f"{same_name(base)}/{ending}", depth + length), (ending, length)) if base else ((ending, length),):
            name = pictures.get(candidate)
            if name is not None and (candidate != ending or not base or length > 1):
                return name, certain
    return None


def picture_paths(names: Mapping[str, str]) -> dict[str, str]:
    """For `read_metadata`: relative path with and without ending -> name. sd-scripts also writes paths without endings.

    names: relative path -> name.
    """
    return {same_name(relative): name for relative, name in names.items()} | {name: name for name in names.values()}


def caption_of(entry: Mapping[str, Any], field: str) -> str | None:
    """The caption of a JSON object; None if it has none. A list counts as tags, joined by commas."""
    value = entry.get(field)
    if field == TEXT_FIELDS[0]:
        value = value if value is not None else entry.get(TEXT_FIELDS[1])
        tags = as_text(entry.get("tags"))
        if tags and value is not None:  # sd-scripts appends the tags to the caption
            return ", ".join(part for part in (as_text(value) or "", tags) if part)
        value = tags if value is None else value
    return as_text(value)


def texts_of(entry: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """The caption of a JSON object (caption_of) and, where that was a list, each of its members as a caption; empty for none."""
    whole = caption_of(entry, field)
    if whole is None:
        return ()
    listed = TEXT_FIELDS[1] if field == TEXT_FIELDS[0] and entry.get(field) is None else field
    members = entry.get(listed)
    if not isinstance(members, list) or as_text(members) is None:
        return (whole,)
    return whole, *(caption_of({**entry, listed: member}, field) or "" for member in members if member.strip())


def as_text(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(part.strip() for part in value if part.strip())
    return None


def _entries(relative: str, text: str, field: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not relative.lower().endswith(".jsonl"):
        data = json.loads(text) if text.strip() else {}
        if not isinstance(data, dict):
            raise ValueError("is not a JSON object of path: {\"caption\": ...}")
        for path, entry in data.items():
            yield path, texts_of(entry if isinstance(entry, dict) else {field: entry}, field) or ("",)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"line {number} is not a JSON object")
        path = next((entry[name] for name in PATH_FIELDS if isinstance(entry.get(name), str)), "")
        yield path, texts_of(entry, field) or ("",)
