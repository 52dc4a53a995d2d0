"""Runs a mask plan on the pictures of a data set and writes their masks. White = learn.

Each mask is written whole or not at all, and the journal says before that what will be there. So a run may be killed at any moment:
the next one goes on behind the last picture. Shapes: H height, W width, C = 3 colours.
"""
from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..dataset.ahead import ReadAhead, WriteBehind
from ..dataset.keys import content_key, hash_file
from ..dataset.manifest import write_whole
from ..dataset.pixels import read_mask, read_picture
from ..dataset.transparency import resolve
from . import mask_journal, mask_making
from .mask_journal import Entry
from .mask_making import Watch, coverage_of, make_mask
from .mask_places import Place, other_ending, relative_to
from .mask_plan import MaskPlan

logger = logging.getLogger(__name__)

Existing = Literal["keep", "redo ours if changed", "redo all"]
PICTURE_CHANGED = "the picture changed after its mask was accepted"
ACCEPTED_GONE = "the mask that was accepted is gone; put it back, or mark the picture with Redo in Review Masks"
OTHER_ENDING = "it cannot be made anew, because a second file with the ending .png would lie beside it; remove it, or save it as PNG"
REMOVED = "its mask was removed while another one was made; run again"
# What a segmenter or OpenCV may raise for one picture; a run over night goes on with the next one.
FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What became of one picture. fresh: the journal did not have this entry yet."""

    place: Place
    entry: Entry
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    """A picture as it was when it was looked at: the journal's last word of it, and the hash of its mask, empty without one."""

    last: Entry | None
    digest: str

    @property
    def marked(self) -> bool:
        """Whether a person asked for another mask."""
        return self.last is not None and self.last.review == "redo"


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """A picture that was looked at. picture_HWC: uint8, if its mask is to be made. result: if not."""

    place: Place
    seen: _Seen
    entry: Entry
    picture_HWC: Tensor | None = None
    result: Result | None = None


def write_masks(places: Sequence[Place], plan: MaskPlan, existing: Existing, watch: Watch = lambda done, total, text: None) -> list[Result]:
    """A result for each place, in order. watch: called after each picture with (done, total, words); may raise to stop.

    existing: of masks that are there, "redo ours if changed" makes those anew that this function wrote, that nobody edited or accepted,
    and whose plan or picture is another now; "keep" none; "redo all" also those that a person made. What the journal marks with "redo"
    is always made anew; what it says is accepted, with or without a mask, by "redo all" alone. What a person does while this runs stays.
    A picture that cannot be read or segmented is a result with an error. Raises OSError where files cannot be written, and ValueError
    for a journal that is a link.
    """
    for home in dict.fromkeys(place.home for place in places):
        mask_journal.require_no_link(home)
    run = _Run(existing, plan.to_json(), plan.reads_captions)
    results: dict[int, Result] = {}
    with ReadAhead(run.prepare, places, threads=2, depth=3) as ahead, WriteBehind(2) as behind:
        for index, prepared in enumerate(ahead.results(lambda: watch(len(results), len(places), ""))):
            entry, weight_HW = (prepared.entry, None) if prepared.result else _segmented(prepared, plan)
            if entry.status == "failed":
                logger.warning("Masked LoRA cannot make a mask for %s: %s", prepared.place.picture, entry.error)
            results[index] = prepared.result or Result(prepared.place, entry, fresh=True)
            if results[index].fresh:
                behind(_writing(results, index, prepared.seen, weight_HW))
            watch(index + 1, len(places), f"{prepared.place.name}: {describe(entry)}")
    return [results[index] for index in range(len(places))]


def describe(entry: Entry) -> str:
    """One line for a person."""
    if entry.status == "failed":
        return f"failed: {entry.error}"
    if entry.status == "kept":
        kept = f"kept; learned {entry.coverage:.1%}" if entry.mask else "accepted without a mask"
        return kept + (f"; {entry.error}" if entry.error else "")
    return mask_making.describe(entry.found, entry.missing, entry.coverage if entry.status == "made" else None, entry.seconds)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """plan: as text."""

    existing: Existing
    plan: str
    reads_captions: bool

    def prepare(self, place: Place) -> _Prepared:
        """Decides, and reads the picture if its mask is to be made. Called from threads."""
        named = relative_to(place.picture, place.home)
        plan = content_key(self.plan, place.item.caption if self.reads_captions else "")[:16]
        new = Entry(named, relative_to(place.mask, place.home), plan=plan)
        seen = _Seen(mask_journal.latest(place.home, named), "")
        try:
            seen = replace(seen, digest=_digest(place.mask))
            new = replace(new, picture_id=_picture_id(place))
            if result := self._settled(place, new, seen):
                return _Prepared(place, seen, result.entry, result=result)
            return _Prepared(place, seen, new, _read(place))
        except FAILURES as error:
            failed = replace(new, mask=None, status="failed", error=_words(error))
            accepted = seen.last is not None and seen.last.review == "accepted" and self.existing != "redo all"
            # What a person accepted stays in the journal, though it cannot be looked at now.
            return _Prepared(place, seen, failed, result=Result(place, failed) if accepted else None)

    def _settled(self, place: Place, new: Entry, seen: _Seen) -> Result | None:
        """What is known without making a mask; None if it is to be made."""
        last, digest = seen.last, seen.digest
        anew = self.existing == "redo all" or seen.marked
        if not digest and (other := other_ending(place)):
            return _keep(place, new, other, last, OTHER_ENDING if anew else "")
        if anew:
            return None
        if last is not None and last.review == "accepted" and (result := _accepted(place, new, last, digest)):
            return result
        same = last is not None and (last.plan, last.picture_id) == (new.plan, new.picture_id)
        ours = mask_journal.is_ours(place.home, new.picture, digest)
        if last is not None and same and last.status == "nothing found" and (ours or not digest):
            with mask_journal.EDITING:
                if digest and _Seen(mask_journal.latest(place.home, new.picture), _digest(place.mask)) == seen:
                    place.mask.unlink()  # of the plan before; the run that found nothing was killed in between
            return Result(place, replace(last, mask=None))
        if not digest:
            return None
        if not ours:
            return _keep(place, new, place.mask, last)
        # The mask's own path: another layout, or a stranger's journal, may have named another file.
        if last is not None and same and last.status == "made" and last.mask_sha256 == digest:
            return Result(place, replace(last, mask=new.mask))
        if last is not None and last.mask_sha256 == digest and self.existing == "keep":
            return Result(place, replace(last, mask=new.mask, status="kept"))
        return None


def _picture_id(place: Place) -> str:
    facts = place.picture.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _accepted(place: Place, new: Entry, last: Entry, digest: str) -> Result | None:
    """What a person accepted stays, with or without a mask. None where the journal accepted the mask of another place."""
    if digest == (last.mask_sha256 if last.mask else ""):
        changed = PICTURE_CHANGED if last.picture_id and last.picture_id != new.picture_id else ""
        return Result(place, replace(last, mask=new.mask if digest else None, status="kept", error=changed))
    if digest:
        return _keep(place, new, place.mask, last)
    return Result(place, replace(new, mask=None, status="failed", error=ACCEPTED_GONE)) if last.mask == new.mask else None


def _segmented(prepared: _Prepared, plan: MaskPlan) -> tuple[Entry, Tensor | None]:
    import cv2

    failed = replace(prepared.entry, status="failed", mask=None, review="redo" if prepared.seen.marked else "")
    if prepared.picture_HWC is None:
        return failed, None
    start = time.perf_counter()
    try:
        made = make_mask(plan, prepared.picture_HWC, prepared.place.item.caption, prepared.place.item.name)
    except (*FAILURES, cv2.error) as error:
        return replace(failed, error=_words(error), seconds=time.perf_counter() - start), None
    entry = replace(prepared.entry, found=tuple(made.found), missing=made.missing, seconds=round(time.perf_counter() - start, 4))
    coverage = coverage_of(made)
    if coverage is None:
        return replace(entry, status="nothing found", mask=None), None
    return replace(entry, coverage=round(coverage, 6)), made.weight_HW


def _writing(results: dict[int, Result], index: int, seen: _Seen, weight_HW: Tensor | None) -> Callable[[], None]:
    """What is left to do for a picture once its mask is made, to be called in the writing thread."""
    def work() -> None:
        place, entry = results[index].place, results[index].entry
        data = None if weight_HW is None else encode_png(weight_HW)
        with mask_journal.EDITING:
            same = mask_journal.latest(place.home, entry.picture) == seen.last
            same = same and (entry.status == "failed" or _digest(place.mask) == seen.digest)
            results[index] = _write(place, entry, seen, data) if same else _changed(place, entry)

    return work


def _write(place: Place, entry: Entry, seen: _Seen, data: bytes | None) -> Result:
    """Writes journal and mask. First the journal: a mask that is not in it would be taken for a person's. data: the mask as PNG."""
    place.home.mkdir(parents=True, exist_ok=True)
    if data is not None:
        entry = replace(entry, mask_sha256=hashlib.sha256(data).hexdigest())
        mask_journal.append(place.home, entry)
        write_whole(place.mask, data)
        return Result(place, entry, fresh=True)
    gone = entry.status == "nothing found" and bool(seen.digest)
    if gone and not mask_journal.is_ours(place.home, entry.picture, seen.digest):
        gone, entry = False, _keep(place, entry, place.mask, None, "nothing was found; the mask that a person made stays").entry
    mask_journal.append(place.home, entry)
    if gone:
        place.mask.unlink()
    return Result(place, entry, fresh=True)


def _changed(place: Place, new: Entry) -> Result:
    """What a person, or another run, did to the mask while this one was being made stays as it is; the next run looks at it."""
    last = mask_journal.latest(place.home, new.picture)
    mask = place.mask if place.mask.is_file() else other_ending(place)
    accepted = last is not None and last.review == "accepted"
    if last is not None and mask is None and last.mask is None:
        return Result(place, replace(last, status="kept", error="") if accepted else last)
    if mask is None:
        return Result(place, replace(new, mask=None, status="failed", error=REMOVED))
    if last is not None and last.mask_sha256 == _digest(mask):
        return Result(place, replace(last, mask=relative_to(mask, place.home), status="kept", error="" if accepted else last.error))
    kept = _keep(place, new, mask, None)
    kept = replace(kept, entry=replace(kept.entry, review="" if last is None else last.review))
    mask_journal.append(place.home, kept.entry)
    return kept


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


def _keep(place: Place, new: Entry, mask: Path, last: Entry | None, remark: str = "") -> Result:
    """A mask that is not ours: what the last entry said, if it is still the same. remark: why it is not made anew; that is the answer
    to "redo"."""
    named, digest = relative_to(mask, place.home), _digest(mask)
    known = last is not None and (last.status, last.mask, last.mask_sha256, last.picture_id) == ("kept", named, digest, new.picture_id)
    if last is not None and known and last.review != "redo" and remark in last.error:
        return Result(place, last)
    try:
        mask_HW = read_mask(mask)
    except ValueError as error:
        return Result(place, replace(new, mask=None, status="failed", error=str(error)), fresh=True)
    size = mask_HW.shape[::-1]
    wrong = f"it is {size[0]}x{size[1]}, its picture {place.item.size[0]}x{place.item.size[1]}" if size != place.item.size else ""
    review = last.review if last is not None and last.review != "redo" else ""
    entry = replace(new, mask=named, status="kept", mask_sha256=digest, coverage=round(float(mask_HW.mean(dtype=np.float64)), 6),
                    error="; ".join(filter(None, (remark, wrong))), review=review)
    return Result(place, entry, fresh=True)


def _digest(mask: Path) -> str:
    """SHA-256 of the file; empty if there is none."""
    with suppress(FileNotFoundError):
        return hash_file(mask).digest
    return ""


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
