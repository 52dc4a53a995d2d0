"""Folders of other trainers, as they are on disk, read without renaming."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pack.dataset.item import DataSet, MaskFiles
from pack.dataset.layouts import folder_repeats, longest_ending
from pack.dataset.scan import FolderSpec, scan_folder
from PIL import Image
from skimage import data

PHOTOGRAPH = Image.fromarray(data.chelsea()).resize((48, 32))
MASK = Image.fromarray(data.horse()).convert("L").resize((48, 32))


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (MASK if "mask" in name else PHOTOGRAPH).save(folder / name)
    return folder


def write(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


def lines(*entries: object) -> str:
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


def scan(folder: Path, **choices: Any) -> DataSet:
    return scan_folder(FolderSpec(folder=folder, **({"mask_source": "none"} | choices)))


def captions(data_set: DataSet) -> dict[str, str]:
    return {item.name: item.caption for item in data_set.items}


def masks(data_set: DataSet, folder: Path) -> dict[str, str]:
    return {item.name: item.mask.paths[0].relative_to(folder.resolve()).as_posix() for item in data_set.items
            if isinstance(item.mask, MaskFiles)}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("10_anna woman/1.jpg", ("10_anna woman", 10)), ("1_/1.jpg", ("1_", 1)), ("10_anna/deep/1.jpg", ("10_anna", 10)),
     ("anna/10_x/1.jpg", None), ("10_1.jpg", None), ("2024_summer/1.jpg", None), ("10anna/1.jpg", None), ("0_off/1.jpg", ("0_off", 0)),
     ("-3_x/1.jpg", None), ("999_x/1.jpg", ("999_x", 999)), ("1000_x/1.jpg", None)])
def test_repeats_in_folder_names(path: str, expected: tuple[str, int] | None) -> None:
    assert folder_repeats(path) == expected


def test_sd_scripts_folders(tmp_path: Path) -> None:
    put(tmp_path, "10_anna woman/1.jpg", "2_woman/1.png", "0_off/1.jpg", "other/1.jpg", "10_anna woman/1mask.png")
    for name in ("10_anna woman/1.npz", "10_anna woman/1_0048x0032_flux.npz", "2_woman/1_flux_te.npz"):
        (tmp_path / name).write_bytes(b"PK")
    (tmp_path / "10_anna woman" / "1mask.png").unlink()
    write(tmp_path / "10_anna woman" / "1.caption", "anna woman")
    data_set = scan(tmp_path, repeats=3)
    assert {item.name: item.repeats for item in data_set.items} == {"10_anna woman/1": 30, "2_woman/1": 6, "other/1": 3}
    assert captions(data_set)["10_anna woman/1"] == "anna woman"
    assert "repeats from folder names (as sd-scripts): 2_woman/ 2x, 10_anna woman/ 10x" in data_set.report
    assert "folders with 0 repeats, left out: 1 (0_off/1)" in data_set.report
    with pytest.raises(ValueError, match="all folders have 0 repeats"):
        put(tmp_path / "off", "0_off/1.jpg")
        scan(tmp_path / "off")


def test_sd_scripts_metadata_with_paths_of_another_machine(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "anna/1.jpg", "anna/2.webp", "3.jpg")
    write(tmp_path / "metadata.json", json.dumps({
        "C:\\Users\\x\\set\\1.jpg": {"caption": "at the top", "tags": "red, blue", "train_resolution": [512, 512]},
        "/home/x/set/anna/1.jpg": {"caption": "below"},
        "set\\anna\\2": {"tags": "only tags"},
        "../../../etc/3.jpg": {"caption": "three"},
        "/elsewhere/4.jpg": {"caption": "nothing of ours"},
    }))
    data_set = scan(tmp_path)
    assert captions(data_set) == {"1": "at the top, red, blue", "3": "three", "anna/1": "below", "anna/2": "only tags"}
    assert "metadata files with entries that match no picture: 1 (metadata.json: 1 of 5 entries match no picture)" in data_set.report


def test_musubi_tuner_lines_and_cache_folders(tmp_path: Path) -> None:
    put(tmp_path, "images/1.jpg", "images/2.jpg")
    write(tmp_path / "captions.jsonl", lines({"image_path": "/data/set/images/1.jpg", "caption": "one"},
                                             {"image_path": "images/2.jpg", "caption": "  two\nlines "}))
    for name in ("images/1_0048x0032_fx.safetensors", "cache/2_fx_te.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 16)
    assert captions(scan(tmp_path)) == {"images/1": "one", "images/2": "two\nlines"}


def test_hugging_face_lines_beside_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "train/1.jpg", "test/1.jpg")
    write(tmp_path / "train" / "metadata.jsonl", "\ufeff" + lines({"file_name": "1.jpg", "text": "train"}))
    write(tmp_path / "test" / "metadata.jsonl", "\r\n".join(lines({"file_name": ".\\1.jpg", "text": "test"}).split("\n")))
    assert captions(scan(tmp_path)) == {"test/1": "test", "train/1": "train"}


def test_two_captions_for_one_picture(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "a/1.jpg")
    write(tmp_path / "a.jsonl", lines({"image_path": "D:\\x\\b\\1.jpg", "caption": "first"},
                                      {"image_path": "/y/a/1.jpg", "caption": "longer"}))
    write(tmp_path / "b.jsonl", lines({"image_path": "c\\1.jpg", "caption": "second"}, {"image_path": "a/1.jpg", "caption": "longer"}))
    write(tmp_path / "a" / "a.jsonl", lines({"image_path": "1.jpg", "caption": "beside"}))  # as sure as the others
    data_set = scan(tmp_path)
    assert captions(data_set) == {"1": "first", "a/1": "longer"}
    assert "different captions in metadata files; the first was taken: 2 (a/1, 1)" in data_set.report


def test_a_bare_name_never_means_a_picture_elsewhere(tmp_path: Path) -> None:
    """b/1.png is gone; the picture of that name above must not get its caption."""
    put(tmp_path, "1.png", "b/2.png")
    write(tmp_path / "b" / "metadata.jsonl", lines({"image_path": "1.png", "caption": "of b"}, {"image_path": "2.png", "caption": "two"}))
    data_set = scan(tmp_path, mask_source="none")
    assert captions(data_set) == {"1": "", "b/2": "two"}
    assert "1 of 2 entries match no picture" in data_set.report
    write(tmp_path / "metadata.jsonl", lines({"image_path": "1.png", "caption": "of the top"}))
    assert captions(scan(tmp_path, mask_source="none")) == {"1": "of the top", "b/2": "two"}


def test_paths_are_matched_by_their_longest_ending() -> None:
    known = {"1.jpg": "1", "anna/1.jpg": "anna/1", "1": "1"}
    assert longest_ending("/x/anna/1.jpg", known) == ("anna/1", 2)
    assert longest_ending("/x/bob/1.jpg", known) == ("1", 1)
    assert longest_ending("1.jpg", known, "anna") == ("anna/1", 2)
    assert longest_ending("/x/anna/1.jpg", known, "bob") == ("anna/1", 2)
    assert longest_ending("1.jpg", known, "bob") is None  # a picture that was beside the file and is gone
    assert longest_ending("..\\..\\etc\\passwd", known) is None
    assert longest_ending("", known) is None
    assert longest_ending("/", known) is None


def test_lines_that_are_no_captions(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    write(tmp_path / "log.jsonl", lines({"step": 1}, {"step": 2}))
    assert "log.jsonl: 2 of 2 entries match no picture" in scan(tmp_path).report
    write(tmp_path / "list.jsonl", lines([1]))
    write(tmp_path / "metadata.json", "[]")
    with pytest.raises(ValueError, match=r"list\.jsonl: line 1 is not a JSON object, metadata\.json: is not a JSON object"):
        scan(tmp_path)


def test_onetrainer_masks_beside_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "1-masklabel.png", "a/2.webp", "a/2-masklabel.png", "3.PNG")
    data_set = scan(tmp_path, mask_source="automatic", missing_mask="all ones")
    assert [item.name for item in data_set.items] == ["1", "3", "a/2"]
    assert masks(data_set, tmp_path) == {"1": "1-masklabel.png", "a/2": "a/2-masklabel.png"}


def test_simpletuner_masks_with_the_whole_name(tmp_path: Path) -> None:
    put(tmp_path, "images/a/1.jpg", "images/2.png", "conditioning mask/a/1.jpg", "conditioning mask/2.png")
    data_set = scan_folder(FolderSpec(folder=tmp_path / "images", mask_root=tmp_path / "conditioning mask"))
    assert masks(data_set, tmp_path) == {"a/1": "conditioning mask/a/1.jpg", "2": "conditioning mask/2.png"}


def test_ai_toolkit_and_sd_scripts_masks_in_one_flat_folder(tmp_path: Path) -> None:
    put(tmp_path, "set/10_anna/1.jpg", "set/5_bob/2.jpg", "mask_path/1.png", "mask_path/2.png")
    data_set = scan_folder(FolderSpec(folder=tmp_path / "set", mask_root=tmp_path / "mask_path"))
    assert masks(data_set, tmp_path) == {"10_anna/1": "mask_path/1.png", "5_bob/2": "mask_path/2.png"}
