"""From a folder to a data set: what lies in it, what belongs together, and whether it can be trained on."""
from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from . import pairing
from .captions import Caption, find_captions
from .checks import Checked, check
from .findings import SHOWN, Finding, error_text
from .folder_report import folder_report
from .item import DataSet, ImageFiles, Item
from .layouts import folder_repeats
from .listing import CAPTION_TYPES, PICTURE_TYPES, Found, Listing, list_files, printable, same_name, without_ending
from .references import collect_references, sidecar_of
from .spec import FolderSpec
from .words import counted

__all__ = ["FolderSpec", "combine_data_sets", "folder_fingerprint", "scan_folder"]
logger = logging.getLogger(__name__)


def scan_folder(spec: FolderSpec, watch: Callable[[int, int], None] = lambda done, total: None) -> DataSet:
    """Pairs the pictures of a folder with masks and captions and looks at every pair; nothing is encoded.

    watch: called with how many of how many pairs were looked at; may raise to stop.

    Raises ValueError that lists all that is wrong, each kind with its files, reasons and remedy. Long lists are cut in the report
    and in the error, and whole in the log.
    """
    files = _collect(spec)
    checked = _check_all(files.candidates, spec, watch)
    captions, findings = find_captions(_caption_paths(files.candidates), files.captions, spec.captions, spec.caption_field)
    findings = [*files.findings, *(finding for one in checked for finding in one.findings), *findings]
    _raise_errors(spec, findings)
    kept, left_out = _kept(spec, checked)
    items = tuple(replace(_item(one, captions[one.candidate.name], spec), references=files.references.get(one.candidate.name, ()))
                  for one in kept)
    findings += [*left_out, *(Finding("empty caption", item.name, "") for item in items if not item.caption)]
    logger.info(folder_report(spec, items, kept, captions, findings, shown=None))
    return DataSet(items, folder_report(spec, items, kept, captions, findings, shown=SHOWN))


def _check_all(candidates: Sequence[pairing.Candidate], spec: FolderSpec, watch: Callable[[int, int], None]) -> list[Checked]:
    # Pillow and NumPy let other threads run while they decode and count.
    pool = ThreadPoolExecutor(min(4, max(2, os.cpu_count() or 2)))
    try:
        checked: list[Checked] = []
        for one in pool.map(lambda candidate: check(candidate, spec), candidates):
            checked.append(one)
            watch(len(checked), len(candidates))
        return checked
    finally:
        pool.shutdown(cancel_futures=True)  # who stops does not wait for the rest


def folder_fingerprint(spec: FolderSpec) -> str:
    """Changes whenever a file of the set is added, removed, renamed or written: names, times and sizes. No file is opened."""
    digest = hashlib.sha256()
    depth = None if spec.recursive else 2 + spec.mask_place.count("/")  # as deep as masks/<clip>/<frame>
    listings = [list_files(spec.folder, PICTURE_TYPES | CAPTION_TYPES, depth=depth, apart=spec.is_mask_folder)]
    listings += [list_files(spec.top / aside, PICTURE_TYPES, inside=spec.top) for aside in listings[0].set_aside]
    listings += [list_files(folder, PICTURE_TYPES) for folder in (spec.mask_root, *spec.references) if folder is not None]
    for listing in listings:
        for found in sorted(listing.files, key=lambda found: found.relative):
            digest.update(f"{found.relative}\0{found.time_ns} {found.size}\n".encode("utf-8", "surrogateescape"))
        digest.update(f"{sorted(listing.refused)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def combine_data_sets(data_sets: Sequence[DataSet]) -> DataSet:
    """All items in order. A name that an earlier set has gets the number of its set before it. Raises ValueError for no sets."""
    if not data_sets:
        raise ValueError("no data set is given; connect at least one")
    items: list[Item] = []
    taken: set[str] = set()
    for number, data_set in enumerate(data_sets, start=1):
        own = {item.name for item in data_set.items}
        for item in data_set.items:
            name = item.name
            while name in taken or (name != item.name and name in own):
                name = f"{number}/{name}"
            taken.add(name)
            items.append(item if name == item.name else replace(item, name=name))
    head = [f"{len(items)} items of {len(data_sets)} data sets"] if len(data_sets) > 1 else []
    return DataSet(tuple(items), "\n\n".join([*head, *(data_set.report for data_set in data_sets)]))


@dataclass(frozen=True, slots=True)
class _Collected:
    candidates: tuple[pairing.Candidate, ...]
    captions: tuple[Found, ...]
    findings: tuple[Finding, ...]
    references: dict[str, tuple[Item, ...]]


def _collect(spec: FolderSpec) -> _Collected:
    """Every file of the folder in its part: picture, mask, caption. Raises ValueError for a folder without pictures."""
    if not spec.folder.is_dir():
        raise ValueError(f"{spec.folder} is not a folder; name one that holds pictures")
    spec.check_mask_folder()
    clips = spec.content == "clips"
    depth = None if spec.recursive else int(clips)
    listing = list_files(spec.top, PICTURE_TYPES | CAPTION_TYPES, depth=depth, apart=spec.gives_no_pictures())
    pictures = [found for found in listing.files if _is_picture(found)]
    masks = pairing.MaskIndex()
    masks.add_sidecars(found for found in pictures if pairing.sidecar_of(found.relative))
    beside = [found for found in pictures if sidecar_of(found.relative)]
    pictures = [found for found in pictures if not pairing.sidecar_of(found.relative) and not sidecar_of(found.relative)]
    refused = [*listing.refused, *_index_masks(masks, spec, listing, depth)]
    loose: list[str] = []
    if clips:
        candidates, shared, loose = pairing.clips(pictures, masks)
    else:
        candidates, shared = pairing.pictures(pictures, masks)
    if not candidates:
        raise ValueError(_empty_text(spec, listing.refused))
    findings = [Finding("same name", name, files, error=True) for name, files in shared]
    findings += [Finding("unreadable name", printable(one.name), "", error=True) for one in candidates if printable(one.name) != one.name]
    findings += [Finding("not in a clip", name, "") for name in loose]
    findings += [Finding("link", name, reason) for name, reason in refused]
    findings += [Finding("set aside", name, "") for name in listing.set_aside if not _holds_masks(spec, name)]
    findings += [Finding("unused mask", found.relative, "") for found in pairing.unused(masks, candidates)]
    references, more = collect_references(spec, [one.name for one in candidates], beside, depth)
    captions = tuple(found for found in listing.files if not _is_picture(found))
    return _Collected(tuple(candidates), captions, (*findings, *more), references)


def _index_masks(masks: pairing.MaskIndex, spec: FolderSpec, listing: Listing, depth: int | None) -> Iterator[tuple[str, str]]:
    """Adds the files of the mask folders; gives the links in them that were not read."""
    places = [(spec.top / aside, "" if same_name(aside) == spec.mask_place else same_name(aside).rpartition("/")[0], aside)
              for aside in listing.set_aside if spec.is_mask_folder(aside)]
    if spec.mask_root is not None:
        places = [(spec.mask_root, "", spec.mask_root.name)]
    for folder, beside, place in places:
        inside = spec.mask_root or spec.top
        found = list_files(folder, PICTURE_TYPES, inside=inside, depth=depth)
        masks.add_folder(found.files, beside, place)
        yield from ((f"{place}/{name}", reason) for name, reason in found.refused)


def _holds_masks(spec: FolderSpec, relative: str) -> bool:
    return spec.is_mask_folder(relative) or (spec.mask_root is not None and (spec.top / relative) == spec.mask_root.resolve())


def _is_picture(found: Found) -> bool:
    return os.path.splitext(found.relative)[1].lower() in PICTURE_TYPES


def _caption_paths(candidates: Sequence[pairing.Candidate]) -> dict[str, str]:
    return {one.shown: one.name for one in candidates}


def _empty_text(spec: FolderSpec, refused: Sequence[tuple[str, str]]) -> str:
    where = "in sub-folders, one for each clip" if spec.content == "clips" else "in it" if spec.recursive else "directly in it"
    links = f" ({counted(len(refused), 'link')} not read, such as {refused[0][0]}: {refused[0][1]})" if refused else ""
    return f"{spec.folder} holds no {spec.content}{links}; put files of type {', '.join(sorted(PICTURE_TYPES))} {where}"


def _raise_errors(spec: FolderSpec, findings: Sequence[Finding]) -> None:
    first = next((without_ending(finding.name) for finding in findings if finding.kind == "missing mask"), "")
    place = spec.mask_root or spec.mask_place or "masks"
    put = {"alpha": "save these pictures with an alpha channel (opaque = learn)",
           "sidecar": f"put {first}-masklabel.png (white = learn) beside the picture"}
    remedy = (put.get(spec.mask_source, f"put {place}/{first}.png (white = learn) into {spec.folder}")
              + ", or set missing_mask to 'all ones' (learn everywhere) or 'skip'")
    text = error_text(str(spec.folder), findings, remedy)
    if text:
        logger.error(error_text(str(spec.folder), findings, remedy, shown=None))
        raise ValueError(text)


def _kept(spec: FolderSpec, checked: Sequence[Checked]) -> tuple[list[Checked], list[Finding]]:
    """What is trained: not what lacks a mask under "skip", nor folders with 0 repeats."""
    masked = [one for one in checked if spec.missing_mask != "skip" or spec.mask_source == "none" or one.mask is not None]
    if not masked:
        raise ValueError(f"{spec.folder}: {counted(len(checked), spec.content.removesuffix('s'))}, all without a mask and skipped; "
                         "add masks, or set missing_mask to 'all ones'")
    off = [one for one in masked if _repeats(one) == 0]
    if len(off) == len(masked):
        raise ValueError(f"{spec.folder}: all folders have 0 repeats in their names; name one of them 1_...")
    return [one for one in masked if _repeats(one)], [Finding("no repeats", one.candidate.name, "") for one in off]


def _repeats(one: Checked) -> int:
    named = folder_repeats(one.candidate.name)
    return named[1] if named else 1


def _item(one: Checked, caption: Caption, spec: FolderSpec) -> Item:
    paths = tuple(Path(found.path) for found in one.candidate.files)
    return Item(name=one.candidate.name, image=ImageFiles(paths), mask=one.mask, caption=caption.text, size=one.size, frames=len(paths),
                repeats=spec.repeats * _repeats(one), weight=spec.weight, regularisation=spec.regularisation,
                transparency=spec.transparency, fit_mask=spec.mask_size == "fit", captions=caption.members)
