"""Masks as a person looks at them: their order, the words, the way to the mask editor and back, and what a strange journal may not do."""
from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import folder_paths
import numpy as np
import pytest
from pack.dataset.item import DataSet, ImageFiles, Item, MaskFiles
from pack.host import mask_journal
from pack.host.mask_editing import edit_target, open_for_editor, take_from_editor
from pack.host.mask_journal import JOURNAL, Entry
from pack.host.mask_review import MaskChanged, MaskReview, not_reviewed, report, state
from pack.host.mask_review_folders import find_reviews
from PIL import Image

from .reviewed import made, write_folder
from .server import write_mask, write_picture

SAVED = {"filename": "clipspace-painted-masked-17.png", "subfolder": "", "type": "input"}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("input", "output", "temp", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def review(folders: Path) -> MaskReview:
    write_folder(folders / "input" / "set")
    return find_reviews("set")[0]


def save_as_editor(root: Path, opened: dict[str, str], folders: Path, paint: slice | None = None, turn: bool = False) -> dict[str, str]:
    """What the editor uploads: the picture with its alpha, painted (transparent) at some rows; four files."""
    pixels = np.asarray(Image.open(folders / opened["type"] / opened["subfolder"] / opened["filename"])).copy()
    if paint is not None:
        pixels[paint, :, 3] = 0
    if turn:
        pixels = pixels[:, ::-1]
    for layer in ("mask", "paint", "painted", "painted-masked"):
        Image.fromarray(pixels).save(root / f"clipspace-{layer}-17.png")
    return SAVED


def test_the_gravest_come_first(review: MaskReview) -> None:
    assert [card.title for card in review.cards()] == ["d.png", "c.png", "b.png", "a.png"]
    review.mark("../d.png", "accepted")
    review.mark("../c.png", "redo")
    assert [card.title for card in review.cards()] == ["b.png", "a.png", "c.png", "d.png"]


def test_what_is_said(review: MaskReview) -> None:
    cards = {card.title: card for card in review.cards()}
    assert cards["a.png"].says == "50.0% learned"
    assert cards["a.png"].remarks == ()
    assert (cards["b.png"].says, cards["b.png"].remarks) == ("0.3% learned", ("no face",))
    assert (cards["c.png"].says, cards["c.png"].remarks) == ("nothing found", ("no person",))
    assert (cards["d.png"].says, cards["d.png"].remarks) == ("failed", ("out of memory; use a smaller model",))
    (review.folder / "a.png").unlink()
    (gone,) = [card for card in review.cards() if card.title == "a.png"]
    assert (gone.says, gone.has_mask, gone.remarks) == ("no mask", False, ("the mask's file is gone",))


def test_what_is_doubted_is_what_the_report_of_a_run_doubts_and_nothing_that_was_accepted(review: MaskReview) -> None:
    for coverage, doubted in ((0.005, "little is learned"), (0.5, ""), (0.97, "nearly all is learned")):
        mask_journal.append(review.folder, replace(review.entry("../a.png"), coverage=coverage, review=""))
        (card,) = [card for card in review.cards() if card.title == "a.png"]
        assert (card.remarks, card.rank) == (((doubted,), 2) if doubted else ((), 3))
        accepted = review.mark("../a.png", "accepted")
        assert (accepted.remarks, accepted.rank) == ((), 3)


def test_accepting_is_said_of_the_picture_and_the_mask_that_lie_there(review: MaskReview) -> None:
    """A picture may have been saved again since the run, and a mask put there by hand: a person sees these."""
    os.utime(review.folder.parent / "a.png", ns=(5, 5))
    shutil.copy(review.folder / "b.png", review.folder / "a.png")
    shutil.copy(review.folder / "b.png", review.folder / "c.png")
    for name in "abc":
        before = review.entry(f"../{name}.png")
        review.mark(before.picture, "accepted")
        facts, after = (review.folder.parent / f"{name}.png").stat(), review.entry(before.picture)
        assert after.picture_id == f"{facts.st_size}-{facts.st_mtime_ns}"
        assert (after.mask, after.mask_sha256) == (f"{name}.png", made(review.folder, name).mask_sha256)
        assert after.status == ("made" if name == "b" else "kept")
    review.mark("../d.png", "accepted")
    assert (review.entry("../d.png").status, review.entry("../d.png").mask) == ("failed", None)


def test_titles_tell_pictures_in_several_folders_apart(review: MaskReview, folders: Path) -> None:
    write_picture(folders / "input" / "set" / "more" / "a.png")
    mask_journal.append(review.folder, Entry("../more/a.png", status="failed"))
    assert {card.title for card in review.cards()} == {"a.png", "b.png", "c.png", "d.png", "more/a.png"}
    assert review.mark("../more/a.png", "redo").title == "more/a.png"


def test_report_and_what_is_left(review: MaskReview) -> None:
    assert report(review.cards()).splitlines()[:2] == [
        "White = learn. 4 masks: 4 not reviewed, 0 accepted, 0 to be made anew",
        "d.png: not reviewed; failed; out of memory; use a smaller model"]
    assert not_reviewed(review.cards()) == "4 of 4 masks are not reviewed yet"
    for name in "ab":
        review.mark(f"../{name}.png", "accepted")
    review.mark("../c.png", "redo")
    assert not_reviewed(review.cards()) == "2 of 4 masks are not reviewed yet (1 to be made anew: run Write Masks)"
    for name in "cd":
        review.mark(f"../{name}.png", "accepted")
    assert not_reviewed(review.cards()) == ""


def test_a_mark_changes_nothing_else_in_the_journal(review: MaskReview) -> None:
    before, known, masks = mask_journal.read(review.folder), state([review], True), state([review], False)
    review.mark("../b.png", "accepted")
    after = mask_journal.read(review.folder)
    assert after == before | {"../b.png": replace(before["../b.png"], review="accepted")}
    assert state([review], True) != known
    assert state([review], False) == masks
    review.mark("../b.png", "")
    assert state([review], True) == known
    assert mask_journal.read(review.folder) == before
    with pytest.raises(ValueError, match="review is 'fine'"):
        review.mark("../b.png", "fine")  # type: ignore[arg-type]
    with pytest.raises(LookupError):
        review.mark("b.png", "accepted")


def test_a_mark_of_a_mask_that_was_not_shown_is_refused(review: MaskReview, folders: Path) -> None:
    (shown,) = [card for card in review.cards() if card.title == "a.png"]
    write_mask(review.folder / "a.png", (64, 48))
    before = mask_journal.read(review.folder)
    with pytest.raises(MaskChanged, match="a.png has changed since it was shown") as refused:
        review.mark("../a.png", "accepted", shown.version)
    assert mask_journal.read(review.folder) == before
    assert review.mark("../a.png", "accepted", refused.value.card.version).review == "accepted"
    write_picture(folders / "input" / "set" / "a.png", seed=9)
    with pytest.raises(MaskChanged):
        review.mark("../a.png", "", refused.value.card.version)


def test_the_editor_gets_the_picture_with_the_mask_as_transparency(review: MaskReview, folders: Path) -> None:
    opened = open_for_editor(review, "../a.png")
    shown = np.asarray(Image.open(folders / "temp" / opened["subfolder"] / opened["filename"]))
    assert (shown[..., :3] == np.asarray(Image.open(folders / "input" / "set" / "a.png"))).all()
    assert (shown[..., 3] == 255 - np.asarray(Image.open(review.folder / "a.png"))).all()
    assert len(np.unique(shown[..., 3])) > 100, "greys are there"
    again = open_for_editor(review, "../a.png")
    assert again["filename"] != opened["filename"]
    assert len(list((folders / "temp" / "masked_lora_review").iterdir())) == 1


def test_an_edit_becomes_the_mask(review: MaskReview, folders: Path) -> None:
    before = np.asarray(Image.open(review.folder / "a.png"))
    known = state([review], False)
    saved = save_as_editor(folders / "input", open_for_editor(review, "../a.png"), folders, paint=slice(0, 20))
    card = take_from_editor(review, "../a.png", saved)
    after = np.asarray(Image.open(review.folder / "a.png"))
    assert (after[:20] == 255).all()
    assert (after[20:] == before[20:]).all(), "greys that nobody painted over changed"
    entry = mask_journal.read(review.folder)["../a.png"]
    assert (entry.review, entry.status, entry.plan) == ("accepted", "kept", "plan")
    assert entry.mask_sha256 == hashlib.sha256((review.folder / "a.png").read_bytes()).hexdigest()
    assert entry.coverage == pytest.approx(after.mean() / 255, abs=1e-6)
    assert card.review == "accepted"
    assert state([review], False) != known
    assert sorted(file.name for file in (folders / "input").iterdir()) == ["set"], "the editor's files stay behind"
    assert sorted(file.name for file in review.folder.iterdir()) == [JOURNAL, "a.png", "b.png"]


def test_an_edit_of_a_mask_with_a_long_name(review: MaskReview, folders: Path) -> None:
    picture = f"../{'写' * 80}.png"  # 244 bytes with its ending, of 255 that file systems allow
    write_picture(review.folder / picture)
    mask_journal.append(review.folder, Entry(picture, status="nothing found"))
    saved = save_as_editor(folders / "input", open_for_editor(review, picture), folders, paint=slice(0, 64))
    assert take_from_editor(review, picture, saved).has_mask


@pytest.mark.parametrize("name", ["c", "d"])
def test_a_picture_without_a_mask_gets_one_where_the_others_have_theirs(review: MaskReview, folders: Path, name: str) -> None:
    saved = save_as_editor(folders / "input", open_for_editor(review, f"../{name}.png"), folders, paint=slice(0, 64))
    take_from_editor(review, f"../{name}.png", saved)
    mask = np.asarray(Image.open(review.folder / f"{name}.png"))
    assert (mask[:64] == 255).all()
    assert (mask[64:] == 0).all()
    entry = mask_journal.read(review.folder)[f"../{name}.png"]
    assert (entry.mask, entry.error, entry.missing, entry.coverage) == (f"{name}.png", "", (), 0.5)


@pytest.mark.parametrize(("others", "picture", "wanted"), [
    ([("../a.png", "a.png")], "../b.jpg", "b.png"),
    ([("../x/a.png", "x/a.png")], "../y/b.png", "y/b.png"),
    ([("a.png", "a-masklabel.png")], "b.webp", "b-masklabel.png"),
    ([("x/a.png", "x/a.mask.png")], "x/b.png", "x/b.mask.png"),
    ([("../../../input/set/a.png", "a.png")], "../../../input/set/sub/b.png", "sub/b.png"),
    ([("../../../input/set/a.png", None), ("../../../input/set/sub/b.png", None)], "../../../input/set/sub/b.png", "sub/b.png"),
    ([], "b.png", "b-masklabel.png"),
])
def test_where_a_first_mask_goes(folders: Path, others: list[tuple[str, str | None]], picture: str, wanted: str) -> None:
    folder = folders / "output" / "kept" / "set"
    folder.mkdir(parents=True)
    for other, mask in others:
        mask_journal.append(folder, Entry(other, mask))
    review = MaskReview(folder, (folders / "input", folders / "output"))
    assert edit_target(review, Entry(picture)) == folder / wanted


def test_where_the_first_mask_of_a_masks_folder_goes(folders: Path) -> None:
    folder = folders / "input" / "set" / "masks"
    folder.mkdir(parents=True)
    mask_journal.append(folder, Entry("../x/b.png"))
    assert edit_target(MaskReview(folder, (folders / "input",)), Entry("../x/b.png")) == folder / "x" / "b.png"


@pytest.mark.parametrize("others", [[("../../input/one/a.png", None)], [("../../input/one/a.png", "1/a.png")]])
def test_where_the_first_mask_of_one_of_several_sets_goes_is_not_guessed(folders: Path, others: list[tuple[str, str | None]]) -> None:
    """Sets that were combined have numbers before their names, which are in no path of the journal."""
    folder = folders / "output" / "both"
    folder.mkdir()
    for other, mask in [*others, ("../../input/two/a.png", None)]:
        write_picture((folder / other).resolve())
        mask_journal.append(folder, Entry(other, mask, "made" if mask else "nothing found"))
    review = MaskReview(folder, (folders / "input", folders / "output"))
    with pytest.raises(ValueError, match="where the mask of ../../input/two/a.png belongs is not known"):
        open_for_editor(review, "../../input/two/a.png")
    assert review.tile("../../input/two/a.png").shape == (128, 160, 3)
    assert [card.remarks for card in review.cards() if card.picture == "../../input/two/a.png"] == [()]


def test_a_mask_that_the_journal_does_not_name_is_shown_and_edited(review: MaskReview, folders: Path) -> None:
    """As it lies there after a redo that failed, or where a person put one."""
    before = {card.title: card for card in review.cards()}
    dark = review.tile("../c.png")
    grey = np.full((128, 160), 200, np.uint8)
    Image.fromarray(grey).save(review.folder / "c.png")
    after = {card.title: card for card in review.cards()}["c.png"]
    assert (after.has_mask, after.says) == (True, "a mask that the last run did not write")
    assert after.version != before["c.png"].version
    assert (review.tile("../c.png") != dark).any()
    opened = open_for_editor(review, "../c.png")
    shown = np.asarray(Image.open(folders / "temp" / opened["subfolder"] / opened["filename"]))
    assert (shown[..., 3] == 255 - grey).all()
    take_from_editor(review, "../c.png", save_as_editor(folders / "input", opened, folders, paint=slice(0, 9)))
    mask_HW = np.asarray(Image.open(review.folder / "c.png"))
    assert (mask_HW[:9] == 255).all()
    assert (mask_HW[9:] == 200).all()


def test_turned_or_foreign_pictures_are_refused(review: MaskReview, folders: Path) -> None:
    before = (review.folder / "a.png").read_bytes()
    saved = save_as_editor(folders / "input", open_for_editor(review, "../a.png"), folders, turn=True)
    with pytest.raises(ValueError, match="unturned and not mirrored"):
        take_from_editor(review, "../a.png", saved)
    saved = save_as_editor(folders / "input", open_for_editor(review, "../b.png"), folders)
    with pytest.raises(ValueError, match="is not ../a.png"):
        take_from_editor(review, "../a.png", saved)
    assert (review.folder / "a.png").read_bytes() == before
    assert (folders / "input" / "clipspace-mask-17.png").exists(), "files of another picture were removed"


@pytest.mark.parametrize("change", [
    {"filename": "set/a.png"}, {"filename": "../clipspace-painted-masked-17.png"}, {"type": "output"}, {"subfolder": "set"},
    {"subfolder": "../output"}, {"filename": None}, {"filename": "clipspace-painted-masked-18.png"}, {"filename": ["x"]}])
def test_only_files_of_the_editor_are_taken(review: MaskReview, folders: Path, change: dict[str, object]) -> None:
    saved = save_as_editor(folders / "input", open_for_editor(review, "../a.png"), folders)
    with pytest.raises(ValueError, match="mask editor|in the editor again"):
        take_from_editor(review, "../a.png", {**saved, **change})


def test_a_link_in_place_of_the_editors_file_is_not_followed(review: MaskReview, folders: Path) -> None:
    write_picture(folders / "secret.png")
    (folders / "input" / "clipspace-mask-17.png").symlink_to(folders / "secret.png")
    with pytest.raises(ValueError, match="in the editor again"):
        take_from_editor(review, "../a.png", SAVED)


@pytest.mark.parametrize("picture", ["../../../secret.png", "/etc/hostname", "../notes.txt", "../link.png", "a\0b.png"])
def test_a_strange_journal_opens_no_other_files(review: MaskReview, folders: Path, picture: str) -> None:
    write_picture(folders / "secret.png")
    (folders / "input" / "set" / "notes.txt").write_text("secret", encoding="utf-8")
    (folders / "input" / "set" / "link.png").symlink_to(folders / "secret.png")
    mask_journal.append(review.folder, Entry(picture, "a.png"))
    for action in (review.tile, lambda name: open_for_editor(review, name)):
        with pytest.raises(ValueError, match="lies outside|not a picture|not a file name"):
            action(picture)
    (card,) = [card for card in review.cards() if card.picture == picture]
    assert not card.has_mask
    assert card.remarks


@pytest.mark.parametrize("mask", ["a.png", "b.png"])
def test_no_picture_is_taken_for_a_mask(folders: Path, mask: str) -> None:
    write_folder(folders / "input" / "set")
    for name in "ab":
        mask_journal.append(folders / "input" / "set", Entry(f"{name}.png", mask))
    review = MaskReview(folders / "input" / "set", (folders / "input",))
    with pytest.raises(ValueError, match="is a picture and not a mask"):
        open_for_editor(review, "a.png")


def test_a_mask_of_another_type_is_shown_and_not_overwritten(review: MaskReview, folders: Path) -> None:
    Image.open(review.folder / "a.png").save(review.folder / "a.webp", lossless=True)
    mask_journal.append(review.folder, Entry("../a.png", "a.webp", "kept"))
    assert review.tile("../a.png").shape == (128, 160, 3)
    with pytest.raises(ValueError, match="a.webp is no PNG"):
        open_for_editor(review, "../a.png")


@pytest.mark.parametrize("mask", ["../../../secret.png", "../a.png", "a.txt", "../../other.png"])
def test_a_strange_journal_writes_no_other_files(review: MaskReview, folders: Path, mask: str) -> None:
    mask_journal.append(review.folder, Entry("../a.png", mask))
    saved = save_as_editor(folders / "input", {"type": "input", "subfolder": "set", "filename": "b.png"}, folders)
    with pytest.raises(ValueError, match="lies outside|so no mask"):
        take_from_editor(review, "../a.png", saved)


def test_a_mask_of_another_size_and_a_transparent_picture(review: MaskReview, folders: Path) -> None:
    Image.new("L", (80, 64), 255).save(review.folder / "a.png")
    cutout = np.zeros((128, 160, 4), np.uint8)
    cutout[:, :80] = (10, 20, 30, 255)
    Image.fromarray(cutout).save(folders / "input" / "set" / "a.png")
    opened = open_for_editor(review, "../a.png")
    shown = np.asarray(Image.open(folders / "temp" / opened["subfolder"] / opened["filename"]))
    assert (shown[..., 3] == 0).all()
    assert shown[5, 5].tolist() == [10, 20, 30, 0]
    assert shown[5, 100].tolist() == [128, 128, 128, 0]
    assert review.tile("../a.png").shape == (128, 160, 3)


@pytest.mark.parametrize(("folder", "message"), [
    ("", "no masks are named"), ("../secret", "outside ComfyUI's input and output"), ("/etc", "outside ComfyUI's input and output"),
    ("x [temp]", "outside ComfyUI's input and output"), ("nothing", "run Write Masks first"), ("a\0b", "not a folder name")])
def test_folders_that_are_refused(review: MaskReview, folder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_reviews(folder)


def test_where_masks_are_found(review: MaskReview, folders: Path) -> None:
    assert find_reviews("set/masks") == find_reviews(str(folders / "input" / "set")) == [review]
    write_folder(folders / "output" / "other")
    for name in ("other", "other [output]"):
        assert find_reviews(name)[0].folder == folders / "output" / "other" / "masks"
    with pytest.raises(ValueError, match="run Write Masks first"):
        find_reviews("other [input]")
    assert [found.folder for found in find_reviews("other\nset\nset/masks\n")] == [folders / "output" / "other" / "masks", review.folder]
    (folders / "secret").mkdir()
    mask_journal.append(folders / "secret", Entry("a.png"))
    (folders / "input" / "sly").mkdir()
    (folders / "input" / "sly" / "masks").symlink_to(folders / "secret")
    with pytest.raises(ValueError, match="run Write Masks first"):
        find_reviews("sly")


def test_an_unknown_word_in_the_journal_does_not_break_the_list(review: MaskReview) -> None:
    with (review.folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"picture": "../a.png", "mask": "a.png", "review": "later", "status": "new"}) + "\n")
    assert len(review.cards()) == 4


def test_masks_of_a_data_set(review: MaskReview, folders: Path) -> None:
    second = find_reviews(str(write_folder(folders / "output" / "second")))[0]
    elsewhere = folders / "output" / "elsewhere"
    elsewhere.mkdir()
    mask_journal.append(elsewhere, Entry("../../input/set/a.png", "a.png"))
    write_mask(elsewhere / "a.png")
    stranger = folders / "input"
    mask_journal.append(stranger, Entry("other.png"))

    def item(path: Path, mask: Path | None = None) -> Item:
        return Item(path.stem, ImageFiles((path,)), MaskFiles((mask,)) if mask else None, "", (160, 128))

    one = DataSet((item(folders / "input" / "set" / "c.png"),), "")
    assert find_reviews("", one) == [review]
    two = DataSet((*one.items, item(folders / "output" / "second" / "a.png")), "")
    assert {found.folder for found in find_reviews(" ", two)} == {review.folder, second.folder}
    written = DataSet((item(folders / "input" / "set" / "a.png", elsewhere / "a.png"),), "")
    assert find_reviews("", written)[0].folder == elsewhere
    with pytest.raises(ValueError, match="no masks were written for this data set"):
        find_reviews("", DataSet((item(folders / "temp" / "a.png"),), ""))


def test_pictures_that_are_gone_are_not_asked_for(review: MaskReview, folders: Path) -> None:
    (folders / "input" / "set" / "c.png").unlink()
    assert [card.title for card in review.cards()] == ["d.png", "b.png", "a.png"]
    with pytest.raises(ValueError, match="not a picture that is there"):
        review.tile("../c.png")
