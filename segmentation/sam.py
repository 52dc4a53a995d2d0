"""Masks for points and boxes by Segment Anything: SAM 1, SAM 2/2.1, and the part of SAM 3 that takes points and boxes.

Shapes: H height, W width in pixels, h, w of the network's mask, C = 3 colours, N queries, P points of a query.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .batches import in_batches
from .boxes import Box
from .sam_prompt import Prompt

AT_ONCE = 32
TOO_THIN = 1000


@dataclass(frozen=True, slots=True)
class Query:
    """What the mask decoder answers with one mask: a box, points, or both. prompt: the index of the prompt that it belongs to."""

    prompt: int
    box: Box | None
    points: tuple[tuple[float, float, bool], ...]

    @property
    def form(self) -> tuple[bool, int]:
        """Queries of one form are decoded together; padding others to it would change their masks."""
        return self.box is not None, len(self.points)

    @property
    def ambiguous(self) -> bool:
        """A single point may mean a part or the whole: the network then offers three masks. As SAM's authors advise."""
        return self.box is None and len(self.points) == 1


@dataclass(frozen=True, slots=True, eq=False)
class PointSam:
    """network: SamModel, Sam2Model or Sam3TrackerModel of transformers. video: Sam2VideoModel with the same weights, where there is one.
    embed: the network and pixels (1, C, S, S) to what the network takes as image_embeddings. padded: SAM 1's processor pads pictures to
    a square, the others stretch them; what a processor returns does not tell (SAM 2's of transformers 4.57 returns SAM 1's names)."""

    name: str
    network: Any
    image_processor: Any
    video: Any = None
    embed: Callable[[Any, Tensor], Any] = lambda network, pixels: network.get_image_embeddings(pixels)
    padded: bool = False

    @property
    def reads_text(self) -> bool:
        return False

    @property
    def module(self) -> nn.Module:
        """All weights."""
        module: nn.Module = self.network if self.video is None else self.video
        return module

    @torch.no_grad()
    def masks(self, picture_HWC: Tensor, prompts: Sequence[Prompt]) -> list[Tensor]:
        """See sam_prompt.Sam."""
        height, width = picture_HWC.shape[:2]
        queries = [query for index, prompt in enumerate(prompts) for query in queries_of(index, prompt, width, height)]
        if not queries:
            return []
        inputs = preprocess(self.image_processor, picture_HWC)
        parameter = next(self.network.parameters())
        embeddings = self.embed(self.network, inputs["pixel_values"].to(parameter.device, parameter.dtype))
        found: list[Tensor | None] = [None] * len(prompts)
        for form in dict.fromkeys(query.form for query in queries):
            group = [query for query in queries if query.form == form]
            answers = in_batches(group, partial(self._decode, embeddings, inputs), AT_ONCE)
            for query, logits_hw in zip(group, answers, strict=True):  # enlarged one at a time: a prompt may have many boxes
                before = found[query.prompt]
                if before is None:
                    found[query.prompt] = self._upsample(logits_hw, inputs)
                else:
                    torch.maximum(before, self._upsample(logits_hw, inputs), out=before)
        return [mask_HW for mask_HW in found if mask_HW is not None]

    def from_text(self, picture_HWC: Tensor, phrase: str) -> list[Tensor]:
        """See sam_prompt.Sam."""
        [masks] = self.from_texts(picture_HWC, [phrase])
        return masks

    def from_texts(self, picture_HWC: Tensor, phrases: Sequence[str], most: int | None = None, cut: bool = False
                   ) -> Iterator[list[Tensor]]:
        """See sam_prompt.Sam."""
        raise ValueError(f"{self.name} reads no text, and {', '.join(phrases)!r} was asked; SAM 3 reads it, or find boxes by words and "
                         "connect them")

    def _decode(self, embeddings: Any, inputs: Mapping[str, Any], queries: Sequence[Query]) -> list[Tensor]:
        """Logits (h, w) for each of some queries of one form."""
        parameter = next(self.network.parameters())
        answer = self.network(image_embeddings=embeddings, multimask_output=queries[0].ambiguous,
                              **_coordinates(queries, self._scale_xy(inputs), parameter.device))
        best_N = answer.iou_scores[0].argmax(dim=-1)
        logits_Nhw = answer.pred_masks[0, torch.arange(len(queries), device=best_N.device), best_N].float()
        if not torch.isfinite(logits_Nhw).all():
            raise ValueError(f"{self.name} gave NaN or infinity in {parameter.dtype}; run it in float32 (ComfyUI: --force-fp32)")
        return list(logits_Nhw)

    def _upsample(self, logits_hw: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        padding = [inputs["reshaped_input_sizes"]] if self.padded else []  # how much is to be cut off again
        [logits] = self.image_processor.post_process_masks([logits_hw[None, None]], inputs["original_sizes"], *padding, binarize=False)
        return torch.sigmoid(logits[0, 0]).cpu()

    def _scale_xy(self, inputs: Mapping[str, Any]) -> Tensor:
        """From the picture's pixels to those that the network sees."""
        old_height, old_width = (int(size) for size in inputs["original_sizes"][0])
        new = inputs["reshaped_input_sizes"][0] if self.padded else inputs["pixel_values"].shape[-2:]
        return torch.tensor([int(new[1]) / old_width, int(new[0]) / old_height])


def preprocess(image_processor: Any, picture_HWC: Tensor) -> Mapping[str, Any]:
    """What the image processor makes of a uint8 picture: pixel_values (1, C, S, S), original_sizes, for SAM 1 reshaped_input_sizes.

    Raises ValueError for a picture that is not uint8 RGB, or so thin that scaling it would leave no pixel.
    """
    height, width, channels = picture_HWC.shape
    if picture_HWC.dtype != torch.uint8 or channels != 3:
        raise ValueError(f"the picture is {picture_HWC.dtype} with {channels} channels; give uint8 RGB")
    if max(height, width) > TOO_THIN * min(height, width):
        raise ValueError(f"the picture is {width}x{height}, too thin to segment; crop it")
    picture_CHW = picture_HWC.permute(2, 0, 1)
    inputs: Mapping[str, Any] = image_processor(images=picture_CHW, input_data_format="channels_first", return_tensors="pt")
    return inputs


def queries_of(index: int, prompt: Prompt, width: int, height: int) -> list[Query]:
    """The prompt's points go with each of its boxes; boxes are cut at the picture's edge.

    Raises ValueError for a point or box outside the picture, and for a prompt with neither a box nor a point on the thing.
    """
    if outside := [point for point in prompt.points if not (0 <= point[0] <= width and 0 <= point[1] <= height)]:
        raise ValueError(f"a point is at {outside[0][0]:g}, {outside[0][1]:g}, outside the picture of {width}x{height}; "
                         "give pixels from the upper left corner")
    if not prompt.boxes and not any(on for _, _, on in prompt.points):
        raise ValueError("a prompt has neither a box nor a point on the thing; give one of them")
    return [Query(index, box and _cut(box, width, height), prompt.points) for box in prompt.boxes or (None,)]


def _cut(box: Box, width: int, height: int) -> Box:
    left, top, right, bottom = box.corners
    x, y = max(left, 0.0), max(top, 0.0)
    cut = Box(x, y, min(right, width) - x, min(bottom, height) - y, box.label, box.score)
    if not (cut.width > 0 and cut.height > 0):  # also for NaN
        raise ValueError(f"a box from {left:g}, {top:g} to {right:g}, {bottom:g} holds nothing of the picture of {width}x{height}; "
                         "give pixels from the upper left corner")
    return cut


def _coordinates(queries: Sequence[Query], scale_xy: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Boxes (1, N, 4) and points (1, N, P, 2) of queries of one form, in pixels of what the network sees."""
    result = {}
    if queries[0].box is not None:
        corners = torch.tensor([query.box.corners for query in queries if query.box is not None])
        result["input_boxes"] = (corners * scale_xy.repeat(2))[None].to(device)
    if queries[0].points:
        points = torch.tensor([[point[:2] for point in query.points] for query in queries])
        result["input_points"] = (points * scale_xy)[None].to(device)
        result["input_labels"] = torch.tensor([[int(point[2]) for point in query.points] for query in queries])[None].to(device)
    return result
