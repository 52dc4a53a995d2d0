"""Photographs of people, masks made of them by real networks, and a training run on these masks, through the real host.

The photographs and their licences: tools/dev/photographs.py. Without a person are coffee.png (CC0, Rachel Michetti) and rocket.jpg
(SpaceX, public domain) of scikit-image's wheel. MASKED_LORA_PHOTOGRAPHS names the folder; `python3 dev.py test` sets it.
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pack.dataset.scan import FolderSpec, scan_folder
from pack.host.folders import PACK_ROOT
from pack.host.mask_places import mask_places
from pack.host.mask_plan import MaskPlan, Part
from pack.host.mask_run import Run, run_masks
from pack.segmentation.quick import Quick, read_networks
from pack.tools.dev import photographs, report
from pack.tools.u2net import U2Net
from PIL import Image

from .defaults import new_graph
from .server import ROOT, Comfy, add_training, complaints
from .test_photographs import wheel_data

PEOPLE = ("astronaut.png", "camera.png", *photographs.PEOPLE)
NOBODY = "rocket.jpg"
LEVELS = {"face": 1.0, "person": 0.502, "background": 0.0}  # 255, 128 and 0
MAKE, WRITE, QUICK = "MaskedLoRA_MakeMasks", "MaskedLoRA_WriteMasks", "MaskedLoRA_QuickMasks"
# What u2netp marks beside the person: the tripod of the camera.
TRIPOD = "camera"


@pytest.fixture(scope="module")
def fetched() -> Path:
    folder = Path(os.environ.get(photographs.VARIABLE) or photographs.FOLDER)
    if not folder.is_dir():
        pytest.fail(f"{photographs.VARIABLE} is not set and {folder} is not there; run `python3 dev.py test`, which fetches it")
    return folder


def collect(fetched: Path, target: Path) -> Path:
    """All the photographs and one of nobody, with captions."""
    target.mkdir(parents=True)
    for name in (*PEOPLE, NOBODY):
        shutil.copy((fetched if name in photographs.PEOPLE else wheel_data()) / name, target)
        (target / name).with_suffix(".txt").write_text("a photo of a person", encoding="utf-8")
    return target


def run_plan(folder: Path, plan: MaskPlan, target: Path) -> Run:
    places = mask_places(scan_folder(FolderSpec(folder=folder, mask_source="none")), "another folder", target)
    return run_masks(places, plan, "redo ours if changed", lambda done, total, text: None)


@pytest.fixture(scope="module")
def pictures(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect(fetched, tmp_path_factory.mktemp("real") / "pictures")


@pytest.fixture(scope="module")
def quick(pictures: Path) -> tuple[Run, Path]:
    """The folder run of the quick masks, and where it wrote them."""
    target = pictures.with_name("quick")
    return run_plan(pictures, MaskPlan((Part(Quick(read_networks(PACK_ROOT / "assets" / "quick_masks")), LEVELS),)), target), target


def grey(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{Path(name).stem}.png"))


def middle(mask: np.ndarray) -> float:
    """The mean weight of the central square, which the training cuts out."""
    side = min(mask.shape)
    top, left = ((length - side) // 2 for length in mask.shape)
    return float(mask[top:top + side, left:left + side].mean() / 255)


def test_every_person_has_a_mask_of_face_body_and_background(quick: tuple[Run, Path]) -> None:
    run, folder = quick
    entries = {result.place.name: result.entry for result in run.results}
    for name in PEOPLE:
        assert entries[Path(name).stem].status == "made", name
        assert set(entries[Path(name).stem].found) == {"face", "person"}, name
        mask = grey(folder, name)
        assert mask.shape == Image.open(folder.with_name("pictures") / name).size[::-1]
        near = [(np.abs(mask.astype(int) - level) <= 8).mean() for level in (255, 128, 0)]
        assert all(share > 0.005 for share in near), name
        assert sum(near) > 0.9, name  # the rest is soft edges
        assert np.abs(np.bincount(mask.reshape(-1), minlength=256)[200:].argmax() + 200 - 255) <= 1


def test_nobody_gets_no_mask_and_is_told(quick: tuple[Run, Path]) -> None:
    run, folder = quick
    assert not (folder / "rocket.png").exists()
    assert json.loads(run.json)["needs_a_person"] == ["rocket"]


def test_two_independent_networks_agree_on_the_person(quick: tuple[Run, Path], pictures: Path, fetched: Path) -> None:
    _, ours = quick
    other = MaskPlan((Part(U2Net.read(fetched / photographs.NETWORK), {"subject": 1.0}),))
    theirs = pictures.with_name("u2netp")
    run_plan(pictures, other, theirs)
    overlaps = {}
    for name in PEOPLE:
        first, second = grey(ours, name) >= 64, grey(theirs, name) >= 128
        overlaps[Path(name).stem] = (first & second).sum() / (first | second).sum()
    assert np.mean(list(overlaps.values())) >= 0.95, overlaps
    assert all(overlap >= 0.95 for name, overlap in overlaps.items() if name != TRIPOD), overlaps


def test_the_command_writes_the_same_masks(quick: tuple[Run, Path], pictures: Path, tmp_path: Path) -> None:
    """`dev.py masks`, without a graph, with the plan in a file."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"parts": [{"segmenter": "quick", "weights": LEVELS}]}), encoding="utf-8")
    command = [sys.executable, ROOT / "tools" / "make_masks.py", pictures, "--plan", plan, "--out", tmp_path / "masks", "--report",
               tmp_path / "report", "--cpu"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "report" / "needs_a_person.txt").read_text(encoding="utf-8") == f"{pictures / NOBODY}\n"
    for name in PEOPLE:
        assert np.array_equal(grey(tmp_path / "masks", name), grey(quick[1], name)), name


def test_two_people_through_the_graph(comfy: Comfy, fetched: Path) -> None:
    """An astronaut and an admiral side by side, of one height: both faces are white, and both people grey."""
    first = Image.open(wheel_data() / "astronaut.png").convert("RGB")
    second = Image.open(fetched / "grace_hopper.jpg").convert("RGB").resize((437, 512))
    pair = Image.new("RGB", (949, 512))
    pair.paste(first, (0, 0))
    pair.paste(second, (512, 0))
    pair.save(comfy.input / "two_people.png")
    graph = new_graph(comfy)
    plan = graph.add(QUICK)
    made = graph.add(MAKE, plan=plan[0], image=graph.add("LoadImage", image="two_people.png")[0])
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=made[0])[0], filename_prefix="two_people")
    run = comfy.run(graph)
    assert "face, person" in run.text(made)
    mask = np.asarray(run.images(saved)[0].convert("L"))
    for x, y in ((225, 125), (512 + 235, 210)):  # noses
        assert mask[y, x] == 255
    for x, y in ((200, 400), (512 + 100, 420)):  # a suit, a uniform
        assert 120 <= mask[y, x] <= 136
    for x, y in ((340, 40), (512 + 400, 60)):  # a wall, a sky
        assert mask[y, x] <= 8


def test_a_training_run_on_these_masks(comfy: Comfy, fetched: Path) -> None:
    """From a folder of bare pictures to a LoRA in one graph; the picture without a mask is left out."""
    folder = collect(fetched, comfy.input / "real_masks")
    graph = new_graph(comfy)
    bare = graph.add("MaskedLoRA_LoadFolder", folder=folder.name, mask_source="none")
    written = graph.add(WRITE, data_set=bare[0], plan=graph.add(QUICK)[0], layout="masks folder")
    training = add_training(graph, folder=folder.name, steps=20, learning_rate=1e-2, name="real_masks")
    graph.prompt[training.loaded.id]["inputs"] |= {"folder": written[1], "missing_mask": "skip"}
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename="real_masks")
    start = len(comfy.log())
    run = comfy.run(graph)
    assert not complaints(comfy.log()[start:])
    assert {file.name for file in (folder / "masks").glob("*.png")} == {f"{Path(name).stem}.png" for name in PEOPLE}
    assert "rocket: nothing found; no face, person" in run.text(written)
    assert "real_masks: 5 pictures, 5 with a mask" in run.text(training.loaded)
    told = json.loads(run.text(training.trained))
    assert told["loss_inside_last"] < 0.8 * told["loss_inside_first"]
    metadata = report.lora_metadata(comfy.server.output / json.loads(run.text(saved))["file"])
    mask = json.loads(metadata["masked_lora.mask"])
    assert (mask["with_mask"], mask["without_mask"]) == (5, 0)
    assert mask["mean_coverage"] == pytest.approx(np.mean([middle(grey(folder / "masks", name)) for name in PEOPLE]), abs=2e-3)
