"""A mask to ComfyUI's own mask editor and back.

The editor shows a picture's alpha: transparent is painted, so alpha is 255 - mask, where white = learn. Greys survive bit for bit
where nobody paints.
"""
from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import folder_paths
import numpy as np
from PIL import Image

from ..dataset.manifest import write_whole
from ..dataset.pixels import read_mask, read_picture
from ..masks.canvas import Pixels
from . import mask_journal
from .mask_journal import Entry
from .mask_review import Card, MaskReview

SUBFOLDER = "masked_lora_review"  # of ComfyUI's temporary directory
PAINTED = re.compile(r"clipspace-painted-masked-(\d{1,20})\.png")  # what the editor uploads last and gives its node
LAYERS = ("mask", "paint", "painted", "painted-masked")
TURNED = 1.0  # mean difference of colours, of 255, above which it is another picture


def open_for_editor(review: MaskReview, picture: str) -> dict[str, str]:
    """Makes the file that the editor opens; returns it as ComfyUI names files: filename, subfolder, type.

    Raises LookupError and ValueError as MaskReview does.
    """
    entry = review.entry(picture)
    target = edit_target(review, entry)  # a mask that could not be saved is not painted first
    colours_HWC = review.colours(entry)
    rgba_HWC = np.dstack([colours_HWC, 255 - _mask(target, colours_HWC.shape[:2])])
    folder = _editor_folder()
    _forget(folder, review, picture)
    name = f"{_stem(review, picture)}-{uuid.uuid4().hex}.png"  # a new name each time: the browser keeps what it has seen
    Image.fromarray(rgba_HWC).save(folder / name, compress_level=1)
    return {"filename": name, "subfolder": SUBFOLDER, "type": "temp"}


def take_from_editor(review: MaskReview, picture: str, image: Mapping[str, object]) -> Card:
    """What the editor saved becomes the mask, which is accepted by that. image: the file that the editor gave its node.

    The four files of that edit are removed from ComfyUI's input directory. Raises LookupError and ValueError as MaskReview does, and
    ValueError for a file that the editor did not make of this picture.
    """
    entry = review.entry(picture)
    target = edit_target(review, entry)
    layers = _layers(image)
    # The layer with the mask and without strokes of the colour brush: it can be compared with the picture.
    edited = read_picture(layers[0])
    colours_HWC = review.colours(entry)
    turned = edited.colours_HWC.shape != colours_HWC.shape
    if turned or np.abs(edited.colours_HWC.astype(np.int16) - colours_HWC).mean() > TURNED:
        raise ValueError(f"what the editor saved is not {entry.picture}; leave the picture unturned and not mirrored there")
    height, width = colours_HWC.shape[:2]
    mask_HW = np.zeros((height, width), np.uint8) if edited.alpha_HW is None else 255 - edited.alpha_HW.astype(np.uint8)
    with mask_journal.EDITING:  # a run over the folder may have written since
        card = _write(review, review.entry(picture), target, mask_HW)
    for layer in layers:
        layer.unlink(missing_ok=True)
    _forget(_editor_folder(), review, picture)
    return card


def edit_target(review: MaskReview, entry: Entry) -> Path:
    """Where an edited mask goes: over the mask, or, where none was made, beside those of the other pictures.

    Raises ValueError where that is not known, for a file that is no PNG, and for one that is a picture of the journal.
    """
    names = review.names()
    file = review.mask_file(entry, names)
    if file is None:
        raise ValueError(f"where the mask of {entry.picture} belongs is not known, since none was made in its set; run Write Masks with a "
                         "plan that finds something in one of its pictures")
    if file.suffix.lower() != ".png":
        raise ValueError(f"{file.name} is no PNG, and masks are saved as PNG; save it as one or remove it")
    if any(review.shows(other, (file,)) for other in names.entries.values()):
        raise ValueError(f"{file.name} is a picture and not a mask; write the masks again")
    return file


def _mask(file: Path, size: tuple[int, ...]) -> Pixels:
    """The mask as 0..255, (H, W) of the picture; black where there is none."""
    if not file.is_file():
        return np.zeros(size, np.uint8)
    mask_HW = read_mask(file)
    if mask_HW.shape != size:
        mask_HW = np.asarray(Image.fromarray(mask_HW).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    values: Pixels = (mask_HW.clip(0, 1) * 255).round().astype(np.uint8)
    return values


def _write(review: MaskReview, entry: Entry, target: Path, mask_HW: Pixels) -> Card:
    png = io.BytesIO()
    Image.fromarray(mask_HW).save(png, "PNG")
    write_whole(target, png.getvalue())
    facts = review.picture_file(entry).stat()
    return review.write(replace(
        entry, mask=target.relative_to(review.folder).as_posix(), status="kept", picture_id=f"{facts.st_size}-{facts.st_mtime_ns}",
        mask_sha256=hashlib.sha256(png.getvalue()).hexdigest(), coverage=round(float(mask_HW.mean()) / 255, 6), missing=(), error="",
        review="accepted"))


def _layers(image: Mapping[str, object]) -> list[Path]:
    """The files of one edit in ComfyUI's input directory. Raises ValueError for a name that the editor does not give."""
    name = PAINTED.fullmatch(str(image.get("filename")))
    if not name or image.get("type") != "input" or image.get("subfolder", "") not in ("", "clipspace"):
        raise ValueError(f"{str(image.get('filename'))[:80]!r} is no file of ComfyUI's mask editor; update ComfyUI's frontend or this pack")
    root = Path(folder_paths.get_input_directory()).resolve()
    files = [root / str(image.get("subfolder", "")) / f"clipspace-{layer}-{name[1]}.png" for layer in LAYERS]
    if not files[0].is_file() or any(file.resolve() != file for file in files):  # a link could lead anywhere
        raise ValueError(f"{files[0].name} is not in ComfyUI's input directory; save in the editor again")
    return files


def _editor_folder() -> Path:
    folder = Path(folder_paths.get_temp_directory()).resolve() / SUBFOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stem(review: MaskReview, picture: str) -> str:
    return hashlib.sha256(f"{review.key} {picture}".encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _forget(folder: Path, review: MaskReview, picture: str) -> None:
    for file in folder.glob(f"{_stem(review, picture)}-*.png"):
        file.unlink(missing_ok=True)
