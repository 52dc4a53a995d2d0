"""A folder with a journal, as Write Masks leaves it, for tests of its review."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pack.host import mask_journal
from pack.host.mask_journal import Entry
from PIL import Image

from .server import write_mask, write_picture


def write_folder(folder: Path) -> Path:
    """Pictures a to d with masks/a.png (grey to white), masks/b.png (almost black, a region missing), none for c and d; c found
    nothing, d failed. Returns the masks' folder.
    """
    masks = folder / "masks"
    for seed, name in enumerate("abcd"):
        write_picture(folder / f"{name}.png", seed=seed)
    write_mask(masks / "a.png")
    small = np.zeros((128, 160), np.uint8)
    small[:8, :8] = 255
    Image.fromarray(small).save(masks / "b.png")
    for entry in (made(masks, "a"), made(masks, "b", missing=("face",)),
                  Entry("../c.png", status="nothing found", missing=("person",)),
                  Entry("../d.png", status="failed", error="out of memory; use a smaller model")):
        mask_journal.append(masks, entry)
    return masks


def made(masks: Path, name: str, missing: tuple[str, ...] = ()) -> Entry:
    file = masks / f"{name}.png"
    mean = float(np.asarray(Image.open(file)).mean()) / 255
    facts = (masks.parent / f"{name}.png").stat()
    return Entry(f"../{name}.png", f"{name}.png", "made", "plan", f"{facts.st_size}-{facts.st_mtime_ns}",
                 hashlib.sha256(file.read_bytes()).hexdigest(), mean, ("person",), missing)


def write_many(folder: Path, count: int) -> None:
    """Small pictures with masks in masks/, all made."""
    masks = folder / "masks"
    for number in range(count):
        write_picture(folder / f"{number:03d}.png", (64, 48), number)
        write_mask(masks / f"{number:03d}.png", (64, 48))
        mask_journal.append(masks, made(masks, f"{number:03d}"))
