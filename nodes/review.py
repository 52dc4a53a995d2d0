"""Masks of a folder, looked at one by one before they are trained with. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import types
from .plan_inputs import CATEGORY

if TYPE_CHECKING:
    from ..dataset.item import DataSet


class ReviewMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_ReviewMasks",
            display_name="Review Masks",
            category=CATEGORY,
            description="Shows the masks that Write Masks made (white = learn), those that need a look first: accept them, have them made "
                        "anew, or paint them in ComfyUI's mask editor.",
            search_aliases=["mask gallery", "check masks", "accept masks", "correct masks", "mask editor for a folder", "approve masks"],
            is_output_node=True,
            inputs=[
                types.DataSet.Input(
                    "data_set", optional=True,
                    tooltip="The set that masks were written for, from Write Masks. It is passed on as it is. White in its masks = learn."),
                io.String.Input(
                    "folder", default="", optional=True,
                    tooltip="Instead of a data set: the folder that Write Masks wrote to, or that of the pictures if the masks lie in its "
                    "masks/. Inside ComfyUI's input directory, or its output directory: 'my_masks [output]'. White = learn."),
                io.Boolean.Input(
                    "wait", default=False, optional=True,
                    tooltip="Stop here with an error until all masks (white = learn) are accepted. Off: the graph goes on."),
            ],
            outputs=[
                types.DataSet.Output(display_name="data set", tooltip="The data set as it came in. White = learn."),
                io.String.Output(display_name="report", tooltip="Totals, then a line for each mask. White = learn."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, data_set: DataSet | None = None, folder: str | None = "", wait: bool | None = False) -> str:
        from ..host.mask_review import state
        from ..host.mask_review_folders import find_reviews
        from .review_routes import changes

        # The folder of a data set, or one that another node names, is not known yet.
        if not folder:
            return changes(bool(wait))
        try:
            return state(find_reviews(folder), bool(wait))
        except ValueError as error:  # said when the node runs
            return str(error)

    @classmethod
    def execute(cls, data_set: DataSet | None = None, folder: str = "", wait: bool = False) -> io.NodeOutput:
        from ..host.mask_review import not_reviewed, report
        from ..host.mask_review_folders import find_reviews
        from .review_routes import open_on_page, show_on_page

        reviews = find_reviews(folder, data_set)
        cards = [card for review in reviews for card in review.cards()]
        keys = open_on_page(reviews)
        if wait and (left := not_reviewed(cards)):
            show_on_page(keys, cls.hidden.unique_id)
            raise ValueError(f"{left}. Accept them on this node, or switch wait off")
        return io.NodeOutput(data_set, report(cards), ui={"masked_lora_review": keys})
