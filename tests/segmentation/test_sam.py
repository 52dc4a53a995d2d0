"""Masks of points and boxes against the reference processors of transformers, and what SAM is asked."""
from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from pack.segmentation import sam3
from pack.segmentation.boxes import Box
from pack.segmentation.points import read_points
from pack.segmentation.sam import PointSam
from pack.segmentation.sam_files import load_sam
from pack.segmentation.sam_prompt import Prompt, prompts_of
from pack.tests.segmentation import tiny_sams as tiny
from PIL import Image
from skimage import data
from torch import Tensor

BOX, POINT, BESIDE = Box(20, 10, 40, 30), (48.0, 32.0, True), (5.0, 5.0, False)
PROMPTS = {
    "box": Prompt((BOX,)), "point": Prompt(points=(POINT,)), "points": Prompt(points=(POINT, BESIDE)), "box and points":
    Prompt((BOX,), (POINT, BESIDE)),
}
KINDS = ("sam", "sam2", "sam2_video", "sam3")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.from_numpy(np.array(Image.fromarray(data.astronaut()).resize((96, 64))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sams")
    size = {"height": tiny.SIDE3, "width": tiny.SIDE3}
    video = hf.Sam3VideoProcessor(hf.Sam3ImageProcessor(size=size), hf.Sam2VideoVideoProcessor(size=size), tiny.clip_tokenizer())
    return {
        "sam": tiny.save(root / "sam", tiny.sam1(), tiny.sam1_processor()),
        "sam2": tiny.save(root / "sam2", tiny.sam2(), tiny.sam2_processor()),
        "sam2_video": tiny.save(root / "sam2_video", tiny.sam2_video(), tiny.sam2_video_processor()),
        "sam3": tiny.save(root / "sam3", tiny.sam3_whole(), video),
    }


@pytest.fixture(scope="module")
def sams(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_sam(folders[kind], torch.float32, dict) for kind in KINDS}


def reference(kind: str, folder: Path, picture: Tensor, prompt: Prompt) -> Tensor:
    """Logits (H, W) by the library's own processor and post-processing, from a PIL picture."""
    network, processor = {
        "sam": (hf.SamModel, hf.SamProcessor), "sam2": (hf.Sam2Model, hf.Sam2Processor), "sam2_video": (hf.Sam2Model, hf.Sam2Processor),
    }[kind]
    given: dict[str, Any] = {}
    if prompt.boxes:
        given["input_boxes"] = [[list(prompt.boxes[0].corners)]]
    if prompt.points:
        given["input_points"] = [[[list(point[:2]) for point in prompt.points]]]
        given["input_labels"] = [[[int(point[2]) for point in prompt.points]]]
    read = processor.from_pretrained(folder)
    inputs = read(images=Image.fromarray(picture.numpy()), return_tensors="pt", **given)
    with torch.no_grad():
        model = network.from_pretrained(folder).eval()
        shown = {name: inputs[name].float() for name in ("pixel_values", "input_points", "input_boxes") if name in inputs}
        labels = {"input_labels": inputs["input_labels"]} if prompt.points else {}
        answer = model(**shown, **labels, multimask_output=prompt == PROMPTS["point"])
    best = int(answer.iou_scores[0, 0].argmax())
    padding = [inputs["reshaped_input_sizes"]] if kind == "sam" else []
    [masks] = read.image_processor.post_process_masks(answer.pred_masks[:, :, best][:, :, None], inputs["original_sizes"], *padding,
                                                      binarize=False)
    return masks[0, 0]


class SaysMore:
    """SAM 2's image processor as in transformers 4.57, which returns a name of SAM 1's with other numbers."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor, self.post_process_masks = image_processor, image_processor.post_process_masks

    def __call__(self, **given: Any) -> dict[str, Any]:
        inputs = self.image_processor(**given)
        return {**inputs, "reshaped_input_sizes": inputs["original_sizes"]}


def test_what_else_a_processor_returns_changes_nothing(sams: dict[str, Any], picture: Tensor) -> None:
    plain = sams["sam2"]
    saying_more = PointSam("", plain.network, SaysMore(plain.image_processor))
    for mask, expected in zip(saying_more.masks(picture, [*PROMPTS.values()]), plain.masks(picture, [*PROMPTS.values()]), strict=True):
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("kind", ["sam", "sam2", "sam2_video"])
@pytest.mark.parametrize("name", PROMPTS)
def test_masks_are_those_of_the_reference(sams: dict[str, Any], folders: dict[str, Path], picture: Tensor, kind: str, name: str) -> None:
    [mask] = sams[kind].masks(picture, [PROMPTS[name]])
    logits = reference(kind, folders[kind], picture, PROMPTS[name])
    assert mask.shape == (64, 96)
    assert mask.dtype == torch.float32
    torch.testing.assert_close(mask, torch.sigmoid(logits), atol=2e-4, rtol=0)
    assert 0.02 < (logits > 0).float().mean() < 0.98  # a mask of one colour would prove nothing


def test_sam3s_tracker_sees_what_the_clip_model_shows_it(sams: dict[str, Any], picture: Tensor) -> None:
    sam = sams["sam3"]
    pixels = sam.image_processor(images=picture.permute(2, 0, 1), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        levels, _ = sam.network.get_vision_features_for_tracker(sam.detector.get_vision_features(pixels))
        fine, middle, coarse = sam.points.embed(sam.points.network, pixels)
        nothing_before = sam.network.tracker_model.no_memory_embedding[0, 0]
    for ours, level in ((fine, levels[0]), (middle, levels[1]), (coarse - nothing_before[:, None, None], levels[2])):
        torch.testing.assert_close(ours.flatten(2).permute(2, 0, 1), level, atol=1e-5, rtol=0)


def test_sam3s_points_and_boxes_are_those_of_the_tracker(sams: dict[str, Any], picture: Tensor) -> None:
    sam = sams["sam3"]
    read = hf.Sam3TrackerProcessor(sam.image_processor)
    inputs = read(images=Image.fromarray(picture.numpy()), input_boxes=[[list(BOX.corners)]], return_tensors="pt")
    with torch.no_grad():
        seen = sam.points.embed(sam.points.network, inputs["pixel_values"])
        answer = sam.points.network(image_embeddings=seen, input_boxes=inputs["input_boxes"], multimask_output=False)
    [logits] = read.post_process_masks(answer.pred_masks, inputs["original_sizes"], binarize=False)
    [mask] = sam.masks(picture, [PROMPTS["box"]])
    torch.testing.assert_close(mask, torch.sigmoid(logits[0, 0]), atol=1e-4, rtol=0)


def test_sam3s_words_are_those_of_the_reference(sams: dict[str, Any], picture: Tensor) -> None:
    sam = sams["sam3"]
    read = hf.Sam3Processor(sam.image_processor, sam.tokenizer)
    inputs = read(images=Image.fromarray(picture.numpy()), text="person", return_tensors="pt")

    def half_are_there(module: Any, given: Any, answer: Any) -> None:
        """In the tiny model no one is."""
        answer.presence_logits += 30
        answer.pred_logits -= answer.pred_logits.median()

    hook = sam.detector.register_forward_hook(half_are_there)
    with torch.no_grad():
        answer = sam.detector(**inputs)
    masks = sam.from_text(picture, "person")
    hook.remove()
    expected = read.post_process_instance_segmentation(answer, threshold=0.5, target_sizes=[(64, 96)])[0]
    order = expected["scores"].argsort(descending=True)
    assert 0 < len(masks) == len(order) < 10
    assert expected["scores"][order].tolist() == sorted(expected["scores"].tolist(), reverse=True)
    for mask, index in zip(masks, order, strict=True):
        assert ((mask > 0.5) != expected["masks"][index].bool()).float().mean() < 1e-3  # a few pixels of exactly one half


def test_sam3_is_as_sure_of_a_thing_as_that_the_phrase_is_there_at_all(sams: dict[str, Any], picture: Tensor) -> None:
    sam = sams["sam3"]
    read = hf.Sam3Processor(sam.image_processor, sam.tokenizer)

    def perhaps(module: Any, given: Any, answer: Any) -> None:
        answer.presence_logits.fill_(0.5)
        answer.pred_logits.copy_(torch.linspace(-3, 3, answer.pred_logits.shape[-1]))

    hook = sam.detector.register_forward_hook(perhaps)
    with torch.no_grad():
        answer = sam.detector(**read(images=Image.fromarray(picture.numpy()), text="person", return_tensors="pt"))
    masks = sam.from_text(picture, "person")
    hook.remove()
    expected = read.post_process_instance_segmentation(answer, threshold=0.5, target_sizes=[(64, 96)])[0]
    assert len(masks) == len(expected["scores"]) == 3  # five queries by themselves are surer than half
    for mask, index in zip(masks, expected["scores"].argsort(descending=True), strict=True):
        assert ((mask > 0.5) != expected["masks"][index].bool()).float().mean() < 1e-3


def test_sam3_embeds_the_picture_once_for_many_words(sams: dict[str, Any], picture: Tensor) -> None:
    seen = []
    hook = sams["sam3"].detector.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    together = list(sams["sam3"].from_texts(picture, ["person", "a red car"]))
    hook.remove()
    assert len(together) == 2
    assert len(seen) == 1


def test_sam3_enlarges_only_what_is_kept_phrase_by_phrase(sams: dict[str, Any], picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size all things of all phrases are gigabytes on a picture of 6 megapixels."""
    enlarge, made = sam3._enlarge, []
    monkeypatch.setattr(sam3, "_enlarge", lambda *given: made.append(1) or enlarge(*given))

    def all_are_there(module: Any, given: Any, answer: Any) -> None:
        answer.presence_logits += 30
        answer.pred_logits += 30

    hook = sams["sam3"].detector.register_forward_hook(all_are_there)
    everything = list(sams["sam3"].from_texts(picture, ["person", "a red car"]))
    assert ([len(masks) for masks in everything], len(made)) == ([10, 10], 20)
    made.clear()
    for number, masks in enumerate(sams["sam3"].from_texts(picture, ["person", "a red car"], 2)):
        assert len(made) == 2 * (number + 1)
        assert all(torch.equal(mask, surest) for mask, surest in zip(masks, everything[number][:2], strict=True))
    hook.remove()


def test_sam3_reads_the_beginning_of_a_phrase_that_may_be_cut(sams: dict[str, Any], picture: Tensor) -> None:
    """One sign is a token of the tiny model; two of the 32 mark beginning and end."""
    seen: list[Tensor] = []
    hook = sams["sam3"].detector.register_forward_pre_hook(lambda module, args, given: seen.append(given["input_ids"]), with_kwargs=True)
    assert len(list(sams["sam3"].from_texts(picture, ["a" * 84, "a" * 31, "a" * 30], cut=True))) == 3
    with pytest.raises(ValueError, match="is 86 tokens long, SAM 3 reads 32"):
        list(sams["sam3"].from_texts(picture, ["cat", "a" * 84]))
    hook.remove()
    tokenizer = sams["sam3"].tokenizer
    start, one, last, end = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "a", "a</w>", "<|endoftext|>"])
    assert [words.tolist() for words in seen] == [[[start, *[one] * 30, end]]] * 2 + [[[start, *[one] * 29, last, end]]]


def test_sam3s_halves_share_their_image_encoder(sams: dict[str, Any]) -> None:
    sam = sams["sam3"]
    assert sam.points.network.vision_encoder.backbone is sam.detector.vision_encoder.backbone
    held = {id(value) for value in sam.module.parameters()}
    assert {id(value) for half in (sam.detector, sam.points.network) for value in half.parameters()} <= held


def test_half_a_sam3_says_what_the_other_half_does(tmp_path: Path, picture: Tensor) -> None:
    tracker = load_sam(tiny.save(tmp_path / "tracker", tiny.sam3_tracker(), hf.Sam3TrackerProcessor(
        tiny.sam3_processor().image_processor)), torch.float32, dict)
    detector = load_sam(tiny.save(tmp_path / "detector", tiny.sam3_detector(), tiny.sam3_processor()), torch.float32, dict)
    assert (tracker.reads_text, detector.reads_text) == (False, True)
    assert tracker.masks(picture, [PROMPTS["box"]])[0].shape == (64, 96)
    with pytest.raises(ValueError, match="sam3 tracker holds SAM 3's tracker alone, which reads no text"):
        tracker.from_text(picture, "cat")
    with pytest.raises(ValueError, match="sam3 detector holds SAM 3's detector alone, which takes words"):
        detector.masks(picture, [PROMPTS["box"]])
    with pytest.raises(ValueError, match="is 86 tokens long, SAM 3 reads 32"):
        detector.from_text(picture, "a" * 84)


@pytest.mark.parametrize("kind", KINDS)
def test_many_prompts_are_answered_as_each_alone_from_one_embedding(sams: dict[str, Any], picture: Tensor, kind: str) -> None:
    prompts = [*PROMPTS.values(), Prompt((Box(0, 0, 30, 30),)), Prompt(points=((70.0, 20.0, True),))]
    network = sams[kind].points.network if kind == "sam3" else sams[kind].network
    seen = []
    hook = network.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    together = sams[kind].masks(picture, prompts)
    hook.remove()
    assert len(seen) == 1
    for prompt, mask in zip(prompts, together, strict=True):
        torch.testing.assert_close(mask, sams[kind].masks(picture, [prompt])[0], atol=1e-4, rtol=0)


def test_several_boxes_of_one_prompt_are_one_thing(sams: dict[str, Any], picture: Tensor) -> None:
    other = Box(60, 30, 30, 30)
    [both] = sams["sam2"].masks(picture, [Prompt((BOX, other))])
    first, second = sams["sam2"].masks(picture, [Prompt((BOX,)), Prompt((other,))])
    torch.testing.assert_close(both, torch.maximum(first, second), atol=1e-5, rtol=0)


class Enlarging(PointSam):
    """Counts the masks of the picture's size that are there when another is made."""

    __slots__ = ("there", "made")

    def _upsample(self, logits_hw: Tensor, inputs: Any) -> Tensor:
        self.there.append(sum(one() is not None for one in self.made))
        mask_HW = PointSam._upsample(self, logits_hw, inputs)
        self.made.append(weakref.ref(mask_HW))
        return mask_HW


def test_masks_of_many_boxes_are_enlarged_one_at_a_time(sams: dict[str, Any], picture: Tensor) -> None:
    """At full size forty boxes on a picture of 6 megapixels are a gigabyte; a mask alone decides no bit of their union."""
    boxes = tuple(Box(5 * x, 5, 20, 40) for x in range(12))
    sam = Enlarging("", sams["sam2"].network, sams["sam2"].image_processor)
    object.__setattr__(sam, "there", [])
    object.__setattr__(sam, "made", [])
    [together] = sam.masks(picture, [Prompt(boxes)])
    assert sam.there == [0, *[1] * 11]
    alone = sams["sam2"].masks(picture, [Prompt((box,)) for box in boxes])
    assert torch.equal(together, torch.stack(alone).amax(dim=0))


def test_a_single_point_takes_the_mask_that_the_network_trusts_most(sams: dict[str, Any], picture: Tensor) -> None:
    def trusted(number: int) -> Tensor:
        def trust(module: Any, given: Any, answer: Any) -> None:
            assert answer.iou_scores.shape[-1] == 3
            answer.iou_scores[..., number] = 9.0

        hook = sams["sam"].network.register_forward_hook(trust)
        [mask] = sams["sam"].masks(picture, [PROMPTS["point"]])
        hook.remove()
        return mask

    assert not torch.allclose(trusted(0), trusted(2), atol=0.05)


class Full(PointSam):
    """Stands for a device on which only a few prompts fit."""

    __slots__ = ("asked",)
    room = 3

    def _decode(self, embeddings: Any, inputs: Any, queries: Any) -> list[Tensor]:
        self.asked.append(len(queries))
        if len(queries) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._decode(embeddings, inputs, queries)


def full(sam: PointSam) -> Full:
    result = Full(sam.name, sam.network, sam.image_processor)
    object.__setattr__(result, "asked", [])
    return result


def test_out_of_memory_halves_the_prompts(sams: dict[str, Any], picture: Tensor) -> None:
    prompts = [Prompt((Box(x, 5, 20, 40),)) for x in range(0, 50, 5)]
    sam = full(sams["sam2"])
    masks = sam.masks(picture, prompts)
    assert sam.asked == [10, 5, 2, 2, 2, 2, 2]
    for mask, expected in zip(masks, sams["sam2"].masks(picture, prompts), strict=True):
        torch.testing.assert_close(mask, expected, atol=1e-4, rtol=0)


def test_out_of_memory_for_one_prompt_is_said(sams: dict[str, Any], picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Full, "room", 0)
    with pytest.raises(torch.OutOfMemoryError):
        full(sams["sam2"]).masks(picture, [Prompt((BOX,)), Prompt((Box(1, 1, 9, 9),))])


def test_numbers_that_are_none_are_no_mask(sams: dict[str, Any], picture: Tensor) -> None:
    def break_down(module: Any, given: Any, answer: Any) -> None:
        answer.pred_masks.fill_(float("nan"))

    hook = sams["sam"].network.register_forward_hook(break_down)
    with pytest.raises(ValueError, match=r"sam sam gave NaN or infinity in torch\.float32; run it in float32"):
        sams["sam"].masks(picture, [PROMPTS["box"]])
    hook.remove()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 90), (1400, 1100)])
def test_pictures_of_any_size(sams: dict[str, Any], kind: str, size: tuple[int, int]) -> None:
    height, width = size
    picture = torch.full((height, width, 3), 90, dtype=torch.uint8)
    [box, point] = sams[kind].masks(picture, [Prompt((Box(0, 0, width, height),)), Prompt(points=((width / 2, height / 2, True),))])
    assert box.shape == point.shape == size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "said"), [
    (Prompt(points=((97.0, 3.0, True),)), "a point is at 97, 3, outside the picture of 96x64"),
    (Prompt(points=((3.0, -1.0, False),)), "a point is at 3, -1, outside the picture of 96x64"),
    (Prompt((Box(200, 10, 5, 5),)), "a box from 200, 10 to 205, 15 holds nothing of the picture of 96x64"),
    (Prompt((Box(10, 10, 0, 5),)), "holds nothing of the picture"),
    (Prompt((Box(float("nan"), 10, 4, 5),)), "holds nothing of the picture"),
    (Prompt(), "a prompt has neither a box nor a point on the thing"),
    (Prompt(points=(BESIDE,)), "a prompt has neither a box nor a point on the thing"),
])
def test_what_is_not_on_the_picture_is_said(sams: dict[str, Any], picture: Tensor, kind: str, prompt: Prompt, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sams[kind].masks(picture, [prompt])


def test_a_box_over_the_edge_is_cut(sams: dict[str, Any], picture: Tensor) -> None:
    over, cut = sams["sam2"].masks(picture, [Prompt((Box(-20, 30, 60, 90),)), Prompt((Box(0, 30, 40, 34),))])
    torch.testing.assert_close(over, cut, atol=1e-6, rtol=0)


def test_no_prompts_are_no_masks(sams: dict[str, Any], picture: Tensor) -> None:
    assert all(sams[kind].masks(picture, []) == [] for kind in KINDS)


def test_words_for_a_sam_without_them_are_refused(sams: dict[str, Any], picture: Tensor) -> None:
    assert [sams[kind].reads_text for kind in KINDS] == [False, False, False, True]
    with pytest.raises(ValueError, match="sam2 sam2 reads no text, and 'cat' was asked; SAM 3 reads it"):
        sams["sam2"].from_text(picture, "cat")


@pytest.mark.parametrize(("picture", "said"), [
    (torch.rand(8, 8, 3), "the picture is torch.float32 with 3 channels; give uint8 RGB"),
    (torch.zeros(8, 8, 4, dtype=torch.uint8), "with 4 channels"),
    (torch.zeros(1, 1001, 3, dtype=torch.uint8), "the picture is 1001x1, too thin"),
])
def test_other_pictures_are_refused(sams: dict[str, Any], picture: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sams["sam"].masks(picture, [Prompt(points=((0.0, 0.0, True),))])


def test_points_go_with_the_boxes_that_hold_them() -> None:
    other, inside, outside = Box(60, 30, 30, 30), (30.0, 20.0, True), (1.0, 1.0, True)
    assert prompts_of([BOX, other], [inside, BESIDE, outside]) == [
        Prompt((BOX,), (inside, BESIDE)), Prompt((other,), (BESIDE,)), Prompt((), (outside, BESIDE))]
    assert prompts_of([], [inside, outside]) == [Prompt((), (inside, outside))]
    assert prompts_of([BOX], []) == [Prompt((BOX,))]
    assert prompts_of([BOX], [BESIDE]) == [Prompt((BOX,), (BESIDE,))]
    assert prompts_of([], [BESIDE]) == []
    assert prompts_of([], []) == []


def test_points_are_read_as_point_editors_write_them() -> None:
    assert read_points('[{"x": 10, "y": 20.5}, {"x": 3, "y": 4}]', True) == [(10.0, 20.5, True), (3.0, 4.0, True)]
    assert read_points('{"x": 1, "y": 2}', False) == [(1.0, 2.0, False)]
    assert read_points(" ", True) == read_points("[]", True) == []


@pytest.mark.parametrize("text", ["10, 20", "[[10, 20]]", '[{"x": 10}]', '[{"x": "left", "y": 2}]', "null", "3", "[1]"])
def test_other_points_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'write them in pixels as \[\{"x": 10, "y": 20\}\]'):
        read_points(text, True)
