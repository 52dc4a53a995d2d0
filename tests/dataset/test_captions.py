"""Which text belongs to which picture, in every encoding and place that people have."""
from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from pack.dataset.captions import read_text
from pack.dataset.item import DataSet
from pack.dataset.scan import FolderSpec, scan_folder
from PIL import Image
from skimage import data

PHOTOGRAPH = Image.fromarray(data.astronaut()).resize((48, 32))


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PHOTOGRAPH.save(folder / name)
    return folder


def scan(folder: Path, **choices: Any) -> DataSet:
    return scan_folder(FolderSpec(folder=folder, mask_source="none", **choices))


def captions(folder: Path, **choices: Any) -> list[str]:
    return [item.caption for item in scan(folder, **choices).items]


@pytest.mark.parametrize(
    "data", ["caf\u00e9".encode(), "\ufeffcaf\u00e9".encode(), "caf\u00e9".encode("utf-16"), b"\xfe\xff" + "caf\u00e9".encode("utf-16-be"),
             "caf\u00e9".encode("utf-32")])
def test_encodings_with_and_without_marks(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "1.txt"
    file.write_bytes(data)
    assert read_text(file) == "caf\u00e9"


@pytest.mark.parametrize(
    ("data", "reason"),
    [("caf\u00e9".encode("latin-1"), "is not UTF-8 text .*; save it as UTF-8"), ("red".encode("utf-16-le"), "holds null characters"),
     (b"\xff\xfea", "is not UTF-16 text")])
def test_other_bytes_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "1.txt").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_text(tmp_path / "1.txt")


def write_all(folder: Path) -> Path:
    """1 has every kind of caption, each further picture one kind less, 5 none."""
    pictures(folder, *(f"{number}.jpg" for number in range(1, 6)))
    (folder / "1.txt").write_text(" from\ntxt \n", encoding="utf-8")
    for number in (1, 2):
        (folder / f"{number}.caption").write_text("from caption", encoding="utf-8")
    for number in (1, 2, 3):
        (folder / f"{number}.json").write_text(json.dumps({"caption": "from json", "long": "another"}), encoding="utf-8")
    metadata = {f"{number}.jpg": {"caption": "from metadata"} for number in (1, 2, 3, 4)}
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("automatic", ["from\ntxt", "from caption", "from json", "from metadata", ""]), ("txt", ["from\ntxt", "", "", "", ""]),
     ("caption", ["from caption", "from caption", "", "", ""]), ("json", ["from json"] * 3 + ["", ""]),
     ("metadata", ["from metadata"] * 4 + [""]), ("none", [""] * 5)])
def test_the_order_of_sources(tmp_path: Path, choice: str, expected: list[str]) -> None:
    assert captions(write_all(tmp_path), captions=choice) == expected


def test_sources_and_empty_ones_are_counted(tmp_path: Path) -> None:
    report = scan(write_all(tmp_path)).report
    assert "captions: 1 from .txt, 1 from .caption, 1 from .json, 1 from metadata files" in report
    assert "without a caption, trained on empty text: 1 (5)" in report


def test_empty_files_are_empty_captions(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "1.txt").write_bytes(b"")
    (tmp_path / "1.caption").write_text("not this one", encoding="utf-8")
    (tmp_path / "2.txt").write_bytes(b"\xef\xbb\xbf \r\n")
    (tmp_path / "3.json").write_bytes(b"")
    data_set = scan(tmp_path)
    assert [item.caption for item in data_set.items] == ["", "", ""]
    assert "empty text: 3 (1, 2, 3)" in data_set.report


def test_fields_of_json_files(tmp_path: Path) -> None:
    pictures(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    for number, content in ((1, {"long": "a woman", "caption": "no"}), (2, {"long": ["a", " b ", ""]}), (3, {"caption": "no"})):
        (tmp_path / f"{number}.json").write_text(json.dumps(content), encoding="utf-8")
    assert captions(tmp_path, caption_field="long") == ["a woman", "a, b", ""]
    with pytest.raises(ValueError, match=r"3\.json: has no text in the field 'long' \(it has 'caption'\); set caption_field"):
        scan(tmp_path, caption_field="long", captions="json")


def test_all_unreadable_captions_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{number}.jpg" for number in range(1, 7)))
    (tmp_path / "1.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "2.txt").write_bytes("red".encode("utf-16-le"))
    (tmp_path / "3.json").write_text("{", encoding="utf-8")
    (tmp_path / "4.json").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "5.txt").write_bytes(b"a" * 2_000_000)
    (tmp_path / "a.jsonl").write_text('{"file_name": "6.jpg", "text": "x"}\n{', encoding="utf-8")
    (tmp_path / "metadata.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match="captions that cannot be read: 7 ") as caught:
        scan(tmp_path)
    for told in ("1.txt: is not UTF-8", "2.txt: holds null characters", "3.json: is not JSON", "4.json: is nested too deeply",
                 "5.txt: has 2000000 bytes", "a.jsonl: line 2 is not JSON", "metadata.json: nested too deeply"):
        assert told in str(caught.value)


def test_captions_in_sub_folders_and_of_other_letters(tmp_path: Path) -> None:
    composed, parts = (unicodedata.normalize(form, "\u00c5sa \u2603") for form in ("NFC", "NFD"))
    pictures(tmp_path, f"a b/{parts}.jpg", "1.jpg")
    (tmp_path / "a b" / f"{composed}.TXT").write_text("snow", encoding="utf-8")
    (tmp_path / "a b" / "1.txt").write_text("not for ../1.jpg", encoding="utf-8")
    data_set = scan(tmp_path)
    assert [(item.name, item.caption) for item in data_set.items] == [("1", ""), (f"a b/{composed}", "snow")]
    assert "caption files that match no picture, unused: 1 (a b/1.txt)" in data_set.report


def test_a_picture_called_metadata(tmp_path: Path) -> None:
    pictures(tmp_path, "metadata.jpg")
    (tmp_path / "metadata.json").write_text('{"caption": "about data"}', encoding="utf-8")
    assert captions(tmp_path) == ["about data"]
