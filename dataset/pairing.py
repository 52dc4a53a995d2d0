"""Which mask files belong to which picture or clip, by name alone; and which files are masks and never pictures."""
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .listing import Found, natural_order, same_name, without_ending

SIDECAR = re.compile(r"(.+)(-masklabel|\.mask)\.png", re.IGNORECASE | re.DOTALL)  # OneTrainer's name, and <name>.mask.png


@dataclass(frozen=True, slots=True)
class Candidate:
    """One picture, or the frames of one clip in order, with the mask files that bear its name.

    name: unique relative path without ending, NFC. folder_masks: from the mask folder, one, or one for each frame; of several
    for one picture all, so that it can be told. sidecars: <name>-masklabel.png before <name>.mask.png.
    """

    name: str
    files: tuple[Found, ...]
    clip: bool
    folder_masks: tuple[Found, ...] = ()
    sidecars: tuple[Found, ...] = ()
    per_frame: bool = False

    @property
    def shown(self) -> str:
        """The picture's file, or the clip's folder, below the folder of the set."""
        return self.name if self.clip else self.files[0].relative


@dataclass(frozen=True, slots=True)
class MaskIndex:
    """Mask files by the name of the picture they are for. folder and frames: from mask folders; flat: those directly in one."""

    folder: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))
    frames: dict[str, list[tuple[str, Found]]] = field(default_factory=lambda: defaultdict(list))
    flat: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))
    sidecars: dict[str, list[Found]] = field(default_factory=lambda: defaultdict(list))

    def add_folder(self, files: Iterable[Found], beside: str, place: str) -> None:
        """Masks with paths below a mask folder, which is called `place`. beside: the relative folder whose pictures they are for,
        "" for the top."""
        for below in files:
            stem = same_name(without_ending(below.relative))
            found = below._replace(relative=f"{place}/{below.relative}")
            key = f"{beside}/{stem}" if beside else stem
            self.folder[key].append(found)
            self.frames[key.rpartition("/")[0]].append((key, found))
            if "/" not in stem and not beside:
                self.flat[stem].append(found)

    def add_sidecars(self, files: Iterable[Found]) -> None:
        for found in sorted(files, key=lambda found: found.relative):  # "-" sorts before "."
            self.sidecars[sidecar_of(found.relative)].append(found)

    def all_files(self) -> dict[str, Found]:
        """Every mask file by its path on disk."""
        return {found.path: found for group in (self.folder, self.sidecars) for files in group.values() for found in files}


def sidecar_of(relative: str) -> str:
    """The name of the picture that a file beside it is a mask for, or "" if the file is not named as such a mask."""
    match = SIDECAR.fullmatch(same_name(relative))
    return match[1] if match and not match[1].endswith("/") else ""


def pictures(files: Iterable[Found], masks: MaskIndex) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Candidates in natural order, and groups of files that share one name (name, the files in words).

    A mask at the picture's relative path is taken; else one of the picture's name directly in the mask folder, as ai-toolkit and
    sd-scripts keep them, if only one picture of the set has that name.
    """
    named, shared = _by_name(files)
    stems: dict[str, int] = defaultdict(int)
    for name in named:
        stems[name.rpartition("/")[2]] += 1
    candidates = []
    for name in sorted(named, key=natural_order):
        found, stem = named[name], name.rpartition("/")[2]
        own = masks.folder.get(name) or (masks.flat.get(stem, []) if stems[stem] == 1 else [])
        candidates.append(Candidate(name, (found,), False, _one_of(own, found), tuple(masks.sidecars.get(name, ()))))
    return candidates, shared


def clips(files: Iterable[Found], masks: MaskIndex) -> tuple[list[Candidate], list[tuple[str, str]], list[str]]:
    """One candidate for each folder that directly holds frames, frames in natural order; as `pictures`, and files in no folder."""
    folders: dict[str, list[Found]] = defaultdict(list)
    for found in files:
        folders[found.relative.rpartition("/")[0]].append(found)
    loose = sorted((found.relative for found in folders.pop("", [])), key=natural_order)
    candidates: list[Candidate] = []
    shared: list[tuple[str, str]] = []
    names = {same_name(folder) for folder in folders}
    for folder in sorted(folders, key=natural_order):
        named, doubles = _by_name(folders[folder])
        shared += doubles
        name = same_name(folder)
        frames = tuple(named[frame] for frame in sorted(named, key=natural_order))
        single = masks.folder.get(name, [])
        # A mask in masks/a/ may also be the one mask of a clip a/b.
        each = sorted((found for key, found in masks.frames.get(name, ()) if key not in names), key=lambda one: natural_order(one.relative))
        sidecars = tuple(masks.sidecars.get(name, ()))
        candidates.append(Candidate(name, frames, True, (*single, *each), sidecars, per_frame=not single and bool(each)))
    return candidates, shared, loose


def unused(masks: MaskIndex, candidates: Sequence[Candidate]) -> list[Found]:
    """Mask files that bear the name of no candidate."""
    used = {found.path for one in candidates for found in (*one.folder_masks, *one.sidecars)}
    rest = [found for path, found in masks.all_files().items() if path not in used]
    return sorted(rest, key=lambda found: natural_order(found.relative))


def _one_of(own: Sequence[Found], picture: Found) -> tuple[Found, ...]:
    # SimpleTuner pairs by the whole file name, so among several masks that one is meant.
    exact = [found for found in own if _file_name(found) == _file_name(picture)]
    return tuple(exact if len(own) > 1 and exact else own)


def _file_name(found: Found) -> str:
    return same_name(found.relative.rpartition("/")[2])


def _by_name(files: Iterable[Found]) -> tuple[Mapping[str, Found], list[tuple[str, str]]]:
    groups: dict[str, list[Found]] = defaultdict(list)
    for found in files:
        groups[same_name(without_ending(found.relative))].append(found)
    shared = [(name, " and ".join(sorted(_file_name(found) for found in group))) for name, group in groups.items() if len(group) > 1]
    return {name: group[0] for name, group in groups.items()}, sorted(shared, key=lambda pair: natural_order(pair[0]))
