"""What the nodes say when something is wrong with the folder, a picture, a mask or a name, as a person reads it on the node."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .server import Comfy, Graph, Node, add_training, complaints, write_mask, write_picture

NAMES = ("one", "three", "two")


def loading(folder: str, mask_source: str = "folder", missing_mask: str = "error") -> tuple[Graph, Node, Node]:
    """A graph that loads a folder and shows the report: the graph, the loader, the node that shows."""
    graph = Graph()
    loader = graph.add("MaskedLoRA_LoadFolder", folder=folder, mask_source=mask_source, missing_mask=missing_mask, size=128)
    return graph, loader, graph.add("PreviewAny", source=loader[4])


@pytest.fixture
def folder(comfy: Comfy, request: pytest.FixtureRequest) -> Path:
    """A sound folder of three pictures with masks and captions in ComfyUI's input directory."""
    place = comfy.input / request.node.name.replace("[", "_").replace("]", "")
    for seed, name in enumerate(NAMES):
        write_picture(place / f"{name}.png", seed=seed)
        write_mask(place / "masks" / f"{name}.png")
        (place / f"{name}.txt").write_text(f"picture {name}", encoding="utf-8")
    return place


def test_sound_folder_loads(comfy: Comfy, folder: Path) -> None:
    graph, _, shown = loading(folder.name)
    report = comfy.run(graph).text(shown)
    assert "3 pictures, 3 masks from masks/" in report
    assert "without" not in report


@pytest.mark.parametrize("outside", ["../x", "..", "/", "demo/../../x"])
def test_folder_outside_the_input_directory_is_refused(comfy: Comfy, outside: str) -> None:
    (comfy.input.parent / "x").mkdir(exist_ok=True)
    graph, loader, _ = loading(outside)
    refusal = comfy.refusal(graph, loader)
    assert repr(outside) in refusal
    assert "outside ComfyUI's input directory" in refusal
    assert "put the pictures into a folder inside" in refusal


def test_folder_outside_is_refused_when_another_node_names_it(comfy: Comfy) -> None:
    (comfy.input.parent / "x").mkdir(exist_ok=True)
    graph = Graph()
    name = graph.add("PrimitiveString", value="../x")
    loader = graph.add("MaskedLoRA_LoadFolder", folder=name[0], mask_source="none", missing_mask="error", size=128)
    graph.add("PreviewAny", source=loader[4])
    assert "outside ComfyUI's input directory" in comfy.error(graph, "MaskedLoRA_LoadFolder")


def test_folder_that_another_node_names_is_loaded_in_silence(comfy: Comfy, folder: Path) -> None:
    """ComfyUI does not know the name while it asks which nodes have to run again."""
    graph = Graph()
    name = graph.add("PrimitiveString", value=folder.name)
    loader = graph.add("MaskedLoRA_LoadFolder", folder=name[0], mask_source="folder", missing_mask="error", size=128)
    shown = graph.add("PreviewAny", source=loader[4])
    start = len(comfy.log())
    assert "3 pictures, 3 masks" in comfy.run(graph).text(shown)
    assert not complaints(comfy.log()[start:])


def test_link_out_of_the_input_directory_is_refused(comfy: Comfy, tmp_path: Path) -> None:
    (comfy.input / "link").symlink_to(tmp_path, target_is_directory=True)
    graph, loader, _ = loading("link")
    assert "outside ComfyUI's input directory" in comfy.refusal(graph, loader)


def test_folder_that_does_not_exist(comfy: Comfy) -> None:
    graph, loader, _ = loading("no such folder")
    refusal = comfy.refusal(graph, loader)
    assert "'no such folder' is not a folder in ComfyUI's input directory" in refusal
    assert str(comfy.input.resolve()) in refusal


def test_folder_without_pictures(comfy: Comfy) -> None:
    (comfy.input / "empty").mkdir()
    graph, _, _ = loading("empty")
    message = comfy.error(graph, "MaskedLoRA_LoadFolder")
    assert "holds no pictures" in message
    assert ".png" in message


def test_missing_mask_is_named_with_the_remedy(comfy: Comfy, folder: Path) -> None:
    (folder / "masks" / "two.png").unlink()
    graph, _, _ = loading(folder.name)
    message = comfy.error(graph, "MaskedLoRA_LoadFolder")
    assert "1 of 3 pictures have no mask: two.png" in message
    assert "put masks/two.png (white = learn) into" in message
    assert "'all ones'" in message
    assert "'skip'" in message


@pytest.mark.parametrize(("policy", "says", "count"), [("skip", "skipped", 2), ("all ones", "learned everywhere", 3)])
def test_missing_mask_under_the_other_policies(comfy: Comfy, folder: Path, policy: str, says: str, count: int) -> None:
    (folder / "masks" / "two.png").unlink()
    graph, loader, shown = loading(folder.name, missing_mask=policy)
    preview = graph.add("MaskedLoRA_PreviewMask", images=loader[0], masks=loader[1], names=loader[3])
    run = comfy.run(graph)
    report = run.text(shown)
    assert f"{count} pictures, 2 masks from masks/" in report
    assert f"without a mask, {says}: 1 (two.png)" in report
    lines = [line for line in run.text(preview).splitlines() if line.split(":")[0] in NAMES]
    assert len(lines) == count
    if policy == "all ones":
        assert "100.0% of pixels" in next(line for line in lines if line.startswith("two:"))


def test_mask_added_later_is_noticed(comfy: Comfy, folder: Path) -> None:
    """The files decide whether the node runs again, not only its widgets."""
    mask = folder / "masks" / "two.png"
    content = mask.read_bytes()
    mask.unlink()
    graph, loader, shown = loading(folder.name, missing_mask="skip")
    assert "2 pictures" in comfy.run(graph).text(shown)
    mask.write_bytes(content)
    again = comfy.run(graph)
    assert loader.id not in again.cached
    assert "3 pictures, 3 masks" in again.text(shown)


def test_text_file_that_pretends_to_be_a_picture_is_named(comfy: Comfy, folder: Path) -> None:
    (folder / "two.png").write_text("not a picture", encoding="utf-8")
    graph, _, _ = loading(folder.name)
    message = comfy.error(graph, "MaskedLoRA_LoadFolder")
    assert "two.png cannot be read as a picture" in message
    assert "save it again as PNG or remove it" in message


def test_mask_of_another_size_is_named_with_both_sizes(comfy: Comfy, folder: Path) -> None:
    write_mask(folder / "masks" / "two.png", (64, 48))
    graph, _, _ = loading(folder.name)
    message = comfy.error(graph, "MaskedLoRA_LoadFolder")
    assert "two.png is 64x48" in message
    assert "two.png is 160x128" in message
    assert "save the mask at its picture's size" in message


def test_fewer_captions_than_pictures(comfy: Comfy, folder: Path) -> None:
    (folder / "masks" / "two.png").unlink()
    graph = Graph()
    training = add_training(graph, folder=folder.name)
    graph.prompt[training.images.id]["inputs"]["missing_mask"] = "all ones"
    fewer = graph.add("MaskedLoRA_LoadFolder", folder=folder.name, mask_source="folder", missing_mask="skip", size=128)
    graph.prompt[training.encoded.id]["inputs"]["captions"] = fewer[2]
    message = comfy.error(graph, "MaskedLoRA_EncodeTrainingSet")
    assert message.startswith("3 pictures came with 2 captions")


def test_mask_of_another_size_between_nodes(comfy: Comfy, folder: Path) -> None:
    """Masks may come from any node, so encoding looks at their size again."""
    graph = Graph()
    training = add_training(graph, folder=folder.name)
    larger = graph.add("MaskedLoRA_LoadFolder", folder=folder.name, mask_source="folder", missing_mask="error", size=144)
    graph.prompt[training.encoded.id]["inputs"]["masks"] = larger[1]
    message = comfy.error(graph, "MaskedLoRA_EncodeTrainingSet")
    assert "one: the picture is 128x128 and its mask 144x144 pixels" in message


def save_with(name: str) -> Graph:
    graph = Graph()
    training = add_training(graph, steps=1)
    graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename=name)
    return graph


def train_with(name: str) -> Graph:
    graph = Graph()
    add_training(graph, steps=1, name=name)
    return graph


@pytest.mark.parametrize(("make", "kind"), [(save_with, "MaskedLoRA_SaveLora"), (train_with, "MaskedLoRA_Train")])
@pytest.mark.parametrize("name", ["../../x", "/x", "../x"])
def test_lora_name_that_leaves_its_folder(comfy: Comfy, make: Callable[[str], Graph], kind: str, name: str) -> None:
    before, start = set(comfy.server.data.rglob("*.safetensors")), len(comfy.log())
    message = comfy.error(make(name), kind)
    assert repr(name) in message
    assert f"lies outside {comfy.loras.resolve()}" in message
    if kind == "MaskedLoRA_Train":
        assert "step 1/1" not in comfy.log()[start:], "the name is looked at after hours of training"
    made = set(comfy.server.data.rglob("*.safetensors")) - before
    assert {file.parent.name for file in made} <= {"cache"}
