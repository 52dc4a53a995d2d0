"""What a person should know about a folder, as text. White = learn."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from .captions import Caption
from .checks import Checked, Origin
from .findings import Finding, lines
from .item import Item
from .layouts import folder_repeats
from .spec import FolderSpec
from .words import counted

SOURCES = {"txt": "from .txt", "caption": "from .caption", "json": "from .json", "metadata": "from metadata files"}


def folder_report(
    spec: FolderSpec, items: Sequence[Item], checked: Sequence[Checked], captions: Mapping[str, Caption], findings: Sequence[Finding],
    shown: int | None,
) -> str:
    """Counts first, then one line for each kind of finding. shown: how many names a line has at most; None for all."""
    masked = sum(one.mask is not None for one in checked)
    frames = f" ({counted(sum(item.frames for item in items), 'frame')})" if spec.content == "clips" else ""
    told = [f"{spec.top.name}: {counted(len(items), spec.content.removesuffix('s'))}{frames}, {masked} with a mask; white = learn"]
    told += _masks(spec, checked)
    told += _captions(items, captions)
    told += _references(spec, items)
    told += _repeats(spec, items)
    return "\n".join(told + lines(findings, shown))


def _masks(spec: FolderSpec, checked: Sequence[Checked]) -> list[str]:
    if spec.mask_source == "none":
        return [f"no masks by choice; learned everywhere: {counted(len(checked), spec.content.removesuffix('s'))}"]
    counts: Counter[Origin] = Counter(one.origin for one in checked)
    place = spec.mask_root.name if spec.mask_root else spec.mask_place
    words: dict[Origin, str] = {"alpha": "from alpha channels", "folder": f"from {place}/", "sidecar": "from files beside the pictures"}
    sources = ", ".join(f"{counts[origin]} {text}" for origin, text in words.items() if counts[origin])
    told = [f"masks: {sources}"] if sources else []
    facts = [one.facts for one in checked if one.facts is not None]
    if not facts:
        return told
    mean = sum(one.mean for one in facts) / len(facts)
    least, most = min(one.mean for one in facts), max(one.mean for one in facts)
    told.append(f"white (learned): {mean:.1%} on average, from {least:.1%} to {most:.1%}")
    if sum(one.inverted for one in facts) * 2 > len(facts):
        told.append("MOST MASKS LOOK INVERTED: white along the frame, black in the middle. White = learn; set invert in the mask recipe "
                    "if the subject is black")
    elif mean > 0.5:
        told.append("more than half is white on average: make sure that white marks what is to be learned")
    return told


def _captions(items: Sequence[Item], captions: Mapping[str, Caption]) -> list[str]:
    counts = Counter(captions[item.name].source for item in items)
    told = [f"{counts[source]} {text}" for source, text in SOURCES.items() if counts[source]]
    return [f"captions: {', '.join(told)}"] if told else []


def _references(spec: FolderSpec, items: Sequence[Item]) -> list[str]:
    if not spec.references:
        return []
    counts = Counter(len(item.references) for item in items)
    each = ", ".join(f"{pictures} with {count}" for count, pictures in sorted(counts.items()))
    places = ", ".join("files beside the pictures" if folder.resolve() == spec.top else f"{folder.name}/" for folder in spec.references)
    return [f"reference pictures: {each}, from {places}"]


def _repeats(spec: FolderSpec, items: Sequence[Item]) -> list[str]:
    told = []
    folders = dict(found for item in items if (found := folder_repeats(item.name)))
    if folders:
        named = ", ".join(f"{name}/ {repeats}x" for name, repeats in folders.items())
        told.append(f"repeats from folder names (as sd-scripts): {named}")
    if spec.repeats > 1:
        told.append(f"repeats of the whole folder: {spec.repeats}x")
    if spec.weight != 1:
        told.append(f"loss weight: {spec.weight:g}")
    if spec.regularisation:
        told.append("regularisation pictures")
    return told
