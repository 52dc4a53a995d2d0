"""Which reference pictures belong to which picture: what an edit model is shown, beside the picture that it is to make of it."""
from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .findings import Finding
from .item import ImageFiles, Item, Transparency
from .listing import PICTURE_TYPES, Found, list_files, natural_order, same_name, without_ending
from .preflight import check_picture
from .spec import FolderSpec

SIDECAR = re.compile(r"(.+)-condlabel\.png", re.IGNORECASE | re.DOTALL)  # OneTrainer's name
NUMBERED = re.compile(r"(.+)_(\d{1,4})", re.DOTALL)  # musubi-tuner's, with up to four digits


@dataclass(frozen=True, slots=True)
class ReferenceIndex:
    """The files of one reference folder by the name of the picture that they are for. place: the folder as it is told.

    flat: those directly in the folder. numbered: <name>_0, <name>_1, ... with their numbers.
    """

    place: str
    exact: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))
    flat: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))
    numbered: dict[str, list[tuple[int, str, Found]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of_folder(cls, place: str, files: Iterable[Found]) -> ReferenceIndex:
        index = cls(place)
        for below in files:
            stem, found = same_name(without_ending(below.relative)), below._replace(relative=f"{place}/{below.relative}")
            index.exact[stem].append(found)
            if "/" not in stem:
                index.flat[stem].append(found)
            if match := NUMBERED.fullmatch(stem):
                index.numbered[match[1]].append((int(match[2]), stem, found))
        return index

    @classmethod
    def of_sidecars(cls, files: Iterable[Found]) -> ReferenceIndex:
        """<name>-condlabel.png beside the pictures."""
        index = cls("")
        for found in files:
            if name := sidecar_of(found.relative):
                index.exact[name].append(found)
        return index

    def of_picture(self, name: str, alone: bool, others: frozenset[str]) -> list[list[Found]]:
        """Files for each reference of the picture, in order; more than one file for a reference cannot be told apart.

        alone: no other picture has this name in another folder. others: the names of all pictures; <name>_1 that is a picture's
        own name is that picture's.
        """
        own = self.exact.get(name) or (self.flat.get(name.rpartition("/")[2]) if alone else None)
        if own:
            return [own]
        places = [name, name.rpartition("/")[2]] if alone else [name]
        rows = next((rows for place in places if (rows := [row for row in self.numbered.get(place, ()) if row[1] not in others])), [])
        numbers = sorted({number for number, _, _ in rows})
        return [[found for at, _, found in rows if at == number] for number in numbers]

    def wanted(self, name: str) -> str:
        return f"{self.place}/{name}.* or {self.place}/{name}_0.*" if self.place else f"{name}-condlabel.png"


def sidecar_of(relative: str) -> str:
    """The name of the picture that a file beside it is the reference of, or "" if the file is not named as such."""
    match = SIDECAR.fullmatch(same_name(relative))
    return match[1] if match and not match[1].endswith("/") else ""


def pair_references(names: Sequence[str], indices: Sequence[ReferenceIndex]) -> tuple[dict[str, tuple[Found, ...]], list[Finding]]:
    """The references of each picture, folder by folder in the given order, and what is wrong: every folder must have one for each."""
    findings: list[Finding] = []
    stems, others = Counter(name.rpartition("/")[2] for name in names), frozenset(names)
    chosen: dict[str, list[Found]] = {name: [] for name in names}
    used: set[str] = set()
    for index in indices:
        for name in names:
            groups = index.of_picture(name, stems[name.rpartition("/")[2]] == 1, others)
            chosen[name] += [group[0] for group in groups]
            used.update(found.path for group in groups for found in group)
            findings += [Finding("several references", name, " and ".join(sorted(found.relative for found in group)), error=True)
                         for group in groups if len(group) > 1]
            if not groups:
                findings.append(Finding("missing reference", name, f"no {index.wanted(name)}", error=True))
    rest = {found.path: found.relative for index in indices for files in index.exact.values() for found in files if found.path not in used}
    findings += [Finding("unused reference", relative, "") for relative in sorted(rest.values(), key=natural_order)]
    return {name: tuple(files) for name, files in chosen.items()}, findings


def collect_references(spec: FolderSpec, names: Sequence[str], beside: Sequence[Found], depth: int | None) -> tuple[
        dict[str, tuple[Item, ...]], list[Finding]]:
    """The reference pictures of each picture by its name, and what is wrong with them.

    beside: files named as references in the picture folder. depth: as list_files has it. Raises ValueError for a folder that is
    missing or holds the pictures.
    """
    indices, findings = [], list[Finding]()
    for folder in spec.references:
        if not folder.is_dir():
            raise ValueError(f"reference folder {folder} is not there; name the folder that holds the reference pictures")
        if folder.resolve() == spec.top:
            indices.append(ReferenceIndex.of_sidecars(beside))
            continue
        if spec.top.is_relative_to(folder.resolve()):
            raise ValueError(f"reference folder {folder} holds the picture folder {spec.folder}; put the reference pictures into a folder "
                             "of their own")
        listing = list_files(folder, PICTURE_TYPES, depth=depth)
        indices.append(ReferenceIndex.of_folder(folder.name, listing.files))
        findings += [Finding("link", f"{folder.name}/{name}", reason) for name, reason in listing.refused]
    if all(index.place for index in indices):
        findings += [Finding("unused reference", found.relative, "") for found in beside]
    if not indices:
        return {}, findings
    chosen, wrong = pair_references(names, indices)
    items = {}
    for name, files in chosen.items():
        items[name], unreadable = reference_items(name, files, spec.transparency)
        wrong += unreadable
    return items, findings + wrong


def reference_items(name: str, files: Sequence[Found], transparency: Transparency) -> tuple[tuple[Item, ...], list[Finding]]:
    """Items of the references of one picture, from their headers, and what cannot be read."""
    items, findings = [], []
    for number, found in enumerate(files):
        try:
            header = check_picture(Path(found.path))
        except (ValueError, OSError) as error:
            findings.append(Finding("unreadable reference", found.relative, str(error).removeprefix(found.path).strip(), error=True))
            continue
        items.append(Item(f"reference {number} of {name}", ImageFiles((Path(found.path),)), None, "", (header.width, header.height),
                          transparency=transparency))
    return tuple(items), findings
