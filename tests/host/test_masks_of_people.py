"""What a person says of masks, or does to them, before a run of Write Masks and while it runs, stays. White = learn."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from pack.dataset.scan import FolderSpec, scan_folder
from pack.host import mask_journal
from pack.host.mask_journal import Entry
from pack.host.mask_places import Place, mask_places
from pack.host.mask_plan import MaskPlan, Part
from pack.host.mask_report import doubt, in_need, masked_set, report_json, report_text
from pack.host.mask_sheet import doubtful_sheet
from pack.host.mask_writer import Result, write_masks
from pack.nodes.make_masks import WriteMasks
from PIL import Image
from torch import Tensor

from .mask_stand_ins import Bright, Broken

CHANGED = "redo ours if changed"
SIZE = (40, 30)


@dataclass(frozen=True)
class Meanwhile(Bright):
    """Finds what is bright, and lets something happen while it looks."""

    happens: Callable[[Tensor], None] = lambda picture_HWC: None

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        self.happens(picture_HWC)
        return super().segment(picture_HWC)


def plan(weight: float = 1.0, segmenter: Bright | None = None) -> MaskPlan:
    return MaskPlan((Part(segmenter or Bright(), {"bright": weight}),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Grey pictures a, b and c, and a dark one, in which nothing is found."""
    place = tmp_path / "set"
    place.mkdir()
    for name, value in (("a", 100), ("b", 110), ("c", 120), ("dark", 5)):
        Image.new("RGB", SIZE, (value,) * 3).save(place / f"{name}.png")
    return place


def places(folder: Path) -> list[Place]:
    return mask_places(scan_folder(FolderSpec(folder=folder, mask_source="none")), "masks folder")


def run(folder: Path, made_by: MaskPlan, existing: Any = CHANGED, watch: Any = lambda done, total, text: None) -> dict[str, Result]:
    return {result.place.name: result for result in write_masks(places(folder), made_by, existing, watch)}


def entry(folder: Path, name: str) -> Entry:
    return mask_journal.read(folder / "masks")[f"../{name}.png"]


def mark(folder: Path, name: str, review: Any) -> None:
    mask_journal.append(folder / "masks", replace(entry(folder, name), review=review))


def paint(folder: Path, name: str, value: int = 33) -> bytes:
    """As the review of masks does it: the file, then the journal."""
    file = folder / "masks" / f"{name}.png"
    Image.new("L", SIZE, value).save(file)
    mask_journal.append(folder / "masks", replace(entry(folder, name), mask=file.name, status="kept", review="accepted", error="",
                                                  mask_sha256=hashlib.sha256(file.read_bytes()).hexdigest()))
    return file.read_bytes()


def mask(folder: Path, name: str) -> bytes:
    return (folder / "masks" / f"{name}.png").read_bytes()


def test_a_mask_painted_while_a_run_makes_it_stays(folder: Path) -> None:
    run(folder, plan())
    painted: list[bytes] = []
    for other in (plan(0.5, Meanwhile(happens=lambda picture: painted.append(paint(folder, "b")) if picture[0, 0, 0] == 110 else None)),
                  plan(0.6)):
        results = run(folder, other)
        assert mask(folder, "b") == painted[0]
        assert (results["b"].entry.status, results["b"].entry.review) == ("kept", "accepted")
        assert entry(folder, "b").review == "accepted"
        assert results["a"].fresh
    assert masked_set(scan_folder(FolderSpec(folder=folder, mask_source="none")), list(results.values()), "").items[1].name == "b"


@pytest.mark.parametrize("redo", [False, True])
def test_what_a_person_does_before_its_turn_comes_counts(folder: Path, redo: bool) -> None:
    """Pictures are read ahead, and what was marked for it before may be painted by now."""
    run(folder, plan())
    if redo:
        mark(folder, "c", "redo")
    painted: list[bytes] = []

    def watch(done: int, total: int, text: str) -> None:
        if done == 1 and text:
            painted.append(paint(folder, "c"))

    assert run(folder, plan(1.0 if redo else 0.5), watch=watch)["c"].entry.review == "accepted"
    assert mask(folder, "c") == painted[0]
    assert entry(folder, "c").review == "accepted"


@pytest.mark.parametrize("said", ["accepted", "redo"])
def test_a_word_said_while_a_run_makes_a_mask_is_not_lost(folder: Path, said: str) -> None:
    run(folder, plan())
    before = mask(folder, "a")
    say = Meanwhile(happens=lambda picture: mark(folder, "a", said) if picture[0, 0, 0] == 100 else None)
    result = run(folder, plan(0.5, say))["a"]
    assert mask(folder, "a") == before
    assert (result.entry.status, entry(folder, "a").review) == ("kept", said)
    assert run(folder, plan(0.5))["a"].fresh == (said == "redo")


def test_a_file_changed_or_removed_by_another_program_meanwhile(folder: Path) -> None:
    run(folder, plan())
    masks = folder / "masks"

    def happens(picture_HWC: Tensor) -> None:
        if picture_HWC[0, 0, 0] == 100:
            Image.new("L", SIZE, 77).save(masks / "a.png")
        if picture_HWC[0, 0, 0] == 110:
            (masks / "b.png").unlink()

    results = run(folder, plan(0.5, Meanwhile(happens=happens)))
    with Image.open(masks / "a.png") as kept:
        assert kept.getextrema() == (77, 77)
    assert results["a"].entry.status == entry(folder, "a").status == "kept"
    assert not (masks / "b.png").exists()
    assert "was removed while another one was made; run again" in results["b"].entry.error
    assert run(folder, plan(0.5))["b"].entry.status == "made"


def test_accepted_holds_whatever_changes(folder: Path) -> None:
    run(folder, plan())
    for name in ("a", "b", "dark"):
        mark(folder, name, "accepted")
    before = mask(folder, "a")
    os.utime(folder / "a.png", ns=(1, 1))
    Image.new("RGB", SIZE, (250, 250, 250)).save(folder / "dark.png")
    for existing in (CHANGED, "keep", CHANGED):
        results = run(folder, plan(0.5), existing)
        assert mask(folder, "a") == before
        assert doubt(results["a"].entry) == doubt(results["dark"].entry) == "the picture changed after its mask was accepted"
        assert doubt(results["b"].entry) == ""
        assert {entry(folder, name).review for name in ("a", "b", "dark")} == {"accepted"}
        assert not (folder / "masks" / "dark.png").exists()
    told = report_text(list(results.values()), plan(), 1.0)
    assert "needs a person" not in told
    assert "  dark: accepted without a mask; the picture changed after its mask was accepted" in told
    assert '"worth_a_look": [\n  "a",\n  "dark"\n ]' in report_json(list(results.values()), plan(), 1.0)
    assert doubtful_sheet(list(results.values())).ndim == 3

    mark(folder, "a", "redo")
    assert run(folder, plan(0.5))["a"].entry.status == "made"
    assert run(folder, plan(0.5), "redo all")["dark"].entry.status == "made"
    assert entry(folder, "b").review == ""


def test_none_on_purpose_needs_nobody(folder: Path) -> None:
    run(folder, plan())
    failing = plan(1.0, Broken(height=SIZE[1]))
    (folder / "masks" / "a.png").unlink()
    assert run(folder, failing)["a"].entry.status == "failed"
    for name in ("a", "dark"):
        mark(folder, name, "accepted")
        assert doubt(entry(folder, name)) == ""
    results = run(folder, plan())
    assert in_need(list(results.values())) == []
    assert not (folder / "masks" / "a.png").exists()
    assert [results[name].entry.mask for name in ("a", "dark")] == [None, None]


def test_an_accepted_mask_that_is_gone_is_said(folder: Path) -> None:
    run(folder, plan())
    mark(folder, "a", "accepted")
    (folder / "masks" / "a.png").unlink()
    result = run(folder, plan())["a"]
    assert (result.entry.status, doubt(result.entry)) == ("failed", "needs a person")
    assert "the mask that was accepted is gone; put it back, or mark" in result.entry.error
    mark(folder, "a", "redo")
    assert run(folder, plan())["a"].entry.status == "made"


def test_a_redo_that_fails_is_still_asked_for(folder: Path) -> None:
    run(folder, plan())
    painted = paint(folder, "a")
    mark(folder, "a", "redo")
    assert run(folder, plan(1.0, Broken(height=SIZE[1])))["a"].entry.status == "failed"
    assert entry(folder, "a").review == "redo"
    assert mask(folder, "a") == painted
    assert run(folder, plan())["a"].entry.status == "made"
    assert entry(folder, "a").review == ""


@pytest.mark.parametrize("how", ["redo", "redo all"])
def test_a_mask_with_another_ending_answers_a_redo_in_words(folder: Path, how: str) -> None:
    (folder / "masks").mkdir()
    Image.new("L", SIZE, 200).save(folder / "masks" / "a.jpg")
    assert run(folder, plan())["a"].entry.error == ""
    if how == "redo":
        mark(folder, "a", "redo")
    results = run(folder, plan(), "redo all" if how == "redo all" else CHANGED)
    assert "cannot be made anew" in doubt(results["a"].entry)
    assert (entry(folder, "a").mask, entry(folder, "a").review) == ("a.jpg", "")
    assert not run(folder, plan())["a"].fresh


def test_the_journals_paths_are_not_believed(folder: Path, tmp_path: Path) -> None:
    run(folder, plan())
    Image.new("L", SIZE, 9).save(tmp_path / "elsewhere.png")
    for name, other in (("a", {}), ("b", {"review": "accepted"}), ("dark", {})):
        mask_journal.append(folder / "masks", replace(entry(folder, name), mask="../../elsewhere.png", **other))
    results = run(folder, plan())
    assert {name: result.entry.mask for name, result in results.items()} == {"a": "a.png", "b": "b.png", "c": "c.png", "dark": None}
    mask_journal.append(folder / "masks", replace(entry(folder, "a"), mask="../../elsewhere.png"))
    assert run(folder, plan(0.5), "keep")["a"].entry.mask == "a.png"


def test_a_journal_that_is_a_link_ends_the_run_before_it_begins(folder: Path, tmp_path: Path) -> None:
    (folder / "masks").mkdir()
    (tmp_path / "notes.txt").write_text("mine\n")
    (folder / "masks" / mask_journal.JOURNAL).symlink_to(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="is a link and is neither read nor written; remove it"):
        run(folder, plan())
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    assert not (folder / "masks" / "a.png").exists()


def test_the_plan_is_described_once_a_run(folder: Path) -> None:
    described: list[int] = []

    class Counted(Bright):
        def describe(self) -> dict[str, object]:
            described.append(1)
            return super().describe()

    run(folder, plan(1.0, Counted()))
    assert len(described) == 1


def test_the_node_runs_again_when_its_folder_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("input", "output", "user"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(folder.parent / name))
    other = folder.parent / "output" / "own"
    (other / "sub").mkdir(parents=True)

    def state(name: str | None = "own [output]", layout: Any = "another folder") -> str:
        return WriteMasks.fingerprint_inputs(data_set=None, layout={"layout": layout, "folder": name}, existing=CHANGED)

    seen, elsewhere = [state()], [state("own_too"), state("..")]
    for change in (lambda: Image.new("L", SIZE).save(other / "a.png"), lambda: Image.new("L", SIZE).save(other / "sub" / "b.png"),
                   lambda: os.utime(other / "a.png", ns=(1, 1)), lambda: (other / "a.png").unlink(),
                   lambda: mask_journal.append(other, Entry("../a.png", review="redo")),
                   lambda: mask_journal.append(other, Entry("../a.png", status="failed"))):
        before = WriteMasks.fingerprint_inputs(layout=None), state(None), state(layout=None), state(layout="masks folder")
        change()
        seen.append(state())
    assert len(set(seen)) == len(seen) == 7
    mask_journal.append(other, Entry("../a.png", review="accepted"))
    assert state() == seen[-1]
    assert [state("own_too"), state("..")] == elsewhere
    # Of folders that are not known all marks count.
    assert len(set(before)) == 1
    assert WriteMasks.fingerprint_inputs(layout=None) == state(None) == state(layout=None) != before[0]
