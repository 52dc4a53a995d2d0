"""Every pair is looked at before anything is encoded: sizes, values, polarity, damage. White = learn."""
from __future__ import annotations

import io
import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from pack.dataset.pixels import read_mask
from pack.dataset.preflight import MaskFacts, clip_mask_facts, looks_inverted, seems_cut_off
from pack.dataset.scan import FolderSpec, scan_folder
from PIL import Image
from skimage import data

SIZE = (96, 64)


@cache
def cut_out(name: str, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The subject of a photograph as OpenCV's GrabCut finds it in a box given in shares of the sides, 0 or 1."""
    photograph = getattr(data, name)()
    pixels_HWC = cv2.resize(photograph, None, fx=200 / photograph.shape[1], fy=200 / photograph.shape[1], interpolation=cv2.INTER_AREA)
    height, width = pixels_HWC.shape[:2]
    found_HW = np.zeros((height, width), np.uint8)
    box = (int(left * width), int(top * height), int((right - left) * width), int((bottom - top) * height))
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels_HWC, found_HW, box, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    return np.isin(found_HW, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)


@cache
def subject(name: str) -> np.ndarray:
    """Masks of real subjects: full figure, half figure at the frame's edge, close-ups, one at the side."""
    if name == "horse":  # a whole figure
        return np.ascontiguousarray(~data.horse().astype(bool)).astype(np.float32)
    astronaut = cut_out("astronaut", 0.08, 0.02, 0.82, 0.99)  # touches the lower edge
    if name == "face":
        return astronaut[10:90, 60:120]  # fills most of the frame
    if name == "side":
        return astronaut[:, 80:]  # cut by the left edge
    if name == "torso":  # touches three edges
        return astronaut[90:, 60:150]
    return {"astronaut": astronaut, "cup": cut_out("coffee", 0.2, 0.1, 0.9, 0.95)}[name]


SUBJECTS = ["horse", "astronaut", "face", "side", "torso", "cup"]


@pytest.mark.parametrize("name", SUBJECTS)
def test_masks_of_subjects_are_not_called_inverted(name: str) -> None:
    mask_HW = subject(name)
    assert 0.1 < mask_HW.mean() < 0.99
    assert not looks_inverted(mask_HW)
    assert not looks_inverted(cv2.GaussianBlur(mask_HW, (0, 0), 4))
    assert not looks_inverted(np.ascontiguousarray(mask_HW[:, ::-1]))


@pytest.mark.parametrize("name", ["horse", "astronaut", "cup"])
def test_their_inverses_are(name: str) -> None:
    inverse_HW = 1 - subject(name)
    assert looks_inverted(inverse_HW)
    assert looks_inverted(cv2.GaussianBlur(inverse_HW, (0, 0), 4))


def test_a_close_up_covers_more_than_half() -> None:
    assert subject("face").mean() > 0.5
    assert not looks_inverted(np.ones((64, 64), np.float32))
    assert not looks_inverted(np.zeros((64, 64), np.float32))
    assert not looks_inverted(np.ones((1, 1), np.float32))


def two_people() -> np.ndarray:
    mask_HW = np.zeros((60, 90), np.float32)
    mask_HW[10:, :28] = mask_HW[5:, -28:] = 1
    return mask_HW


def test_two_people_with_a_gap_are_not_inverted() -> None:
    assert not looks_inverted(two_people())
    assert looks_inverted(1 - np.pad(np.ones((30, 30), np.float32), 20))


def test_facts_are_the_files_own(tmp_path: Path) -> None:
    values_HW = np.asarray(Image.fromarray(data.camera()).resize(SIZE))
    Image.fromarray(values_HW).save(tmp_path / "grey.png")
    facts = MaskFacts.of(read_mask(tmp_path / "grey.png"))
    assert facts.size == SIZE
    assert facts.mean == pytest.approx(values_HW.mean(dtype=np.float64) / 255, rel=1e-5)
    assert (facts.lowest, facts.highest) == pytest.approx((values_HW.min() / 255, values_HW.max() / 255))


def test_facts_of_a_clip() -> None:
    dark, light = MaskFacts((4, 4), 0.1, 0.0, 0.4, True), MaskFacts((4, 4), 0.5, 0.2, 1.0, False)
    assert clip_mask_facts([dark, light, dark]) == MaskFacts((4, 4), pytest.approx(0.7 / 3), 0.0, 1.0, True)
    assert not clip_mask_facts([dark, light]).inverted


def photograph(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(data.astronaut()).resize(size)


def as_mask(mask_HW: np.ndarray, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray((mask_HW * 255).astype(np.uint8)).resize(size)


def fill(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "masks").mkdir(parents=True)
    for name, mask_HW in masks.items():
        photograph().save(folder / f"{name}.jpg")
        as_mask(mask_HW).save(folder / "masks" / f"{name}.png")
    return folder


def report(folder: Path, **choices: str) -> str:
    return scan_folder(FolderSpec(folder=folder, **choices)).report  # type: ignore[arg-type]


def test_values_are_told(tmp_path: Path) -> None:
    masks = {"a": subject("horse"), "b": np.zeros((8, 8)), "c": np.ones((8, 8)), "d": subject("face"), "e": 1 - subject("horse")}
    told = report(fill(tmp_path / "set", masks))
    means = {name: np.asarray(as_mask(mask_HW)).mean() / 255 for name, mask_HW in masks.items()}
    assert f"white (learned): {np.mean(list(means.values())):.1%} on average, from 0.0% to 100.0%" in told
    assert "all black: nothing is learned there unless the recipe inverts or floors them: 1 (b)" in told
    assert "all white: everything is learned there: 1 (c)" in told
    assert f"more than half white: 1 (d: {means['d']:.0%} white)" in told
    assert f"look inverted (white along the frame, black in the middle; white = learn): 1 (e: {means['e']:.0%} white)" in told
    assert "MOST MASKS LOOK INVERTED" not in told
    assert "more than half is white on average: make sure" in told


def test_a_whole_set_the_wrong_way_round(tmp_path: Path) -> None:
    told = report(fill(tmp_path / "set", {"a": 1 - subject("horse"), "b": 1 - subject("astronaut"), "c": subject("cup")}))
    assert "MOST MASKS LOOK INVERTED: white along the frame, black in the middle. White = learn; set invert" in told
    right = report(fill(tmp_path / "right", {"a": subject("horse"), "b": subject("astronaut"), "c": subject("cup")}))
    assert "inverted" not in right.lower()
    assert "more than half" not in right


def test_nearly_black_and_white_of_jpeg_count(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 5, (64, 96)).astype(np.uint8)
    folder = fill(tmp_path / "set", {"a": np.zeros((4, 4)), "b": np.zeros((4, 4))})
    Image.fromarray(noise).save(folder / "masks" / "a.png")
    Image.fromarray(255 - noise).save(folder / "masks" / "b.png")
    told = report(folder)
    assert "floors them: 1 (a)" in told
    assert "learned there: 1 (b)" in told


def test_transparency_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name, mask_HW in (("a", subject("horse")), ("b", np.zeros((8, 8))), ("c", 1 - subject("horse"))):
        picture = photograph()
        picture.putalpha(as_mask(mask_HW))
        picture.save(tmp_path / "set" / f"{name}.png")
    told = report(tmp_path / "set")
    assert "masks: 3 from alpha channels" in told
    assert "floors them: 1 (b)" in told
    assert "white = learn): 1 (c" in told


@pytest.fixture
def sizes(tmp_path: Path) -> Path:
    """a fits, b is half as large, c has other proportions, d lies on its side, e and its mask are turned by EXIF, f's mask is not."""
    folder = fill(tmp_path / "set", {name: subject("horse") for name in "abcdef"})
    as_mask(subject("horse"), (48, 32)).save(folder / "masks" / "b.png")
    as_mask(subject("horse"), (64, 64)).save(folder / "masks" / "c.png")
    as_mask(subject("horse"), (64, 96)).save(folder / "masks" / "d.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph().save(folder / "e.jpg", exif=exif)
    as_mask(subject("horse"), SIZE).save(folder / "masks" / "e.png", exif=exif)
    photograph().save(folder / "f.jpg", exif=exif)
    return folder


def test_sizes_that_differ_are_all_told(sizes: Path) -> None:
    with pytest.raises(ValueError, match="cannot be used as it is") as caught:
        report(sizes)
    text = str(caught.value)
    assert ("masks of another size than their picture (after EXIF rotation): 2 (b: masks/b.png is 48x32, the picture 96x64, "
            "c: masks/c.png is 64x64, the picture 96x64); save them at their pictures' size, or set mask_size to 'fit'") in text
    assert ("other orientation, as they are without the camera's EXIF rotation: 2 (d: masks/d.png is 64x96, the picture 96x64, "
            "f: masks/f.png is 96x64, the picture 64x96)") in text
    assert "(a:" not in text
    assert "e: masks" not in text


def test_fit_stretches_but_does_not_turn(sizes: Path) -> None:
    with pytest.raises(ValueError, match=r"other orientation.*: 2 \(d: ") as caught:
        report(sizes, mask_size="fit")
    assert "another size" not in str(caught.value)
    for name in "df":
        (sizes / f"{name}.jpg").unlink()
    data_set = scan_folder(FolderSpec(folder=sizes, mask_size="fit"))
    assert [(item.name, item.size, item.fit_mask) for item in data_set.items] == [
        ("a", SIZE, True), ("b", SIZE, True), ("c", SIZE, True), ("e", SIZE[::-1], True)]
    assert "other proportions than their picture, stretched to it: 1 (c: masks/c.png is 64x64" in data_set.report


def damaged(file: Path, picture: Image.Image, kind: str) -> None:
    stream = io.BytesIO()
    picture.save(stream, {"jpg": "jpeg", "tif": "tiff"}.get(file.suffix[1:], file.suffix[1:]))
    whole = stream.getvalue()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "words": b"not a picture", "appended": whole + b"\0" * 5000}[kind])


def test_every_damaged_file_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", {name: subject("horse") for name in "abcdefg"})
    for name in "bcd":
        (folder / f"{name}.jpg").unlink()
    damaged(folder / "a.jpg", photograph(), "empty")
    damaged(folder / "b.png", photograph(), "cut")  # its header is whole
    damaged(folder / "c.webp", photograph(), "cut")
    damaged(folder / "d.jpg", photograph(), "cut")
    damaged(folder / "masks" / "e.png", as_mask(subject("horse")), "cut")
    damaged(folder / "masks" / "f.png", as_mask(subject("horse")), "words")
    damaged(folder / "g.jpg", photograph(), "appended")
    damaged(folder / "masks" / "a.png", as_mask(subject("horse")), "cut")
    with pytest.raises(ValueError, match=r"read: 4 \(a\.jpg: it is empty, b\.png: .*, c\.webp: .*, d\.jpg: ") as caught:
        report(folder)
    text = str(caught.value)
    assert "pictures that cannot be read: 4" in text
    assert "masks that cannot be read: 3 (masks/a.png: " in text
    assert "masks/e.png: " in text
    assert "masks/f.png: it is no " in text
    assert "g.jpg" not in text
    assert str(folder / "masks") not in text  # the folder is named once, not with each file


def test_what_seems_cut_off(tmp_path: Path) -> None:
    for ending in ("png", "jpg", "webp", "bmp", "tif", "avif"):
        file = tmp_path / f"1.{ending}"
        photograph().save(file)
        assert not seems_cut_off(file), ending
        file.write_bytes(file.read_bytes()[:-200])
        assert seems_cut_off(file), ending
        damaged(file, photograph(), "appended")
        assert seems_cut_off(file) is (ending in ("png", "jpg")), ending


@pytest.mark.parametrize("ending", ["bmp", "tif", "avif", "png", "jpg", "webp"])
def test_half_a_file_is_found_before_anything_is_encoded(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"1.{ending}"
    photograph().save(file)
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"1.{ending}"):
        scan_folder(FolderSpec(folder=tmp_path, mask_source="none"))


def test_long_lists_are_cut_in_the_message_and_whole_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set").mkdir()
    for number in range(47):
        (tmp_path / "set" / f"{number}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be read: 47 \(0\.png: .*, 9\.png: it is empty and 37 more\); save them again") as caught:
        report(tmp_path / "set")
    assert "46.png" not in str(caught.value)
    assert "46.png: it is empty" in caplog.text


def test_the_report_is_logged_with_every_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set").mkdir()
    for number in range(9):
        photograph().save(tmp_path / "set" / f"{number}.jpg")
    with caplog.at_level(logging.INFO):
        told = report(tmp_path / "set", missing_mask="all ones")
    assert "learned everywhere: 9 (0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 4 more)" in told
    assert "learned everywhere: 9 (0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg, 8.jpg)" in caplog.text


def test_animations_are_told(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    photograph().save(tmp_path / "set" / "1.webp", save_all=True, append_images=[photograph().rotate(20)], duration=100)
    assert "several frames or pages, of which the first is used: 1 (1.webp)" in report(tmp_path / "set", mask_source="none")
