"""What the nodes say when something is wrong with the folder, a picture, a mask, a name or a setting, as a person reads it."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .defaults import Page, new_graph
from .server import Comfy, Node, add_training, complaints, write_mask, write_picture

LOAD, ENCODE, TRAIN, SAVE = "MaskedLoRA_LoadFolder", "MaskedLoRA_EncodeTrainingSet", "MaskedLoRA_Train", "MaskedLoRA_SaveLora"
NAMES = ("one", "three", "two")


def loading(comfy: Comfy, folder: str | list[Any], mask_source: str = "folder", **settings: Any) -> tuple[Page, Node]:
    """A graph that loads a folder, and the node that does and shows the report."""
    graph = new_graph(comfy)
    return graph, graph.add(LOAD, folder=folder, mask_source=mask_source, **settings)


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
    graph, loader = loading(comfy, folder.name)
    shown = graph.add("PreviewAny", source=loader[1])
    run = comfy.run(graph)
    report = run.text(loader)
    assert "3 pictures, 3 with a mask" in report
    assert "3 from masks/" in report
    assert "without" not in report
    assert run.text(shown) == report


@pytest.mark.parametrize("outside", ["../x", "..", "/", "demo/../../x"])
def test_folder_outside_the_input_directory_is_refused(comfy: Comfy, outside: str) -> None:
    (comfy.input.parent / "x").mkdir(exist_ok=True)
    refusal = comfy.refusal(*loading(comfy, outside))
    assert repr(outside) in refusal
    assert "outside ComfyUI's input directory" in refusal
    assert "put the pictures into a folder inside" in refusal


def test_folder_outside_is_refused_when_another_node_names_it(comfy: Comfy) -> None:
    (comfy.input.parent / "x").mkdir(exist_ok=True)
    graph = new_graph(comfy)
    name = graph.add("PrimitiveString", value="../x")
    graph.add(LOAD, folder=name[0], mask_source="none")
    assert "outside ComfyUI's input directory" in comfy.error(graph, LOAD)


def test_folder_that_another_node_names_is_loaded_in_silence(comfy: Comfy, folder: Path) -> None:
    """ComfyUI does not know the name while it asks which nodes have to run again."""
    graph = new_graph(comfy)
    name = graph.add("PrimitiveString", value=folder.name)
    loader = graph.add(LOAD, folder=name[0], mask_source="folder")
    start = len(comfy.log())
    assert "3 pictures, 3 with a mask" in comfy.run(graph).text(loader)
    assert not complaints(comfy.log()[start:])


def test_link_out_of_the_input_directory_is_refused(comfy: Comfy, tmp_path: Path) -> None:
    (comfy.input / "link").symlink_to(tmp_path, target_is_directory=True)
    assert "outside ComfyUI's input directory" in comfy.refusal(*loading(comfy, "link"))


def test_folder_that_does_not_exist(comfy: Comfy) -> None:
    refusal = comfy.refusal(*loading(comfy, "no such folder"))
    assert "'no such folder' is not a folder in ComfyUI's input directory" in refusal
    assert str(comfy.input.resolve()) in refusal


def test_folder_without_pictures(comfy: Comfy) -> None:
    (comfy.input / "empty").mkdir()
    graph, _ = loading(comfy, "empty")
    message = comfy.error(graph, LOAD)
    assert "holds no pictures" in message
    assert ".png" in message


def test_missing_mask_is_named_with_the_remedy(comfy: Comfy, folder: Path) -> None:
    (folder / "masks" / "two.png").unlink()
    graph, _ = loading(comfy, folder.name)
    message = comfy.error(graph, LOAD)
    assert "without a mask: 1 (two.png)" in message
    assert "put masks/two.png (white = learn) into" in message
    assert "'all ones'" in message
    assert "'skip'" in message


@pytest.mark.parametrize(("policy", "says", "count"), [("skip", "skipped", 2), ("all ones", "learned everywhere", 3)])
def test_missing_mask_under_the_other_policies(comfy: Comfy, folder: Path, policy: str, says: str, count: int) -> None:
    (folder / "masks" / "two.png").unlink()
    graph, loader = loading(comfy, folder.name, missing_mask=policy)
    preview = graph.add("MaskedLoRA_PreviewMask", data_set=loader[0])
    shown = graph.add("PreviewAny", source=preview[1])
    run = comfy.run(graph)
    report = run.text(loader)
    assert f"{count} pictures, 2 with a mask" in report
    assert f"without a mask, {says}: 1 (two" in report
    lines = [line for line in run.text(shown).splitlines() if line.split(":")[0] in NAMES]
    assert len(lines) == count
    if policy == "all ones":
        assert "100.0% of pixels" in next(line for line in lines if line.startswith("two:"))


def test_mask_added_later_is_noticed(comfy: Comfy, folder: Path) -> None:
    """The files decide whether the node runs again, not only its widgets."""
    mask = folder / "masks" / "two.png"
    content = mask.read_bytes()
    mask.unlink()
    graph, loader = loading(comfy, folder.name, missing_mask="skip")
    assert "2 pictures" in comfy.run(graph).text(loader)
    assert loader.id in comfy.run(graph).cached
    mask.write_bytes(content)
    again = comfy.run(graph)
    assert loader.id not in again.cached
    assert "3 pictures, 3 with a mask" in again.text(loader)


def test_text_file_that_pretends_to_be_a_picture_is_named(comfy: Comfy, folder: Path) -> None:
    (folder / "two.png").write_text("not a picture", encoding="utf-8")
    graph, _ = loading(comfy, folder.name)
    message = comfy.error(graph, LOAD)
    assert "pictures that cannot be read: 1 (two.png" in message
    assert "save them again or remove them" in message


def test_mask_of_another_size_is_named_with_both_sizes(comfy: Comfy, folder: Path) -> None:
    write_mask(folder / "masks" / "two.png", (64, 48))
    graph, _ = loading(comfy, folder.name)
    message = comfy.error(graph, LOAD)
    assert "two.png is 64x48" in message
    assert "the picture 160x128" in message
    assert "save them at their pictures' size" in message
    assert "mask_size to 'fit'" in message


def test_mask_of_another_size_is_stretched_when_asked_for(comfy: Comfy, folder: Path) -> None:
    """The mask is white in its left half, and so is what the preview and core's nodes get of it."""
    write_mask(folder / "masks" / "two.png", (64, 48))
    graph, loader = loading(comfy, folder.name, mask_size="fit")
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=loader[0])
    shown = graph.add("PreviewImage", images=graph.add("MaskToImage", mask=lists[1])[0])
    run = comfy.run(graph)
    assert "two: masks/two.png is 64x48, the picture 160x128" in run.text(loader), "other proportions are told"
    one, _, two = run.images(shown)
    assert one.size == two.size == (160, 128)
    difference = [abs(a - b) for a, b in zip(one.convert("L").tobytes(), two.convert("L").tobytes(), strict=True)]
    assert max(difference) <= 4
    assert one.convert("L").getextrema() == (0, 255)


def test_all_that_is_wrong_is_told_at_once(comfy: Comfy, folder: Path) -> None:
    (folder / "masks" / "one.png").unlink()
    (folder / "three.png").write_text("not a picture", encoding="utf-8")
    write_mask(folder / "masks" / "two.png", (64, 48))
    graph, _ = loading(comfy, folder.name)
    message = comfy.error(graph, LOAD)
    assert "without a mask: 1 (one.png)" in message
    assert "cannot be read: 1 (three.png" in message
    assert "two.png is 64x48" in message


def save_with(comfy: Comfy, name: str) -> Page:
    graph = new_graph(comfy)
    training = add_training(graph, steps=1)
    graph.add(SAVE, lora=training.trained[0], filename=name)
    return graph


def train_with(comfy: Comfy, name: str) -> Page:
    graph = new_graph(comfy)
    add_training(graph, steps=1, name=name)
    return graph


def written(comfy: Comfy) -> set[Path]:
    """All files below the server's folder that hold tensors or training sets."""
    return {file for ending in ("safetensors", "json") for file in comfy.server.data.rglob(f"*.{ending}")}


@pytest.mark.parametrize(("make", "kind"), [(save_with, SAVE), (train_with, TRAIN)])
@pytest.mark.parametrize("name", ["../../x", "/x", "../x"])
def test_lora_name_that_leaves_its_folder(comfy: Comfy, make: Callable[[Comfy, str], Page], kind: str, name: str) -> None:
    before, start = written(comfy), len(comfy.log())
    message = comfy.error(make(comfy, name), kind)
    assert repr(name) in message
    assert f"lies outside {comfy.loras.resolve()}" in message
    if kind == TRAIN:
        assert "step 1/1" not in comfy.log()[start:], "the name is looked at after hours of training"
    cache = comfy.server.data / "user" / "masked_lora" / "cache"
    assert all(file.is_relative_to(cache) for file in written(comfy) - before)


@pytest.mark.parametrize("name", ["../x", "/x", "sub/x"], ids=["above", "root", "below"])
def test_name_of_a_training_set_that_leaves_its_folder(comfy: Comfy, folder: Path, name: str) -> None:
    before = written(comfy)
    graph = new_graph(comfy)
    training = add_training(graph, folder=folder.name, steps=1)
    graph.prompt[training.encoded.id]["inputs"]["name"] = name
    message = comfy.error(graph, ENCODE)
    assert f"{name!r} cannot name a training set" in message
    assert written(comfy) == before, "the name is looked at after hours of encoding"


def test_weighting_without_a_formula_is_refused_before_the_first_step(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    training = add_training(graph, steps=2, name="no_formula")
    options = graph.add("MaskedLoRA_LossOptions", weighting="debiased")
    graph.prompt[training.trained.id]["inputs"]["loss_options"] = options[0]
    start = len(comfy.log())
    message = comfy.error(graph, TRAIN)
    assert "'debiased' has no formula for a model that predicts flow" in message
    assert "use 'min-snr' or 'none'" in message
    assert "step 1/2" not in comfy.log()[start:]
    assert not list(comfy.loras.glob("no_formula*")), "nothing was learned, so there is nothing to rescue"


def test_two_shifts_of_the_noise_are_refused(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    training = add_training(graph, steps=1)
    graph.prompt[training.trained.id]["inputs"] |= {"shift": 2.0, "noise_levels": graph.add("MaskedLoRA_Noise", shift=3.0)[0]}
    message = comfy.error(graph, TRAIN)
    assert "shift is 2 here and 3 in Noise Levels" in message
    assert "set it to 1 here" in message


def test_regularisation_pictures_alone_are_no_training_set(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    training = add_training(graph, steps=1)
    graph.prompt[training.loaded.id]["inputs"]["regularisation"] = True
    message = comfy.error(graph, TRAIN)
    assert "nothing to train on but regularisation pictures" in message
    assert "add a folder of the subject" in message
