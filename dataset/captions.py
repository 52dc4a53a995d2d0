"""Which caption belongs to which picture."""
from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .findings import Finding
from .layouts import is_metadata, picture_paths, read_metadata, texts_of
from .listing import Found, printable, same_name, without_ending

Captions = Literal["automatic", "txt", "caption", "json", "metadata", "none"]
SIDECARS = ("txt", "caption", "json")  # in the order of automatic
MOST_BYTES = 1 << 20  # of one picture's caption file
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Caption:
    """text: stripped, with its line breaks. source: "txt", "caption", "json", "metadata", or "" for no file. members: of a list."""

    text: str
    source: str
    members: tuple[str, ...] = ()


def read_text(path: Path) -> str:
    """A text file as UTF-8, or as its byte order mark says (UTF-16, UTF-32). Raises ValueError with the reason alone."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(str(error)) from error
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not {encoding.removesuffix('-sig').upper()} text ({error.reason}); save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("holds null characters, as UTF-16 without a byte order mark does; save it as UTF-8")
    return text


def find_captions(pictures: Mapping[str, str], files: Sequence[Found], choice: Captions, field: str) -> tuple[
        dict[str, Caption], list[Finding]]:
    """The caption of each picture by its name, and what is wrong.

    pictures: relative path -> name (relative path without ending, NFC). Automatic order: <name>.txt, .caption, .json (its `field`),
    metadata files, else empty. The first file that is there counts, also when it is empty. A .json without the field is passed over,
    and is an error when json was chosen.
    """
    names = list(pictures.values())
    findings: list[Finding] = []
    captions: dict[str, Caption] = {name: Caption("", "") for name in names}
    if choice == "none":
        return captions, findings
    beside, metadata, unused = _sort_files(set(names), files)
    sources = SIDECARS if choice == "automatic" else (choice,)
    for name in names:
        for source in sources:
            found = beside.get((name, source))
            texts = _sidecar(found, source, choice, field, findings) if found else ()
            if texts:
                captions[name] = Caption(texts[0], source, texts[1:])
                break
    if choice in ("automatic", "metadata"):
        for name, texts in _from_metadata(metadata, pictures, field, findings).items():
            if not captions[name].source:
                captions[name] = Caption(texts[0], "metadata", texts[1:])
    findings += [Finding("unreadable caption", printable(name), "is no Unicode text", error=True)
                 for name, caption in captions.items() if printable(caption.text) != caption.text]
    findings += [Finding("unused caption", found.relative, "") for found in unused]
    return captions, findings


def _sort_files(names: set[str], files: Sequence[Found]) -> tuple[dict[tuple[str, str], Found], list[Found], list[Found]]:
    """Files beside pictures by (picture name, ending without dot), metadata files, and files that belong to nothing."""
    beside: dict[tuple[str, str], Found] = {}
    metadata: list[Found] = []
    unused: list[Found] = []
    for found in sorted(files, key=lambda found: found.relative):
        stem, ending = without_ending(found.relative), found.relative.rpartition(".")[2].lower()
        if ending in SIDECARS and same_name(stem) in names:
            beside[(same_name(stem), ending)] = found
        elif is_metadata(found.relative):
            metadata.append(found)
        else:
            unused.append(found)
    return beside, metadata, unused


def _sidecar(found: Found, source: str, choice: Captions, field: str, findings: list[Finding]) -> tuple[str, ...]:
    try:
        if found.size > MOST_BYTES:
            raise ValueError(f"has {found.size} bytes, too many for a caption")
        text = read_text(Path(found.path)).strip()
        if source != "json":
            return (text,)
        return _json_caption(text, field, strict=choice == "json")
    except ValueError as error:
        findings.append(Finding("unreadable caption", found.relative, str(error), error=True))
        return ("",)


def _json_caption(text: str, field: str, *, strict: bool) -> tuple[str, ...]:
    """As texts_of; empty for a file that is no caption and need not be one."""
    try:
        data = json.loads(text) if text else {field: ""}
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    texts = texts_of(data, field) if isinstance(data, Mapping) else ()
    if not texts and strict:
        keys = f"it has {', '.join(map(repr, list(data)[:8]))}" if isinstance(data, Mapping) and data else "it is no JSON object"
        raise ValueError(f"has no text in the field {field!r} ({keys}); set caption_field to one that holds the caption")
    return texts


def _from_metadata(files: Sequence[Found], pictures: Mapping[str, str], field: str, findings: list[Finding]) -> Mapping[
        str, tuple[str, ...]]:
    texts: list[tuple[Found, str]] = []
    for found in files:
        try:
            texts.append((found, read_text(Path(found.path))))
        except ValueError as error:
            findings.append(Finding("unreadable caption", found.relative, str(error), error=True))
    metadata = read_metadata(texts, picture_paths(pictures), field)
    findings += [Finding("unreadable caption", name, reason, error=True) for name, reason in metadata.unreadable]
    findings += [Finding("caption conflict", name, "") for name in metadata.conflicts]
    findings += [Finding("unmatched entries", name, f"{missing} of {count} entries match no picture")
                 for name, count, missing in metadata.unmatched]
    return metadata.captions
