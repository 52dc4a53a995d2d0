"""Things followed through a clip, against the library's own sessions."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from pack.segmentation import sam_video
from pack.segmentation.boxes import Box
from pack.segmentation.sam import PointSam
from pack.segmentation.sam_files import load_sam
from pack.segmentation.sam_prompt import Prompt
from pack.segmentation.sam_video import follow
from pack.tests.segmentation import tiny_sams as tiny
from torch import Tensor

FRAMES, START, SIZE = 24, 9, (64, 96)
BOX, POINTS = Box(20, 10, 40, 30), ((48.0, 32.0, True), (5.0, 5.0, False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("sams") / "sam2_video", tiny.sam2_video(), tiny.sam2_video_processor())


@pytest.fixture(scope="module")
def sam(folder: Path) -> PointSam:
    return load_sam(folder, torch.float32, dict)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    """A bright square that moves over noise."""
    frames = torch.randint(0, 90, (FRAMES, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for index in range(FRAMES):
        frames[index, 15:45, index : index + 40] += 120
    return frames


def reference(sam: PointSam, folder: Path, clip: Tensor, **given: Any) -> Tensor:
    """One thing's mask on every frame, by the library's session over the whole clip at once."""
    processor = hf.Sam2VideoProcessor.from_pretrained(folder)
    session = processor.init_video_session(video=clip.permute(0, 3, 1, 2), inference_device="cpu", dtype=torch.float32)
    processor.add_inputs_to_inference_session(session, frame_idx=START, obj_ids=1, **given)
    masks = torch.zeros(len(clip), *SIZE)
    with torch.no_grad():
        sam.video(inference_session=session, frame_idx=START)
        for back in (False, True):
            for answer in sam.video.propagate_in_video_iterator(session, start_frame_idx=START, reverse=back):
                [logits] = processor.post_process_masks([answer.pred_masks], [SIZE], binarize=False)
                masks[answer.frame_idx] = torch.sigmoid(logits[0, 0])
    return masks


SQUARE = torch.zeros(SIZE)
SQUARE[15:45, 9:49] = 1
MARKS = {
    "box": (Prompt((BOX,)), {"input_boxes": [[list(BOX.corners)]]}),
    "points": (Prompt(points=POINTS), {"input_points": [[[[48.0, 32.0], [5.0, 5.0]]]], "input_labels": [[[1, 0]]]}),
    "mask": (SQUARE * 0.9, {"input_masks": [SQUARE.bool()]}),
}


@pytest.mark.parametrize("name", MARKS)
def test_masks_are_those_of_the_librarys_session(sam: PointSam, folder: Path, clip: Tensor, name: str) -> None:
    mark, given = MARKS[name]
    masks = follow(sam, clip.__getitem__, FRAMES, START, [mark])
    expected = reference(sam, folder, clip, **given)
    assert masks.shape == (FRAMES, *SIZE)
    torch.testing.assert_close(masks, expected, atol=1e-3, rtol=0)
    assert 0.02 < (expected > 0.5).float().mean() < 0.98
    assert (expected[0] - expected[-1]).abs().max() > 0.1  # the frames differ


def test_several_things_together_are_the_greatest_of_each_alone(sam: PointSam, clip: Tensor) -> None:
    both = follow(sam, clip.__getitem__, 4, 1, [MARKS["box"][0], MARKS["mask"][0]])
    alone = [follow(sam, clip.__getitem__, 4, 1, [MARKS[name][0]]) for name in ("box", "mask")]
    torch.testing.assert_close(both, torch.maximum(*alone), atol=1e-3, rtol=0)


def test_the_first_and_the_last_frame_may_be_marked(sam: PointSam, clip: Tensor) -> None:
    for start in (0, 2):
        assert follow(sam, clip.__getitem__, 3, start, [Prompt((BOX,))]).amax(dim=(1, 2)).min() > 0
    assert follow(sam, clip.__getitem__, 1, 0, [Prompt((BOX,))]).shape == (1, *SIZE)


def test_what_is_out_of_sight_is_black(folder: Path, clip: Tensor) -> None:
    blind = load_sam(folder, torch.float32, dict)
    with torch.no_grad():
        blind.video.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-99.0)
    assert follow(blind, clip.__getitem__, 3, 0, [Prompt((BOX,))])[1:].max() == 0


def test_each_frame_is_told_and_may_end_the_work(sam: PointSam, clip: Tensor) -> None:
    told: list[int] = []
    follow(sam, clip.__getitem__, 5, 2, [Prompt((BOX,))], told.append)
    assert told == [1, 2, 3, 4, 5]

    def cancel(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(sam, clip.__getitem__, 5, 2, [Prompt((BOX,))], cancel)


def test_frames_are_prepared_one_at_a_time(sam: PointSam, clip: Tensor) -> None:
    asked: list[int] = []

    def frame(index: int) -> Tensor:
        asked.append(index)
        return clip[index]

    follow(sam, frame, 5, 1, [Prompt((BOX,))], lambda done: asked.append(-1))
    assert max(asked.index(-1), asked[::-1].index(-1)) <= 2


def test_old_frames_are_forgotten() -> None:
    """Only the marked frame and those within reach stay; without it a minute of film would take gigabytes."""
    config = SimpleNamespace(num_maskmem=7, max_object_pointers_in_encoder=3)
    marked = {START: {"high_res_masks": 1, "pred_masks": 1}}
    outputs: dict[str, dict[int, dict[str, int]]] = {"cond_frame_outputs": marked, "non_cond_frame_outputs": {}}
    session = SimpleNamespace(output_dict_per_obj={0: outputs})
    sam_video._forget(session, START, START, 1, config)
    for frame in range(START + 1, 60):
        outputs["non_cond_frame_outputs"][frame] = {"high_res_masks": 1, "maskmem_features": 1}
        sam_video._forget(session, frame, START, 1, config)
    assert sorted(outputs["non_cond_frame_outputs"]) == [*range(START + 1, START + 8), *range(53, 60)]
    assert marked == {START: {"pred_masks": 1}}
    assert all(set(kept) == {"maskmem_features"} for kept in outputs["non_cond_frame_outputs"].values())


@pytest.mark.parametrize(("start", "things", "said"), [
    (3, [Prompt((BOX,))], "frame 3 is not in the clip; it has frames 0 to 2"),
    (0, [], "nothing is marked to be followed"),
    (0, [torch.zeros(SIZE)], "a mask of what to follow is empty"),
    (0, [torch.full(SIZE, 0.4)], "a mask of what to follow is empty"),
    (0, [torch.ones(8, 9)], "the mask is 9x8, the frames are 96x64"),
    (0, [Prompt(points=((97.0, 3.0, True),))], "a point is at 97, 3, outside the picture of 96x64"),
])
def test_what_cannot_be_followed_is_said(sam: PointSam, clip: Tensor, start: int, things: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        follow(sam, clip.__getitem__, 3, start, things)


def test_a_sam_without_memory_is_refused(clip: Tensor) -> None:
    still = PointSam("sam2 image", tiny.sam2(), tiny.sam2_processor().image_processor)
    with pytest.raises(ValueError, match=r"sam2 image cannot follow things through a clip; use SAM 2 or 2\.1"):
        follow(still, clip.__getitem__, 3, 0, [Prompt((BOX,))])
