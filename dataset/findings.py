"""What a check of a data set found, as frozen values, and how it is told."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "same name", "unreadable name", "unreadable picture", "frame sizes", "several masks", "unreadable mask", "partly transparent",
    "frame count",
    "missing mask", "missing reference", "several references", "unreadable reference", "unused reference", "orientation",
    "size", "unreadable caption", "learned everywhere", "skipped",
    "inverted", "all black", "all white", "over half", "other proportions", "passed over", "unused mask", "set aside", "link",
    "not in a clip", "animated", "no repeats", "unused caption", "unmatched entries", "caption conflict", "empty caption",
]
SHOWN = 5
SHOWN_ERRORS = 10

# In the order in which they are told: heading and remedy.
WORDS: dict[Kind, tuple[str, str]] = {
    "same name": ("names that several files share, so that masks and captions cannot be told apart", "rename one of them"),
    "unreadable name": ("names that are no Unicode text", "rename these files"),
    "unreadable picture": ("pictures that cannot be read", "save them again or remove them"),
    "frame sizes": ("clips whose frames differ in size", "save all frames of a clip at one size"),
    "unreadable mask": ("masks that cannot be read", "save them again or remove them"),
    "several masks": ("with several masks of their name", "keep one of them"),
    "partly transparent": ("clips of which only some frames have an alpha channel", "save all frames with one, or none"),
    "frame count": ("clips with a wrong number of masks", "give one mask for the clip, or one for each frame"),
    "missing mask": ("without a mask", ""),
    "missing reference": ("without a reference picture", "put one of the same name there, or load the pictures that have none with a node "
                          "of their own and join them by Combine Data Sets"),
    "several references": ("with several reference pictures of one name", "keep one of them"),
    "unreadable reference": ("reference pictures that cannot be read", "save them again or remove them"),
    "learned everywhere": ("without a mask, learned everywhere", ""),
    "skipped": ("without a mask, skipped", ""),
    "orientation": ("masks of the other orientation, as they are without the camera's EXIF rotation", "turn them like their pictures"),
    "size": ("masks of another size than their picture (after EXIF rotation)",
             "save them at their pictures' size, or set mask_size to 'fit' to stretch them"),
    "unreadable caption": ("captions that cannot be read", "correct or remove these files"),
    "inverted": ("masks that look inverted (white along the frame, black in the middle; white = learn)",
                 "set invert in the mask recipe if they are"),
    "all black": ("masks that are all black: nothing is learned there unless the recipe inverts or floors them", ""),
    "all white": ("masks that are all white: everything is learned there", ""),
    "over half": ("masks that are more than half white", ""),
    "other proportions": ("masks of other proportions than their picture, stretched to it", ""),
    "passed over": ("mask files that were passed over", ""),
    "unused mask": ("masks that match no picture, unused", "name a mask like its picture"),
    "unused reference": ("reference pictures that match no picture, unused", "name a reference like its picture"),
    "set aside": ("folders that are called masks but are not the mask folder, left out", ""),
    "link": ("links that were not read", ""),
    "not in a clip": ("pictures outside of clips, unused", "put the frames of each clip into a folder of its own"),
    "animated": ("pictures with several frames or pages, of which the first is used", ""),
    "no repeats": ("pictures in folders with 0 repeats, left out", ""),
    "unused caption": ("caption files that match no picture, unused", ""),
    "unmatched entries": ("metadata files with entries that match no picture", ""),
    "caption conflict": ("pictures with different captions in metadata files; the first was taken", ""),
    "empty caption": ("without a caption, trained on empty text", ""),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one file or item that a person should know. name: its path below the folder. error: it must be put right."""

    kind: Kind
    name: str
    text: str
    error: bool = False


def lines(findings: Sequence[Finding], shown: int | None = SHOWN) -> list[str]:
    """One line for each kind of warning, in the order of WORDS. shown: how many names a line has at most; None for all."""
    told = []
    for kind, (heading, remedy) in WORDS.items():
        found = [finding for finding in findings if finding.kind == kind and not finding.error]
        if found:
            told.append(f"{heading}: {len(found)} ({names(found, shown)})" + (f"; {remedy}" if remedy else ""))
    return told


def error_text(place: str, findings: Sequence[Finding], missing_remedy: str, shown: int | None = SHOWN_ERRORS) -> str:
    """Everything that must be put right, each kind with its files, reasons and remedy; empty if there is nothing.

    missing_remedy: what to do about missing masks. Masks, references and links that were not used are told with them: they are often
    the cause.
    """
    told = []
    for kind, (heading, remedy) in WORDS.items():
        found = [finding for finding in findings if finding.kind == kind and finding.error]
        if found:
            told.append(f"{heading}: {len(found)} ({names(found, shown)}); {missing_remedy if kind == 'missing mask' else remedy}")
    if not told:
        return ""
    causes = lines([finding for finding in findings if finding.kind in ("unused mask", "unused reference", "link")], shown)
    return "\n".join([f"{place} cannot be used as it is.", *told, *causes])


def names(findings: Sequence[Finding], shown: int | None = SHOWN) -> str:
    """The names with their texts, and how many more there are."""
    cut = findings if shown is None else findings[:shown]
    rest = len(findings) - len(cut)
    told = ", ".join(f"{finding.name}: {finding.text}" if finding.text else finding.name for finding in cut)
    return told + (f" and {rest} more" if rest else "")
