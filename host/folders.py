"""Folders that a workflow may name."""
from __future__ import annotations

import re
from pathlib import Path

import folder_paths

PACK_ROOT = Path(__file__).resolve().parents[1]
PICTURES = {"demo": "pibo", "demo cutouts": "pibo_cutouts", "demo clips": "pibo_clips"}  # bundled, below assets
MASKS = "masks"
DEMO_MODEL = PACK_ROOT / "assets" / "pico_flux"


def resolve_input_folder(folder: str) -> Path:
    """The folder that a workflow names: inside ComfyUI's input directory, or "demo" for the bundled pictures.

    Links and ".." are followed before the check. Raises ValueError for any other place and for a folder that is not there:
    a workflow comes from strangers and must not read the rest of the disk.
    """
    name = folder.strip()
    if name in PICTURES:
        return _existing(PACK_ROOT / "assets" / PICTURES[name], "the pack's demo pictures are missing; reinstall the pack")
    root = Path(folder_paths.get_input_directory()).resolve()
    remedy = f"put the pictures into a folder inside {root} and give its name, or 'demo' for the bundled pictures"
    if not name:
        raise ValueError(f"no folder is named; {remedy}")
    try:
        resolved = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
        raise ValueError(f"{folder!r} is not a folder name ({error}); {remedy}") from error
    if not resolved.is_relative_to(root):
        raise ValueError(f"{folder!r} lies outside ComfyUI's input directory; {remedy}")
    return _existing(resolved, f"{folder!r} is not a folder in ComfyUI's input directory; {remedy}")


def resolve_mask_folder(folder: Path, mask_folder: str) -> tuple[str, Path | None]:
    """Where the masks of a resolved picture folder lie: the name of a sub-folder, and any other folder that is meant instead.

    A folder that is not below `folder` is looked for in ComfyUI's input directory, as `resolve_input_folder` does; "masks" always
    means a sub-folder, so that masks of another set are not taken by accident. Raises ValueError for any other place.
    """
    name = mask_folder.strip()
    if name in ("", MASKS) or ("/" not in name and "\\" not in name and name not in (".", "..") and (folder / name).is_dir()):
        return name, None
    root = Path(folder_paths.get_input_directory()).resolve()
    try:
        inside, other = (folder / name).resolve(), (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
        raise ValueError(f"mask_folder {mask_folder!r} is not a folder name ({error}); use the name of a sub-folder") from error
    if inside.is_dir() and inside.is_relative_to(folder) and inside != folder:
        return inside.relative_to(folder).as_posix(), None
    if not other.is_relative_to(root):
        raise ValueError(f"mask_folder {mask_folder!r} lies outside ComfyUI's input directory; name a sub-folder of the pictures' folder "
                         f"or a folder inside {root}")
    if other.is_dir() and other != root:
        return MASKS, other
    raise ValueError(f"mask_folder {mask_folder!r} is neither a sub-folder of {folder} nor a folder inside {root}; make one of them, or "
                     f"use '{MASKS}'")


def resolve_reference_folders(folder: Path, lines: str) -> tuple[Path, ...]:
    """The reference folders of a resolved picture folder, one a line: sub-folders of it, folders in ComfyUI's input directory, or "."
    for files beside the pictures. Raises ValueError for any other place.
    """
    root, found = Path(folder_paths.get_input_directory()).resolve(), []
    for name in filter(None, map(str.strip, lines.splitlines())):
        try:
            places = [(base / name).resolve() for base in (folder, root)]
        except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
            raise ValueError(f"reference folder {name!r} is not a folder name ({error}); use the name of a folder") from error
        allowed = [place for place in places if place.is_relative_to(folder) or place.is_relative_to(root)]
        there = next((place for place in allowed if place.is_dir()), None)
        if there is None:
            raise ValueError(f"reference folder {name!r} is neither a sub-folder of {folder} nor a folder inside {root}; put the reference "
                             "pictures into one of these places and give its name, one a line")
        found.append(there)
    return tuple(found)


def resolve_new_folder(folder: str) -> Path:
    """A folder inside ComfyUI's input directory, or its output directory: "name [output]". It need not be there yet.

    Raises ValueError for any other place, and for the directories themselves.
    """
    name, root = folder_paths.annotated_filepath(folder.strip())
    top = Path(root or folder_paths.get_input_directory()).resolve()
    remedy = f"give the name of a folder inside {top}, such as my_masks, or 'my_masks [output]' for one in ComfyUI's output directory"
    try:
        resolved = (top / name.strip()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a null byte, a loop of links
        raise ValueError(f"{folder!r} is not a folder name ({error}); {remedy}") from error
    if resolved == top or not resolved.is_relative_to(top):
        raise ValueError(f"{folder!r} names no folder for masks; {remedy}")
    if resolved.exists() and not resolved.is_dir():
        raise ValueError(f"{folder!r} is a file; {remedy}")
    return resolved


def require_writable(folder: Path) -> None:
    """Raises ValueError for a folder outside ComfyUI's input and output directories, links followed."""
    tops = [Path(top).resolve() for top in (folder_paths.get_input_directory(), folder_paths.get_output_directory())]
    if not any(folder.resolve().is_relative_to(top) for top in tops):
        raise ValueError(f"masks cannot be written to {folder}, outside ComfyUI's input and output directories (the bundled pictures are "
                         "such a place); set the layout to another folder")


def input_relative(folder: Path) -> str:
    """As Load Training Folder wants it: the path below ComfyUI's input directory; a folder elsewhere stays as it is."""
    top = Path(folder_paths.get_input_directory()).resolve()
    return folder.resolve().relative_to(top).as_posix() if folder.resolve().is_relative_to(top) else str(folder)


def _existing(path: Path, message: str) -> Path:
    if not path.is_dir():
        raise ValueError(message)
    return path


def lora_folder() -> Path:
    """Where trained LoRAs go; ComfyUI lists this folder among its LoRAs."""
    return Path(folder_paths.get_output_directory()).resolve() / "loras"


def cache_folder() -> Path:
    return Path(folder_paths.get_user_directory()).resolve() / "masked_lora" / "cache"


def output_relative(file: Path) -> str:
    return file.resolve().relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()


def lora_file(name: str) -> Path:
    """output/loras/<name>.safetensors; raises ValueError for a name that leaves that folder or is no file name."""
    root, stem = lora_folder(), name.strip().removesuffix(".safetensors")
    remedy = "use letters, digits, '-', '_', '.' and '/' for sub-folders"
    if any(len(part.encode()) > 200 for part in Path(stem).parts):
        raise ValueError(f"{name[:40]!r}... is too long to name a file; use at most 200 characters")
    if not stem or not re.fullmatch(r"[\w .\-/]+", stem) or stem.endswith(("/", ".")):
        raise ValueError(f"{name!r} cannot name a LoRA file; {remedy}")
    file = (root / f"{stem}.safetensors").resolve()
    if not file.is_relative_to(root):
        raise ValueError(f"{name!r} lies outside {root}; {remedy}")
    return file


def runs_folder(lora: Path) -> Path:
    """Where the runs of one sub-folder of output/loras keep what is no LoRA: checkpoints, previews, logs."""
    return lora_folder().with_name("masked_lora") / lora.parent.relative_to(lora_folder())


def free_lora_file(name: str) -> Path:
    """`lora_file` with the first number that is not taken, so that nothing is overwritten."""
    file = lora_file(name)
    number = 1
    while (numbered := file.with_name(f"{file.stem}_{number:05d}.safetensors")).exists():
        number += 1
    return numbered
