"""`dev.py masks` as a real process: plans in files, the report, kills at any moment. White = learn."""
from __future__ import annotations

import hashlib
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
from pack.host.mask_journal import JOURNAL
from pack.host.mask_places import mask_places
from pack.host.mask_writer import write_masks
from pack.host.plan_file import SEGMENTERS, read_plan
from pack.masks.operations import Grow
from pack.tools.dev import checks, command_line
from PIL import Image
from skimage import data

from .mask_stand_ins import Bright

PROGRAM = Path(__file__).parent / "masks_command.py"
PLAN = {"parts": [{"segmenter": "slow", "settings": "soft", "weights": {"bright": 1, "red": 0.5}}]}
COUNT = 12


def write_pictures(folder: Path) -> None:
    """Parts of photographs, a night, and a file with a flipped bit."""
    for number in range(COUNT):
        Image.fromarray(np.roll(data.chelsea() if number % 2 else data.coffee(), 40 * number, 1)).resize((400, 300)).save(
            folder / f"{number}.jpg")
    Image.new("RGB", (64, 64), (10, 10, 10)).save(folder / "night.png")
    Image.fromarray(data.chelsea()).save(folder / "flipped.png")
    damaged = bytearray((folder / "flipped.png").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "flipped.png").write_bytes(damaged)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.name != JOURNAL}


def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    folder, report = tmp_path / "set", tmp_path / "out" / "masks"
    folder.mkdir()
    write_pictures(folder)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN), encoding="utf-8")
    moments = [0.0, 0.003, 0.007, 0.013, 0.02, 0.001, 0.03, 0.037]
    command = [sys.executable, PROGRAM, json.dumps(moments), "set", "--plan", "plan.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, check=False)
    assert done.returncode == 1, done.stderr  # a picture failed
    lines = done.stdout.splitlines()
    counts = json.loads(lines[0])
    assert counts == sorted(counts)
    assert 0 < counts[0] < COUNT or 0 == counts[0] < counts[-1]  # killed on its way
    made = f"{COUNT - counts[-1]} mask{'s' * (COUNT - counts[-1] != 1)} made"
    assert f"14 pictures: {made}, {counts[-1]} made before and still right, 0 kept, 1 with nothing found, 1 failed; white = learn" in lines

    whole = tmp_path / "whole"
    slow = {"slow": lambda regions, settings: Bright(**settings)}
    write_masks(mask_places(scan_folder(FolderSpec(folder=folder, mask_source="none")), "another folder", whole),
                read_plan(json.dumps(PLAN), slow), "keep")
    masks, expected = hashes(folder / "masks"), hashes(whole)
    assert len(expected) == COUNT
    assert {name: digest for name, digest in masks.items() if not name.endswith(".partial")} == expected
    assert all(name.startswith(".") for name in masks if name not in expected)

    assert any(line.startswith("[2/14] 1: bright, red; learned ") for line in lines)
    assert any(line.startswith("[13/14] flipped: failed: ") for line in lines)
    assert "[14/14] night: nothing found; no bright, red" in lines
    assert json.loads((report / "report.json").read_text("utf-8"))["needs_a_person"] == ["flipped", "night"]
    assert (report / "needs_a_person.txt").read_text("utf-8") == f"{folder / 'flipped.png'}\n{folder / 'night.png'}\n"
    assert (report / "report.txt").read_text("utf-8").splitlines()[0] in lines
    assert Image.open(report / "sheet.png").width > 800


def test_without_a_plan_people_and_faces_are_weighed(tmp_path: Path) -> None:
    """The weights of blissful-tuner's guide: 255 for the face, 128 for the rest of a person, 0 behind."""
    shutil.copy(PACK_ROOT / "assets" / "photographs" / "astronaut.jpg", tmp_path)
    command = [sys.executable, PACK_ROOT / "tools" / "make_masks.py", tmp_path, "--report", tmp_path / "report", "--cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mask_HW = np.asarray(Image.open(tmp_path / "masks" / "astronaut.png"))
    assert [mask_HW[130, 220], mask_HW[400, 150], mask_HW[30, 30]] == [255, 128, 0]  # her face, her suit, the flag


def run_quick(folder: Path, *options: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PACK_ROOT / "tools" / "make_masks.py", folder, "--cpu", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_names_that_the_terminal_has_no_letters_for(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "猫.png")
    done = run_quick(tmp_path, "--report", tmp_path / "report", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/1] \\u732b: nothing found" in done.stdout
    assert (tmp_path / "report" / "needs_a_person.txt").read_text("utf-8") == f"{tmp_path / '猫.png'}\n"


def test_files_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    for options in (("--report", tmp_path / "file"), ("--out", tmp_path / "file" / "masks")):
        done = run_quick(tmp_path, *options)
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1].startswith("error: a file cannot be read or written (")
        assert "Traceback" not in done.stderr


def test_plans_in_files() -> None:
    known = {"bright": lambda regions, settings: Bright(**settings)}
    recipe = [{"op": "grow", "amount": 3, "unit": "pixels"}]
    parts = [{"segmenter": "bright", "settings": "a", "weights": {"bright": 1, "background": 0.1}},
             {"segmenter": "bright", "weights": {"red": 0.5}, "how": "multiply", "recipe": recipe}]
    first, second = read_plan(json.dumps({"parts": parts}), known).parts
    assert (first.segmenter, first.weights, first.how, first.recipe.steps) == (Bright("a"), {"bright": 1.0, "background": 0.1}, "max", ())
    assert (second.segmenter, second.weights, second.how, second.recipe.steps) == (Bright(), {"red": 0.5}, "multiply", (Grow(3, "pixels"),))
    assert "quick" in SEGMENTERS


@pytest.mark.parametrize(("text", "says"), [
    ("{", "the plan is not JSON"),
    ("[]", r'the plan must be \{"parts"'),
    ('{"parts": []}', r'the plan must be \{"parts"'),
    ('{"parts": [{"segmenter": "sam9", "weights": {"a": 1}}]}', "part 1 of the plan has the segmenter 'sam9'; use bright"),
    ('{"parts": [{"segmenter": ["bright"], "weights": {"a": 1}}]}', r"part 1 of the plan has the segmenter \['bright'\]; use bright"),
    ("[" * 100_000, "the plan is not JSON that can be read"),
    ('{"parts": ["bright"]}', "part 1 of the plan has the segmenter 'bright'; use bright"),
    ('{"parts": [{"segmenter": "bright"}]}', "part 1 of the plan has the weights None; use numbers"),
    ('{"parts": [{"segmenter": "bright", "weights": {"a": "1"}}]}', "part 1 of the plan has the weights"),
    ('{"parts": [{"segmenter": "bright", "weights": {"a": 2}}]}', "part 1 of the plan: the weight of 'a' is 2; use 0 to 1"),
    ('{"parts": [{"segmenter": "bright", "weights": {"a": 1}, "how": "min"}]}', "part 1 of the plan: how is 'min'"),
    ('{"parts": [{"segmenter": "bright", "weights": {"a": 1}, "colour": 3}]}', "part 1 of the plan: .*colour"),
    ('{"parts": [{"segmenter": "bright", "weights": {"a": 1}, "recipe": [{"op": "melt"}]}]}', "part 1 of the plan: .*unknown step 'melt'"),
])
def test_plans_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_plan(text, {"bright": lambda regions, settings: Bright(**settings)})


@pytest.mark.parametrize(("part", "says"), [
    ({"segmenter": "quick", "weights": {"faces": 1}}, "there is no region 'faces'; use face, person, background"),
    ({"segmenter": "body parts", "weights": {"face": 1, "skin": 1}}, "no region 'skin'; use face, hair, body, clothing, background"),
])
def test_regions_that_a_segmenter_does_not_have(part: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_plan(json.dumps({"parts": [part]}))


def test_dev_hands_the_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(command_line, "set_up", lambda workspace: type("E", (), {"comfyui": type("C", (), {"ours": True})})())
    monkeypatch.setattr(checks, "run_masks", lambda environment, rest: given.append(rest) or 7)
    monkeypatch.setattr(command_line, "end_children_on_termination", lambda: None)
    words = ["a folder", "--plan", "p.json", "--layout", "beside, .mask.png", "--help"]
    monkeypatch.setattr(sys, "argv", ["dev.py", "masks", *words])
    assert command_line.main() == 7
    assert given == [words]
