"""Folders of pictures, masks and captions as data sets. White = learn."""
from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io, ui

from . import types

CATEGORY = "masked lora/dataset"
REPORT_TOOLTIP = "What was found, what is missing or odd, how much is white (learned)."
MOST_SETS = 50


class LoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadFolder",
            display_name="Load Training Folder",
            category=CATEGORY,
            description="Finds the pictures or clips of a folder with their masks (white = learn) and captions, checks every pair, and "
                        "says what is missing or looks wrong. Folders of sd-scripts, musubi-tuner, ai-toolkit, OneTrainer and SimpleTuner "
                        "are read as they are.",
            search_aliases=["load dataset", "image folder", "training pictures", "captions", "masked training data",
                            "regularization images", "preflight", "kohya folder"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "folder", default="demo",
                    tooltip="A folder inside ComfyUI's input directory; 'demo' is the bundled example. Pictures lie in it, captions beside "
                    "them, masks in masks/ with the same names (white = learn)."),
                io.Combo.Input(
                    "content", options=["pictures", "clips"], default="pictures",
                    tooltip="pictures: every file is one. clips: every sub-folder of frames is one clip; its mask is masks/<clip>.png or "
                    "masks/<clip>/<frames>, its caption <clip>.txt."),
                io.Combo.Input(
                    "mask_source", options=["automatic", "folder", "sidecar", "alpha", "none"], default="automatic",
                    tooltip="Where masks come from. White = learn. automatic: a picture's own transparency if any pixel is not opaque "
                    "(opaque = learn), else the mask folder, else a file beside it (<name>-masklabel.png, <name>.mask.png). none: "
                    "everything is learned."),
                io.Combo.Input(
                    "missing_mask", options=["error", "all ones", "skip"], default="error",
                    tooltip="A picture without a mask: error stops and names all of them; all ones learns it everywhere, like white "
                    "(white = learn); skip leaves it out. The report counts them."),
                io.Combo.Input(
                    "captions", options=["automatic", "txt", "caption", "json", "metadata", "none"], default="automatic",
                    tooltip="automatic takes the first that is there: <name>.txt, <name>.caption, <name>.json, metadata.json or *.jsonl. "
                    "Without one the text is empty, and the report counts it."),
                io.Int.Input("repeats", default=1, min=1, max=10000, tooltip="How often each comes in one epoch. Numbers in folder names, "
                             "as in sd-scripts' 10_name, multiply it."),
                io.Float.Input("weight", default=1.0, min=0.0, max=100.0, step=0.05, round=0.001, tooltip="Factor of the loss of each."),
                io.Boolean.Input("regularisation", default=False, tooltip="These pictures keep what the model knows, as regularisation "
                                 "or class images do. With mask_source none they are learned everywhere."),
                io.String.Input("mask_folder", default="masks", advanced=True, tooltip="Sub-folder with the masks (white = learn), or "
                                "another folder inside ComfyUI's input directory. Its files are never training pictures."),
                io.Combo.Input("channel", options=["luminance", "red", "green", "blue", "alpha"], default="luminance", advanced=True,
                               tooltip="Which channel of a mask file is the mask. White = learn."),
                io.Combo.Input("mask_size", options=["error", "fit"], default="error", advanced=True, tooltip="A mask of another size than "
                               "its picture: error stops and names all of them; fit stretches it. White = learn."),
                io.String.Input("caption_field", default="caption", advanced=True, tooltip="Field of JSON files that holds the caption."),
                io.Boolean.Input("recursive", default=True, advanced=True, tooltip="Whether sub-folders are read too."),
                io.Combo.Input("hidden_colours", options=["keep", "fill", "random", "extend"], default="keep", advanced=True,
                               tooltip="What becomes of colours under transparent pixels. keep: as stored. fill: they lie on the colour. "
                               "random: on a colour drawn for each picture. extend: the nearest opaque colour."),
                io.String.Input("colour", default="#808080", advanced=True, tooltip="For hidden_colours fill, as #rrggbb."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed, advanced=True,
                             tooltip="For hidden_colours random."),
                io.String.Input(
                    "references", default="", multiline=True, optional=True, advanced=True,
                    tooltip="For edit models (Kontext, Flux2, Qwen-Image-Edit): folders with the pictures that the model is shown to make "
                    "these of, one a line, in order. Same names, or <name>_0, <name>_1 for several. '.' is <name>-condlabel.png beside "
                    "each picture."),
            ],
            outputs=[
                types.DataSet.Output(display_name="data set", tooltip="For Crop and Bucket Pictures, Combine Data Sets and Encode Training "
                                     "Set."),
                io.String.Output(display_name="report", tooltip=REPORT_TOOLTIP),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        # Of one input alone: ComfyUI would repeat the message for each.
        from ..host.folders import resolve_input_folder

        try:
            # None: the name comes from another node and is not known yet
            if folder is not None:
                resolve_input_folder(folder)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str:
        from ..dataset.scan import folder_fingerprint
        from ..host.folder_spec import folder_spec

        # An input from another node is not known yet; without a fingerprint the folder is read again in each run.
        if any(value is None for value in inputs.values()):
            return str(time.time_ns())
        return folder_fingerprint(folder_spec(**inputs))

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..dataset.scan import scan_folder
        from ..host.folder_spec import folder_spec
        from ..host.progress import Progress

        data_set = scan_folder(folder_spec(**inputs), Progress(cls.hidden.unique_id).update)
        return io.NodeOutput(data_set, data_set.report, ui=ui.PreviewText(data_set.report))


class CombineDataSets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        one = types.DataSet.Input("data_set", tooltip="Pictures with their masks (white = learn) and captions.")
        return io.Schema(
            node_id="MaskedLoRA_CombineDataSets",
            display_name="Combine Data Sets",
            category=CATEGORY,
            description="Makes one data set of several, each with its own repeats, loss weight and masks (white = learn).",
            search_aliases=["merge datasets", "several folders", "concat datasets", "multiple concepts", "regularization images"],
            is_output_node=True,
            inputs=[
                io.Autogrow.Input(
                    "data_sets", template=io.Autogrow.TemplatePrefix(one, prefix="data_set", min=1, max=MOST_SETS),
                    tooltip="One data set for each socket; a new socket appears when the last one is used. White = learn."),
            ],
            outputs=[
                types.DataSet.Output(display_name="data set", tooltip="All items, in the order of the sockets."),
                io.String.Output(display_name="report", tooltip="The reports of all sets."),
            ],
        )

    @classmethod
    def execute(cls, data_sets: io.Autogrow.Type) -> io.NodeOutput:
        from ..dataset.scan import combine_data_sets

        data_set = combine_data_sets(list(data_sets.values()))
        return io.NodeOutput(data_set, data_set.report, ui=ui.PreviewText(data_set.report))
