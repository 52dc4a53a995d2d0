"""What a person says of masks, and what the next run of Write Masks makes of it, in each layout."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from pack.dataset.scan import scan_folder
from pack.dataset.spec import FolderSpec
from pack.host.mask_editing import open_for_editor, take_from_editor
from pack.host.mask_places import LAYOUTS, Layout, mask_places
from pack.host.mask_plan import MaskPlan, Part
from pack.host.mask_review_folders import find_reviews
from pack.host.mask_writer import write_masks
from pack.segmentation.segmenter import Regions
from PIL import Image
from torch import Tensor

from .server import write_picture

SAVED = {"filename": "clipspace-painted-masked-1.png", "subfolder": "", "type": "input"}


@dataclass(frozen=True)
class LeftColumns:
    """Finds a person in the left columns of every picture but a dark one."""

    width: int
    name: str = "left columns"
    exclusive: bool = False
    reads_captions: bool = False

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "width": self.width}

    def segment(self, picture_HWC: Tensor, caption: str) -> Regions:
        if picture_HWC.max() < 10:
            return {}
        mask_HW = torch.zeros(picture_HWC.shape[:2])
        mask_HW[:, :self.width] = 1
        return {"person": mask_HW}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_accepted_and_painted_masks_stay_and_others_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout) -> None:
    for name in ("input", "output", "temp", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    top = tmp_path / "input" / "set"
    for seed, name in enumerate(("a", "sub/b", "c", "d")):
        write_picture(top / f"{name}.png", seed=seed)
    Image.new("RGB", (160, 128), (9, 9, 9)).save(top / "sub" / "none.png")
    data_set = scan_folder(FolderSpec(folder=top, mask_source="none"))
    folder = tmp_path / "output" / "my_masks" if layout == "another folder" else None
    places = {place.name: place for place in mask_places(data_set, layout, folder)}

    def write(width: int) -> dict[str, bytes]:
        plan = MaskPlan((Part(LeftColumns(width), {"person": 1.0}),))
        write_masks(list(places.values()), plan, "redo ours if changed")
        return {name: place.mask.read_bytes() for name, place in places.items() if place.mask.is_file()}

    assert write(50).keys() == {"a", "sub/b", "c", "d"}
    (review,) = find_reviews("my_masks [output]" if folder else "", data_set)
    pictures = {card.title: card.picture for card in review.cards()}
    assert list(pictures)[0] == "sub/none.png", "the one without a mask comes first"
    for title in ("a.png", "sub/none.png"):
        shown = open_for_editor(review, pictures[title])
        pixels = np.asarray(Image.open(tmp_path / "temp" / shown["subfolder"] / shown["filename"])).copy()
        pixels[:10, :, 3] = 0
        for layer in ("mask", "paint", "painted", "painted-masked"):
            Image.fromarray(pixels).save(tmp_path / "input" / f"clipspace-{layer}-1.png")
        take_from_editor(review, pictures[title], SAVED)
    review.mark(pictures["sub/b.png"], "accepted")
    review.mark(pictures["c.png"], "redo")
    before = {name: place.mask.read_bytes() for name, place in places.items()}
    assert before.keys() == places.keys(), "the painted mask is not where Write Masks and the loader look for it"
    after = write(80)
    assert {name for name in before if before[name] != after[name]} == {"c", "d"}
    review.mark(pictures["a.png"], "redo")
    assert write(80)["a"] == after["d"], "a painted mask is made anew if a person says so"
