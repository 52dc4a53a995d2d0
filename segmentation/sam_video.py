"""Things followed through a clip by SAM 2/2.1, from a mask, boxes or points on one frame.

Shapes: T frames, H height, W width in pixels, C = 3 colours, N things, h, w of the network's mask.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .pretrained import transformers_class
from .sam import PointSam, Query, preprocess, queries_of
from .sam_prompt import Prompt

Told = Callable[[int], None]
"""Called after each frame with the number of frames done; what it raises ends the work."""


class Pixels(Mapping[int, Tensor]):
    """The frames as the network sees them, made when they are asked for: a whole clip of them would be 12 MB a frame."""

    def __init__(self, sam: PointSam, frame_HWC: Callable[[int], Tensor], frames: int) -> None:
        self.sam, self.frame_HWC, self.frames = sam, frame_HWC, frames

    def __getitem__(self, index: int) -> Tensor:
        pixels: Tensor = preprocess(self.sam.image_processor, self.frame_HWC(index))["pixel_values"][0]
        return pixels.to(next(self.sam.video.parameters()).dtype)

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.frames))


@torch.no_grad()
def follow(sam: PointSam, frame_HWC: Callable[[int], Tensor], frames: int, start: int, things: Sequence[Prompt | Tensor],
           told: Told = lambda done: None) -> Tensor:
    """One soft mask (T, H, W), float32 0..1 on the CPU, of all things together; black where none of them is in sight.

    frame_HWC: gives a frame as uint8 RGB on the CPU. start: the frame that `things` are marked on, as prompts or as masks (H, W);
    they are followed to the end of the clip and back to its beginning. Raises ValueError for a model without a memory of frames,
    a frame that is not there, an empty mask and what is outside the picture.
    """
    if sam.video is None:
        raise ValueError(f"{sam.name} cannot follow things through a clip; use SAM 2 or 2.1: Meta's file or its video model's folder")
    if not 0 <= start < frames:
        raise ValueError(f"frame {start} is not in the clip; it has frames 0 to {frames - 1}")
    height, width = frame_HWC(start).shape[:2]
    processor = transformers_class("Sam2VideoProcessor", "4.57")(
        sam.image_processor, transformers_class("Sam2VideoVideoProcessor", "4.57")())
    session = _session(sam, processor, Pixels(sam, frame_HWC, frames), height, width)
    _mark(processor, session, start, things, height, width)
    masks_THW = torch.zeros(frames, height, width)
    done = 0
    for step in (1, -1):
        for answer in sam.video.propagate_in_video_iterator(session, start_frame_idx=start, reverse=step < 0):
            if step < 0 and answer.frame_idx == start:
                continue  # done on the way forward
            [logits_N1HW] = processor.post_process_masks([answer.pred_masks.float()], [[height, width]], binarize=False)
            masks_THW[answer.frame_idx] = torch.sigmoid(logits_N1HW).amax(dim=(0, 1)).cpu()
            _forget(session, answer.frame_idx, start, step, sam.video.config)
            done += 1
            told(done)
    return masks_THW


def _session(sam: PointSam, processor: Any, pixels: Pixels, height: int, width: int) -> Any:
    parameter = next(sam.video.parameters())
    session = processor.init_video_session(inference_device=parameter.device, inference_state_device="cpu", dtype=parameter.dtype)
    session.processed_frames, session.video_height, session.video_width = pixels, height, width
    return session


def _mark(processor: Any, session: Any, start: int, things: Sequence[Prompt | Tensor], height: int, width: int) -> None:
    marks: list[Query | Tensor] = []
    for index, thing in enumerate(things):
        marks += queries_of(index, thing, width, height) if isinstance(thing, Prompt) else [_solid(thing, height, width)]
    if not marks:
        raise ValueError("nothing is marked to be followed; give a mask, boxes or points")
    for number, mark in enumerate(marks):
        given = {"input_masks": [mark]} if isinstance(mark, Tensor) else _given(mark)
        processor.add_inputs_to_inference_session(session, frame_idx=start, obj_ids=number, **given)
    session.obj_with_new_inputs = list(range(len(marks)))  # each call above forgets those before


def _given(query: Query) -> dict[str, Any]:
    given: dict[str, Any] = {} if query.box is None else {"input_boxes": [[list(query.box.corners)]]}
    if query.points:
        given["input_points"] = [[[list(point[:2]) for point in query.points]]]
        given["input_labels"] = [[[int(point[2]) for point in query.points]]]
    return given


def _solid(mask_HW: Tensor, height: int, width: int) -> Tensor:
    if tuple(mask_HW.shape) != (height, width):
        raise ValueError(f"the mask is {mask_HW.shape[1]}x{mask_HW.shape[0]}, the frames are {width}x{height}; make them the same size")
    solid_HW = mask_HW >= 0.5
    if not solid_HW.any():
        raise ValueError("a mask of what to follow is empty (nothing in it is at least half white); paint it on the frame that is named")
    return solid_HW


def _forget(session: Any, frame: int, start: int, step: int, config: Any) -> None:
    """Drops what no later frame looks back to; a long clip would fill the memory."""
    reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
    past = frame - step * reach
    for outputs in session.output_dict_per_obj.values():
        for by_frame in outputs.values():
            by_frame.get(frame, {}).pop("high_res_masks", None)
        if abs(past - start) > reach:  # the way back begins with frames of the way forward
            outputs["non_cond_frame_outputs"].pop(past, None)
