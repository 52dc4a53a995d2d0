"""Segment Anything on the pictures and clips of a graph. White = learn.

Shapes: B pictures or T frames, H height, W width in pixels, C channels, N things.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..segmentation.boxes import Box
from ..segmentation.sam import PointSam
from ..segmentation.sam_files import load_sam
from ..segmentation.sam_prompt import Sam, prompts_of
from ..segmentation.sam_video import follow
from ..segmentation.segmenter import to_bytes
from .managed import Managed, manage
from .progress import Progress
from .weights import read_weights

Point = tuple[float, float, bool]
FOUND = 0.5
ONLY_BESIDE = "there are only points beside the thing; mark the thing, too: with a point on it or a box"


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """union_BHW: all things of each picture. things_NHW: each thing of all pictures, in the pictures' order. boxes: around each
    thing of each picture. notes: what was not found or not done, in words."""

    union_BHW: Tensor
    things_NHW: Tensor
    boxes: list[list[Box]]
    notes: tuple[str, ...]


def load_managed_sam(path: Path) -> Managed[Sam]:
    """The SAM in a file or folder, under ComfyUI's memory management. Raises ValueError as load_sam does."""
    sam = load_sam(path, torch.float32, read_weights)  # bfloat16 would round points and boxes to several pixels
    return manage(sam, sam.module)


def masks_of_things(sam: Managed[Sam], images_BHWC: Tensor, boxes: Sequence[Sequence[Box]], points: Sequence[Point], phrases: Sequence[str],
                    progress: Progress) -> Found:
    """Things that boxes (of each picture), points (of every picture) and phrases name.

    Raises ValueError where nothing is asked, and where nothing is found on any picture.
    """
    if not phrases and not any(boxes) and not any(on for _, _, on in points):
        raise ValueError(ONLY_BESIDE if points else "nothing is asked; connect boxes that hold something, or write points or a text")
    union_BHW = torch.zeros(images_BHWC.shape[:3])
    things: list[Tensor] = []
    around: list[list[Box]] = []
    notes = ["points beside the thing cut nothing from what the text finds"] if phrases and not all(on for _, _, on in points) else []
    for index, image_HWC in enumerate(images_BHWC):
        model, picture_HWC = sam(), to_bytes(image_HWC)
        prompts = prompts_of(boxes[index], points)
        answers = [(mask_HW, prompt.boxes[0].label if prompt.boxes else "")
                   for prompt, mask_HW in zip(prompts, model.masks(picture_HWC, prompts), strict=True)]
        by_phrase = model.from_texts(picture_HWC, phrases) if phrases else []
        answers += [(mask_HW, phrase) for phrase, masks in zip(phrases, by_phrase, strict=True) for mask_HW in masks]
        found = [(mask_HW, label) for mask_HW, label in answers if mask_HW.max() >= FOUND]
        for mask_HW, _ in found:
            torch.maximum(union_BHW[index], mask_HW, out=union_BHW[index])
        things += [mask_HW for mask_HW, _ in found]
        around.append([_around(mask_HW, label) for mask_HW, label in found])
        if not found:
            notes.append(f"picture {index + 1}: nothing found, its mask is black")
        progress.update(index + 1, len(images_BHWC))
    if not things:
        raise ValueError(f"nothing was found on {len(images_BHWC)} pictures; use other boxes, points or words")
    return Found(union_BHW, torch.stack(things), around, tuple(notes))


def masks_through_clip(sam: Managed[Sam], images_THWC: Tensor, start: int, things: Sequence[Tensor], boxes: Sequence[Box],
                       points: Sequence[Point], progress: Progress) -> tuple[Tensor, tuple[str, ...]]:
    """The mask (T, H, W) of what masks (H, W), or boxes and points, mark on the frame `start`, and notes on frames without it.

    Raises ValueError for marks of both kinds, for none, for points beside the thing alone, and for a model that follows nothing.
    """
    if things and (boxes or points):
        raise ValueError("a mask and boxes or points both mark what to follow; use one of them")
    if points and not boxes and not any(on for _, _, on in points):
        raise ValueError(ONLY_BESIDE)
    model = sam()
    if not isinstance(model, PointSam):
        raise ValueError(f"{model.name} cannot follow things here; load a SAM 2 or 2.1, or use ComfyUI's SAM3 Video Track")
    frames = len(images_THWC)
    masks_THW = follow(model, lambda frame: to_bytes(images_THWC[frame]), frames, start, things or prompts_of(boxes, points),
                       lambda done: progress.update(done, frames, f"frame {done} of {frames}"))
    lost = [index for index, mask_HW in enumerate(masks_THW) if mask_HW.max() < FOUND]
    return masks_THW, (f"out of sight in {len(lost)} of {frames} frames, the first is {lost[0]}",) if lost else ()


def _around(mask_HW: Tensor, label: str) -> Box:
    rows, columns = torch.nonzero(mask_HW >= FOUND, as_tuple=True)
    left, top = int(columns.min()), int(rows.min())
    return Box(left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top, label)
