"""Masks of a folder as a person looks at them: in which order, what is said of each, and what becomes of the answer. White = learn."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..dataset.listing import PICTURE_TYPES
from ..dataset.pixels import read_mask, read_picture
from ..dataset.words import counted
from ..masks.canvas import Pixels
from ..masks.overlay import overlay
from . import mask_journal
from .mask_journal import Entry, Review
from .mask_names import MaskNames
from .mask_report import doubt

TILE = 320  # pixels
GREY = 128  # behind transparent pixels


@dataclass(frozen=True, slots=True)
class Card:
    """What the page shows of one picture. picture: its path in the journal. title: that without the folders that all share. version:
    changes with mask and picture.

    rank: 0 is the gravest; see `_rank`.
    """

    picture: str
    title: str
    says: str
    remarks: tuple[str, ...]
    review: Review
    version: str
    has_mask: bool
    rank: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class MaskChanged(ValueError):
    """What a person said was of another mask or picture than there is now. card: as it is now."""

    def __init__(self, card: Card) -> None:
        super().__init__(f"{card.title} has changed since it was shown, so nothing was marked; look at it as it is now")
        self.card = card


@dataclass(frozen=True, slots=True)
class MaskReview:
    """The masks that the journal in `folder` lists. readable: folders in which their pictures may lie.

    A journal may come from a stranger with the pictures: it names files, and each of them is checked before it is opened. Its methods
    raise LookupError for a picture that the journal does not list, and ValueError for files that may not or cannot be read.
    """

    folder: Path
    readable: tuple[Path, ...]

    @property
    def key(self) -> str:
        """The name of this folder in requests: the same in every run, and no path."""
        return hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]

    def cards(self) -> list[Card]:
        """All pictures that are still there: what is not reviewed first, of that the gravest, of that the least learned."""
        entries = self.entries()
        names = MaskNames(self.folder, entries)
        order = {"": 0, "redo": 1, "accepted": 2}
        cards = (self._card(entry, names) for entry in entries.values() if not self._is_gone(entry))
        return sorted(cards, key=lambda card: (order.get(card.review, 0), card.rank, entries[card.picture].coverage))

    def entries(self) -> dict[str, Entry]:
        return mask_journal.read(self.folder)

    def names(self) -> MaskNames:
        return MaskNames(self.folder, self.entries())

    def entry(self, picture: str) -> Entry:
        found = self.entries().get(picture)
        if found is None:
            raise LookupError(f"{picture} is not among the masks of this folder; run Review Masks again")
        return found

    def mark(self, picture: str, review: Review, version: str | None = None) -> Card:
        """Writes what a person said of a mask to the journal. version: of the card that the person saw; MaskChanged if it is another."""
        if review not in get_args(Review):
            raise ValueError(f"review is {review!r}; use {', '.join(map(repr, get_args(Review)))}")
        with mask_journal.EDITING:  # a run over the folder may be writing
            entry = self.entry(picture)
            if version is not None and (card := self._card(entry, self.names())).version != version:
                raise MaskChanged(card)
            return self.write(replace(self._as_it_is(entry) if review == "accepted" else entry, review=review))

    def write(self, entry: Entry) -> Card:
        mask_journal.append(self.folder, entry)
        return self._card(entry, self.names())

    def _as_it_is(self, entry: Entry) -> Entry:
        """With the picture and the mask that lie there now: these are what a person accepts."""
        facts, file = self.picture_file(entry).stat(), self.mask_file(entry, self.names())
        entry = replace(entry, picture_id=f"{facts.st_size}-{facts.st_mtime_ns}")
        if file is None or not file.is_file():
            return entry
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        status = entry.status if entry.mask and entry.mask_sha256 == digest else "kept"
        return replace(entry, mask=file.relative_to(self.folder).as_posix(), mask_sha256=digest, status=status)

    def picture_file(self, entry: Entry) -> Path:
        file = self._inside(entry.picture, self.readable)
        if file.suffix.lower() not in PICTURE_TYPES or not file.is_file():
            raise ValueError(f"{entry.picture} is not a picture that is there; write the masks again")
        return file

    def mask_file(self, entry: Entry, names: MaskNames) -> Path | None:
        """Where the mask lies or would lie; None where that is not known.

        There may be one where the journal names none: the old one after a run that failed, or one that a person put there.
        """
        named = names.usual_mask(entry.picture) if entry.mask is None else entry.mask
        if named is None:
            return None
        file = self._inside(named, (self.folder,))
        if file.suffix.lower() not in PICTURE_TYPES:
            raise ValueError(f"{named} is no picture, so no mask; write the masks again")
        return file

    def colours(self, entry: Entry) -> Pixels:
        """The picture, uint8 (H, W, 3), upright, on grey where it is transparent."""
        pixels = read_picture(self.picture_file(entry))
        colours_HWC = _eight_bit(pixels.colours_HWC)
        if pixels.alpha_HW is None:
            return colours_HWC
        opacity_HW1 = _eight_bit(pixels.alpha_HW)[..., None].astype("float32") / 255
        mixed: Pixels = (GREY + (colours_HWC - float(GREY)) * opacity_HW1).round().astype("uint8")
        return mixed

    def tile(self, picture: str) -> Pixels:
        """The picture with its mask, small."""
        entry = self.entry(picture)
        file = self.mask_file(entry, self.names())
        return overlay(self.colours(entry), read_mask(file) if file is not None and file.is_file() else None, TILE)

    def _card(self, entry: Entry, names: MaskNames) -> Card:
        try:
            file = self.mask_file(entry, names)
            version = f"{_version(self.picture_file(entry))}-{_version(file)}"
            problem = ""
        except ValueError as error:
            file, version, problem = None, "", str(error)
        has_mask = file is not None and file.is_file()
        remarks = _remarks(entry, has_mask) + ((problem,) if problem else ())
        return Card(entry.picture, names.title(entry.picture), _says(entry, has_mask), remarks, entry.review, version, has_mask,
                    _rank(entry, has_mask))

    def shows(self, entry: Entry, pictures: Collection[Path]) -> bool:
        """Whether an entry is of one of these pictures."""
        try:
            return self._inside(entry.picture, self.readable) in pictures
        except ValueError:
            return False

    def _is_gone(self, entry: Entry) -> bool:
        try:
            return not self._inside(entry.picture, self.readable).exists()
        except ValueError:  # said on its card
            return False

    def _inside(self, path: str, folders: Sequence[Path]) -> Path:
        """A path of the journal with links followed. Raises ValueError where it leads out of `folders`."""
        try:
            file = (self.folder / path).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
            raise ValueError(f"{path!r} is not a file name ({error}); write the masks again") from error
        if not any(file.is_relative_to(folder) for folder in folders):
            raise ValueError(f"{path!r} lies outside the folders that may be read; move the pictures into ComfyUI's input directory")
        return file


def state(reviews: Sequence[MaskReview], marks: bool) -> str:
    """Changes whenever a journal says something else of a mask; with `marks` also whenever a person does."""
    entries = [(review.key, entry if marks else replace(entry, review="")) for review in reviews for entry in review.entries().values()]
    return hashlib.sha256(repr(entries).encode("utf-8", "surrogateescape")).hexdigest()


def not_reviewed(cards: Sequence[Card]) -> str:
    """"12 of 40 masks are not reviewed yet"; empty if all are. What is to be made anew is not done either."""
    left = sum(card.review != "accepted" for card in cards)
    redo = sum(card.review == "redo" for card in cards)
    if not left:
        return ""
    again = f" ({redo} to be made anew: run Write Masks)" if redo else ""
    return f"{left} of {counted(len(cards), 'mask')} {'is' if left == 1 else 'are'} not reviewed yet{again}"


def report(cards: Sequence[Card]) -> str:
    """Totals, then a line for each mask in the order of `cards`."""
    words = {"": "not reviewed", "accepted": "accepted", "redo": "to be made anew"}
    counts = [f"{sum(card.review == review for card in cards)} {word}" for review, word in words.items()]
    lines = [f"{card.title}: {words[card.review]}; {'; '.join((card.says, *card.remarks))}" for card in cards]
    return "\n".join([f"White = learn. {counted(len(cards), 'mask')}: {', '.join(counts)}", *lines])


def _says(entry: Entry, has_mask: bool) -> str:
    if has_mask and entry.mask is None:
        return "a mask that the last run did not write"
    if has_mask:
        return f"{entry.coverage:.1%} learned"
    return {"nothing found": "nothing found", "failed": "failed"}.get(entry.status, "no mask")


def _remarks(entry: Entry, has_mask: bool) -> tuple[str, ...]:
    if entry.status in ("failed", "nothing found"):
        said = (entry.error, f"no {', '.join(entry.missing)}" if entry.missing else "")
    else:
        said = ("the mask's file is gone" if entry.mask is not None and not has_mask else "", doubt(entry))
    return tuple(filter(None, said))


def _rank(entry: Entry, has_mask: bool) -> int:
    """0: failed, 1: without a mask, 2: doubtful, 3: neither, or accepted."""
    if not doubt(entry) and (has_mask or entry.review == "accepted"):
        return 3
    if entry.status == "failed":
        return 0
    return 2 if has_mask else 1


def _version(file: Path | None) -> str:
    if file is None or not file.is_file():
        return "0"
    facts = file.stat()
    return f"{facts.st_mtime_ns:x}-{facts.st_size:x}"


def _eight_bit(values: Any) -> Pixels:
    narrow: Pixels = values if values.dtype == "uint8" else (values >> 8).astype("uint8")
    return narrow
