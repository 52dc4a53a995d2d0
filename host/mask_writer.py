"""Runs a mask plan on the pictures of a data set and writes their masks. White = learn.

Each mask is written whole or not at all, and the journal says before that what will be there. So a run may be killed at any moment:
the next one goes on behind the last picture. Shapes: H height, W width, C = 3 colours.
"""
from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..dataset.ahead import ReadAhead, WriteBehind
from ..dataset.keys import content_key, hash_file
from ..dataset.listing import PICTURE_TYPES
from ..dataset.manifest import write_whole
from ..dataset.pixels import read_mask, read_picture
from ..dataset.transparency import resolve
from . import mask_journal, mask_making
from .mask_journal import Entry
from .mask_making import Watch, coverage_of, make_mask
from .mask_places import Place
from .mask_plan import MaskPlan

logger = logging.getLogger(__name__)

Existing = Literal["keep", "redo ours if changed", "redo all"]
EXISTING: tuple[Existing, ...] = ("keep", "redo ours if changed", "redo all")
# What a segmenter or OpenCV may raise for one picture; a run over night goes on with the next one.
FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What became of one picture. fresh: the journal did not have this entry yet."""

    place: Place
    entry: Entry
    fresh: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A picture that was looked at. picture_HWC: uint8, if its mask is to be made. result: if not."""

    place: Place
    entry: Entry
    picture_HWC: Tensor | None = None
    result: Result | None = None


def write_masks(places: Sequence[Place], plan: MaskPlan, existing: Existing, watch: Watch = lambda done, total, text: None) -> list[Result]:
    """A result for each place, in order. watch: called after each picture with (done, total, words); may raise to stop.

    existing: of masks that are there, "redo ours if changed" makes those anew that this function wrote, that nobody edited or accepted,
    and whose plan or picture is another now; "keep" none; "redo all" also those that a person made. What the journal marks with "redo"
    is always made anew. A picture that cannot be read or segmented is a result with an error. Raises OSError where files cannot be
    written.
    """
    run = _Run(plan, existing, {home: mask_journal.read(home) for home in {place.home for place in places}},
               {home: mask_journal.written(home) for home in {place.home for place in places}})
    results: dict[int, Result] = {}
    with ReadAhead(run.prepare, places, threads=2, depth=3) as ahead, WriteBehind(2) as behind:
        for index, prepared in enumerate(ahead.results(lambda: watch(len(results), len(places), ""))):
            entry, weight_HW = (prepared.entry, None) if prepared.result else _segmented(prepared, plan)
            if entry.status == "failed":
                logger.warning("Masked LoRA cannot make a mask for %s: %s", prepared.place.picture, entry.error)
            results[index] = prepared.result or Result(prepared.place, entry, fresh=True)
            if results[index].fresh:
                behind(_writing(run, results, index, weight_HW))
            watch(index + 1, len(places), f"{prepared.place.name}: {describe(entry)}")
    return [results[index] for index in range(len(places))]


def plan_hash(plan: MaskPlan, caption: str = "") -> str:
    """Another one when the plan changes, or the caption if the plan reads it."""
    return content_key(plan.to_json(), caption if plan.reads_captions else "")[:16]


def describe(entry: Entry) -> str:
    """One line for a person."""
    if entry.status == "failed":
        return f"failed: {entry.error}"
    if entry.status == "kept":
        return f"kept; learned {entry.coverage:.1%}" + (f"; {entry.error}" if entry.error else "")
    return mask_making.describe(entry.found, entry.missing, entry.coverage if entry.status == "made" else None, entry.seconds)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What is known of the folders when a run begins. entries, written: by the folder with the journal."""

    plan: MaskPlan
    existing: Existing
    entries: Mapping[Path, Mapping[str, Entry]]
    written: Mapping[Path, Mapping[str, frozenset[str]]]

    def prepare(self, place: Place) -> _Prepared:
        """Decides, and reads the picture if its mask is to be made. Called from threads."""
        named = relative_to(place.picture, place.home)
        new = Entry(named, relative_to(place.mask, place.home), plan=plan_hash(self.plan, place.item.caption))
        try:
            facts = place.picture.stat()
            new = replace(new, picture_id=f"{facts.st_size}-{facts.st_mtime_ns}")
            if result := self._settled(place, new):
                return _Prepared(place, result.entry, result=result)
            return _Prepared(place, new, _read(place))
        except FAILURES as error:
            return _Prepared(place, replace(new, status="failed", error=_words(error)))

    def _settled(self, place: Place, new: Entry) -> Result | None:
        """What is known without making a mask; None if it is to be made."""
        last = self.entries[place.home].get(new.picture)
        same = last is not None and (last.plan, last.picture_id) == (new.plan, new.picture_id)
        digest = _digest(place.mask)
        ours = self.is_ours(place, new.picture, digest)
        if not digest and (other := _other_ending(place)):
            return _keep(place, new, other, last)
        if self.existing == "redo all" or (last is not None and last.review == "redo"):
            return None
        if last is not None and same and last.status == "nothing found" and (ours or not digest):
            if digest:
                place.mask.unlink()  # of the plan before; the run that found nothing was killed in between
            return Result(place, last)
        if not digest:
            return None
        if not ours:
            return _keep(place, new, place.mask, last)
        if last is not None and same and last.status == "made" and last.mask_sha256 == digest:
            return Result(place, last)
        accepted = last is not None and last.review == "accepted" and last.picture_id == new.picture_id
        if last is not None and last.mask_sha256 == digest and (self.existing == "keep" or accepted):
            return Result(place, replace(last, status="kept"))
        return None

    def is_ours(self, place: Place, picture: str, digest: str) -> bool:
        return digest in self.written[place.home].get(picture, frozenset())


def _segmented(prepared: _Prepared, plan: MaskPlan) -> tuple[Entry, Tensor | None]:
    import cv2

    if prepared.picture_HWC is None:
        return replace(prepared.entry, mask=None), None
    start = time.perf_counter()
    try:
        made = make_mask(plan, prepared.picture_HWC, prepared.place.item.caption, prepared.place.item.name)
    except (*FAILURES, cv2.error) as error:
        return replace(prepared.entry, status="failed", mask=None, error=_words(error), seconds=time.perf_counter() - start), None
    entry = replace(prepared.entry, found=tuple(made.found), missing=made.missing, seconds=round(time.perf_counter() - start, 4))
    coverage = coverage_of(made)
    if coverage is None:
        return replace(entry, status="nothing found", mask=None), None
    return replace(entry, coverage=round(coverage, 6)), made.weight_HW


def _writing(run: _Run, results: dict[int, Result], index: int, weight_HW: Tensor | None) -> Callable[[], None]:
    """What is left to do for a picture once its mask is made, to be called in the writing thread."""
    def work() -> None:
        result = results[index]
        place, entry = result.place, result.entry
        place.home.mkdir(parents=True, exist_ok=True)
        if weight_HW is not None:
            data = encode_png(weight_HW)
            entry = replace(entry, mask_sha256=hashlib.sha256(data).hexdigest())
            # First the journal: a mask that is not in it would be taken for a person's.
            mask_journal.append(place.home, entry)
            write_whole(place.mask, data)
        else:
            digest = _digest(place.mask) if entry.status == "nothing found" else ""
            if digest and not run.is_ours(place, entry.picture, digest):
                entry = replace(_keep(place, entry, place.mask, None).entry, error="nothing was found; the mask that a person made stays")
            mask_journal.append(place.home, entry)
            if digest and entry.status == "nothing found":
                place.mask.unlink()
        results[index] = replace(result, entry=entry)

    return work


def encode_png(weight_HW: Tensor) -> bytes:
    """The weights as grey of 8 bits. OpenCV's own setting packs masks as well as a deeper search does, ten times as fast."""
    import cv2

    return cv2.imencode(".png", cv2.convertScaleAbs(weight_HW.numpy(), alpha=255))[1].tobytes()


def _read(place: Place) -> Tensor:
    """The picture as it is trained on: upright, its hidden colours settled, uint8 RGB."""
    pixels = read_picture(place.picture)
    colours_HWC = resolve(pixels.colours_HWC, pixels.alpha_HW, place.item.transparency, place.item.name)
    if colours_HWC.dtype == np.uint16:
        colours_HWC = np.round(colours_HWC / np.float32(257)).astype(np.uint8)
    return torch.from_numpy(np.require(colours_HWC, np.uint8, ("C", "W")))


def _keep(place: Place, new: Entry, mask: Path, last: Entry | None) -> Result:
    """A mask that is not ours: what the last entry said, if it is still the same."""
    named, digest = relative_to(mask, place.home), _digest(mask)
    if last is not None and (last.status, last.mask, last.mask_sha256, last.picture_id) == ("kept", named, digest, new.picture_id):
        return Result(place, last)
    mask_HW = read_mask(mask)
    size = mask_HW.shape[::-1]
    wrong = f"it is {size[0]}x{size[1]}, its picture {place.item.size[0]}x{place.item.size[1]}" if size != place.item.size else ""
    review = last.review if last is not None and last.review != "redo" else ""
    entry = replace(new, mask=named, status="kept", mask_sha256=digest, coverage=round(float(mask_HW.mean(dtype=np.float64)), 6),
                    error=wrong, review=review)
    return Result(place, entry, fresh=True)


def _other_ending(place: Place) -> Path | None:
    """A mask of this name with another ending, of which the loader would find two; beside a picture it is none."""
    endings = [] if place.mask.parent == place.picture.parent else [made for ending in sorted(PICTURE_TYPES)
                                                                    for made in (ending, ending.upper())]
    return next((other for ending in endings if (other := place.mask.with_name(place.mask.stem + ending)).is_file()), None)


def _digest(mask: Path) -> str:
    """SHA-256 of the file; empty if there is none."""
    with suppress(FileNotFoundError):
        return hash_file(mask).digest
    return ""


def relative_to(path: Path, home: Path) -> str:
    try:
        return Path(os.path.relpath(path, home)).as_posix()
    except ValueError:  # another drive of Windows
        return path.as_posix()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
