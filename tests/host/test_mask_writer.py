"""Masks for folders of photographs: what is written, kept, made anew, left out, and what becomes of a run that is killed.

The photographs come inside scikit-image's wheel (see test_photographs.py). White = learn.
"""
from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pack.dataset.item import DataSet, ImagePixels, Item, MaskFiles
from pack.dataset.load import load_mask
from pack.dataset.scan import FolderSpec, combine_data_sets, scan_folder
from pack.host import mask_journal, mask_writer
from pack.host.mask_journal import JOURNAL
from pack.host.mask_places import LAYOUTS, mask_places, set_folders
from pack.host.mask_plan import MaskPlan, Part
from pack.host.mask_report import doubt, masked_set, report_json, report_text
from pack.host.mask_sheet import doubtful_sheet
from pack.host.mask_writer import Result, write_masks
from PIL import Image
from skimage import data

from .mask_stand_ins import Bright, Broken, Captioned, Hungry

PLAN = MaskPlan((Part(Bright(), {"bright": 1, "red": 0.5}),))
CHANGED = "redo ours if changed"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cat, a turned cup in a sub-folder, a camera in grey, and a night in which nothing is bright."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "sub").mkdir()
    Image.fromarray(data.chelsea()).resize((90, 60)).save(folder / "cat.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(data.coffee()).resize((60, 40)).save(folder / "sub" / "a.b cup.jpg", exif=turned)
    Image.fromarray(data.camera()).resize((48, 48)).save(folder / "camera.png")
    Image.fromarray(data.astronaut() // 8).resize((50, 50)).save(folder / "night.png")
    (folder / "cat.txt").write_text("a bright cat", encoding="utf-8")
    return folder


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    place = tmp_path / "set"
    for file in photographs.rglob("*.*"):
        if file.is_file():
            target = place / file.relative_to(photographs)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return place


def scan(folder: Path, **choices: Any) -> DataSet:
    return scan_folder(FolderSpec(folder=folder, **({"mask_source": "none"} | choices)))


def run(folder: Path, plan: MaskPlan = PLAN, existing: Any = CHANGED, layout: Any = "masks folder", **choices: Any) -> dict[str, Result]:
    """Results by name."""
    found = write_masks(mask_places(scan(folder, **choices), layout), plan, existing)
    return {result.place.name: result for result in found}


def statuses(results: dict[str, Result]) -> dict[str, str]:
    return {name: result.entry.status + ("" if result.fresh else " before") for name, result in results.items()}


def expected_grey(file: Path) -> np.ndarray:
    """The plan by hand on the upright picture: the greater of brightness and half of red over green, in 8 bits."""
    with Image.open(file) as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_270) if opened.getexif().get(0x0112) == 6 else opened
        pixels = np.asarray(turned.convert("RGB"), np.float64) / 255
    bright, red = pixels.mean(-1), np.clip(pixels[..., 0] - pixels[..., 1], 0, 1)
    planes = [bright * (bright.max() > 0.25), red * 0.5 * (red.max() > 0.25)]
    return np.maximum(*planes) * 255


MADE = {"cat": "made", "sub/a.b cup": "made", "camera": "made", "night": "nothing found"}
BEFORE = {name: f"{status} before" for name, status in MADE.items()}


def test_masks_are_written_where_they_belong(folder: Path) -> None:
    results = run(folder)
    assert statuses(results) == MADE
    files = {file.relative_to(folder / "masks").as_posix() for file in (folder / "masks").rglob("*") if file.is_file()}
    assert files == {"cat.png", "sub/a.b cup.png", "camera.png", JOURNAL}
    for name, picture in (("cat", "cat.png"), ("sub/a.b cup", "sub/a.b cup.jpg"), ("camera", "camera.png")):
        with Image.open(folder / "masks" / f"{name}.png") as mask:
            assert mask.mode == "L"
            grey = np.asarray(mask, np.float64)
        wanted = expected_grey(folder / picture)
        assert grey.shape == wanted.shape
        assert np.abs(grey - wanted).max() <= 0.5 + 1e-4
        entry = results[name].entry
        assert entry.coverage == pytest.approx(wanted.mean() / 255, abs=1e-5)
        assert entry.mask_sha256 == hashlib.sha256((folder / "masks" / f"{name}.png").read_bytes()).hexdigest()
        facts = (folder / picture).stat()
        assert entry.picture_id == f"{facts.st_size}-{facts.st_mtime_ns}"
        assert (entry.picture, entry.mask) == (f"../{picture}", f"{name}.png")
    assert results["cat"].entry.found == ("bright", "red")
    assert results["camera"].entry.missing == ("red",)
    assert results["night"].entry.missing == ("bright", "red")
    assert mask_journal.read(folder / "masks") == {one.entry.picture: one.entry for one in results.values()}


@pytest.mark.parametrize(("layout", "source"), [
    ("masks folder", "folder"), ("beside, -masklabel.png", "sidecar"), ("beside, .mask.png", "sidecar"), ("another folder", "folder")])
def test_our_loader_reads_every_layout(folder: Path, tmp_path: Path, layout: Any, source: str) -> None:
    other = tmp_path / "weights" if layout == "another folder" else None
    results = write_masks(mask_places(scan(folder), layout, other), PLAN, CHANGED)
    loaded = scan(folder, mask_source=source, mask_root=other, missing_mask="skip")
    fresh = masked_set(scan(folder), results, "")
    assert [item.name for item in loaded.items] == [item.name for item in fresh.items] == ["camera", "cat", "sub/a.b cup"]
    for item, same in zip(loaded.items, fresh.items, strict=True):
        mask_THW, same_THW = load_mask(item), load_mask(same)
        assert mask_THW is not None
        assert same_THW is not None
        file = next(folder.glob(f"{item.name}.[jp]*g"))
        assert np.abs(mask_THW[0].numpy() * 255 - expected_grey(file)).max() <= 0.5 + 1e-4
        assert torch.equal(mask_THW, same_THW)
    # Masks and the journal are no pictures.
    assert len(scan(folder, mask_source="none").items) == 4


def test_a_second_run_makes_nothing(folder: Path) -> None:
    first = run(folder)
    journal = (folder / "masks" / JOURNAL).read_bytes()
    second = run(folder)
    assert statuses(second) == BEFORE
    assert {name: one.entry for name, one in second.items()} == {name: one.entry for name, one in first.items()}
    assert (folder / "masks" / JOURNAL).read_bytes() == journal


def test_another_plan_makes_ours_anew(folder: Path) -> None:
    run(folder)
    other = MaskPlan((Part(Bright("other"), {"bright": 1}),))
    assert statuses(run(folder, other, "keep")) == BEFORE | {"cat": "kept before", "sub/a.b cup": "kept before", "camera": "kept before",
                                                            "night": "nothing found"}
    assert statuses(run(folder, other)) == MADE | {"night": "nothing found before"}
    assert statuses(run(folder, other)) == BEFORE


def test_another_picture_is_segmented_again(folder: Path) -> None:
    run(folder)
    Image.fromarray(255 - np.asarray(Image.open(folder / "cat.png"))).save(folder / "cat.png")
    os.utime(folder / "night.png", ns=(1, 1))
    assert statuses(run(folder)) == BEFORE | {"cat": "made", "night": "nothing found"}
    wanted = expected_grey(folder / "cat.png")
    assert np.abs(np.asarray(Image.open(folder / "masks" / "cat.png")) - wanted).max() <= 0.5 + 1e-4


def test_a_mask_that_is_gone_is_made_again(folder: Path) -> None:
    run(folder)
    (folder / "masks" / "cat.png").unlink()
    assert statuses(run(folder, existing="keep")) == BEFORE | {"cat": "made"}


def test_what_a_person_made_or_changed_stays(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.new("L", (90, 60), 128).save(folder / "masks" / "cat.png")
    Image.new("L", (24, 48), 255).save(folder / "masks" / "camera.BMP")
    first = run(folder)
    assert first["camera"].entry.error == doubt(first["camera"].entry) == "it is 24x48, its picture 48x48"
    assert statuses(first) == MADE | {"cat": "kept", "camera": "kept"}
    assert first["cat"].entry.coverage == pytest.approx(128 / 255, abs=1e-5)
    assert not (folder / "masks" / "camera.png").exists()
    cup = folder / "masks" / "sub" / "a.b cup.png"
    Image.eval(Image.open(cup), lambda value: value // 2).save(cup)
    edited = cup.read_bytes()
    for plan in (PLAN, MaskPlan((Part(Bright("other"), {"bright": 1}),))):
        for _ in range(2):
            assert run(folder, plan)["sub/a.b cup"].entry.status == "kept"
            assert cup.read_bytes() == edited
    assert statuses(run(folder))["cat"] == "kept before"

    done = run(folder, existing="redo all")
    assert statuses(done) == MADE | {"camera": "kept"}  # with another ending it would be a second mask
    assert "a second file with the ending .png would lie beside it" in done["camera"].entry.error
    assert np.abs(np.asarray(Image.open(folder / "masks" / "cat.png")) - expected_grey(folder / "cat.png")).max() <= 0.5 + 1e-4


def test_a_persons_word_counts(folder: Path) -> None:
    results = run(folder)
    home, cat = folder / "masks", results["cat"].entry
    mask_journal.append(home, replace(cat, review="accepted"))
    other = MaskPlan((Part(Bright("other"), {"bright": 1}),))
    assert run(folder, other)["cat"].entry == replace(cat, review="accepted", status="kept")
    assert run(folder, other, "redo all")["cat"].entry.review == ""
    mask_journal.append(home, replace(mask_journal.read(home)["../cat.png"], review="accepted"))
    os.utime(folder / "cat.png", ns=(1, 1))  # another picture may lie there now
    changed = run(folder, other)["cat"].entry
    assert (changed.status, doubt(changed)) == ("kept", "the picture changed after its mask was accepted")

    mask_journal.append(home, replace(mask_journal.read(home)["../cat.png"], review="redo"))
    again = run(folder, other, "keep")
    assert statuses(again)["cat"] == "made"
    assert again["cat"].entry.review == ""

    Image.new("L", (90, 60)).save(home / "cat.png")
    mask_journal.append(home, replace(run(folder, other)["cat"].entry, review="redo"))
    assert statuses(run(folder, other))["cat"] == "made"


def test_ours_goes_where_nothing_is_found_any_more(folder: Path) -> None:
    run(folder)
    Image.new("L", (48, 48), 9).save(folder / "masks" / "camera.png")
    nothing = MaskPlan((Part(Bright(), {"green": 1}),))
    results = run(folder, nothing, "redo all")
    assert statuses(results) == dict.fromkeys(MADE, "nothing found") | {"camera": "kept"}
    assert "a person made stays" in results["camera"].entry.error
    assert not (folder / "masks" / "cat.png").exists()
    assert (folder / "masks" / "camera.png").exists()


def test_captions_count_where_they_are_read(folder: Path) -> None:
    plan = MaskPlan((Part(Captioned(), {"bright": 1}),))
    assert statuses(run(folder, plan)) == dict.fromkeys(MADE, "nothing found") | {"cat": "made"}
    (folder / "camera.txt").write_text("bright", encoding="utf-8")
    assert statuses(run(folder, plan)) == dict.fromkeys(MADE, "nothing found before") | {"cat": "made before", "camera": "made"}
    run(folder)
    (folder / "camera.txt").write_text("dark", encoding="utf-8")
    assert statuses(run(folder)) == BEFORE


def test_one_bad_picture_does_not_end_the_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (folder / "cat.png").read_bytes()
    scanned = scan(folder)
    (folder / "cat.png").write_bytes(whole[: len(whole) // 2])
    plan = MaskPlan((Part(Broken(height=48), {"bright": 1}),))
    told: list[tuple[int, int, str]] = []
    results = write_masks(mask_places(scanned, "masks folder"), plan, CHANGED, lambda done, total, text: told.append((done, total, text)))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"Masked LoRA cannot make a mask for {folder / name}" for name in ("camera.png", "cat.png")]
    by_name = {result.place.name: result for result in results}
    assert statuses(by_name) == MADE | {"cat": "failed", "camera": "failed"}
    assert "cat.png cannot be read as a picture" in by_name["cat"].entry.error
    assert "save it again" in by_name["cat"].entry.error
    assert by_name["camera"].entry.error.startswith("The size of tensor a")
    assert [done for done, _, text in told if text] == [1, 2, 3, 4]

    (folder / "cat.png").write_bytes(whole)
    assert statuses(run(folder, plan)) == BEFORE | {"cat": "made", "camera": "failed"}


def test_out_of_memory_is_tried_again_with_everything_unloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    calls: list[str] = []
    monkeypatch.setattr(comfy.model_management, "unload_all_models", lambda: calls.append("unload"))
    monkeypatch.setattr(comfy.model_management, "soft_empty_cache", lambda force=False: calls.append("empty"))
    small = 60 * 40
    once = run(folder, MaskPlan((Part(Hungry(most=small, times=1), {"bright": 1}),)))
    assert statuses(once) == MADE
    assert calls == ["unload", "empty"]

    always = run(folder, MaskPlan((Part(Hungry("always", most=small), {"bright": 1}),)))
    assert statuses(always) == MADE | {"cat": "failed", "night": "failed"}
    assert always["cat"].entry.error == ("memory ran out twice for a picture of 90x60; use a smaller model, make the picture smaller, or "
                                         "close what else uses the memory")


def test_cancel_keeps_what_is_written(folder: Path) -> None:
    import comfy.model_management

    def cancel(done: int, total: int, text: str) -> None:
        if done == 2 and text:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        write_masks(mask_places(scan(folder), "masks folder"), PLAN, CHANGED, cancel)
    assert statuses(run(folder)) == {"camera": "made before", "cat": "made before", "night": "nothing found", "sub/a.b cup": "made"}


class Killed(BaseException):
    """Stands for the end of the process: nothing handles it."""


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("step", ["the journal", "the mask"])
def test_a_kill_between_journal_and_mask(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: bool) -> None:
    other = MaskPlan((Part(Bright("other"), {"bright": 0.7}),))
    if before:
        run(folder)

    def kill(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mask_journal, "append", kill) if step == "the journal" else patched.setattr(mask_writer, "write_whole", kill)
        with pytest.raises(Killed):
            run(folder, other)
    left = [file.name for file in (folder / "masks").rglob("*.png")]
    assert len(left) == (3 if before else 0)
    # What lies there is known as ours, and as not of this plan.
    assert statuses(run(folder, other)) | {"night": ""} == MADE | {"night": ""}
    assert np.asarray(Image.open(folder / "masks" / "camera.png")).max() == round(0.7 * np.asarray(Image.open(folder / "camera.png")).max())


def test_clips_get_a_mask_for_each_frame(tmp_path: Path) -> None:
    frames = tmp_path / "clips" / "walk"
    frames.mkdir(parents=True)
    for number in (1, 2, 10):
        Image.fromarray(np.roll(data.chelsea(), 30 * number, 1)).resize((48, 32)).save(frames / f"{number}.png")
    results = run(tmp_path / "clips", content="clips")
    assert statuses(results) == {"walk/1": "made", "walk/2": "made", "walk/10": "made"}
    loaded = scan(tmp_path / "clips", content="clips", mask_source="folder")
    assert load_mask(loaded.items[0]).shape == (3, 32, 48)
    for plane_HW, number in zip(load_mask(loaded.items[0]), (1, 2, 10), strict=True):
        assert np.abs(plane_HW.numpy() * 255 - expected_grey(frames / f"{number}.png")).max() <= 0.5 + 1e-4

    Image.new("RGB", (48, 32)).save(frames / "2.png")
    scanned = scan(tmp_path / "clips", content="clips")
    some = write_masks(mask_places(scanned, "masks folder"), PLAN, CHANGED)
    assert [result.entry.status for result in some] == ["made", "nothing found", "made"]
    assert not (tmp_path / "clips" / "masks" / "walk" / "2.png").exists()
    with pytest.raises(ValueError, match=r"(?s)no picture has a mask.*walk/2: nothing found"):
        masked_set(scanned, some, report_text(some, PLAN, 1))
    with pytest.raises(ValueError, match="walk is a clip.*use the layout 'masks folder'"):
        mask_places(scanned, "beside, .mask.png")


def test_sixteen_bits_transparency_and_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    ramp = np.linspace(0, 65535, 20 * 10).reshape(10, 20).astype(np.uint16)
    Image.fromarray(ramp).save(folder / "grey16.png")
    hidden = np.zeros((6, 6, 4), np.uint8)
    hidden[:3] = 200, 200, 200, 255
    hidden[3:] = 250, 250, 250, 0
    Image.fromarray(hidden).save(folder / "cutout.png")
    Image.new("RGB", (1, 1), (255, 255, 255)).save(folder / "dot.png")
    plan = MaskPlan((Part(Bright(), {"bright": 1}),))
    assert set(statuses(run(folder, plan)).values()) == {"made"}
    assert np.abs(np.asarray(Image.open(folder / "masks" / "grey16.png")) - ramp / 257).max() <= 1
    assert np.unique(np.asarray(Image.open(folder / "masks" / "cutout.png"))).tolist() == [200, 250]
    assert Image.open(folder / "masks" / "dot.png").size == (1, 1)
    assert doubtful_sheet(list(run(folder, plan).values())).ndim == 3  # though the dot is smaller than a latent cell


def test_hidden_colours_are_seen_as_they_are_trained(tmp_path: Path) -> None:
    from pack.dataset.item import Transparency

    hidden = np.full((6, 6, 4), 255, np.uint8)
    hidden[3:, :, 3] = 0
    Image.fromarray(hidden).save(tmp_path / "cutout.png")
    run(tmp_path, MaskPlan((Part(Bright(), {"bright": 1}),)), transparency=Transparency("fill", (0, 0, 0)))
    assert np.asarray(Image.open(tmp_path / "masks" / "cutout.png"))[:, 0].tolist() == [255] * 3 + [0] * 3


def test_places_that_are_refused(folder: Path, tmp_path: Path) -> None:
    scanned = scan(folder)
    from_graph = DataSet((Item("one", ImagePixels(torch.zeros(1, 8, 8, 3)), None, "", (8, 8)),), "")
    with pytest.raises(ValueError, match="one comes from the graph and is no file.*use Load Training Folder"):
        mask_places(from_graph, "masks folder")
    with pytest.raises(ValueError, match="layout is 'elsewhere'; use masks folder"):
        mask_places(scanned, "elsewhere")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name a folder for 'another folder', and for it alone"):
        mask_places(scanned, "another folder")
    for wrong in (folder, folder.parent):
        with pytest.raises(ValueError, match="is or holds the pictures of"):
            mask_places(scanned, "another folder", wrong)
    assert LAYOUTS[0] == "masks folder"


def test_combined_sets_keep_their_own_masks_folders(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(data.coffee()).resize((60, 40)).save(other / "cat.png")
    both = combine_data_sets([scan(folder), scan(other)])
    assert set_folders(both) == [folder, other]
    places = {place.name: place.mask for place in mask_places(both, "masks folder")}
    assert places["cat"] == folder / "masks" / "cat.png"
    assert places["2/cat"] == other / "masks" / "cat.png"
    assert {place.mask for place in mask_places(both, "another folder", tmp_path / "w")} >= {tmp_path / "w" / "2" / "cat.png"}
    results = write_masks(mask_places(both, "masks folder"), PLAN, CHANGED)
    assert statuses({result.place.name: result for result in results})["2/cat"] == "made"
    assert set(mask_journal.read(other / "masks")) == {"../cat.png"}


def test_the_set_to_go_on_with(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.new("RGB", (90, 60), (9, 0, 0)).save(folder / "masks" / "cat.png")
    scanned = scan(folder, mask_source="folder", channel="red", missing_mask="all ones")
    results = write_masks(mask_places(scanned, "masks folder"), PLAN, CHANGED)
    text = report_text(results, PLAN, 3.0)
    fresh = masked_set(scanned, results, text)
    by_name = {item.name: item for item in fresh.items}
    assert set(by_name) == {"camera", "cat", "sub/a.b cup"}
    assert by_name["cat"].mask == MaskFiles((folder / "masks" / "cat.png",), "red")
    assert by_name["camera"].mask == MaskFiles((folder / "masks" / "camera.png",))
    assert by_name["cat"].caption == "a bright cat"
    assert "1 of 4 items left out, because masks are missing" in fresh.report


def test_the_report_names_who_needs_a_person(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "cat.png").read_bytes())
    scanned = scan(folder)
    (folder / "broken.png").write_bytes(b"no picture")
    results = write_masks(mask_places(scanned, "masks folder"), PLAN, CHANGED)
    lines = report_text(results, PLAN, 3.0).splitlines()
    assert lines[0] == "5 pictures: 3 masks made, 0 made before and still right, 0 kept, 1 with nothing found, 1 failed; white = learn"
    start = lines.index("needs a person (no mask was written): 2")
    assert lines[start + 1].startswith("  broken: failed: ")
    assert lines[start + 2] == "  night: nothing found; no bright, red"
    assert lines[start + 4] == "worth a look: 1"
    assert lines[start + 5].startswith("  camera: bright; no red; learned ")

    told = json.loads(report_json(results, PLAN, 3.0))
    assert told["counts"] == {"made": 3, "nothing found": 1, "failed": 1}
    assert told["needs_a_person"] == ["broken", "night"]
    assert told["worth_a_look"] == ["camera"]
    assert told["plan"][0]["weights"] == {"bright": 1.0, "red": 0.5}
    cat = next(one for one in told["pictures"] if one["name"] == "cat")
    assert (cat["mask"], cat["picture"], cat["fresh"]) == (str(folder / "masks" / "cat.png"), str(folder / "cat.png"), True)
    sheet = doubtful_sheet(results)
    assert sheet.ndim == 3
    assert sheet.dtype == np.uint8
    assert doubtful_sheet(results, shown=1).shape[0] < sheet.shape[0]


def test_another_folder_with_someone_elses_pictures_is_refused(folder: Path, tmp_path: Path) -> None:
    """A colour photograph under the name of a mask is neither taken for one nor overwritten; grey files are a person's masks."""
    other = tmp_path / "photographs"
    (other / "sub").mkdir(parents=True)
    Image.new("RGB", (90, 60), (200, 200, 200)).save(other / "cat.png")
    Image.new("RGB", (48, 48), (90, 90, 90)).save(other / "camera.jpg")
    results = write_masks(mask_places(scan(folder), "another folder", other), PLAN, CHANGED)
    found = statuses({result.place.name: result for result in results})
    assert found == MADE | {"cat": "kept", "camera": "kept"}
    for name in ("sub/a.b cup.png", "camera.jpg"):
        before = (other / name).read_bytes()
        Image.fromarray(data.coffee()).resize((60, 40)).save(other / name)
        photograph = (other / name).read_bytes()
        with pytest.raises(ValueError, match=rf"{name} is a picture in colour and not a mask for .*{name[:-4]}.*name a folder of its own"):
            mask_places(scan(folder), "another folder", other)
        assert (other / name).read_bytes() == photograph
        (other / name).write_bytes(before)
    Image.fromarray(data.coffee()).resize((60, 40)).save(other / "cat.png")
    accepted = replace(mask_journal.read(other)["../set/cat.png"], mask_sha256=hashlib.sha256((other / "cat.png").read_bytes()).hexdigest())
    mask_journal.append(other, accepted)
    assert len(mask_places(scan(folder), "another folder", other)) == 4  # a person said that this is the mask


def test_another_folder_among_the_pictures_is_refused(folder: Path) -> None:
    for inside in ("my_masks", "sub/weights", "sub"):
        with pytest.raises(ValueError, match="lies among the pictures of .*set, and its masks would be taken for pictures; name a folder"):
            mask_places(scan(folder), "another folder", folder / inside)
    for inside in ("masks", "masks/first", "sub/masks", ".weights"):
        write_masks(mask_places(scan(folder), "another folder", folder / inside), PLAN, CHANGED)
        assert len(scan(folder).items) == 4
    (folder / "masks").rename(folder / "weights")
    kept = scan(folder, mask_source="folder", mask_folder="weights", missing_mask="all ones")
    assert len(mask_places(kept, "another folder", folder / "weights")) == 4
