"""From real files to items: what belongs together, what is left out, and what is said about it. White = learn."""
from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pack.dataset.item import DataSet, ImageFiles, MaskFiles, OwnAlpha, Transparency
from pack.dataset.load import load_item
from pack.dataset.scan import FolderSpec, combine_data_sets, folder_fingerprint, scan_folder
from PIL import Image
from skimage import data

PHOTOGRAPH = Image.fromarray(data.astronaut()).resize((96, 64))
NFC, NFD = (unicodedata.normalize(form, "Zo\u00eb in \u00c5lesund") for form in ("NFC", "NFD"))


def subject(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An ellipse in the middle, a quarter of the picture."""
    y, x = np.mgrid[: size[1], : size[0]]
    inside = ((x - size[0] / 2) / (size[0] * 0.28)) ** 2 + ((y - size[1] / 2) / (size[1] * 0.28)) ** 2 < 1
    return Image.fromarray((inside * 255).astype(np.uint8))


def put(folder: Path, *names: str, caption: str = "") -> None:
    """Photographs of these names, masks where the name says so, cut-outs where it ends in "+alpha.png"."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if "mask" in name:
            subject().save(file)
        elif "alpha" in name:
            cut = PHOTOGRAPH.copy()
            cut.putalpha(subject())
            cut.save(file)
        else:
            PHOTOGRAPH.save(file)
        if caption:
            file.with_suffix(".txt").write_text(caption, encoding="utf-8")


def scan(folder: Path, **choices: Any) -> DataSet:
    return scan_folder(FolderSpec(folder=folder, **choices))


def names(data_set: DataSet) -> list[str]:
    return [item.name for item in data_set.items]


def mask_names(data_set: DataSet, folder: Path) -> list[str | None]:
    """Where each item's mask comes from: paths below the folder, "alpha", or None."""
    found: list[str | None] = []
    for item in data_set.items:
        files = item.mask.paths if isinstance(item.mask, MaskFiles) else ()
        told = " ".join(os.path.relpath(path, folder.resolve()).replace(os.sep, "/") for path in files)
        found.append("alpha" if isinstance(item.mask, OwnAlpha) else told or None)
    return found


def test_every_field_of_an_item(tmp_path: Path) -> None:
    put(tmp_path, "anna/1.jpg", "masks/anna/1.png", caption="a woman")
    glass = Transparency("fill", (1, 2, 3), 4)
    [item] = scan(tmp_path, repeats=3, weight=0.5, regularisation=True, transparency=glass, mask_size="fit", channel="green").items
    assert isinstance(item.image, ImageFiles)
    assert item.image.paths == ((tmp_path / "anna" / "1.jpg").resolve(),)
    assert item.mask == MaskFiles(((tmp_path / "masks" / "anna" / "1.png").resolve(),), "green")
    assert (item.name, item.caption, item.size, item.frames) == ("anna/1", "a woman", (96, 64), 1)
    assert (item.repeats, item.weight, item.regularisation, item.transparency, item.fit_mask) == (3, 0.5, True, glass, True)
    assert (item.placement, item.variant) == (None, 0)


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG", "webp", "bmp", "tif", "tiff", "avif"])
def test_every_type_of_picture_and_mask(tmp_path: Path, ending: str) -> None:
    put(tmp_path, f"1.{ending}", f"masks/1.{ending}")
    data_set = scan(tmp_path)
    assert mask_names(data_set, tmp_path) == [f"masks/1.{ending}"]
    mask_THW = load_item(data_set.items[0]).mask_THW
    assert mask_THW is not None
    assert mask_THW.mean().item() == pytest.approx(np.asarray(subject()).mean() / 255, abs=0.01)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """1 has everything, 2 a mask folder and both sidecars, 3 .mask.png alone, 4 an opaque alpha channel, 5 nothing."""
    put(tmp_path, "1alpha.png", "2.jpg", "3.jpg", "5.jpg", "masks/1alpha.png", "masks/2.png", "1alpha-masklabel.png", "2-masklabel.png",
        "2.mask.png", "3.mask.png")
    PHOTOGRAPH.convert("RGBA").save(tmp_path / "4.png")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "masks"),
    [
        ("automatic", ["alpha", "masks/2.png", "3.mask.png", None, None]),
        ("folder", ["masks/1alpha.png", "masks/2.png", None, None, None]),
        ("sidecar", ["1alpha-masklabel.png", "2-masklabel.png", "3.mask.png", None, None]),
        ("alpha", ["alpha", None, None, "alpha", None]),
        ("none", [None] * 5),
    ],
)
def test_which_mask_counts_and_that_masks_are_never_pictures(mixed: Path, source: str, masks: list[str | None]) -> None:
    data_set = scan(mixed, mask_source=source, missing_mask="all ones")
    assert names(data_set) == ["1alpha", "2", "3", "4", "5"]
    assert mask_names(data_set, mixed) == masks


def test_sources_and_losers_are_reported(mixed: Path) -> None:
    report = scan(mixed, missing_mask="all ones").report
    assert f"{mixed.name}: 5 pictures, 3 with a mask; white = learn" in report
    assert "masks: 1 from alpha channels, 1 from masks/, 1 from files beside the pictures" in report
    assert "passed over: 4 (" in report
    for loser in ("masks/1alpha.png: its own transparency counts", "1alpha-masklabel.png: its own transparency counts",
                  "2-masklabel.png: the mask folder counts", "2.mask.png: the mask folder counts"):
        assert loser in report
    assert "without a mask, learned everywhere: 2 (4.png, 5.jpg)" in report
    assert "passed over: 6 (masks/1alpha.png: mask_source is none" in scan(mixed, mask_source="none").report


def test_skip_leaves_out_and_counts(mixed: Path) -> None:
    data_set = scan(mixed, missing_mask="skip")
    assert names(data_set) == ["1alpha", "2", "3"]
    assert "without a mask, skipped: 2 (4.png, 5.jpg)" in data_set.report


def test_error_names_all_pictures_and_the_remedy(mixed: Path) -> None:
    with pytest.raises(ValueError, match=r"without a mask: 2 \(4\.png, 5\.jpg\); put masks/4\.png \(white = learn\) into") as caught:
        scan(mixed)
    assert "'all ones' (learn everywhere) or 'skip'" in str(caught.value)


def test_an_unused_mask_is_told_also_with_missing_ones(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "masks/1_mask.png", "2-masklabel.png")
    unused = r"match no picture, unused: 2 \(2-masklabel\.png, masks/1_mask\.png\)"
    assert re.search(unused, scan(tmp_path, missing_mask="all ones").report)
    with pytest.raises(ValueError, match=unused):
        scan(tmp_path)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no pictures; put files of type \.avif, .* in it"):
        scan(tmp_path)
    put(tmp_path, "sub/1.jpg", "masks/2.png")
    with pytest.raises(ValueError, match="holds no pictures; .* directly in it"):
        scan(tmp_path, recursive=False)
    with pytest.raises(ValueError, match="1 picture, all without a mask and skipped"):
        scan(tmp_path, missing_mask="skip")


@pytest.mark.parametrize(
    ("choices", "said"),
    [({"mask_source": "colour"}, "mask_source is 'colour'; use one of automatic"), ({"missing_mask": "guess"}, "missing_mask is 'guess'"),
     ({"channel": "hue"}, "channel is 'hue'"), ({"content": "films"}, "content is 'films'"), ({"captions": "pdf"}, "captions is 'pdf'"),
     ({"mask_size": "crop"}, "mask_size is 'crop'"), ({"repeats": 0}, "repeats is 0"), ({"weight": -1.0}, "weight is -1"),
     ({"weight": float("nan")}, "weight is nan"), ({"caption_field": " "}, "caption_field is empty")],
)
def test_unknown_values_are_refused(tmp_path: Path, choices: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FolderSpec(folder=tmp_path, **choices)


def test_recursion_and_natural_order(tmp_path: Path) -> None:
    put(tmp_path, "10.jpg", "9.jpg", "b/2.jpg", "b/10.jpg", "B1/1.jpg", "a 2/1.jpg")
    assert names(scan(tmp_path, mask_source="none")) == ["9", "10", "a 2/1", "b/2", "b/10", "B1/1"]
    assert names(scan(tmp_path, mask_source="none", recursive=False)) == ["9", "10"]


def test_mask_folders_beside_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "anna/1.jpg", "bob/1.jpg", "anna/masks/1.png", "masks/bob/1.png")
    assert mask_names(scan(tmp_path), tmp_path) == ["anna/masks/1.png", "masks/bob/1.png"]


def test_another_name_for_the_mask_folder(tmp_path: Path) -> None:
    put(tmp_path, "pictures/1.jpg", "pictures/alpha.png", "extra/maskings/pictures/1.png", "extra/maskings/pictures/alpha.png")
    data_set = scan(tmp_path, mask_source="folder", mask_folder="extra\\maskings")
    assert mask_names(data_set, tmp_path) == ["extra/maskings/pictures/1.png", "extra/maskings/pictures/alpha.png"]


@pytest.mark.parametrize("choices", [{"mask_folder": "white"}, {"mask_root": Path("white")}, {"mask_folder": ""}])
def test_a_folder_called_masks_never_gives_pictures(tmp_path: Path, choices: dict[str, Any]) -> None:
    put(tmp_path, "1.jpg", "masks/1.png", "a/masks/2.png", "white/1.png")
    if "mask_root" in choices:
        choices = {"mask_root": tmp_path / "white"}
    data_set = scan(tmp_path, missing_mask="all ones", **choices)
    if choices != {"mask_folder": ""}:
        assert mask_names(data_set, tmp_path) == ["white/1.png"]
    assert names(data_set) == ["1", "white/1"] if choices == {"mask_folder": ""} else ["1"]
    assert "folders that are called masks but are not the mask folder, left out: 2 (" in data_set.report


def test_masks_outside_of_the_folder_are_read_when_named(tmp_path: Path) -> None:
    put(tmp_path, "set/1.jpg", "set/anna/2.jpg", "my masks/1.png", "my masks/anna/2.png", "set/masks/1.png")
    data_set = scan(tmp_path / "set", mask_root=tmp_path / "my masks")
    assert mask_names(data_set, tmp_path) == ["my masks/1.png", "my masks/anna/2.png"]
    inside = scan(tmp_path / "set", mask_root=tmp_path / "set" / "masks", missing_mask="all ones")
    assert names(inside) == ["1", "anna/2"]
    with pytest.raises(ValueError, match="put .*my masks/3.png"):
        put(tmp_path, "set/3.jpg")
        scan(tmp_path / "set", mask_root=tmp_path / "my masks")


def test_mask_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    put(tmp_path, "set/1.jpg", "other/masks/1.png")
    with pytest.raises(ValueError, match="'../other/masks' leads out of"):
        scan(tmp_path / "set", mask_folder="../other/masks")
    with pytest.raises(ValueError, match="mask_folder is empty"):
        scan(tmp_path / "set", mask_folder=".", mask_source="folder")
    with pytest.raises(ValueError, match="is or holds the picture folder"):
        scan(tmp_path / "set", mask_root=tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        scan(tmp_path / "set", mask_root=tmp_path / "nowhere")


def test_masks_of_one_flat_folder_fit_pictures_in_sub_folders(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "b/1.jpg", "masks/2.png", "masks/1.png")
    data_set = scan(tmp_path, missing_mask="all ones")
    assert mask_names(data_set, tmp_path) == [None, None, "masks/2.png"]  # two pictures are called 1
    assert "match no picture, unused: 1 (masks/1.png)" in data_set.report


def test_of_two_masks_the_one_with_the_whole_name_of_the_picture(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "2.webp", "masks/1.png", "masks/1.jpg")
    data_set = scan(tmp_path, missing_mask="all ones")
    assert mask_names(data_set, tmp_path) == ["masks/1.jpg", None]
    put(tmp_path, "masks/2.png", "masks/2.jpg")
    with pytest.raises(ValueError, match=r"with several masks of their name: 1 \(2: masks/2\.\w+ and masks/2\.\w+\)"):
        scan(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "1.PNG", "a/2.jpg", "a/2.webp", "3.jpg", "a/3.jpg")
    with pytest.raises(ValueError, match=r"names that several files share.*: 2 \(1: 1\.PNG and 1\.jpg, a/2: 2\.jpg and 2\.webp\)"):
        scan(tmp_path, mask_source="none")


@pytest.mark.parametrize(("picture", "other"), [(NFC, NFD), (NFD, NFC)])
def test_letters_of_two_characters_are_the_same_name(tmp_path: Path, picture: str, other: str) -> None:
    put(tmp_path, f"{picture}/{picture}.jpg", f"masks/{other}/{other}.png")
    (tmp_path / picture / f"{other}.txt").write_text("Zo\u00eb", encoding="utf-8")
    data_set = scan(tmp_path, captions="txt")
    assert [(item.name, item.caption) for item in data_set.items] == [(f"{NFC}/{NFC}", "Zo\u00eb")]
    assert "without" not in data_set.report
    if not (tmp_path / picture / f"{other}.jpg").exists():  # some file systems know only one of both
        put(tmp_path, f"{picture}/{other}.jpg")
        with pytest.raises(ValueError, match="names that several files share"):
            scan(tmp_path)


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg", "masks/1.png", "masks/.2.png", ".hidden/3.jpg", "_controls/1.mask.jpg", "__MACOSX/1.jpg")
    for name in ("._1.jpg", "masks/._1.png", "Thumbs.db", "1.npz", "cache/1_0096x0064_flux.safetensors", "cache/1_te.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not a picture")
    (tmp_path / "folder.png").mkdir()
    data_set = scan(tmp_path)
    assert mask_names(data_set, tmp_path) == ["masks/1.png"]
    assert "unused" not in data_set.report


def link(place: Path, target: Path) -> None:
    place.symlink_to(target, target_is_directory=target.is_dir())


def test_links_that_lead_out_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "set/1.jpg", "set/2.jpg", "secret/3.jpg", "secret/masks/1.png", "secret/maskings/2.png", "set/masks/2.png")
    (tmp_path / "secret" / "1.txt").write_text("secret", encoding="utf-8")
    link(tmp_path / "set" / "3.jpg", tmp_path / "secret" / "3.jpg")
    link(tmp_path / "set" / "1.txt", tmp_path / "secret" / "1.txt")
    link(tmp_path / "set" / "masks" / "1.png", tmp_path / "secret" / "masks" / "1.png")
    link(tmp_path / "set" / "more", tmp_path / "secret")
    link(tmp_path / "set" / "4.jpg", tmp_path / "nothing.jpg")
    put(tmp_path, "settings/5.jpg")
    link(tmp_path / "set" / "5.jpg", tmp_path / "settings" / "5.jpg")
    data_set = scan(tmp_path / "set", missing_mask="all ones")
    assert [(item.name, item.caption) for item in data_set.items] == [("1", ""), ("2", "")]
    assert mask_names(data_set, tmp_path / "set") == [None, "masks/2.png"]
    assert "links that were not read: 6" in data_set.report
    told = data_set.report + scan(tmp_path / "set", mask_source="none", captions="none").report
    for name in ("3.jpg: leads out of the folder", "1.txt: leads out", "more: leads out", "4.jpg: leads nowhere", "5.jpg: leads out"):
        assert name in told
    with pytest.raises(ValueError, match=r"masks/1\.png: leads out of the folder"):
        scan(tmp_path / "set")


def test_a_mask_folder_that_leads_out_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "set/1.jpg", "set/a/1.jpg", "secret/1.png")
    link(tmp_path / "set" / "a" / "masks", tmp_path / "secret")
    assert "a/masks: leads out of the folder" in scan(tmp_path / "set", missing_mask="all ones").report
    link(tmp_path / "set" / "masks", tmp_path / "secret")
    with pytest.raises(ValueError, match="'masks' leads out of"):
        scan(tmp_path / "set")


def test_links_inside_are_followed_for_files_and_told_for_folders(tmp_path: Path) -> None:
    put(tmp_path, "store/1.jpg", "store/masks/1.png")
    link(tmp_path / "2.jpg", tmp_path / "store" / "1.jpg")
    link(tmp_path / "again", tmp_path / "store")
    link(tmp_path / "store" / "up", tmp_path)
    link(tmp_path / "masks", tmp_path / "store" / "masks")
    data_set = scan(tmp_path, missing_mask="all ones")
    assert names(data_set) == ["2", "store/1"]
    assert "again: links to a folder" in data_set.report
    assert mask_names(data_set, tmp_path) == [None, "store/masks/1.png"]


def clip(folder: Path, name: str, count: int) -> None:
    put(folder, *(f"{name}/frame{number}.jpg" for number in range(1, count + 1)))


def test_clips(tmp_path: Path) -> None:
    clip(tmp_path, "walk", 11)
    clip(tmp_path, "more/run.v2", 3)
    put(tmp_path, "masks/walk.png", *(f"masks/more/run.v2/{number:03d}mask.png" for number in (9, 10, 11)))
    (tmp_path / "walk.txt").write_text("she walks", encoding="utf-8")
    (tmp_path / "more" / "run.v2.txt").write_text("she runs", encoding="utf-8")
    data_set = scan(tmp_path, content="clips")
    told = [(item.name, item.caption, item.frames) for item in data_set.items]
    assert told == [("more/run.v2", "she runs", 3), ("walk", "she walks", 11)]
    assert mask_names(data_set, tmp_path) == [" ".join(f"masks/more/run.v2/{n:03d}mask.png" for n in (9, 10, 11)), "masks/walk.png"]
    walk = data_set.items[1]
    assert isinstance(walk.image, ImageFiles)
    assert [path.stem for path in walk.image.paths] == [f"frame{number}" for number in range(1, 12)]
    assert load_item(walk).image_THWC.shape == (11, 64, 96, 3)
    assert "2 clips (14 frames), 2 with a mask" in data_set.report
    assert names(scan(tmp_path, content="clips", recursive=False)) == ["walk"]


def test_a_clip_below_a_clip_keeps_its_own_mask(tmp_path: Path) -> None:
    clip(tmp_path, "walk", 2)
    clip(tmp_path, "walk/close", 3)
    put(tmp_path, "masks/walk/1.png", "masks/walk/2.png", "masks/walk/close.png")
    data_set = scan(tmp_path, content="clips")
    assert names(data_set) == ["walk", "walk/close"]
    assert mask_names(data_set, tmp_path) == ["masks/walk/1.png masks/walk/2.png", "masks/walk/close.png"]


def test_clips_with_sidecars_alpha_and_loose_pictures(tmp_path: Path) -> None:
    clip(tmp_path, "walk", 2)
    put(tmp_path, "walk.mask.png", "loose.jpg", "glass/1alpha.png", "glass/2alpha.png", "masks/glass.png")
    data_set = scan(tmp_path, content="clips")
    assert mask_names(data_set, tmp_path) == ["alpha", "walk.mask.png"]
    assert "outside of clips, unused: 1 (loose.jpg)" in data_set.report
    PHOTOGRAPH.save(tmp_path / "glass" / "3.png")
    with pytest.raises(ValueError, match=r"only some frames have an alpha channel: 1 \(glass: 2 of 3\)"):
        scan(tmp_path, content="clips")


def test_masks_that_cannot_be_applied_to_a_clip(tmp_path: Path) -> None:
    clip(tmp_path, "walk", 3)
    clip(tmp_path, "run", 2)
    put(tmp_path, "masks/walk/1.png", "masks/walk/2.png", "masks/run.png", "masks/run/1.png", "masks/run/2.png")
    with pytest.raises(ValueError, match=r"wrong number of masks: 1 \(walk: 2 masks for 3 frames\)") as caught:
        scan(tmp_path, content="clips", missing_mask="all ones")
    assert "several masks of their name: 1 (run: masks/run.png and masks/run/1.png and masks/run/2.png)" in str(caught.value)


def test_frames_of_several_sizes_are_refused(tmp_path: Path) -> None:
    clip(tmp_path, "walk", 3)
    PHOTOGRAPH.resize((50, 40)).save(tmp_path / "walk" / "frame3.jpg")
    with pytest.raises(ValueError, match=r"walk/frame1\.jpg is 96x64 but walk/frame3\.jpg is 50x40"):
        scan(tmp_path, content="clips", mask_source="none")
    with pytest.raises(ValueError, match="holds no clips; put .* in sub-folders, one for each clip"):
        scan(tmp_path / "walk", content="clips")


def test_the_fingerprint_follows_every_file_of_the_set(tmp_path: Path) -> None:
    folder, root = tmp_path / "set", tmp_path / "root"
    put(folder, "1.jpg", "2.jpg", "masks/1.png", "deep/down/3.jpg", caption="x")
    put(root, "1mask.png")
    spec = FolderSpec(folder=folder, mask_root=root)
    seen = [folder_fingerprint(spec)]
    assert folder_fingerprint(spec) == seen[0]
    (folder / "notes.md").write_text("more", encoding="utf-8")
    assert folder_fingerprint(spec) == seen[0]
    changes = [
        lambda: (folder / "1.txt").write_text("another caption", encoding="utf-8"),
        lambda: (folder / "metadata.jsonl").write_text("{}", encoding="utf-8"),
        lambda: put(folder, "masks/deep/2.png"),
        lambda: os.utime(folder / "deep" / "down" / "3.jpg", ns=(1, 1)),
        lambda: (folder / "2.jpg").rename(folder / "4.jpg"),
        lambda: (folder / "4.jpg").unlink(),
        lambda: put(root, "deep/2mask.png"),
        lambda: os.utime(root / "1mask.png", ns=(1, 1)),
    ]
    for change in changes:
        change()
        seen.append(folder_fingerprint(spec))
    assert len(set(seen)) == len(changes) + 1


def test_combining_keeps_order_and_makes_names_unique(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg", "c/1.jpg", "c/3/1.jpg")
    sets = [scan(tmp_path / name, mask_source="none", weight=weight, repeats=repeats)
            for name, weight, repeats in (("a", 1.0, 1), ("b", 0.5, 2), ("c", 0.25, 3))]
    combined = combine_data_sets(sets)
    assert names(combined) == ["1", "2", "2/1", "3", "3/3/1", "3/1"]
    assert [item.weight for item in combined.items] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [item.repeats for item in combined.items] == [1, 1, 2, 2, 3, 3]
    assert "6 items of 3 data sets" in combined.report
    assert all(data_set.report in combined.report for data_set in sets)
    assert combine_data_sets(sets[:1]).report == sets[0].report
    with pytest.raises(ValueError, match="no data set is given"):
        combine_data_sets([])


def test_shares_are_told(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    report = scan(tmp_path, mask_source="none", repeats=4, weight=0.5, regularisation=True).report
    assert "no masks by choice; learned everywhere: 1 picture" in report
    for told in ("repeats of the whole folder: 4x", "loss weight: 0.5", "regularisation pictures"):
        assert told in report


def test_names_and_captions_that_are_no_text_are_told(tmp_path: Path) -> None:
    """A name in another system's encoding, and half a surrogate pair out of a JSON file."""
    put(tmp_path, "1.png")
    os.rename(tmp_path / "1.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    with pytest.raises(ValueError, match=r"no Unicode text.*caf\\udce9"):
        scan_folder(FolderSpec(folder=tmp_path, mask_source="none"))
    os.rename(os.fsencode(tmp_path) + b"/caf\xe9.png", tmp_path / "1.png")
    (tmp_path / "1.json").write_text('{"caption": "\\ud800 x"}', encoding="utf-8")
    with pytest.raises(ValueError, match="captions that cannot be read.*is no Unicode text"):
        scan_folder(FolderSpec(folder=tmp_path, mask_source="none"))


def test_a_mask_folder_that_is_the_picture_folder_by_a_link_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "masks").symlink_to(".", target_is_directory=True)
    with pytest.raises(ValueError, match="every picture would be its own mask"):
        scan_folder(FolderSpec(folder=tmp_path))


def test_the_fingerprint_sees_masks_behind_a_link(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    put(tmp_path, ".hidden/1.png")
    (tmp_path / "masks").symlink_to(".hidden", target_is_directory=True)
    spec = FolderSpec(folder=tmp_path, mask_source="folder")
    assert isinstance(scan_folder(spec).items[0].mask, MaskFiles)
    before = folder_fingerprint(spec)
    os.utime(tmp_path / ".hidden" / "1.png", (1, 1))
    assert folder_fingerprint(spec) != before


def test_a_scan_tells_how_far_it_is_and_stops_at_once(tmp_path: Path) -> None:
    for i in range(30):
        put(tmp_path, f"{i}.png")
    seen: list[tuple[int, int]] = []
    scan_folder(FolderSpec(folder=tmp_path, mask_source="none"), lambda done, total: seen.append((done, total)))
    assert seen == [(i, 30) for i in range(1, 31)]

    class Cancelled(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        scan_folder(FolderSpec(folder=tmp_path, mask_source="none"), stop)
