"""Which reference pictures belong to which picture, in the layouts of other trainers, and what is said when one is missing."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pack.dataset.augment import augmented, mirrored
from pack.dataset.cache import ExampleCache, reference_shapes
from pack.dataset.item import DataSet, ImageFiles, Item
from pack.dataset.keys import content_key
from pack.dataset.load import load_item
from pack.dataset.manifest import open_set, save_set
from pack.dataset.prune import keys_of_sets
from pack.dataset.refs import ExampleRef, RefTable
from pack.dataset.scan import FolderSpec, combine_data_sets, folder_fingerprint, scan_folder
from PIL import Image


def put(folder: Path, *names: str, size: tuple[int, int] = (24, 16)) -> None:
    """Pictures, each of a colour of its own."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        colour = (len(list(folder.rglob("*"))) * 37 % 256, 90, 30)
        Image.new("RGB", size, colour).save(file)


def scan(folder: Path, *references: Path, **choices: Any) -> DataSet:
    return scan_folder(FolderSpec(folder=folder, references=references, mask_source="none", **choices))


def pairs(data_set: DataSet, top: Path) -> dict[str, list[str]]:
    """The files of each item's references, below `top`."""
    found: dict[str, list[str]] = {}
    for item in data_set.items:
        sources = [reference.image for reference in item.references]
        assert all(isinstance(source, ImageFiles) for source in sources)
        found[item.name] = [source.paths[0].relative_to(top.resolve()).as_posix() for source in sources if isinstance(source, ImageFiles)]
    return found


def test_ai_toolkit_one_folder_with_the_same_names(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "after/b.jpg", "before/a.jpg", "before/b.png")
    data_set = scan(tmp_path / "after", tmp_path / "before")
    assert pairs(data_set, tmp_path) == {"a": ["before/a.jpg"], "b": ["before/b.png"]}
    assert "reference pictures: 2 with 1, from before/" in data_set.report


def test_ai_toolkit_several_folders_count_in_their_order(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "person/a.png", "dress/a.png")
    assert pairs(scan(tmp_path / "after", tmp_path / "person", tmp_path / "dress"), tmp_path) == {"a": ["person/a.png", "dress/a.png"]}
    assert pairs(scan(tmp_path / "after", tmp_path / "dress", tmp_path / "person"), tmp_path) == {"a": ["dress/a.png", "person/a.png"]}


def test_musubi_numbers_count_as_numbers(tmp_path: Path) -> None:
    """Also ten of them, and a picture whose own name ends in a number keeps what bears its name."""
    put(tmp_path, "after/a.png", "after/a_1.png", "after/one.png", "control/a_0.png", "control/a_2.png", "control/a_10.png",
        "control/a_1.png", "control/one.png")
    assert pairs(scan(tmp_path / "after", tmp_path / "control"), tmp_path) == {
        "a": ["control/a_0.png", "control/a_2.png", "control/a_10.png"], "a_1": ["control/a_1.png"], "one": ["control/one.png"]}


def test_simpletuner_the_same_path_below_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "after/x/a.png", "after/y/a.png", "before/x/a.png", "before/y/a.png")
    assert pairs(scan(tmp_path / "after", tmp_path / "before"), tmp_path) == {"x/a": ["before/x/a.png"], "y/a": ["before/y/a.png"]}


def test_a_flat_folder_serves_sub_folders_while_names_are_unique(tmp_path: Path) -> None:
    put(tmp_path, "after/x/a.png", "after/y/b.png", "before/a.png", "before/b_1.png", "before/b_0.png")
    assert pairs(scan(tmp_path / "after", tmp_path / "before"), tmp_path) == {
        "x/a": ["before/a.png"], "y/b": ["before/b_0.png", "before/b_1.png"]}
    put(tmp_path, "after/z/a.png")
    with pytest.raises(ValueError, match=r"without a reference picture: 2 \(x/a: no before/x/a"):
        scan(tmp_path / "after", tmp_path / "before")


def test_onetrainer_files_beside_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a-condlabel.png")
    assert pairs(scan(tmp_path, tmp_path), tmp_path) == {"a": ["a-condlabel.png"]}
    unasked = scan(tmp_path)
    assert pairs(unasked, tmp_path) == {"a": []}
    assert "reference pictures that match no picture, unused: 1 (a-condlabel.png)" in unasked.report
    put(tmp_path, "b.png")
    with pytest.raises(ValueError, match=r"without a reference picture: 1 \(b: no b-condlabel\.png\)"):
        scan(tmp_path, tmp_path)


def test_a_folder_inside_the_set_gives_no_training_pictures(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "_controls/a.png", "control/a.png")
    assert pairs(scan(tmp_path, tmp_path / "control", tmp_path / "_controls"), tmp_path) == {"a": ["control/a.png", "_controls/a.png"]}


def test_everything_that_is_missing_or_wrong_is_told_with_a_remedy(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "after/b.png", "after/c.png", "after/d.png", "before/b.png", "before/b.jpg", "before/c.png",
        "before/e.png", "before/d_0.png", "before/d_00.png")
    (tmp_path / "before" / "c.png").write_bytes(b"no picture")
    with pytest.raises(ValueError) as error:
        scan(tmp_path / "after", tmp_path / "before")
    text = str(error.value)
    assert "without a reference picture: 1 (a: no before/a.* or before/a_0.*); put one of the same name there, or load" in text
    assert ("with several reference pictures of one name: 2 (b: before/b.jpg and before/b.png, d: before/d_0.png and before/d_00.png); "
            "keep one of them") in text
    assert "reference pictures that cannot be read: 1 (before/c.png: " in text
    assert "reference pictures that match no picture, unused: 1 (before/e.png)" in text


def test_clips_have_no_references(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reference pictures are for edit models, which make pictures; set content to pictures"):
        FolderSpec(folder=tmp_path, content="clips", references=(tmp_path,))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    with pytest.raises(ValueError, match="reference folder .*nowhere is not there; name the folder"):
        scan(tmp_path, tmp_path / "nowhere")


def test_a_folder_that_holds_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "a.png")
    with pytest.raises(ValueError, match="holds the picture folder .*after; put the reference pictures into a folder of their own"):
        scan(tmp_path / "after", tmp_path)


def test_a_changed_reference_changes_the_fingerprint(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "before/a.png")
    spec = FolderSpec(folder=tmp_path / "after", references=(tmp_path / "before",))
    first = folder_fingerprint(spec)
    assert folder_fingerprint(spec) == first
    put(tmp_path, "before/a.png", size=(32, 16))
    assert folder_fingerprint(spec) != first


def edge_item(tmp_path: Path) -> Item:
    """A picture and its reference, both white in their left half alone."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = 255
    for place in ("after", "before"):
        (tmp_path / place).mkdir()
        Image.fromarray(pixels).save(tmp_path / place / "a.png")
    (item,) = scan(tmp_path / "after", tmp_path / "before").items
    return item


def test_a_reference_is_mirrored_with_its_picture_and_nothing_else(tmp_path: Path) -> None:
    item = edge_item(tmp_path)
    (plain,), (turned,), (back,) = item.references, mirrored(item, 1).references, mirrored(mirrored(item, 1), 2).references
    assert torch.equal(load_item(turned).image_THWC, load_item(plain).image_THWC.flip(2))
    assert torch.equal(load_item(back).image_THWC, load_item(plain).image_THWC)
    copies = [augmented(item, number, rotation=0.0, zoom=0.5, shift=1.0, flip=True, seed=0) for number in range(12)]
    flips = [copy.placement.flip for copy in copies if copy.placement]
    assert {True, False} == set(flips)
    for copy, flip in zip(copies, flips, strict=True):
        (reference,) = copy.references
        seen = load_item(reference).image_THWC
        assert torch.equal(seen, load_item(turned if flip else plain).image_THWC), "whole, whatever part of the picture is trained on"


def test_a_picture_with_references_is_not_turned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a has reference pictures, which do not turn with it; set rotation to 0"):
        augmented(edge_item(tmp_path), 1, rotation=5.0, zoom=0.0, shift=0.0, flip=False, seed=0)


def test_references_stay_when_sets_are_combined(tmp_path: Path) -> None:
    put(tmp_path, "after/a.png", "before/a.png")
    one = scan(tmp_path / "after", tmp_path / "before")
    assert [len(item.references) for item in combine_data_sets([one, scan(tmp_path / "after"), one]).items] == [1, 0, 1]


def key(kind: str, number: int) -> str:
    return content_key(kind, str(number))


def refs() -> list[ExampleRef]:
    """Without, with one, with two references."""
    shapes = [(), ((key("reference", 0), (4, 3, 5)),), ((key("reference", 0), (4, 3, 5)), (key("reference", 1), (4, 1, 2, 2)))]
    return [ExampleRef(f"{i}", "a caption", key("latent", i), key("text", 0), None, (4, 2, 2), 3, references=references)
            for i, references in enumerate(shapes)]


def stored(folder: Path) -> ExampleCache:
    cache = ExampleCache(folder)
    cache.texts.put(key("text", 0), {"cross_attn": torch.zeros(1, 3, 2)})
    for ref in refs():
        cache.latents.put(ref.latent_key, {"latent": torch.zeros(ref.latent_shape)})
        for number, (place, shape) in enumerate(ref.references):
            cache.latents.put(place, {"latent": torch.full(shape, 1.0 + number)})
    return cache


def test_references_are_kept_opened_and_loaded_in_order(tmp_path: Path) -> None:
    save_set(stored(tmp_path), refs(), "{}", "", "edits")
    opened = open_set(tmp_path, "edits").examples
    assert list(opened.refs) == refs()  # type: ignore[attr-defined]
    assert [sorted(example.cond) for example in opened] == [
        ["cross_attn"], ["cross_attn", "reference_latents.0"], ["cross_attn", "reference_latents.0", "reference_latents.1"]]
    last = opened[2]
    assert torch.equal(last.cond["reference_latents.0"], torch.ones(1, 4, 3, 5))
    assert torch.equal(last.cond["reference_latents.1"], torch.full((1, 4, 1, 2, 2), 2.0))
    assert [reference_shapes(ref) for ref in refs()] == [reference_shapes(example) for example in opened]
    assert reference_shapes(last) == ((4, 3, 5), (4, 1, 2, 2))


def test_a_set_of_before_there_were_references_opens(tmp_path: Path) -> None:
    plain = [replace(ref, references=()) for ref in refs()]
    columns = json.loads(json.dumps(RefTable(plain).to_columns()))
    old = {name: column for name, column in columns.items() if not name.startswith("references")}
    assert len(old) == len(columns) - 2
    table = RefTable.from_columns(old)
    assert list(table) == plain
    table.append(refs()[2])
    assert table[3] == refs()[2]


@pytest.mark.parametrize("wrong", [{"references_of": [0]}, {"references": [[["no key", [1]]]]}, {"references_of": [7, 0, 0]}])
def test_columns_that_do_not_belong_together(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RefTable.from_columns(RefTable(refs()).to_columns() | wrong)


def test_a_lost_reference_is_told_and_one_in_use_is_not_pruned(tmp_path: Path) -> None:
    cache = stored(tmp_path)
    save_set(cache, refs(), "{}", "", "edits")
    assert {key("reference", 0), key("reference", 1)} <= keys_of_sets(tmp_path, ["edits"])["latents"]
    cache.latents.file(key("reference", 1)).unlink()
    with pytest.raises(ValueError, match=r"1 of 3 examples have lost files \(1 latent\): 2; run Encode"):
        open_set(tmp_path, "edits")
