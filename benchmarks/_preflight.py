"""How long the check of a folder takes: 10,000 real photographs with masks, made for the measurement and removed."""
from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _pack
import numpy as np

PAIRS, DISTINCT = 10_000, 48
SIDES = (512, 640, 768)


def preflight_10k_seconds(sides: tuple[int, ...] = SIDES) -> float:
    """Seconds that scan_folder takes for 10,000 pairs of pictures (JPEG, PNG) and PNG masks with sides of these pixels."""
    from pack.dataset.scan import FolderSpec, scan_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        _fill(folder, sides)
        start = time.perf_counter()
        data_set = scan_folder(FolderSpec(folder=folder, missing_mask="error"))
        seconds = time.perf_counter() - start
    if len(data_set.items) != PAIRS or any(item.mask is None for item in data_set.items):
        raise AssertionError(f"{len(data_set.items)} pairs were found, {PAIRS} were made")
    return seconds


def _fill(folder: Path, sides: tuple[int, ...]) -> None:
    """DISTINCT pairs in all sizes, and links to them: the check reads each name anew."""
    (folder / "masks").mkdir(parents=True)
    for number, (picture, mask) in enumerate(_pairs(sides)):
        ending = "jpg" if number % 3 else "png"
        picture.save(folder / f"{number:05d}.{ending}", **({"quality": 90} if ending == "jpg" else {}))
        mask.save(folder / "masks" / f"{number:05d}.png")
    for number in range(DISTINCT, PAIRS):
        source = number % DISTINCT
        ending = "jpg" if source % 3 else "png"
        for place, end in ((folder, ending), (folder / "masks", "png")):
            _copy(place / f"{source:05d}.{end}", place / f"{number:05d}.{end}")
        (folder / f"{number:05d}.txt").write_text(f"a photograph, number {number}", encoding="utf-8")


def _pairs(sides: tuple[int, ...]) -> Iterator[tuple[object, object]]:
    from PIL import Image
    from skimage import data

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.immunohistochemistry(), data.retina()]
    generator = np.random.default_rng(0)
    for number in range(DISTINCT):
        side, source = sides[number % len(sides)], Image.fromarray(photographs[number % len(photographs)])
        left, top = generator.uniform(0, 0.2, 2)
        box = (left * source.width, top * source.height, (left + 0.8) * source.width, (top + 0.8) * source.height)
        height, width = side, side if number % 2 else side * 3 // 4
        yield source.resize((width, height), Image.Resampling.LANCZOS, box=box), Image.fromarray(_soft_ellipse(height, width, generator))


def _soft_ellipse(height: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """A subject as segmenters draw it: soft, with an uneven edge."""
    y, x = np.mgrid[:height, :width]
    centre, radii = generator.uniform(0.4, 0.6, 2), generator.uniform(0.2, 0.35, 2)
    angle = np.arctan2(y / height - centre[0], x / width - centre[1])
    distance = np.hypot((y / height - centre[0]) / radii[0], (x / width - centre[1]) / radii[1])
    edge = 1 + sum(generator.uniform(0, 0.08) * np.sin(k * angle + generator.uniform(0, 6)) for k in range(2, 12))
    return (np.clip((edge - distance) * 20, 0, 1) * 255).astype(np.uint8)


def _copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # file systems without hard links, or their limit
        shutil.copyfile(source, target)


if __name__ == "__main__":
    _pack.load()
    for label, sizes in (("512 to 768", SIDES), ("1024", (1024,))):
        print(f"10,000 pairs of {label} pixels: {preflight_10k_seconds(sizes):.1f} s")
