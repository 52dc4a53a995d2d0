"""Which picture belongs to which mask and which caption."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .load import has_alpha

MaskSource = Literal["folder", "alpha", "none"]
MissingMask = Literal["error", "all ones", "skip"]
PICTURE_TYPES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"})
MASK_FOLDER = "masks"
CAPTION_TYPE = ".txt"


@dataclass(frozen=True, slots=True)
class Triple:
    """One picture of the set.

    name: the file's stem, unique in the folder. mask: the mask's file; the picture's own file stands for its alpha
    channel; None for no mask, all ones. caption: text of <name>.txt, empty if there is none.
    """

    name: str
    image: Path
    mask: Path | None
    caption: str


@dataclass(frozen=True, slots=True)
class FolderScan:
    """The pictures in the order of their names, and what a person should know about the folder."""

    triples: tuple[Triple, ...]
    report: str


def scan_folder(folder: Path, mask_source: MaskSource = "folder", missing_mask: MissingMask = "error") -> FolderScan:
    """Pairs folder/<name>.<type> with folder/masks/<name>.<type> (or its own alpha channel) and folder/<name>.txt.

    missing_mask says what a picture without a mask is: an error, a picture that is learned everywhere, or skipped.
    Raises ValueError for an unknown choice, a folder without pictures, two files of one name, or a missing mask under "error".
    """
    _check_choice("mask_source", mask_source, get_args(MaskSource))
    _check_choice("missing_mask", missing_mask, get_args(MissingMask))
    pictures = _pictures_by_name(folder)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures; put files of type {', '.join(sorted(PICTURE_TYPES))} directly in it")
    masks = _pictures_by_name(folder / MASK_FOLDER) if mask_source == "folder" else {}
    found = [Triple(name, image, _mask_of(name, image, mask_source, masks), _caption_of(image))
             for name, image in pictures.items()]
    without = [triple for triple in found if triple.mask is None and mask_source != "none"]
    if without and missing_mask == "error":
        raise ValueError(_missing_message(folder, without, len(found), mask_source))
    kept = tuple(t for t in found if t.mask is not None or mask_source == "none" or missing_mask == "all ones")
    if not kept:
        raise ValueError(f"{folder}: all {len(found)} pictures lack a mask and were skipped; add masks, or set missing_mask to "
                         "'all ones'")
    unused = sorted(file.name for name, file in masks.items() if name not in pictures)
    return FolderScan(kept, _report(folder, kept, without, unused, mask_source, missing_mask))


def folder_fingerprint(folder: Path) -> str:
    """Changes whenever a file of the set is added, removed, renamed or written: names, times and sizes."""
    lines = []
    for place in (folder, folder / MASK_FOLDER):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.suffix.lower() in PICTURE_TYPES | {CAPTION_TYPE} and file.is_file():
                facts = file.stat()
                lines.append(f"{file.relative_to(folder).as_posix()} {facts.st_mtime_ns} {facts.st_size}")
    return "\n".join(lines)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(choices)}")


def _pictures_by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        # macOS leaves "._name.png" beside files on foreign disks: not pictures
        if file.suffix.lower() in PICTURE_TYPES and not file.name.startswith(".") and file.is_file():
            groups[file.stem].append(file)
    for files in groups.values():
        if len(files) > 1:
            raise ValueError(f"{' and '.join(f.name for f in files)} in {folder} share one name, so their masks and captions "
                             "cannot be told apart; rename one of them")
    return {name: files[0] for name, files in groups.items()}


def _mask_of(name: str, image: Path, source: MaskSource, masks: dict[str, Path]) -> Path | None:
    if source == "folder":
        return masks.get(name)
    return image if source == "alpha" and has_alpha(image) else None


def _caption_of(image: Path) -> str:
    file = image.with_suffix(CAPTION_TYPE)
    if not file.is_file():
        return ""
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _missing_message(folder: Path, without: Sequence[Triple], count: int, source: MaskSource) -> str:
    where = (f"put {MASK_FOLDER}/{without[0].name}.png (white = learn) into {folder}" if source == "folder"
             else "save these pictures with an alpha channel (opaque = learn)")
    return (f"{len(without)} of {count} pictures have no mask: {_names([t.image.name for t in without])}; {where}, "
            "or set missing_mask to 'all ones' (learn everywhere) or 'skip'")


def _report(folder: Path, kept: Sequence[Triple], without: Sequence[Triple], unused: Sequence[str],
            source: MaskSource, policy: MissingMask) -> str:
    masked = sum(triple.mask is not None for triple in kept)
    origin = {"folder": f"from {MASK_FOLDER}/", "alpha": "from alpha channels", "none": "(mask source: none)"}[source]
    lines = [f"{folder.name}: {len(kept)} pictures, {masked} masks {origin}; white = learn"]
    if source == "none":
        lines.append(f"no masks by choice: all {len(kept)} pictures are learned everywhere")
    if without:
        outcome = {"all ones": "learned everywhere", "skip": "skipped"}[policy]
        lines.append(f"without a mask, {outcome}: {len(without)} ({_names([t.image.name for t in without])})")
    silent = [triple.image.name for triple in kept if not triple.caption]
    if silent:
        lines.append(f"without a caption, trained on empty text: {len(silent)} ({_names(silent)})")
    if unused:
        lines.append(f"masks that match no picture, unused: {len(unused)} ({_names(unused)}); name a mask like its picture")
    return "\n".join(lines)


def _names(names: Sequence[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
