"""Make Masks and Write Masks in the real server, with a plan of a stand-in segmenter. White = learn."""
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pack.host import mask_journal
from PIL import Image
from skimage import data

from .server import Comfy, Graph, Node
from .test_data_set_nodes import load

MAKE, WRITE = "MaskedLoRA_MakeMasks", "MaskedLoRA_WriteMasks"


@pytest.fixture
def folder(comfy: Comfy) -> Path:
    """Two photographs, and one in which it is night."""
    place = comfy.input / "write_masks"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, picture in (("cat", data.chelsea()), ("cup", data.coffee()), ("night", data.astronaut() // 8)):
        Image.fromarray(picture).resize((96, 64)).save(place / f"{name}.png")
        (place / f"{name}.txt").write_text(name, encoding="utf-8")
    return place


def grey(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), np.float64).mean(-1)


def plan(graph: Graph, weight: float = 1.0) -> Node:
    return graph.add("TinyMaskPlan", weight=weight)


def write(graph: Graph, folder: str, weight: float = 1.0, layout: str = "masks folder", existing: str = "redo ours if changed",
          **inputs: Any) -> Node:
    loaded = load(graph, folder, mask_source="none")
    return graph.add(WRITE, data_set=loaded[0], plan=plan(graph, weight)[0], layout=layout, existing=existing, **inputs)


def shown(graph: Graph, node: Node) -> Node:
    return graph.add("PreviewAny", source=node)


def test_one_picture(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    picture = graph.add("LoadImage", image=f"{folder.name}/cat.png")
    made = graph.add(MAKE, plan=plan(graph, 0.5)[0], image=picture[0], nothing_found="error")
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=made[0])[0], filename_prefix="made")
    run = comfy.run(graph)
    assert run.text(made).startswith("white = learn\npicture 1: bright; learned ")
    [mask] = run.images(saved)
    assert np.abs(np.asarray(mask.convert("L")) - grey(folder / "cat.png") * 0.5).max() <= 1


@pytest.mark.parametrize(("nothing_found", "level"), [("all zeros", 0), ("all ones", 255)])
def test_nothing_in_one_of_a_batch(comfy: Comfy, folder: Path, nothing_found: str, level: int) -> None:
    graph = Graph()
    pictures = [graph.add("LoadImage", image=f"{folder.name}/{name}.png") for name in ("cat", "night")]
    batch = graph.add("ImageBatch", image1=pictures[0][0], image2=pictures[1][0])
    made = graph.add(MAKE, plan=plan(graph)[0], image=batch[0], nothing_found=nothing_found)
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=made[0])[0], filename_prefix="made")
    found = shown(graph, made[1])
    run = comfy.run(graph)
    assert f"picture 2: nothing found; no bright; {nothing_found} instead" in run.text(made)
    assert np.unique(np.asarray(run.images(saved)[1])).tolist() == [level]
    assert run.text(found).lower() == "false"

    graph.prompt[made.id]["inputs"]["nothing_found"] = "error"
    message = comfy.error(graph, MAKE)
    assert message.startswith("no mask for 1 of 2 pictures: picture 2: nothing found; no bright. Try other regions")


def test_a_folder_in_one_graph_from_pictures_to_masked_items(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    written = write(graph, folder.name)
    again = load(graph, written[1], mask_source="folder", missing_mask="skip")
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=written[0], start=0, count=0)
    masks = graph.add("SaveImage", images=graph.add("MaskToImage", mask=lists[1])[0], filename_prefix="written")
    names, told = shown(graph, lists[3]), shown(graph, written[4])
    run = comfy.run(graph)
    text = run.text(written)
    assert text.startswith("3 pictures: 2 masks made, 0 made before and still right, 0 kept, 1 with nothing found, 0 failed; white = learn")
    assert "needs a person (no mask was written): 1\n  night: nothing found; no bright" in text
    assert run.text(again).startswith("write_masks: 2 pictures, 2 with a mask; white = learn")
    for name, mask in zip(("cat", "cup"), run.images(masks), strict=True):
        assert np.abs(np.asarray(mask.convert("L")) - grey(folder / f"{name}.png")).max() <= 1
        assert np.abs(np.asarray(Image.open(folder / "masks" / f"{name}.png")) - grey(folder / f"{name}.png")).max() <= 0.5 + 1e-4
    assert run.entry["outputs"][names.id]["text"] == ["cat", "cup"]
    assert json.loads(run.text(told))["needs_a_person"] == ["night"]
    assert run.images(written)[0].width > 400
    assert not (folder / "masks" / "night.png").exists()


def test_a_second_run_looks_at_what_changed(comfy: Comfy, folder: Path) -> None:
    def texts(weight: float = 1.0) -> tuple[str, bool]:
        graph = Graph()
        written = write(graph, folder.name, weight)
        run = comfy.run(graph)
        return ("" if written.id in run.cached else run.text(written).splitlines()[0]), written.id in run.cached

    def counts(made: int, before: int, kept: int) -> str:
        return (f"3 pictures: {made} mask{'s' * (made != 1)} made, {before} made before and still right, {kept} kept, "
                "1 with nothing found, 0 failed; white = learn")

    assert texts()[0] == counts(2, 0, 0)
    assert texts()[0] == counts(0, 2, 0)  # masks have come into the folder
    assert texts()[1]
    assert texts(0.5)[0] == counts(2, 0, 0)
    texts(0.5)
    Image.fromarray(data.coffee()[::-1]).resize((96, 64)).save(folder / "cat.png")
    assert texts(0.5)[0] == counts(1, 1, 0)
    Image.new("L", (96, 64), 200).save(folder / "masks" / "cup.png")
    assert texts(0.5)[0] == counts(0, 1, 1)
    assert texts(0.5)[1]


def test_other_places(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    written = write(graph, "demo", layout="another folder", **{"layout.folder": "demo_masks [output]"})
    assert "12 masks made" in comfy.run(graph).text(written)
    assert len(list((comfy.server.output / "demo_masks").glob("*.png"))) == 12

    graph = Graph()
    write(graph, "demo")
    assert "cannot be written to" in comfy.error(graph, WRITE)
    for wrong, says in (("..", "names no folder for masks"), (folder.name, "is or holds the pictures of"), ("", "names no folder"),
                        ("../x [output]", "names no folder for masks"), (f"{folder.name}/cat.png", "is a file")):
        graph = Graph()
        write(graph, folder.name, layout="another folder", **{"layout.folder": wrong})
        assert says in comfy.error(graph, WRITE)


def test_another_folder_is_looked_at_again_when_it_changed(comfy: Comfy, folder: Path) -> None:
    masks = comfy.server.output / "watched_masks"
    shutil.rmtree(masks, ignore_errors=True)

    def run() -> str:
        graph = Graph()
        written = write(graph, folder.name, layout="another folder", **{"layout.folder": "watched_masks [output]"})
        done = comfy.run(graph)
        return "" if written.id in done.cached else done.text(written).splitlines()[0]

    assert "2 masks made" in run()
    run()
    assert run() == ""
    Image.new("L", (96, 64), 200).save(masks / "cat.png")
    assert "0 masks made, 1 made before and still right, 1 kept" in run()
    assert run() == ""
    (masks / "cup.png").unlink()
    assert "1 mask made, 0 made before and still right, 1 kept" in run()
    run()
    assert run() == ""
    (masks / "night.png").write_bytes(b"no picture")
    for _ in range(3):  # what failed is tried again
        assert "1 failed" in run()
    (masks / "night.png").unlink()
    assert "1 with nothing found, 0 failed" in run()
    assert run() == ""


def test_a_link_that_leads_away_is_not_followed(comfy: Comfy, folder: Path, tmp_path: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "cat.png").rename(folder / "sub" / "cat.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "sub").symlink_to(tmp_path, target_is_directory=True)
    graph = Graph()
    write(graph, folder.name)
    assert "cannot be written to" in comfy.error(graph, WRITE)
    assert list(tmp_path.iterdir()) == []
    assert list((folder / "masks").glob("*.png")) == []


def test_what_review_marks_is_made_anew(comfy: Comfy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    def run() -> str:
        graph = Graph()
        written = write(graph, folder.name)
        done = comfy.run(graph)
        return "" if written.id in done.cached else done.text(written)

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(comfy.server.data / "user"))
    run(), run()
    assert run() == ""
    home = folder / "masks"
    mask_journal.append(home, replace(mask_journal.read(home)["../cat.png"], review="accepted"))
    assert run() == ""
    mask_journal.append(home, replace(mask_journal.read(home)["../cat.png"], review="redo"))
    assert "1 mask made, 1 made before" in run()
    run()
    assert run() == ""
