"""Masks out of a plan: on one picture or a batch, and for all pictures of a data set. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types
from .plan_inputs import CATEGORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..dataset.item import DataSet
    from ..host.mask_making import NothingFound
    from ..host.mask_plan import MaskPlan
    from ..host.mask_writer import Existing

OTHER = "another folder"


class MakeMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MakeMasks",
            display_name="Make Masks",
            category=CATEGORY,
            description="Runs a mask plan on pictures: one mask of weights (white = learn) for each. Try a plan here before Write Masks "
                        "runs it on a folder.",
            search_aliases=["auto mask", "segment", "automatic mask", "run mask plan", "body part mask", "try mask plan"],
            inputs=[
                types.MaskPlan.Input("plan", tooltip="From the nodes that plan masks, such as Body Part Masks. White = learn."),
                io.Image.Input("image", tooltip="One picture or a batch. White in its mask = learn."),
                io.Combo.Input(
                    "nothing_found", options=["error", "all zeros", "all ones"], default="error",
                    tooltip="A picture in which nothing is found: error stops and names it; all zeros learns nothing of it, all ones "
                    "all of it (white = learn)."),
                io.String.Input("caption", multiline=True, default="", optional=True,
                                tooltip="For segmenters that take their words from the caption. White = learn."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The weight of every pixel. White = learn."),
                io.Boolean.Output(display_name="found", tooltip="Whether something was found in every picture."),
                io.String.Output(display_name="report", tooltip="One line for each picture: what was found and what not, how much is white "
                                 "(learned)."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, plan: MaskPlan, image: Tensor, nothing_found: NothingFound, caption: str = "") -> io.NodeOutput:
        from ..host.mask_making import make_masks
        from ..host.progress import Progress
        from ..masks.review import first_lines

        masks = make_masks(plan, image, caption, nothing_found, Progress(cls.hidden.unique_id).update)
        return io.NodeOutput(masks.mask_BHW, masks.found, masks.report, ui=ui.PreviewText(first_lines(masks.report)))


class WriteMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_WriteMasks",
            display_name="Write Masks",
            category=CATEGORY,
            description="Runs a mask plan on all pictures of a data set and writes their masks (white = learn) where this pack and other "
                        "trainers read them. A run that was stopped goes on where it was. Pictures without a result are listed, never "
                        "given an empty mask.",
            search_aliases=["batch masks", "masks for folder", "auto mask dataset", "masklabel", "save masks", "onetrainer masks",
                            "kohya conditioning masks", "ai-toolkit mask_path"],
            is_output_node=True,
            inputs=[
                types.DataSet.Input("data_set", tooltip="From Load Training Folder with mask_source none, before Crop and Bucket Pictures. "
                                    "White in masks = learn."),
                types.MaskPlan.Input("plan", tooltip="From the nodes that plan masks, such as Body Part Masks. White = learn."),
                io.DynamicCombo.Input(
                    "layout", tooltip="Where masks go (white = learn). masks folder: masks/<same name>.png, for this pack, sd-scripts, "
                    "ai-toolkit and diffusion-pipe. beside: <name>-masklabel.png for OneTrainer, or <name>.mask.png.",
                    options=[
                        *(io.DynamicCombo.Option(name, []) for name in ("masks folder", "beside, -masklabel.png", "beside, .mask.png")),
                        io.DynamicCombo.Option(OTHER, [io.String.Input(
                            "folder", default="my_masks", tooltip="A folder inside ComfyUI's input directory, or 'my_masks [output]' for "
                            "one in its output directory. White = learn.")]),
                    ]),
                io.Combo.Input(
                    "existing", options=["redo ours if changed", "keep", "redo all"], default="redo ours if changed",
                    tooltip="Masks that are there (white = learn). redo ours if changed: those that this node wrote are made anew when the "
                    "plan or the picture is another now, unless a person edited or accepted them. keep: none. redo all: all, also those "
                    "that a person made or accepted."),
            ],
            outputs=[
                types.DataSet.Output(display_name="data set", tooltip="The pictures that have masks now, with these masks. White = learn."),
                io.String.Output(display_name="folder", tooltip="The folder of the pictures, for Load Training Folder: it then runs after "
                                 "this node and finds the masks (white = learn)."),
                io.String.Output(display_name="report", tooltip="Counts, and the pictures that need a person."),
                io.Image.Output(display_name="sheet", tooltip="The doubtful masks first. White = learn."),
                io.String.Output(display_name="json", tooltip="The report for programs: of each picture regions, coverage, seconds."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, layout: dict[str, Any] | None = None, **inputs: Any) -> str:
        # Load Training Folder, before this node, sees pictures and masks that changed; not another folder, nor what is still to be done.
        from ..host.folders import resolve_new_folder
        from ..host.mask_journal import stamp
        from ..host.mask_places import folder_state

        chosen = layout or {}  # None where another node names it
        name = chosen.get("folder") if chosen.get("layout") == OTHER else None
        if not name:
            return stamp()
        try:
            folder = resolve_new_folder(name)
            return f"{stamp(folder)} {folder_state(folder)}"
        except ValueError as error:  # said when the node runs
            return str(error)

    @classmethod
    def execute(cls, data_set: DataSet, plan: MaskPlan, layout: dict[str, Any], existing: Existing) -> io.NodeOutput:
        import torch

        from ..host.folders import resolve_new_folder
        from ..host.mask_places import mask_places
        from ..host.mask_run import go_on, require_own_places, run_masks
        from ..host.progress import Progress
        from ..masks.review import first_lines

        places = mask_places(data_set, layout["layout"], resolve_new_folder(layout["folder"]) if layout["layout"] == OTHER else None)
        require_own_places(places)
        run = run_masks(places, plan, existing, Progress(cls.hidden.unique_id).update)
        masked, folder = go_on(data_set, run)
        sheet_BHWC = torch.from_numpy(run.sheet).float().div(255)[None]
        shown = ui.PreviewImage(sheet_BHWC, cls=cls).as_dict() | ui.PreviewText(first_lines(run.report)).as_dict()
        return io.NodeOutput(masked, folder, run.report, sheet_BHWC, run.json, ui=shown)
