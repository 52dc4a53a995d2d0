"""Looks at one picture or clip with its masks: which mask counts, and what is wrong. White = learn."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import pixels
from .findings import Finding
from .item import MaskFiles, MaskSource, OwnAlpha
from .listing import Found
from .pairing import Candidate
from .preflight import MaskFacts, check_picture, clip_mask_facts, mask_findings, size_findings
from .spec import FolderSpec
from .words import counted

Origin = Literal["", "folder", "sidecar", "alpha"]
ORIGINS: dict[Origin, str] = {"folder": "the mask folder", "sidecar": "the file beside the picture", "alpha": "its own transparency"}


@dataclass(frozen=True, slots=True)
class Checked:
    """A candidate that was looked at. size: (0, 0) if it cannot be read. origin: where its mask comes from, "" for no mask."""

    candidate: Candidate
    size: tuple[int, int]
    origin: Origin
    mask: MaskSource | None
    facts: MaskFacts | None
    findings: tuple[Finding, ...]


def check(candidate: Candidate, spec: FolderSpec) -> Checked:
    """Reads headers of pictures and pixels of masks, and of pictures only where their transparency is the mask."""
    findings: list[Finding] = []
    headers = _headers(candidate, findings)
    if not headers:
        _file_facts(candidate, spec, _choose(candidate, spec, False)[1], None, findings)  # its masks may be damaged too
        return Checked(candidate, (0, 0), "", None, None, tuple(findings))
    size = (headers[0].width, headers[0].height)
    alpha = _alpha_facts(candidate, headers, spec, findings)
    origin, files = _choose(candidate, spec, alpha is not None)
    findings += _passed_over(candidate, spec, origin, files)
    mask: MaskSource | None = None
    facts: MaskFacts | None = None
    if origin == "alpha":
        mask, facts = OwnAlpha(), alpha
    elif origin:
        mask = MaskFiles(tuple(Path(found.path) for found in files), spec.channel)
        facts = _file_facts(candidate, spec, files, size, findings)
    elif spec.mask_source != "none" and not any(finding.error for finding in findings):
        findings.append(_missing(candidate.shown, spec))
    if facts is not None:
        findings += mask_findings(candidate.name, facts)
    return Checked(candidate, size, origin, mask, facts, tuple(findings))


def _headers(candidate: Candidate, findings: list[Finding]) -> list[pixels.PictureHeader]:
    headers = []
    for found in candidate.files:
        try:
            headers.append(check_picture(Path(found.path)))
        except (ValueError, OSError) as error:
            findings.append(Finding("unreadable picture", found.relative, _reason(error, found), error=True))
    if len(headers) < len(candidate.files):
        return []
    sizes = [(header.width, header.height) for header in headers]
    other = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        told = " but ".join(f"{candidate.files[index].relative} is {sizes[index][0]}x{sizes[index][1]}" for index in (0, other))
        findings.append(Finding("frame sizes", candidate.name, told, error=True))
    elif not candidate.clip and headers[0].frames > 1:
        findings.append(Finding("animated", candidate.files[0].relative, ""))
    return headers


def _alpha_facts(
    candidate: Candidate, headers: Sequence[pixels.PictureHeader], spec: FolderSpec, findings: list[Finding]
) -> MaskFacts | None:
    """Facts of the transparency as a mask, if it can be the mask: asked for, there, and for automatic really transparent."""
    with_alpha = sum(header.has_alpha for header in headers)
    if spec.mask_source not in ("automatic", "alpha") or not with_alpha:
        return None
    if with_alpha < len(headers):
        findings.append(Finding("partly transparent", candidate.name, f"{with_alpha} of {len(headers)}", error=True))
        return None
    facts = []
    for found in candidate.files:
        try:
            alpha_HW = pixels.read_picture(Path(found.path)).alpha_HW
        except (ValueError, OSError) as error:
            findings.append(Finding("unreadable picture", found.relative, _reason(error, found), error=True))
            continue
        if alpha_HW is not None:
            facts.append(MaskFacts.of(pixels.unit(alpha_HW)))
    if len(facts) < len(headers):
        return None
    whole = clip_mask_facts(facts)
    return whole if spec.mask_source == "alpha" or whole.lowest < 1 else None


def _choose(candidate: Candidate, spec: FolderSpec, transparent: bool) -> tuple[Origin, tuple[Found, ...]]:
    automatic = spec.mask_source == "automatic"
    if transparent:
        return "alpha", ()
    if candidate.folder_masks and (automatic or spec.mask_source == "folder"):
        return "folder", candidate.folder_masks
    if candidate.sidecars and (automatic or spec.mask_source == "sidecar"):
        return "sidecar", candidate.sidecars[:1]
    return "", ()


def _passed_over(candidate: Candidate, spec: FolderSpec, origin: Origin, files: Sequence[Found]) -> Iterable[Finding]:
    """A mask that is there and does not count is told, so that nobody trains with another mask than they think."""
    why = f"{ORIGINS[origin]} counts" if origin else f"mask_source is {spec.mask_source}"
    for found in (*candidate.folder_masks, *candidate.sidecars):
        if found not in files:
            yield Finding("passed over", found.relative, why)


def _missing(name: str, spec: FolderSpec) -> Finding:
    if spec.missing_mask == "error":
        return Finding("missing mask", name, "", error=True)
    return Finding("skipped" if spec.missing_mask == "skip" else "learned everywhere", name, "")


def _file_facts(
    candidate: Candidate, spec: FolderSpec, files: Sequence[Found], size: tuple[int, int] | None, findings: list[Finding]
) -> MaskFacts | None:
    """Facts of the mask files, all of which are read. size: of the picture, None if it is not known."""
    if candidate.per_frame and files == candidate.folder_masks and len(files) != len(candidate.files):
        told = f"{counted(len(files), 'mask')} for {counted(len(candidate.files), 'frame')}"
        findings.append(Finding("frame count", candidate.name, told, error=True))
        return None
    if len(files) > 1 and not candidate.per_frame:
        findings.append(Finding("several masks", candidate.name, " and ".join(found.relative for found in files), error=True))
        return None
    facts = []
    for found in files:
        try:
            facts.append(MaskFacts.of(pixels.read_mask(Path(found.path), spec.channel)))
        except (ValueError, OSError) as error:
            findings.append(Finding("unreadable mask", found.relative, _reason(error, found), error=True))
            continue
        if size is not None:
            findings += size_findings(candidate.name, size, found.relative, facts[-1].size, fit=spec.mask_size == "fit")
    return clip_mask_facts(facts) if facts and len(facts) == len(files) else None


def _reason(error: Exception, found: Found) -> str:
    """The reason alone: the file and the remedy are told for all files together."""
    text = str(error).removeprefix(found.path).strip()
    return text.removeprefix("cannot be read as a picture (").partition("); save it again")[0]
