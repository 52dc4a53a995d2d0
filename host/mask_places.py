"""Where the masks of a data set go, so that our loader and other trainers find them. White = learn."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..dataset.item import DataSet, ImageFiles, Item
from ..dataset.keys import content_key
from ..dataset.listing import PICTURE_TYPES, list_files, same_name

Layout = Literal["masks folder", "beside, -masklabel.png", "beside, .mask.png", "another folder"]
LAYOUTS: tuple[Layout, ...] = ("masks folder", "beside, -masklabel.png", "beside, .mask.png", "another folder")
MASKS = "masks"


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
    the pictures.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; use {', '.join(LAYOUTS)}")
    if (layout == "another folder") != (folder is not None):
        raise ValueError(f"layout is {layout!r} and the folder {str(folder)!r}; name a folder for 'another folder', and for it alone")
    if folder is not None and (held := [top for top in set_folders(data_set) if top.resolve().is_relative_to(folder.resolve())]):
        raise ValueError(f"{folder} is or holds the pictures of {held[0]}; name a folder of its own for the masks")
    by_mask: dict[Path, Place] = {}
    for item in data_set.items:
        for place in _places(item, layout, folder):
            other = by_mask.setdefault(place.mask, place)
            if other.picture != place.picture:
                raise ValueError(f"{other.picture} and {place.picture} would both have the mask {place.mask}; rename one of them")
    return list(by_mask.values())


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
