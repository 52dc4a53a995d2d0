"""Load Training Folder and Combine Data Sets in the real server. White = learn."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from .server import Comfy, Graph, Node

LOAD, COMBINE = "MaskedLoRA_LoadFolder", "MaskedLoRA_CombineDataSets"
DEFAULTS = {
    "content": "pictures", "mask_source": "automatic", "missing_mask": "error", "captions": "automatic", "repeats": 1, "weight": 1.0,
    "regularisation": False, "mask_folder": "masks", "channel": "luminance", "mask_size": "error", "caption_field": "caption",
    "recursive": True, "hidden_colours": "keep", "colour": "#808080", "seed": 0, "references": "",
}


def load(graph: Graph, folder: str = "demo", **inputs: object) -> Node:
    return graph.add(LOAD, **({"folder": folder} | DEFAULTS | inputs))


@pytest.fixture
def folder(comfy: Comfy) -> Path:
    """Two photographs, one with a mask, in the input folder; a fresh one for each test."""
    place = comfy.input / "data_set_nodes"
    shutil.rmtree(place, ignore_errors=True)
    (place / "masks").mkdir(parents=True)
    for name, picture in (("cat", data.chelsea()), ("cup", data.coffee())):
        Image.fromarray(picture).resize((96, 64)).save(place / f"{name}.jpg")
    Image.fromarray(~data.horse()).convert("L").resize((96, 64)).save(place / "masks" / "cat.png")
    return place


def test_the_report_is_on_the_node_and_in_the_console(comfy: Comfy) -> None:
    graph = Graph()
    node = load(graph)
    text = comfy.run(graph).text(node)
    assert text.startswith("pibo: 12 pictures, 12 with a mask; white = learn\nmasks: 12 from masks/")
    assert "pibo: 12 pictures, 12 with a mask" in comfy.log()


@pytest.mark.parametrize(("name", "says"), [("demo cutouts", "from alpha channels"), ("demo clips", "clips (")])
def test_the_other_bundled_folders(comfy: Comfy, name: str, says: str) -> None:
    graph = Graph()
    node = load(graph, name, content="clips" if "clips" in name else "pictures")
    assert says in comfy.run(graph).text(node)


def test_defaults_are_those_of_the_schema(comfy: Comfy) -> None:
    schema = comfy.object_info[LOAD]["input"]
    told = {name: details[1].get("default") for part in ("required", "optional")
            for name, details in schema.get(part, {}).items()}
    assert told == {"folder": "demo"} | DEFAULTS


def test_what_is_missing_is_an_error_on_the_node(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    load(graph, folder.name)
    message = comfy.error(graph, LOAD)
    assert "without a mask: 1 (cup.jpg); put masks/cup.png (white = learn) into" in message


def test_places_outside_are_refused_before_anything_runs(comfy: Comfy) -> None:
    graph = Graph()
    node = load(graph, "..")
    assert "outside ComfyUI's input directory" in comfy.refusal(graph, node)


@pytest.mark.parametrize(
    ("inputs", "says"), [({"mask_folder": "../.."}, "outside ComfyUI's input directory"), ({"colour": "red"}, "write it as #rrggbb")])
def test_other_wrong_inputs_are_errors_on_the_node(comfy: Comfy, inputs: dict[str, str], says: str) -> None:
    graph = Graph()
    load(graph, **inputs)
    assert says in comfy.error(graph, LOAD)


def test_a_name_from_another_node_is_checked_too(comfy: Comfy) -> None:
    graph = Graph()
    name = graph.add("PrimitiveString", value="..")
    load(graph, **{"folder": name[0]})
    assert "outside ComfyUI's input directory" in comfy.error(graph, LOAD)


def test_a_changed_file_is_noticed(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    node = load(graph, folder.name, missing_mask="all ones")
    assert "2 pictures, 1 with a mask" in comfy.run(graph).text(node)
    assert node.id in comfy.run(graph).cached
    shutil.copyfile(folder / "masks" / "cat.png", folder / "masks" / "cup.png")
    again = comfy.run(graph)
    assert node.id not in again.cached
    assert "2 pictures, 2 with a mask" in again.text(node)


def test_data_sets_are_combined(comfy: Comfy, folder: Path) -> None:
    graph = Graph()
    sets = [load(graph, folder.name, missing_mask="skip", weight=0.5), load(graph), load(graph, folder.name, mask_source="none")]
    node = graph.add(COMBINE, **{f"data_sets.data_set{number}": one[0] for number, one in enumerate(sets)})
    text = comfy.run(graph).text(node)
    assert text.startswith("15 items of 3 data sets\n\ndata_set_nodes: 1 picture, 1 with a mask; white = learn")
    assert "loss weight: 0.5" in text
    assert "pibo: 12 pictures" in text
    assert "no masks by choice; learned everywhere: 2 pictures" in text
