"""Files of segmentation models in the folders where ComfyUI and other packs keep them.

The folders are those that other packs and extra_model_paths.yaml have registered, and after them the usual ones below models/. Nothing
is registered here: a pack that registers a key only where it is free would lose its own folder.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..segmentation.catalogue import KNOWN, MODEL_TYPES, PLACES, Family, KnownModel, Place
from .downloads import download
from .progress import Progress

DOWNLOAD = " (download)"
DEPTH = 4  # clipseg/models--CIDAS--x/snapshots/<revision>, the hub's own cache
CONFIG = "config.json"


def choices(*families: Family) -> list[str]:
    """What a dropdown offers: "key/file" and "key/folder" that are there, then known models as "name (download)". Never raises.

    Known models are listed whether they are there or not, so that a workflow stays valid after its download and on other machines.
    """
    there = [name for family in families for place in PLACES[family] for name in _names(place, family)]
    return list(dict.fromkeys([*sorted(there, key=str.lower), *(known.name + DOWNLOAD for known in _known(families))]))


def find(choice: str, families: tuple[Family, ...], accept_licence: bool, node_id: str | None) -> Path:
    """The file or folder of a choice, downloaded if it is a known model, is not there and `accept_licence` is set.

    Raises ValueError for a choice that is not there: with the licence and its limits, repository, target and link.
    """
    for known in _known(families):
        if choice == known.name + DOWNLOAD:
            return _present(known) or _fetch(known, accept_licence, node_id)
    key, _, relative = choice.replace("\\", "/").partition("/")
    places = [place for family in families for place in PLACES[family]]
    roots = [root for place in places if place.key == key for root in folders(place.key, place.default)]
    for root in roots:
        if found := _inside(root, relative, choice):
            return found
    searched = ", ".join(str(root) for place in places for root in folders(place.key, place.default))
    raise ValueError(f"there is no model {choice!r}; put it into one of the folders searched ({searched}), reload the page and choose it, "
                     "or choose one that is marked as a download")


def folders(key: str, default: str) -> list[Path]:
    """The folders of a key: the registered ones, then the usual one below models/. They need not be there."""
    registered = folder_paths.get_folder_paths(key) if key in folder_paths.folder_names_and_paths else []
    return list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in [*registered, os.path.join(folder_paths.models_dir, default)]))


def _known(families: tuple[Family, ...]) -> Iterator[KnownModel]:
    return (known for known in KNOWN if known.family in families)


def _names(place: Place, family: Family) -> Iterator[str]:
    for root in folders(place.key, place.default):
        for path in _models(root, place.files, family, DEPTH):
            yield "/".join((place.key, *path.relative_to(root).parts))


def _models(folder: Path, files: bool, family: Family, depth: int, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Models in a folder and below it; what cannot be read is not there. above: folders that a link may not lead back to."""
    try:
        above = above | {folder.resolve()}
        entries = sorted(folder.iterdir())
        if _is_model(folder, family):
            yield folder
            files = False
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if depth > 1 and entry.resolve() not in above:
                    yield from _models(entry, files and not (entry / CONFIG).exists(), family, depth - 1, above)
            elif files and entry.suffix.lower() in folder_paths.supported_pt_extensions and entry.is_file():
                yield entry
    except OSError:
        return


def _is_model(folder: Path, family: Family | None = None) -> bool:
    """Whether transformers' configuration lies there beside weights, and is of the family."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = any(file.suffix.lower() in folder_paths.supported_pt_extensions for file in folder.iterdir())
    except (OSError, ValueError):
        return False
    return weights and isinstance(config, dict) and (family is None or config.get("model_type") in MODEL_TYPES[family])


def _inside(root: Path, relative: str, choice: str) -> Path | None:
    """The file or model folder at a path below `root`; raises ValueError for a name that leads out of it.

    Links are followed, as ComfyUI does in its own model folders: only whoever owns the machine can have put them there.
    """
    path = Path(os.path.normpath(root / relative))
    if not path.is_relative_to(root):
        raise ValueError(f"{choice!r} leads out of {root}; choose one of the list")
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a null byte, a loop of links
        raise ValueError(f"{choice!r} is not a model's name ({error}); choose one of the list") from error
    return path if there and (path.suffix.lower() in folder_paths.supported_pt_extensions or _is_model(path)) else None


def _targets(known: KnownModel) -> list[Path]:
    """Where a known model may lie; the first is where it would be downloaded to."""
    [place] = [place for place in PLACES[known.family] if place.key == known.key]
    return [folder / known.place for folder in folders(place.key, place.default)]


def _present(known: KnownModel) -> Path | None:
    return next((path for path in _targets(known) if (path.is_file() if known.is_file else _is_model(path, known.family))), None)


def _fetch(known: KnownModel, accept_licence: bool, node_id: str | None) -> Path:
    target = _targets(known)[0]
    if not accept_licence:
        raise ValueError(_terms(known, target))
    download(known, target, Progress(node_id))
    return target


def _terms(known: KnownModel, target: Path) -> str:
    size = f"about {known.gigabytes:g} GB, " if known.gigabytes else ""
    gated = "Its repository is gated: you need a Hugging Face account that was granted access, and its token in HF_TOKEN."
    return " ".join(filter(None, [
        f"{known.name} is not there yet. Its licence is {known.licence.name} ({known.licence.link}).", known.licence.limits,
        f"To accept it and download {known.repo} ({size}{known.link}) to {target}, tick accept_licence and run again; or put its files "
        f"({', '.join(known.patterns)}) there by hand.", gated if known.gated else ""]))
