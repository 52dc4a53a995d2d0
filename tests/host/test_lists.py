"""Data sets from lists of a graph and back, on photographs: what comes in is what is trained, or there is an error."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pack.dataset.geometry import Placement
from pack.dataset.item import DataSet, ImageFiles, Item, MaskFiles, MaskPixels, OwnAlpha
from pack.dataset.load import load_item
from pack.host.lists import Share, data_set_to_lists, pictures_to_data_set, replace_masks, single
from PIL import Image
from skimage import data as photographs
from torch import Tensor

from .server import Comfy, Graph, Node


def photograph(name: str, height: int = 96, width: int = 120) -> Tensor:
    """A corner of a photograph at its own resolution, (1, H, W, 3), in 0..1."""
    pixels = getattr(photographs, name)()[:height, :width, :3]
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255))[None]


def drawn_mask(height: int = 96, width: int = 120, seed: int = 0) -> Tensor:
    """(1, H, W), no two alike."""
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed))


CAT, CUP, SPACE = photograph("chelsea"), photograph("coffee"), photograph("astronaut", 64, 80)
MASKS = [drawn_mask(seed=1), drawn_mask(seed=2), drawn_mask(64, 80, seed=3)]
TEXTS = ["a cat", "a cup", "a woman"]


def make(images: Any, masks: Any = None, captions: Any = ("",), names: Any = None, **settings: Any) -> DataSet:
    return pictures_to_data_set(images, masks, captions, names, **settings)


def loaded_masks(data_set: DataSet) -> list[Tensor]:
    masks = [load_item(item).mask_THW for item in data_set.items]
    assert all(mask is not None for mask in masks)
    return [mask for mask in masks if mask is not None]


def test_pictures_masks_and_captions_arrive_bit_for_bit() -> None:
    data_set = make([CAT, CUP, SPACE], MASKS, TEXTS, ["cat", "cup", "space"], share=Share(3, 0.5))
    assert [(item.name, item.caption, item.size, item.frames) for item in data_set.items] == [
        ("cat", "a cat", (120, 96), 1), ("cup", "a cup", (120, 96), 1), ("space", "a woman", (80, 64), 1)]
    assert {(item.repeats, item.weight) for item in data_set.items} == {(3, 0.5)}
    for item, image, mask in zip(data_set.items, [CAT, CUP, SPACE], MASKS, strict=True):
        assert torch.equal(load_item(item).image_THWC, image)
        assert torch.equal(load_item(item).mask_THW, mask)


def test_batches_are_taken_apart_like_lists() -> None:
    listed = make([CAT, CUP, SPACE], MASKS, TEXTS)
    batched = make([torch.cat([CAT, CUP]), SPACE], [torch.cat(MASKS[:2]), MASKS[2][0]], TEXTS)
    assert [item.name for item in batched.items] == ["picture 1", "picture 2", "picture 3"]
    assert batched.report == listed.report
    for one, other in zip(listed.items, batched.items, strict=True):
        assert torch.equal(load_item(one).image_THWC, load_item(other).image_THWC)
        assert torch.equal(load_item(one).mask_THW, load_item(other).mask_THW)


def test_no_masks_means_learned_everywhere_and_the_report_says_so() -> None:
    data_set = make([CAT, CUP])
    assert [load_item(item).mask_THW for item in data_set.items] == [None, None]
    assert data_set.report.splitlines() == ["2 pictures; 120x96: 2", "without a caption: 2", "without a mask, learned everywhere: 2"]


def test_the_report_tells_how_much_is_white_and_which_masks_are_black() -> None:
    half = torch.zeros(1, 96, 120)
    half[:, :48] = 1
    data_set = make([CAT, CUP, SPACE], [half, torch.zeros(1, 96, 120), torch.ones(1, 64, 80)], ["cat"], ["cat", "cup", "space"])
    assert data_set.report.splitlines() == [
        "3 pictures; 120x96: 2; 80x64: 1",
        "white (learned): on average 50.0% of the pixels of 3 masks",
        "all black, nothing is learned unless inverted or floored: cup"]
    assert {item.caption for item in data_set.items} == {"cat"}


def test_one_mask_may_serve_all_pictures_of_its_size_and_is_told() -> None:
    data_set = make([CAT, CUP], [MASKS[0]])
    assert all(torch.equal(mask, MASKS[0]) for mask in loaded_masks(data_set))
    assert data_set.report.startswith("one mask serves all 2 pictures\n")
    with pytest.raises(ValueError, match="picture 3: the picture is 80x64 and its mask 120x96 pixels; resize one of them"):
        make([CAT, CUP, SPACE], [MASKS[0]])


@pytest.mark.parametrize("shape", [(120, 96), (96, 119), (48, 60)])
def test_a_mask_of_another_size_is_never_stretched(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"cup: the picture is 120x96 and its mask {shape[1]}x{shape[0]} pixels"):
        make([CAT, CUP], [MASKS[0], torch.rand(1, *shape)], names=["cat", "cup"])


def test_the_black_placeholder_of_load_image_is_told_apart_from_a_mask() -> None:
    with pytest.raises(ValueError, match="cat: .*black 64x64 that ComfyUI's Load Image gives.*Invert Mask"):
        make([CAT], [torch.zeros(1, 64, 64)], names=["cat"])
    with pytest.raises(ValueError, match="picture is 120x96 and its mask 64x64 pixels"):
        make([CAT], [torch.full((1, 64, 64), 0.1)])
    small = photograph("chelsea", 64, 64)
    assert "all black" in make([small], [torch.zeros(1, 64, 64)]).report  # here it may be meant, so it is told


@pytest.mark.parametrize(
    ("images", "masks", "captions", "names", "message"),
    [
        ([CAT, CUP, SPACE], MASKS[:2], ["x"], None, "3 pictures came with 2 masks"),
        ([CAT, CUP, SPACE], MASKS, TEXTS[:2], None, "3 pictures came with 2 captions"),
        ([CAT, CUP, SPACE], MASKS, [], None, "3 pictures came with 0 captions"),
        ([CAT, CUP], None, ["x"], ["a", "b", "c"], "2 pictures came with 3 names"),
        ([CAT, CUP], None, ["x"], ["a", "a"], "'a' came more than once"),
        ([CAT, CUP], None, ["x"], ["a", " "], "'' came more than once or is empty"),
        ([CAT, CUP], [MASKS[0].expand(3, 96, 120), MASKS[1]], ["x"], None, "entry 1 of the lists has 1 picture and 3 masks.*merged"),
        ([], None, ["x"], None, "there are no pictures"),
        ([CAT[..., :1]], None, ["x"], None, "shape is .*, 1.; give pictures"),
        ([CAT[0]], None, ["x"], None, "shape is"),
        ([CAT[:0]], None, ["x"], None, "shape is"),
        ([CAT], [torch.zeros(0, 96, 120)], ["x"], None, "a mask has shape"),
        ([CAT], [MASKS[0] * 255], ["x"], None, "mask values go from .* to 25.*; give 0 .black. to 1"),
        ([CAT], [MASKS[0] * float("nan")], ["x"], None, "mask values go from nan"),
    ],
)
def test_what_does_not_agree_is_refused(images: Any, masks: Any, captions: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(images, masks, captions, names)


def test_overshoot_of_resizing_is_clamped_and_half_precision_becomes_float32() -> None:
    data_set = make([CAT.half()], [(MASKS[0] * 1.2 - 0.1).half()])
    (mask,) = loaded_masks(data_set)
    assert mask.dtype == load_item(data_set.items[0]).image_THWC.dtype == torch.float32
    assert 0 == mask.min() < mask.max() == 1
    black = make([CAT], [torch.full_like(MASKS[0], -0.01)])
    assert "all black" in black.report, "the report tells what is trained"


def with_opacity(image: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([image, mask[..., None]], dim=-1)


def test_a_fourth_channel_is_the_mask_opaque_is_learned() -> None:
    data_set = make([with_opacity(CAT, MASKS[0]), CUP])
    assert isinstance(data_set.items[0].mask, OwnAlpha)
    picture = load_item(data_set.items[0])
    assert torch.equal(picture.mask_THW, MASKS[0])
    assert torch.equal(picture.image_THWC, CAT)
    assert data_set.items[1].mask is None
    assert data_set.report.splitlines()[2:] == [
        "without a mask, learned everywhere: 1", f"white (learned): on average {MASKS[0].mean():.1%} of the pixels of 1 mask"]


def test_a_fourth_channel_that_is_not_used_is_told_and_two_masks_are_refused() -> None:
    data_set = make([with_opacity(CAT, MASKS[0])], alpha_as_mask=False)
    assert data_set.items[0].mask is None
    assert "transparency that is not used as a mask: 1" in data_set.report
    with pytest.raises(ValueError, match="picture 1 has a fourth channel, transparency, and a mask; switch alpha_as_mask off"):
        make([with_opacity(CAT, MASKS[0])], [MASKS[1]])
    assert torch.equal(loaded_masks(make([with_opacity(CAT, MASKS[0])], [MASKS[1]], alpha_as_mask=False))[0], MASKS[1])


def test_single_refuses_lists() -> None:
    assert single([5], "data_set") == 5
    with pytest.raises(ValueError, match="data_set got a list of 2; connect one"):
        single([1, 2], "data_set")


def file_item(folder: Path, name: str, image: Tensor, mask: Tensor | None, **changes: Any) -> Item:
    """An item of real files, as a folder data set has them."""
    Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    source = None
    if mask is not None:
        Image.fromarray((mask[0].numpy() * 255).round().astype(np.uint8)).save(folder / f"{name}_mask.png")
        source = MaskFiles((folder / f"{name}_mask.png",))
    return Item(name, ImageFiles((folder / f"{name}.png",)), source, f"a {name}", (image.shape[2], image.shape[1]), **changes)


@pytest.fixture
def folder_set(tmp_path: Path) -> DataSet:
    items = [file_item(tmp_path, name, image, mask)
             for name, image, mask in zip(["cat", "cup", "space"], [CAT, CUP, SPACE], [MASKS[0], None, MASKS[2]], strict=True)]
    return DataSet(tuple(items), "3 pictures in a folder")


def test_a_folder_as_lists(folder_set: DataSet) -> None:
    lists = data_set_to_lists(folder_set)
    assert lists.names == ["cat", "cup", "space"]
    assert lists.captions == ["a cat", "a cup", "a space"]
    for image, expected in zip(lists.images, [CAT, CUP, SPACE], strict=True):
        assert torch.equal(image, expected)  # photographs have 8 bits
    assert torch.equal(lists.masks[1], torch.ones(1, 96, 120))
    assert (lists.masks[2] - MASKS[2]).abs().max() <= 0.5 / 255 + 1e-6


def test_a_part_of_a_folder_as_lists(folder_set: DataSet) -> None:
    assert data_set_to_lists(folder_set, 1, 1).names == ["cup"]
    assert data_set_to_lists(folder_set, 1).names == ["cup", "space"]
    assert data_set_to_lists(folder_set, 2, 5).names == ["space"]
    with pytest.raises(ValueError, match="start is 3 and the data set has 3 items; use 0 to 2"):
        data_set_to_lists(folder_set, 3)


def test_there_and_back_again_changes_nothing(folder_set: DataSet) -> None:
    lists = data_set_to_lists(folder_set)
    again = make(lists.images, lists.masks, lists.captions, lists.names)
    for mask, back in zip(lists.masks, loaded_masks(again), strict=True):
        assert torch.equal(mask, back)
    assert [(item.name, item.caption, item.size) for item in again.items] == [(i.name, i.caption, i.size) for i in folder_set.items]


def test_masks_from_the_graph_replace_those_of_a_folder(folder_set: DataSet) -> None:
    masked = replace_masks(folder_set, [MASKS[1], MASKS[0], MASKS[2]])
    assert all(map(torch.equal, loaded_masks(masked), [MASKS[1], MASKS[0], MASKS[2]]))
    assert all(isinstance(item.mask, MaskPixels) for item in masked.items)
    assert [(item.name, item.caption, item.image) for item in masked.items] == [(i.name, i.caption, i.image) for i in folder_set.items]
    assert masked.report.startswith(
        "3 pictures in a folder\nnow masks from the graph for 3 of 3 items; what is said of masks above counts no more\nwhite (learned): "
        "on average ")
    assert folder_set.items[1].mask is None  # the given set is as it was
    batched = replace_masks(folder_set, [torch.cat([MASKS[1], MASKS[0]]), MASKS[2]])
    assert all(map(torch.equal, loaded_masks(batched), loaded_masks(masked)))


def test_masks_by_name_leave_the_others_as_they_were(folder_set: DataSet) -> None:
    masked = replace_masks(folder_set, [MASKS[2], MASKS[1]], ["space", "cup"])
    assert torch.equal(loaded_masks(masked)[1], MASKS[1])
    assert torch.equal(loaded_masks(masked)[2], MASKS[2])
    assert masked.items[0] is folder_set.items[0]
    assert "masks from the graph for 2 of 3 items; 1 keep what they had" in masked.report


@pytest.mark.parametrize(
    ("masks", "names", "message"),
    [
        (MASKS[:2], None, "3 items came with 2 masks"),
        ([MASKS[0], MASKS[1], MASKS[1]], None, "space: the picture is 80x64 and its mask 120x96 pixels"),
        ([MASKS[0]], None, "space: the picture is 80x64 and its mask 120x96"),
        ([MASKS[0], MASKS[1], torch.zeros(1, 64, 64)], None, "space: .*Load Image"),
        (MASKS[:2], ["cat"], "1 name came with 2 masks"),
        (MASKS[:2], ["cat", "dog"], "no item is named dog; the data set has cat, cup, space"),
        (MASKS[:2], ["cat", "cat"], "more than one mask came for cat"),
    ],
)
def test_masks_that_cannot_be_applied_are_refused(folder_set: DataSet, masks: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_masks(folder_set, masks, names)


def test_a_stretching_folder_does_not_stretch_masks_from_the_graph(folder_set: DataSet) -> None:
    fitting = DataSet(tuple(replace(item, fit_mask=True) for item in folder_set.items), "")
    with pytest.raises(ValueError, match="space: the picture is 80x64"):
        replace_masks(fitting, [MASKS[0], MASKS[1], MASKS[1]])


def test_cropped_sets_take_no_masks(folder_set: DataSet) -> None:
    placed = tuple(replace(item, placement=Placement((64, 64), (0, 0, 64, 64))) for item in folder_set.items)
    with pytest.raises(ValueError, match="cat is already cropped and resized.*before Crop and Bucket"):
        replace_masks(DataSet(placed, ""), MASKS)


def write_photographs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, image in zip(["cat", "cup", "space"], [CAT, CUP, SPACE], strict=True):
        Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")


def save(graph: Graph, images: list[Any], name: str) -> Node:
    return graph.add("SaveImage", images=images, filename_prefix=name)


def save_masks(graph: Graph, masks: list[Any], name: str) -> Node:
    return save(graph, graph.add("MaskToImage", mask=masks)[0], name)


def bytes_of(image: Tensor) -> np.ndarray:
    """As SaveImage writes (1, H, W, ...)."""
    return (image[0].numpy() * 255).clip(0, 255).astype(np.uint8)


def test_cores_data_set_node_masks_of_other_nodes_and_back(comfy: Comfy) -> None:
    """Core's folder loader, a mask made of each picture by a core node, our data set, and out of it again."""
    write_photographs(comfy.input / "core_set")
    graph = Graph()
    core = graph.add("LoadImageTextDataSetFromFolder", folder="core_set")
    mask = graph.add("ImageToMask", image=core[0], channel="red")
    data_set = graph.add("MaskedLoRA_DataSetFromLists", images=core[0], masks=mask[0], captions=core[1], alpha_as_mask=True, repeats=2,
                         weight=1.0)
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=data_set[0], start=0, count=0)
    images, masks = save(graph, lists[0], "core_images"), save_masks(graph, lists[1], "core_masks")
    texts = graph.add("PreviewAny", source=lists[2])
    run = comfy.run(graph)
    pictures = {picture.size: np.asarray(picture) for picture in run.images(images)}
    assert len(run.images(images)) == 3
    assert np.array_equal(pictures[80, 64], bytes_of(SPACE))
    for picture, shown in zip(run.images(images), run.images(masks), strict=True):
        assert np.array_equal(np.asarray(shown)[..., 0], np.asarray(picture)[..., 0])
    assert sorted(run.entry["outputs"][texts.id]["text"]) == ["a cat", "a cup", "a space"]
    assert run.text(data_set).startswith("3 pictures; 120x96: 2; 80x64: 1\nwhite (learned): on average ")


def test_cores_load_image_gives_inverted_masks_and_a_placeholder(comfy: Comfy) -> None:
    opacity = (MASKS[0][0] * 255).round().byte().numpy()
    pixels = np.concatenate([bytes_of(CAT), opacity[..., None]], axis=-1)
    Image.fromarray(pixels).save(comfy.input / "cut_out.png")
    Image.fromarray(pixels[..., :3]).save(comfy.input / "opaque.png")
    settings = {"captions": "a cat", "alpha_as_mask": True, "repeats": 1, "weight": 1.0}

    opaque = Graph()
    loaded = opaque.add("LoadImage", image="opaque.png")
    opaque.add("MaskedLoRA_DataSetFromLists", images=loaded[0], masks=loaded[1], **settings)
    assert "black 64x64 that ComfyUI's Load Image gives" in comfy.error(opaque, "MaskedLoRA_DataSetFromLists")

    graph = Graph()
    loaded = graph.add("LoadImage", image="cut_out.png")
    upright = graph.add("InvertMask", mask=loaded[1])
    data_set = graph.add("MaskedLoRA_DataSetFromLists", images=loaded[0], masks=upright[0], **settings)
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=data_set[0], start=0, count=0)
    shown = save_masks(graph, lists[1], "cut_out_masks")
    (mask,) = comfy.run(graph).images(shown)
    assert np.abs(np.asarray(mask)[..., 0].astype(int) - opacity).max() <= 1  # 1 - (1 - x) and SaveImage's rounding down


def node_with(comfy: Comfy, graph: Graph, kind: str, **inputs: Any) -> Node:
    """A node with the given inputs and the defaults of all others, as a person gets it who drops it into a graph."""
    required = comfy.object_info[kind]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in required.items() if len(spec) > 1 and "default" in spec[1]}
    return graph.add(kind, **defaults | inputs)


def test_masks_of_a_folder_inverted_by_core_are_what_is_cropped_and_encoded(comfy: Comfy) -> None:
    """Folder, lists, core's Invert Mask, back into the data set by name, crop, encode."""
    graph = Graph()
    demo = graph.add("MaskedLoRA_DemoModel")
    padding = node_with(comfy, graph, "MaskedLoRA_TextPadding", preset="comfyui-mask")
    folder = node_with(comfy, graph, "MaskedLoRA_LoadFolder", folder="demo")
    plain = graph.add("MaskedLoRA_DataSetToLists", data_set=folder[0], start=0, count=0)
    inverted = graph.add("InvertMask", mask=plain[1])
    masked = graph.add("MaskedLoRA_UseMasks", data_set=folder[0], masks=inverted[0], names=plain[3])
    arranged = node_with(comfy, graph, "MaskedLoRA_Arrange", data_set=masked[0], vae=demo[2], size=128)
    encoded = node_with(comfy, graph, "MaskedLoRA_EncodeTrainingSet", data_set=arranged[0], clip=demo[1], vae=demo[2], padding=padding[0])
    placed = node_with(comfy, graph, "MaskedLoRA_Arrange", data_set=folder[0], vae=demo[2], size=128)
    lists = [graph.add("MaskedLoRA_DataSetToLists", data_set=data_set[0], start=0, count=0) for data_set in (placed, arranged)]
    shown = [save_masks(graph, each[1], f"circle_{i}") for i, each in enumerate(lists)]
    run = comfy.run(graph)
    before, after = (run.images(node) for node in shown)
    assert len(before) == len(after) == 12
    for mask, other in zip(before, after, strict=True):
        assert mask.size == (128, 128)
        assert np.abs(255 - np.asarray(mask)[..., 0].astype(int) - np.asarray(other)[..., 0]).max() <= 1
    assert any(np.asarray(mask).any() for mask in before)
    assert "masks from the graph for 12 of 12 items" in run.text(masked)
    assert "12 masks" in run.text(encoded)

    late = Graph(dict(graph.prompt))
    late.add("MaskedLoRA_UseMasks", data_set=arranged[0], masks=inverted[0], names=plain[3])
    assert "already cropped" in comfy.error(late, "MaskedLoRA_UseMasks")
