"""Where the masks of a data set go, so that our loader and other trainers find them. White = learn."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..dataset.item import DataSet, ImageFiles, Item, MaskFiles
from ..dataset.keys import content_key, hash_file
from ..dataset.listing import FOREIGN_FOLDERS, PICTURE_TYPES, list_files, same_name
from ..dataset.pixels import read_picture
from ..dataset.spec import FolderSpec
from . import mask_journal
from .folders import MASKS

Layout = Literal["masks folder", "beside, -masklabel.png", "beside, .mask.png", "another folder"]
LAYOUTS: tuple[Layout, ...] = ("masks folder", "beside, -masklabel.png", "beside, .mask.png", "another folder")
COLOURED = 1 / 16  # how far apart red, green and blue of a pixel are in no mask that was saved as grey, also by JPEG


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One picture, or one frame of a clip, and the file for its mask. home: the folder with the journal. name: for a person."""

    item: Item
    picture: Path
    mask: Path
    home: Path
    name: str


def mask_places(data_set: DataSet, layout: Layout, folder: Path | None = None) -> list[Place]:
    """One place for each picture file of the set. folder: for the layout "another folder".

    masks folder: masks/<the picture's path>.png in the folder of the set. beside: <name>-masklabel.png (OneTrainer) or <name>.mask.png.
    another folder: <item's name>.png in `folder`. Frames of a clip get one mask each. Raises ValueError for pictures that are no
    files, cropped sets, clips beside whose frames masks would not be found, pictures that would share a mask, and a `folder` that holds
    the pictures, whose masks would be taken for pictures, or in which a colour picture lies where a mask would go.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; use {', '.join(LAYOUTS)}")
    if (layout == "another folder") != (folder is not None):
        raise ValueError(f"layout is {layout!r} and the folder {str(folder)!r}; name a folder for 'another folder', and for it alone")
    if folder is not None:
        _require_apart(data_set, folder)
    by_mask: dict[Path, Place] = {}
    for item in data_set.items:
        for place in _places(item, layout, folder):
            other = by_mask.setdefault(place.mask, place)
            if other.picture != place.picture:
                raise ValueError(f"{other.picture} and {place.picture} would both have the mask {place.mask}; rename one of them")
    if folder is not None:
        _require_no_pictures(list(by_mask.values()))
    return list(by_mask.values())


def _require_apart(data_set: DataSet, folder: Path) -> None:
    """Raises ValueError for a folder that holds the pictures, or whose files would be listed among them."""
    masks = folder.resolve()
    for top in set_folders(data_set):
        if top.resolve().is_relative_to(masks):
            raise ValueError(f"{folder} is or holds the pictures of {top}; name a folder of its own for the masks")
        if masks.is_relative_to(top.resolve()) and not _is_set_aside(masks.relative_to(top.resolve()), top, data_set):
            raise ValueError(f"{folder} lies among the pictures of {top}, and its masks would be taken for pictures; name a folder outside "
                             "of it, or use the layout 'masks folder'")


def _is_set_aside(relative: Path, top: Path, data_set: DataSet) -> bool:
    """Whether a folder below that of the set gives no pictures: by its name, or because the set has its masks from there."""
    parts = relative.parts
    left_out = FolderSpec(folder=top).gives_no_pictures()
    if any(part.startswith(".") or part in FOREIGN_FOLDERS or left_out("/".join(parts[:end])) for end, part in enumerate(parts, 1)):
        return True
    masks = {path.resolve() for item in data_set.items if isinstance(item.mask, MaskFiles) for path in item.mask.paths}
    return any(path.is_relative_to(top.resolve() / relative) for path in masks)


def _require_no_pictures(places: Sequence[Place]) -> None:
    """Raises ValueError for a colour picture where a mask would be, unless the journal knows the file: it belongs to something else."""
    for place in places:
        for file in filter(None, (place.mask if place.mask.is_file() else None, other_ending(place))):
            digest, picture = hash_file(file).digest, relative_to(place.picture, place.home)
            last = mask_journal.latest(place.home, picture)
            known = mask_journal.is_ours(place.home, picture, digest) or (last is not None and last.mask_sha256 == digest)
            if not known and _is_coloured(file):
                raise ValueError(f"{file} is a picture in colour and not a mask for {place.picture}; name a folder of its own for the "
                                 "masks, or save the file in grey if it is a mask")


def _is_coloured(file: Path) -> bool:
    try:
        colours_HWC = read_picture(file).colours_HWC
    except ValueError:  # said when it is to be read as a mask
        return False
    return bool(np.ptp(colours_HWC, axis=-1).max() > COLOURED * np.iinfo(colours_HWC.dtype).max)


def relative_to(path: Path, home: Path) -> str:
    """The path from `home`, with forward slashes, as the journal names it; the path itself if there is none."""
    try:
        return Path(os.path.relpath(path, home)).as_posix()
    except ValueError:  # another drive of Windows
        return path.as_posix()


def set_folders(data_set: DataSet) -> list[Path]:
    """The folders that the pictures were listed from, each once. Raises ValueError for pictures that are no files."""
    return list(dict.fromkeys(_home(item, path, _is_clip(item))[0] for item in data_set.items for path in _files(item)))


def folder_state(folder: Path) -> str:
    """Another text when a mask is added, removed or written: names, times and sizes. No file is opened. Raises ValueError for a folder
    that cannot be listed."""
    files = list_files(folder, PICTURE_TYPES).files if folder.is_dir() else ()
    return content_key(*sorted(f"{found.relative} {found.time_ns} {found.size}" for found in files))


def other_ending(place: Place) -> Path | None:
    """A mask of this name with another ending, of which the loader would find two; beside a picture it is none."""
    endings = [] if place.mask.parent == place.picture.parent else [made for ending in sorted(PICTURE_TYPES)
                                                                    for made in (ending, ending.upper())]
    return next((other for ending in endings if (other := place.mask.with_name(place.mask.stem + ending)).is_file()), None)


def _places(item: Item, layout: Layout, folder: Path | None) -> Iterator[Place]:
    if item.placement is not None:
        raise ValueError(f"{item.name} is already cropped and resized, and masks are made for whole pictures; connect this node before "
                         "Crop and Bucket Pictures")
    clip = _is_clip(item)
    if clip and layout.startswith("beside"):
        raise ValueError(f"{item.name} is a clip, and masks beside its frames would be taken for frames; use the layout 'masks folder'")
    for path in _files(item):
        home, relative = _home(item, path, clip)
        name = f"{item.name}/{path.stem}" if clip else item.name
        if folder is not None:
            yield Place(item, path, folder / f"{name}.png", folder, name)
        elif layout == "masks folder":
            yield Place(item, path, home / MASKS / f"{relative}.png", home / MASKS, name)
        else:
            yield Place(item, path, path.with_name(path.stem + layout.removeprefix("beside, ")), home, name)


def _files(item: Item) -> tuple[Path, ...]:
    if not isinstance(item.image, ImageFiles):
        raise ValueError(f"{item.name} comes from the graph and is no file, so there is no place for its mask; use Load Training Folder, "
                         "or Make Masks with Use Masks from the Graph")
    return item.image.paths


def _is_clip(item: Item) -> bool:
    files = _files(item)
    return len(files) > 1 or same_name(files[0].stem) != item.name.rpartition("/")[2]


def _home(item: Item, path: Path, clip: bool) -> tuple[Path, str]:
    """The folder that the picture was listed from, and its path below without ending, as it is on disk.

    An item's name is that path; a data set that was combined with others may have put its number before it.
    """
    wanted = [*item.name.split("/"), *([same_name(path.stem)] if clip else [])]
    there = [*path.parent.parts, path.stem]
    same = 1
    while same < min(len(wanted), len(there)) and wanted[-same - 1] == same_name(there[-same - 1]):
        same += 1
    return path.parents[same - 1], "/".join(there[-same:])
