"""Where the mask of a picture that has none belongs: as the journal of its folder has the masks of the others. White = learn."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from .folders import MASKS
from .mask_journal import Entry

Parts = tuple[str, ...]
ABOVE = ".."


class MaskNames:
    """The names of a journal's entries. folder: where the journal lies."""

    def __init__(self, folder: Path, entries: Mapping[str, Entry]) -> None:
        self.folder, self.entries = folder, entries

    @cached_property
    def shared(self) -> int:
        """How many folders all pictures' paths begin with, which need not be told."""
        return len(os.path.commonprefix([picture.split("/")[:-1] for picture in self.entries]))

    def title(self, picture: str) -> str:
        return "/".join(picture.split("/")[self.shared:])

    def usual_mask(self, picture: str) -> str | None:
        """The mask's path as other pictures have theirs; if none has one, as Write Masks would name it. None: that is not known."""
        stem = _without_ending(picture)
        for above, below, ending in self._rules:
            if stem.parts[:len(above)] == above:
                return f"{PurePosixPath(*below, *stem.parts[len(above):])}{ending}.png"
        if stem.parts[:1] != (ABOVE,):
            return f"{stem}-masklabel.png"
        if self.folder.name == MASKS and stem.parts[1:2] != (ABOVE,):
            return f"{PurePosixPath(*stem.parts[1:])}.png"
        return f"{PurePosixPath(*stem.parts[self.shared:])}.png" if self._one_set else None

    @cached_property
    def _rules(self) -> tuple[tuple[Parts, Parts, str], ...]:
        """What becomes of pictures' paths: the folders at their beginning, those in their place, and what follows the name."""
        return tuple(dict.fromkeys(self._find_rules()))

    def _find_rules(self) -> Iterator[tuple[Parts, Parts, str]]:
        for entry in self.entries.values():
            picture, mask = _without_ending(entry.picture), _without_ending(entry.mask or "")
            if entry.mask and mask.name.startswith(picture.name):
                same = len(os.path.commonprefix([picture.parts[-2::-1], mask.parts[-2::-1]])) + 1
                yield picture.parts[:-same], mask.parts[:-same], mask.name.removeprefix(picture.name)

    @cached_property
    def _one_set(self) -> bool:
        """Whether the pictures lie in one folder and below it: of sets that were combined each has a name of its own, in no path."""
        return not self._rules and any(picture.count("/") == self.shared for picture in self.entries)


def _without_ending(path: str) -> PurePosixPath:
    plain = PurePosixPath(path)
    return plain.with_suffix("") if plain.name else plain
