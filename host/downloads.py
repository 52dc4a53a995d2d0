"""Downloads from the Hugging Face hub into ComfyUI's models folder; a broken one goes on where it stopped.

Files arrive in a hidden folder beside the target, one for each revision of the repository, and move to the target when all are there
and right: half a download never looks like a model. huggingface_hub finds the hub (HF_ENDPOINT), the token (HF_TOKEN) and whether it
may (HF_HUB_OFFLINE). Only its `http_get` is used and not `hf_hub_download`, which from 2.0 throws away what arrived before an error.
"""
from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..segmentation.catalogue import KnownModel
from .progress import Progress

logger = logging.getLogger(__name__)
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """sha256: in hex, of a large file; None for one that git keeps."""

    name: str
    bytes: int
    sha256: str | None


def download(known: KnownModel, target: Path, progress: Progress) -> None:
    """The model's files into the directory `target`, or its one file as `target`.

    Raises ValueError for whatever stops it, in words, with repository, files, target and link; what arrived stays for the next time.
    """
    with _in_words(known, target):
        revision, files = _listing(known)
        stage = target.parent / f".{target.name}.download" / revision
        stage.mkdir(parents=True, exist_ok=True)
        there = sum(_arrived(stage, file) for file in files)
        _check_room(stage, sum(file.bytes for file in files) - there)
        watch = _Watch(known.name, progress, there, sum(file.bytes for file in files))
        logger.info("Masked LoRA: downloading %s (%s) to %s; %s", known.name, known.repo, target, known.licence.name)
        for file in files:
            _fetch(known, revision, file, stage, watch)
        _settle(stage, files, target, known.is_file)


class _Watch:
    """Reports what has arrived; raises ComfyUI's interruption once the user has pressed Cancel."""

    def __init__(self, name: str, progress: Progress, done: int, total: int) -> None:
        self.name, self.progress, self.done, self.total = name, progress, done, total
        self.arrived(0)

    def arrived(self, count: int) -> None:
        self.done += count
        self.progress.update(self.done, self.total, f"{self.name}: {self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB")


class _WatchedFile(io.BufferedWriter):
    """Appends to a file and tells how much."""

    def __init__(self, file: Path, arrived: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(file, "ab"))
        self.arrived = arrived

    def write(self, data: bytes) -> int:  # type: ignore[override]
        count = super().write(data)
        self.arrived(count)
        return count


def _listing(known: KnownModel) -> tuple[str, list[RemoteFile]]:
    """The newest revision and the files that are wanted of it; ValueError if one that is needed is missing there."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(known.repo, files_metadata=True, timeout=30)
    if not re.fullmatch("[0-9a-f]{40}", info.sha or "") or any(entry.size is None for entry in info.siblings or []):
        raise FileNotFoundError("it does not answer as the hub does, with a revision and sizes")
    files = [RemoteFile(entry.rfilename, entry.size, entry.lfs.sha256 if entry.lfs else None) for entry in info.siblings or []
             if any(_matches(entry.rfilename, pattern) for pattern in known.patterns)]
    if missing := [pattern for pattern in known.files if not any(_matches(file.name, pattern) for file in files)]:
        raise FileNotFoundError(f"the repository has no {', '.join(missing)}")
    return info.sha, files


def _matches(name: str, pattern: str) -> bool:
    # Nothing in a sub-folder: there lie copies in other formats, and a path could lead out of ours.
    return "/" not in name and "\\" not in name and fnmatchcase(name, pattern)


def _part(stage: Path, file: RemoteFile) -> Path:
    return stage / f"{file.name}.part"


def _arrived(stage: Path, file: RemoteFile) -> int:
    """Bytes of a file that are there from an earlier time."""
    done, part = stage / file.name, _part(stage, file)
    return file.bytes if done.is_file() else part.stat().st_size if part.is_file() else 0


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are still to come and {free / 1e9:.2f} GB are free")


def _fetch(known: KnownModel, revision: str, file: RemoteFile, stage: Path, watch: _Watch) -> None:
    """One file into the stage, from where an earlier time broke off."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part = _part(stage, file)
    if (stage / file.name).is_file():
        return
    if _arrived(stage, file) > file.bytes:
        part.unlink()
    with _WatchedFile(part, watch.arrived) as out:
        # A range of a compressed answer is not a range of the file.
        http_get(hf_hub_url(known.repo, file.name, revision=revision), out, resume_size=part.stat().st_size,
                 headers={**build_hf_headers(), "Accept-Encoding": "identity"}, expected_size=file.bytes)
    if fault := _fault(part, file):
        part.unlink()
        raise OSError(f"{file.name} {fault}; it was thrown away")
    os.replace(part, stage / file.name)


def _fault(part: Path, file: RemoteFile) -> str:
    """What is wrong with a file that has arrived; empty if nothing is."""
    if (size := part.stat().st_size) != file.bytes:
        return f"has {size} bytes where the hub promised {file.bytes}"
    if file.sha256 is None:
        return ""
    digest = hashlib.sha256()
    with part.open("rb") as read:
        while block := read.read(1 << 20):
            digest.update(block)
    return "" if digest.hexdigest() == file.sha256 else "has another SHA-256 than the hub promised"


def _settle(stage: Path, files: list[RemoteFile], target: Path, is_file: bool) -> None:
    """The complete files to where they belong; the configuration last, because a folder counts as a model from then on."""
    folder = target.parent if is_file else target
    folder.mkdir(exist_ok=True)
    for file in sorted(files, key=lambda file: file.name == "config.json"):
        os.replace(stage / file.name, folder / file.name)
    shutil.rmtree(stage.parent, ignore_errors=True)


@contextmanager
def _in_words(known: KnownModel, target: Path) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    # The HTTP library under huggingface_hub changed with its versions; what it raises are the bases of the hub's own errors.
    except (OSError, ValueError, *HfHubHTTPError.__bases__) as error:
        by_hand = f"{known.link} ({', '.join(known.patterns)})"
        raise ValueError(f"{known.name} could not be downloaded to {target}: {_reason(error, known)} Or put the files of {by_hand} "
                         "there by hand.") from error


def _reason(error: Exception, known: KnownModel) -> str:
    """Why, and what to do about it, in whole sentences."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or (known.gated and status in (401, 403)):
        return (f"{known.repo} is gated. Ask for access at {known.link} with a Hugging Face account; once it is granted, set HF_TOKEN to a "
                "token of that account before ComfyUI starts, and run again.")
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids downloads. Unset it, start ComfyUI again and run again."
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
        return (f"{constants.ENDPOINT} knows no {known.repo}, or not for this token (status {status}). Check HF_ENDPOINT and HF_TOKEN if "
                "they are set.")
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full ({error.strerror}). Make room and run again; it goes on where it stopped."
    if isinstance(error, PermissionError):
        return f"ComfyUI may not write there ({error}). Change the folder's permissions and run again."
    return f"{constants.ENDPOINT} did not deliver it ({error}). Run again; it goes on where it stopped."
