"""Masks by Segment Anything from points, boxes and words, on pictures and through clips. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types
from .model_inputs import model_inputs
from .plan_inputs import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..host.managed import Managed
    from ..segmentation.sam_prompt import Sam


def _points() -> list[io.Input]:
    form = 'Pixels from the upper left corner, as [{"x": 10, "y": 20}]; point editors and ComfyUI\'s SAM3 nodes write the same.'
    return [
        io.String.Input("positive_coords", default="", optional=True, tooltip=f"Points on the thing; white = learn there. {form}"),
        io.String.Input("negative_coords", default="", optional=True,
                        tooltip=f"Points beside a thing that boxes or points mark, to cut away. White = learn. {form}"),
    ]


def _sam() -> io.Input:
    return types.Sam.Input("sam", tooltip="From Load SAM. White = learn in the masks that it makes.")


class LoadSam(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadSam",
            display_name="Load SAM",
            category=CATEGORY,
            description="Loads a Segment Anything model (SAM 1, 2, 2.1 or 3), which makes masks (white = learn) of points, boxes or words.",
            search_aliases=["segment anything", "sam2", "sam 2.1", "sam3", "download sam", "sam loader", "hiera"],
            inputs=model_inputs("Files and folders in models/sams, models/sam2 and models/sam3, then models that are downloaded on first "
                                "use. White = learn in their masks.", "sam"),
            outputs=[types.Sam.Output(display_name="sam", tooltip="For Masks from Points and Boxes, Masks from Words and others.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, accept_licence: bool) -> io.NodeOutput:
        from ..host.model_files import find
        from ..host.sam_masks import load_managed_sam

        return io.NodeOutput(load_managed_sam(find(model, ("sam",), accept_licence, cls.hidden.unique_id)))


class SamMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_SamMasks",
            display_name="Masks from Points and Boxes",
            category=CATEGORY,
            description="Masks (white = learn) of the things that boxes, points or words name, for one picture or a batch.",
            search_aliases=["segment anything", "sam detect", "sam2 segmentation", "box to mask", "bbox to mask", "points to mask",
                            "click mask"],
            is_output_node=True,
            inputs=[
                _sam(),
                io.Image.Input("images", tooltip="One picture or a batch. White = learn in their masks."),
                io.BoundingBox.Input(
                    "boxes", optional=True, force_input=True,
                    tooltip="A list of boxes for each picture, or one list for all, from any node. Each box gives a mask. White = learn."),
                *_points(),
                io.String.Input(
                    "text", default="", optional=True,
                    tooltip="What to look for, several things with commas between them. Only SAM 3 reads it. White = learn."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One for each picture: all things together. White = learn."),
                io.Mask.Output(display_name="things", tooltip="One for each thing, of all pictures one after the other. White = learn."),
                io.BoundingBox.Output(display_name="boxes", tooltip="Around each thing, a list for each picture. White = learn inside."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, sam: Managed[Sam], images: Tensor, boxes: Any = None, positive_coords: str = "", negative_coords: str = "",
                text: str = "") -> io.NodeOutput:
        from ..host.progress import Progress
        from ..host.sam_masks import masks_of_things
        from ..segmentation.boxes import read_boxes
        from ..segmentation.points import read_points

        wanted = read_boxes([] if boxes is None else boxes, len(images))
        points = [*read_points(positive_coords, True), *read_points(negative_coords, False)]
        phrases = [phrase.strip() for phrase in text.split(",") if phrase.strip()]
        found = masks_of_things(sam, images, wanted, points, phrases, Progress(cls.hidden.unique_id))
        counted = f"{len(found.things_NHW)} things on {len(images)} pictures"
        return io.NodeOutput(found.union_BHW, found.things_NHW, [[box.to_dict() for box in one] for one in found.boxes],
                             ui=ui.PreviewText("\n".join([counted, *found.notes])))


class SamVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_SamVideo",
            display_name="Follow Masks through a Clip",
            category=CATEGORY,
            description="Marks a thing on one frame and gives its mask (white = learn) on every frame of the clip, by SAM 2 or 2.1.",
            search_aliases=["sam2 video", "video mask", "track mask", "propagate mask", "rotoscope", "segment video"],
            is_output_node=True,
            inputs=[
                _sam(),
                io.Image.Input("frames", tooltip="The clip's frames in order. White = learn in their masks."),
                io.Int.Input("frame", default=0, min=0, max=2**20,
                             tooltip="The frame, from 0, that the mask, boxes or points mark. White = learn what is marked."),
                io.Mask.Input("mask", optional=True,
                              tooltip="What to follow, as painted on that frame; each mask of a batch is one thing. White = learn."),
                io.BoundingBox.Input("boxes", optional=True, force_input=True,
                                     tooltip="What to follow, as boxes on that frame, in place of a mask; of a list for each frame, that "
                                     "frame's. White = learn."),
                *_points(),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One for each frame: all things together. White = learn.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, sam: Managed[Sam], frames: Tensor, frame: int, mask: Tensor | None = None, boxes: Any = None,
                positive_coords: str = "", negative_coords: str = "") -> io.NodeOutput:
        from ..host.progress import Progress
        from ..host.sam_masks import masks_through_clip
        from ..segmentation.boxes import read_boxes
        from ..segmentation.points import read_points

        marked = read_boxes([] if boxes is None else boxes, len(frames))[min(frame, len(frames) - 1)]
        points = [*read_points(positive_coords, True), *read_points(negative_coords, False)]
        things = [] if mask is None else list(mask.reshape(-1, *mask.shape[-2:]))
        masks, notes = masks_through_clip(sam, frames, frame, things, marked, points, Progress(cls.hidden.unique_id))
        return io.NodeOutput(masks, ui=ui.PreviewText("\n".join([f"followed through {len(frames)} frames", *notes])))
