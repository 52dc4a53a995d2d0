"""Data sets from lists of a graph, masks from a graph, and a data set as lists. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types
from .reporting import own_first

if TYPE_CHECKING:
    from torch import Tensor

    from ..dataset.item import DataSet

CATEGORY = "masked lora/dataset"
CAPTIONS = "A caption for each, as a list, or one for all: connect a list or type one."
NAMES = "Names for reports, previews and Use Masks from the Graph, all different. Without them they are numbered."
ALPHA = "Whether a fourth channel, transparency, is the mask: opaque = white = learn. Off: it is left out, and the report counts it."


def share_inputs() -> list[io.Input]:
    return [
        io.Int.Input("repeats", default=1, min=1, max=10000, tooltip="How often each comes in one epoch."),
        io.Float.Input("weight", default=1.0, min=0.0, max=100.0, step=0.05, round=0.001, tooltip="Factor of the loss of each."),
    ]


def data_set_outputs() -> list[io.Output]:
    return [
        types.DataSet.Output(display_name="data set", tooltip="For Crop and Bucket Pictures, Combine Data Sets and Encode Training Set."),
        io.String.Output(display_name="report", tooltip="Counts, sizes, how much is white (learned), which masks are all black."),
    ]


class DataSetFromLists(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_DataSetFromLists",
            display_name="Data Set from Lists",
            category=CATEGORY,
            description="Makes a data set of pictures, masks (white = learn) and captions from any nodes: ComfyUI's dataset nodes, SAM3, "
                        "background removal.",
            search_aliases=["images to dataset", "training images from nodes", "dataset from batch", "image list dataset", "SAM3 masks"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="Pictures as a list or batches; sizes may differ. Each is one item."),
                io.Mask.Input("masks", optional=True, tooltip="One mask for each picture, of its size, or one for all. White = learn. "
                              "Without it every pixel is learned. Behind ComfyUI's Load Image put Invert Mask: its mask is inverted."),
                io.String.Input("captions", default="", multiline=True, tooltip=CAPTIONS),
                io.String.Input("names", optional=True, force_input=True, tooltip=NAMES),
                io.Boolean.Input("alpha_as_mask", default=True, tooltip=ALPHA),
                *share_inputs(),
                io.Image.Input("references", optional=True, tooltip="For edit models (Kontext, Flux2, Qwen-Image-Edit): the picture that "
                               "the model is shown to make each of these, one for each or one for all, of any size."),
            ],
            outputs=data_set_outputs(),
        )

    @classmethod
    def execute(cls, images: list[Tensor], captions: list[str], alpha_as_mask: list[bool], repeats: list[int], weight: list[float],
                masks: list[Tensor] | None = None, names: list[str] | None = None, references: list[Tensor] | None = None) -> io.NodeOutput:
        from ..host.lists import Share, pictures_to_data_set

        data_set = pictures_to_data_set(images, masks, captions, names, references=references, alpha_as_mask=alpha_as_mask[0],
                                        share=Share(repeats[0], weight[0]))
        return io.NodeOutput(data_set, data_set.report, ui=ui.PreviewText(data_set.report))


class DataSetFromVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_DataSetFromVideo",
            display_name="Data Set from Videos",
            category=CATEGORY,
            description="Makes a data set of clips from videos or batches of frames, with one mask (white = learn) for a clip or one for "
                        "each of its frames.",
            search_aliases=["video dataset", "clips dataset", "train video lora", "WAN dataset", "HunyuanVideo dataset", "video masks"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Video.Input("videos", optional=True, tooltip="Videos, one or a list: each is one clip."),
                io.Image.Input("clips", optional=True, tooltip="Instead of videos: a list of batches, each batch the frames of one clip."),
                io.Mask.Input("masks", optional=True, tooltip="One entry for each clip, of its size: one mask, or a batch with one for "
                              "each frame. One entry may serve all clips. White = learn. Without it every pixel is learned."),
                io.String.Input("captions", default="", multiline=True, tooltip=CAPTIONS),
                io.String.Input("names", optional=True, force_input=True, tooltip=NAMES),
                io.Int.Input("first_frame", default=0, min=0, max=1000000, tooltip="The first frame that is used; 0 is the clip's first."),
                io.Int.Input("frame_count", default=0, min=0, max=1000000, tooltip="At most so many frames of each clip; 0: all. WAN and "
                             "HunyuanVideo encode 4 k + 1 of them (17, 33, 81), LTX-Video 8 k + 1, and drop the rest."),
                io.Int.Input("every", default=1, min=1, max=1000, tooltip="Use each n-th frame: 2 makes 15 frames a second of 30."),
                io.Boolean.Input("alpha_as_mask", default=True, tooltip=ALPHA),
                *share_inputs(),
            ],
            outputs=data_set_outputs(),
        )

    @classmethod
    def execute(cls, captions: list[str], first_frame: list[int], frame_count: list[int], every: list[int], alpha_as_mask: list[bool],
                repeats: list[int], weight: list[float], videos: list[Any] | None = None, clips: list[Tensor] | None = None,
                masks: list[Tensor] | None = None, names: list[str] | None = None) -> io.NodeOutput:
        from ..host.clips import FrameRange, one_source
        from ..host.lists import Share, clips_to_data_set

        frames = FrameRange(first_frame[0], frame_count[0], every[0])
        data_set = clips_to_data_set(one_source(videos, clips), masks, captions, names, frames=frames, alpha_as_mask=alpha_as_mask[0],
                                     share=Share(repeats[0], weight[0]))
        return io.NodeOutput(data_set, data_set.report, ui=ui.PreviewText(data_set.report))


class UseMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_UseMasks",
            display_name="Use Masks from the Graph",
            category=CATEGORY,
            description="Gives the pictures of a data set masks (white = learn) that other nodes made, for example SAM3 from Data Set to "
                        "Lists. Put it before Crop and Bucket Pictures.",
            search_aliases=["replace masks", "dataset masks", "segmentation masks", "SAM3 masks", "background removal masks"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                types.DataSet.Input("data_set", tooltip="A data set that is not cropped yet. Its masks are replaced. White = learn."),
                io.Mask.Input("masks", tooltip="One for each picture in the set's order, of the picture's own size, or one for all; for a "
                              "clip one mask or one for each frame. White = learn."),
                io.String.Input("names", optional=True, force_input=True, tooltip="The names from Data Set to Lists, one for each mask: "
                                "masks are then given by name, and items that are not named keep theirs."),
            ],
            outputs=data_set_outputs(),
        )

    @classmethod
    def execute(cls, data_set: list[DataSet], masks: list[Tensor], names: list[str] | None = None) -> io.NodeOutput:
        from ..host.lists import replace_masks, single

        before = single(data_set, "data_set")
        masked = replace_masks(before, masks, names)
        return io.NodeOutput(masked, masked.report, ui=ui.PreviewText(own_first(masked.report, before.report)))


class DataSetToLists(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_DataSetToLists",
            display_name="Data Set to Lists",
            category=CATEGORY,
            description="Loads a data set's pictures, masks (white = learn), captions and names as lists, for any node to work on.",
            search_aliases=["dataset to images", "unpack dataset", "load dataset pictures", "dataset for SAM3"],
            inputs=[
                types.DataSet.Input("data_set", tooltip="Pictures come at their own size, or as Crop and Bucket Pictures cuts them."),
                io.Int.Input("start", default=0, min=0, max=10000000, tooltip="The first item; 0 is the data set's first."),
                io.Int.Input("count", default=0, min=0, max=10000000, tooltip="How many items; 0: all. All of them are held in memory."),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="One picture each; of a clip, all frames as a batch."),
                io.Mask.Output(display_name="masks", is_output_list=True, tooltip="One for each. White = learn; all white where the set "
                               "has none."),
                io.String.Output(display_name="captions", is_output_list=True, tooltip="One for each, or empty."),
                io.String.Output(display_name="names", is_output_list=True, tooltip="For Use Masks from the Graph."),
            ],
        )

    @classmethod
    def execute(cls, data_set: DataSet, start: int, count: int) -> io.NodeOutput:
        from ..host.lists import data_set_to_lists

        lists = data_set_to_lists(data_set, start, count)
        return io.NodeOutput(lists.images, lists.masks, lists.captions, lists.names)
