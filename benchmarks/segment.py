"""How well and how fast the quick person and face masks are: the folder run on photographs of people, beside a second network.

Both networks make masks for the same folder, through the same run, with weights of 255 for faces, 128 for people and 0 for all else;
u2netp, which knows no faces, has one weight. Ends with one JSON line: {"person_iou": mean intersection over union of the two on the
person, "seconds_per_image": {...}, "images": n}. u2netp marks what stands out, such as a tripod, person or not.
"""
from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import _pack

_pack.load()

import numpy as np  # noqa: E402
from pack.dataset.scan import FolderSpec, scan_folder  # noqa: E402
from pack.host.folders import PACK_ROOT  # noqa: E402
from pack.host.mask_places import mask_places  # noqa: E402
from pack.host.mask_plan import MaskPlan, Part  # noqa: E402
from pack.host.mask_writer import Result, write_masks  # noqa: E402
from pack.segmentation.quick import Quick, read_networks  # noqa: E402
from pack.tools.dev.photographs import NETWORK, PEOPLE, photographs  # noqa: E402
from pack.tools.u2net import U2Net  # noqa: E402
from PIL import Image  # noqa: E402

IN_WHEEL = ("astronaut.png", "camera.png")
PERSON = 64  # half of the 128 that a person weighs
WEIGHTS = {"face": 1.0, "person": 0.502, "background": 0.0}


@dataclass(frozen=True, slots=True)
class Folder:
    """What one plan made of the folder. seconds: of all pictures, with reading and writing."""

    results: list[Result]
    seconds: float

    def mask(self, number: int) -> np.ndarray:
        return np.asarray(Image.open(self.results[number].place.mask))

    def per_image(self) -> float:
        """Of the segmenter alone, without the first picture, for which OpenCV lays out the network."""
        return statistics.mean(result.entry.seconds for result in self.results[1:])


def collect(folder: Path) -> None:
    """The photographs, in a folder of their own."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("scikit-image is not installed; it is in requirements-dev.txt")
    wheel = Path(spec.submodule_search_locations[0]) / "data"
    fetched = photographs(Path(sys.executable))
    for file in (*(wheel / name for name in IN_WHEEL), *(fetched / name for name in PEOPLE)):
        shutil.copy(file, folder)


def masks_of(folder: Path, plan: MaskPlan, target: Path) -> Folder:
    places = mask_places(scan_folder(FolderSpec(folder=folder, mask_source="none")), "another folder", target)
    start = time.perf_counter()
    results = write_masks(places, plan, "redo all")
    seconds = time.perf_counter() - start
    if failed := [result for result in results if result.entry.status != "made"]:
        raise RuntimeError(f"{failed[0].place.name}: {failed[0].entry.status} {failed[0].entry.error}")
    return Folder(results, seconds)


def main() -> None:
    quick = MaskPlan((Part(Quick(read_networks(PACK_ROOT / "assets" / "quick_masks")), WEIGHTS),))
    with tempfile.TemporaryDirectory() as temporary:
        pictures = Path(temporary) / "pictures"
        pictures.mkdir()
        collect(pictures)
        other = MaskPlan((Part(U2Net.read(photographs(Path(sys.executable)) / NETWORK), {"subject": 1.0}),))
        ours = masks_of(pictures, quick, Path(temporary) / "quick")
        theirs = masks_of(pictures, other, Path(temporary) / "u2netp")
        overlaps = []
        for number, result in enumerate(ours.results):
            mask = ours.mask(number)
            first, second = mask >= PERSON, theirs.mask(number) >= 128
            overlaps.append(float((first & second).sum() / (first | second).sum()))
            print(f"{result.place.name:14s}{mask.shape[1]:5d} x {mask.shape[0]:<5d} {', '.join(result.entry.found):14s} person "
                  f"{first.mean():6.1%}, face {(mask >= 192).mean():5.1%}, overlap with u2netp {overlaps[-1]:.3f}, "
                  f"{result.entry.seconds:.3f} s, u2netp {theirs.results[number].entry.seconds:.3f} s")
    images = len(overlaps)
    seconds = {"quick": ours.per_image(), "u2netp": theirs.per_image(), "folder run with quick": ours.seconds / images}
    print(json.dumps({"person_iou": round(statistics.mean(overlaps), 4),
                      "seconds_per_image": {name: round(value, 4) for name, value in seconds.items()}, "images": images}))


if __name__ == "__main__":
    main()
