"""Which picture gets which mask and caption, and what is said about the rest."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from pack.dataset.folder import folder_fingerprint, scan_folder
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a has mask and caption, b a caption, c nothing; one mask fits no picture."""
    place = tmp_path / "set"
    (place / "masks").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "c.webp"):
        Image.new("RGB", (32, 32)).save(place / name)
    Image.new("L", (32, 32)).save(place / "masks" / "a.bmp")
    Image.new("L", (32, 32)).save(place / "masks" / "b_mask.png")
    (place / "a.txt").write_text("\ufeffpibo, a red robot\n", encoding="utf-8")
    (place / "b.txt").write_text("caf\u00e9", encoding="utf-8")
    (place / "._a.png").write_bytes(b"not a picture")
    (place / "notes.md").write_text("nothing", encoding="utf-8")
    return place


def test_pairs_by_name(folder: Path) -> None:
    scan = scan_folder(folder, "folder", "all ones")
    assert [(t.name, t.image.name, t.mask and t.mask.name, t.caption) for t in scan.triples] == [
        ("a", "a.PNG", "a.bmp", "pibo, a red robot"), ("b", "b.jpg", None, "caf\u00e9"), ("c", "c.webp", None, "")]


def test_everything_is_counted(folder: Path) -> None:
    report = scan_folder(folder, "folder", "all ones").report
    assert "3 pictures, 1 masks from masks/; white = learn" in report
    assert "without a mask, learned everywhere: 2 (b.jpg, c.webp)" in report
    assert "without a caption, trained on empty text: 1 (c.webp)" in report
    assert "match no picture, unused: 1 (b_mask.png)" in report


def test_skip_leaves_out_and_counts(folder: Path) -> None:
    scan = scan_folder(folder, "folder", "skip")
    assert [t.name for t in scan.triples] == ["a"]
    assert "1 pictures, 1 masks" in scan.report
    assert "without a mask, skipped: 2" in scan.report


def test_error_names_pictures_and_remedy(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"2 of 3 pictures have no mask: b\.jpg, c\.webp; put masks/b\.png") as caught:
        scan_folder(folder)
    assert "'all ones'" in str(caught.value)


def test_none_asks_for_no_masks(folder: Path) -> None:
    scan = scan_folder(folder, "none", "error")
    assert [t.mask for t in scan.triples] == [None] * 3
    assert "all 3 pictures are learned everywhere" in scan.report


def test_alpha_takes_each_picture_as_its_own_mask(folder: Path) -> None:
    Image.new("RGBA", (32, 32), (9, 9, 9, 100)).save(folder / "a.PNG")
    Image.new("RGBA", (32, 32), (9, 9, 9, 255)).save(folder / "c.webp", lossless=True)  # opaque: WebP drops the channel
    scan = scan_folder(folder, "alpha", "all ones")
    assert [t.mask == t.image for t in scan.triples] == [True, False, False]
    assert "1 masks from alpha channels" in scan.report
    assert "without a mask, learned everywhere: 2" in scan.report
    with pytest.raises(ValueError, match="save these pictures with an alpha channel"):
        scan_folder(folder, "alpha", "error")


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    Image.new("RGB", (32, 32)).save(folder / "a.jpeg")
    with pytest.raises(ValueError, match=r"a\.PNG and a\.jpeg"):
        scan_folder(folder, "none")
    (folder / "a.jpeg").unlink()
    Image.new("L", (32, 32)).save(folder / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a\.bmp and a\.png"):
        scan_folder(folder, "folder", "skip")


def test_empty_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="holds no pictures"):
        scan_folder(tmp_path / "nowhere")
    (folder / "masks" / "a.bmp").unlink()
    with pytest.raises(ValueError, match="all 3 pictures lack a mask"):
        scan_folder(folder, "folder", "skip")


def test_unknown_choices_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="mask_source is 'colour'"):
        scan_folder(folder, "colour")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing_mask is 'guess'"):
        scan_folder(folder, "none", "guess")  # type: ignore[arg-type]


def test_unreadable_files_are_named(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8"):
        scan_folder(folder, "none")
    (folder / "a.txt").unlink()
    (folder / "b.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read"):
        scan_folder(folder, "alpha", "skip")


def test_the_fingerprint_follows_every_file_of_the_set(folder: Path) -> None:
    seen = [folder_fingerprint(folder)]
    assert folder_fingerprint(folder) == seen[0]
    (folder / "notes.md").write_text("more", encoding="utf-8")
    assert folder_fingerprint(folder) == seen[0]
    (folder / "a.txt").write_text("another caption", encoding="utf-8")
    seen.append(folder_fingerprint(folder))
    Image.new("L", (32, 32), 255).save(folder / "masks" / "c.png")
    seen.append(folder_fingerprint(folder))
    os.utime(folder / "b.jpg", ns=(1, 1))
    seen.append(folder_fingerprint(folder))
    (folder / "c.webp").unlink()
    seen.append(folder_fingerprint(folder))
    assert len(set(seen)) == 5
