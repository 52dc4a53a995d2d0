"""Segment Anything in the real host: files that people have, under its memory management, from boxes of its own nodes. White = learn."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import pytest
import torch
from pack.host.progress import Progress
from pack.host.sam_masks import load_managed_sam, masks_of_things, masks_through_clip
from pack.host.weights import read_weights
from pack.segmentation.boxes import Box
from pack.segmentation.sam import PointSam
from pack.segmentation.sam_prompt import Prompt
from pack.segmentation.sam_video import follow
from pack.segmentation.segmenter import to_bytes
from pack.tests.segmentation import tiny_sams as tiny
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import Tensor

from .server import Comfy, Graph, Node

LOAD, MASKS, VIDEO = "MaskedLoRA_LoadSam", "MaskedLoRA_SamMasks", "MaskedLoRA_SamVideo"
BOX, POINT = Box(20, 10, 40, 30), (48.0, 32.0, True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("sams") / "tiny", tiny.sam2_video(), tiny.sam2_video_processor())


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Two photographs as an IMAGE."""
    pictures = [np.array(Image.fromarray(pixels).resize((96, 64))) for pixels in (data.astronaut(), data.coffee())]
    return torch.from_numpy(np.stack(pictures)).float() / 255


def things(folder: Path, images: Tensor, boxes: Any, *points: Any) -> Any:
    return masks_of_things(load_managed_sam(folder), images, boxes, points, [], Progress(None))


def test_a_sam_is_loaded_and_makes_room(folder: Path, images: Tensor) -> None:
    sam = load_managed_sam(folder)
    assert sam.patcher.model_size() == sum(value.nbytes for value in sam.model.module.state_dict().values())
    mask = sam().masks(to_bytes(images[0]), [Prompt((BOX,))])[0]
    assert any(loaded.model is sam.patcher for loaded in comfy.model_management.current_loaded_models)
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.current_loaded_models
    assert torch.equal(sam().masks(to_bytes(images[0]), [Prompt((BOX,))])[0], mask)


def test_masks_of_a_batch_with_boxes_of_each_picture(folder: Path, images: Tensor) -> None:
    sam = load_managed_sam(folder)
    other = Box(5, 5, 60, 50, "cup")
    found = masks_of_things(sam, images, [[BOX], [other, BOX]], [], [], Progress(None))
    first, second = to_bytes(images[0]), to_bytes(images[1])
    expected = [*sam().masks(first, [Prompt((BOX,))]), *sam().masks(second, [Prompt((other,)), Prompt((BOX,))])]
    assert torch.equal(found.things_NHW, torch.stack(expected))
    assert torch.equal(found.union_BHW, torch.stack([expected[0], torch.maximum(expected[1], expected[2])]))
    assert [[box.label for box in one] for one in found.boxes] == [[""], ["cup", ""]]
    assert found.notes == ()


def test_boxes_lie_around_the_things(folder: Path, images: Tensor) -> None:
    found = things(folder, images[:1], [[]], POINT)
    [[box]] = found.boxes
    left, top, right, bottom = (int(edge) for edge in box.corners)
    inside = found.things_NHW[0] >= 0.5
    assert inside[top:bottom, left:right].sum() == inside.sum() > 0
    assert inside[top].any()
    assert inside[bottom - 1].any()
    assert inside[:, left].any()
    assert inside[:, right - 1].any()


class Answers:
    """Stands for a SAM whose masks are what the boxes' labels say; it finds nothing at a box of label "no"."""

    name, reads_text = "answers", True

    def masks(self, picture_HWC: Tensor, prompts: list[Prompt]) -> list[Tensor]:
        return [torch.full(picture_HWC.shape[:2], 0.4 if prompt.boxes[0].label == "no" else 0.9) for prompt in prompts]

    def from_texts(self, picture_HWC: Tensor, phrases: list[str]) -> list[list[Tensor]]:
        return [[torch.full(picture_HWC.shape[:2], 0.6)] * 2 if phrase == "cat" else [] for phrase in phrases]


def answers(images: Tensor, boxes: Any, *phrases: str) -> Any:
    return masks_of_things(Answers, images, boxes, [], phrases, Progress(None))


def test_a_picture_without_a_find_is_black_and_said(images: Tensor) -> None:
    found = answers(images, [[BOX], [Box(1, 1, 5, 5, "no")]])
    assert found.things_NHW.shape[0] == 1
    assert found.union_BHW[1].max() == 0
    assert found.boxes[1] == []
    assert found.notes == ("picture 2: nothing found, its mask is black",)


def test_words_are_found_beside_boxes(images: Tensor) -> None:
    found = answers(images[:1], [[BOX]], "cat", "unicorn")
    assert [box.label for box in found.boxes[0]] == ["", "cat", "cat"]
    assert found.things_NHW.amax(dim=(1, 2)).tolist() == pytest.approx([0.9, 0.6, 0.6])


def test_nothing_found_at_all_stops(images: Tensor) -> None:
    with pytest.raises(ValueError, match="nothing was found on 2 pictures; use other boxes, points or words"):
        answers(images, [[], []], "unicorn")


def test_nothing_asked_stops(images: Tensor) -> None:
    with pytest.raises(ValueError, match="nothing is asked; connect boxes that hold something, or write points or a text"):
        answers(images, [[], []])


def test_points_beside_the_thing_mark_nothing_alone(images: Tensor) -> None:
    beside = (48.0, 32.0, False)
    with pytest.raises(ValueError, match="there are only points beside the thing; mark the thing, too"):
        masks_of_things(Answers, images, [[], []], [beside], [], Progress(None))
    found = masks_of_things(Answers, images, [[BOX], []], [beside], [], Progress(None))
    assert (len(found.things_NHW), found.union_BHW[1].max()) == (1, 0)
    assert found.notes == ("picture 2: nothing found, its mask is black",)
    found = masks_of_things(Answers, images[:1], [[]], [beside], ["cat"], Progress(None))
    assert [box.label for box in found.boxes[0]] == ["cat", "cat"]
    assert found.notes == ("points beside the thing cut nothing from what the text finds",)


def test_a_clip_is_not_marked_by_points_beside_the_thing_alone(folder: Path, images: Tensor) -> None:
    sam, beside = load_managed_sam(folder), (5.0, 5.0, False)
    with pytest.raises(ValueError, match="there are only points beside the thing; mark the thing, too"):
        masks_through_clip(sam, images, 0, [], [], [beside], Progress(None))
    masks, _ = masks_through_clip(sam, images, 0, [], [BOX], [beside], Progress(None))
    assert torch.equal(masks, follow(sam(), lambda frame: to_bytes(images[frame]), 2, 0, [Prompt((BOX,), (beside,))]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_any_channels(folder: Path, images: Tensor, channels: int) -> None:
    image = torch.cat([images[:1], torch.full((1, 64, 96, 1), 0.3)], dim=-1)[..., :channels]
    seen = to_bytes(image[0])
    assert seen.shape == (64, 96, 3)
    assert torch.equal(seen, (image[0, ..., :3] if channels > 2 else image[0, ..., :1].expand(-1, -1, 3)).mul(255).round().byte())
    assert things(folder, image, [[BOX]]).union_BHW.shape == (1, 64, 96)


def test_a_clip_that_is_marked_twice_is_refused(folder: Path, images: Tensor) -> None:
    with pytest.raises(ValueError, match="a mask and boxes or points both mark what to follow"):
        masks_through_clip(load_managed_sam(folder), images, 0, [images[0, ..., 0]], [BOX], [], Progress(None))


def test_frames_without_the_thing_are_said(folder: Path, images: Tensor) -> None:
    sam = load_managed_sam(folder)
    with torch.no_grad():
        sam.model.video.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-99.0)
    mask = torch.ones(64, 96)
    masks, notes = masks_through_clip(sam, images.repeat(2, 1, 1, 1), 0, [mask], [], [], Progress(None))
    assert masks[0].min() > 0.5
    assert masks[1:].max() == 0
    assert notes == ("out of sight in 3 of 4 frames, the first is 1",)


def test_damaged_files_are_said(tmp_path: Path) -> None:
    tiny.save_meta(tmp_path / "sam.pth", tiny.sam1(), "sam")
    whole = (tmp_path / "sam.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>" * 9)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, said in (("half.pth", "is no whole PyTorch file; if its download broke off"), ("page.safetensors", "cannot be read"),
                       ("list.pth", "cannot be read")):
        with pytest.raises(ValueError, match=said) as refusal:
            read_weights(tmp_path / name)
        assert str(tmp_path / name) in str(refusal.value)


@pytest.fixture(scope="module")
def loaded(comfy: Comfy) -> Comfy:
    """The server with tiny models in every folder that a SAM may lie in, photographs and a clip."""
    tiny.save(comfy.models / "sam2" / "tiny-clip", tiny.sam2_video(), tiny.sam2_video_processor())
    tiny.save(comfy.models / "sams" / "tiny-sam", tiny.sam1(), tiny.sam1_processor())
    tiny.save_meta(comfy.models / "sams" / "tiny_vit.pth", tiny.sam1(), "sam")
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, comfy.models / "sam2" / "style.safetensors")
    Image.fromarray(data.astronaut()).resize((96, 64)).save(comfy.input / "sam_astronaut.png")
    return comfy


def load(graph: Graph, model: str) -> Node:
    return graph.add(LOAD, model=model, accept_licence=False)


def picture(graph: Graph) -> Node:
    return graph.add("LoadImage", image="sam_astronaut.png")


def seen(comfy: Comfy, graph: Graph, mask: list[Any]) -> tuple[Any, Tensor]:
    saved = graph.add("SaveImage", images=graph.add("MaskToImage", mask=mask)[0], filename_prefix="sam")
    run = comfy.run(graph)
    return run, torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image in run.images(saved)]).float() / 255


def expected(network: Any, processor: Any, prompt: Prompt) -> Tensor:
    pixels = torch.from_numpy(np.array(Image.fromarray(data.astronaut()).resize((96, 64))))
    [mask] = PointSam("", network, processor.image_processor, padded=True).masks(pixels, [prompt])
    return mask


@pytest.mark.parametrize("model", ["sams/tiny-sam", "sams/tiny_vit.pth"])
def test_cores_boxes_become_masks(loaded: Comfy, model: str) -> None:
    graph = Graph()
    box = graph.add("PrimitiveBoundingBox", x=20, y=10, width=40, height=30)
    node = graph.add(MASKS, sam=load(graph, model)[0], images=picture(graph)[0], boxes=box[0])
    run, [mask] = seen(loaded, graph, node[0])
    size = {"longest_edge": tiny.SIDE}
    assert size == tiny.sam1_processor().image_processor.size
    assert (mask - expected(tiny.sam1(), tiny.sam1_processor(), Prompt((BOX,)))).abs().max() < 1.01 / 255
    assert run.text(node) == "1 things on 1 pictures"


def test_points_become_masks_and_boxes_go_on(loaded: Comfy) -> None:
    graph = Graph()
    image, sam = picture(graph), load(graph, "sams/tiny-sam")
    node = graph.add(MASKS, sam=sam[0], images=image[0], positive_coords=json.dumps([{"x": 48, "y": 32}]), text="")
    again = graph.add(MASKS, sam=sam[0], images=image[0], boxes=node[2])
    drawn = graph.add("DrawBBoxes", image=image[0], bboxes=node[2])
    graph.add("SaveImage", images=drawn[0], filename_prefix="sam_boxes")
    graph.add("SaveImage", images=graph.add("MaskToImage", mask=again[0])[0], filename_prefix="sam_again")
    _, [mask] = seen(loaded, graph, node[1])
    assert (mask - expected(tiny.sam1(), tiny.sam1_processor(), Prompt(points=(POINT,)))).abs().max() < 1.01 / 255


def test_a_mask_is_followed_through_a_clip(loaded: Comfy) -> None:
    graph = Graph()
    image = picture(graph)
    frames = graph.add("RepeatImageBatch", image=image[0], amount=3)
    marked = graph.add("SolidMask", value=1.0, width=96, height=64)
    node = graph.add(VIDEO, sam=load(graph, "sam2/tiny-clip")[0], frames=frames[0], frame=1, mask=marked[0])
    run, masks = seen(loaded, graph, node[0])
    folder = loaded.models / "sam2" / "tiny-clip"
    pixels = torch.from_numpy(np.array(Image.fromarray(data.astronaut()).resize((96, 64))))
    wanted = follow(load_managed_sam(folder)(), lambda frame: pixels, 3, 1, [torch.ones(64, 96)])
    assert (masks - wanted).abs().max() < 2.01 / 255
    assert run.text(node).startswith("followed through 3 frames")


def test_wrong_models_and_questions_are_said_on_the_node(loaded: Comfy) -> None:
    graph = Graph()
    graph.add(MASKS, sam=load(graph, "sam2/style.safetensors")[0], images=picture(graph)[0], text="cat")
    assert "style.safetensors is a LoRA; this loads SAM 1, SAM 2 and SAM 2.1" in loaded.error(graph, LOAD)
    graph = Graph()
    graph.add(MASKS, sam=load(graph, "sams/tiny-sam")[0], images=picture(graph)[0], text="cat, red hat")
    assert "sam tiny-sam reads no text, and 'cat, red hat' was asked; SAM 3 reads it" in loaded.error(graph, MASKS)
    graph = Graph()
    graph.add(MASKS, sam=load(graph, "sams/tiny-sam")[0], images=picture(graph)[0], positive_coords="48, 32")
    assert "write them in pixels" in loaded.error(graph, MASKS)
    graph = Graph()
    marked = graph.add("PrimitiveBoundingBox", x=20, y=10, width=40, height=30)
    graph.add(VIDEO, sam=load(graph, "sams/tiny-sam")[0], frames=picture(graph)[0], frame=0, boxes=marked[0])
    assert "sam tiny-sam cannot follow things through a clip; use SAM 2 or 2.1" in loaded.error(graph, VIDEO)
