"""Masks of a folder, looked at one by one before they are trained with. White = learn."""
from __future__ import annotations

import time
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
                io.String.Input(
                    "folder", default="",
                    tooltip="The folder that Write Masks wrote to, inside ComfyUI's input or output directory, or the folder of the "
                    "pictures if the masks lie in its masks/. White = learn."),
                io.Boolean.Input(
                    "wait", default=False,
                    tooltip="Stop here with an error until all masks (white = learn) are accepted. Off: the graph goes on."),
                types.DataSet.Input(
                    "data_set", optional=True,
                    tooltip="Passed on as it is, so that what comes behind waits for this node. White in its masks = learn."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Totals, then a line for each mask. White = learn."),
                types.DataSet.Output(display_name="data set", tooltip="The data set as it came in. White = learn."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, wait: bool | None = None, data_set: DataSet | None = None) -> str:
        from ..host.mask_review import find_review, state

        # A folder that another node names is not known yet.
        try:
            return str(time.time_ns()) if folder is None else state(find_review(folder))
        except ValueError as error:  # said when the node runs
            return str(error)

    @classmethod
    def execute(cls, folder: str, wait: bool, data_set: DataSet | None = None) -> io.NodeOutput:
        from ..host.mask_review import find_review, not_reviewed, report
        from .review_routes import open_on_page, show_on_page

        review = find_review(folder)
        cards = review.cards()
        key = open_on_page(review)
        if wait and (left := not_reviewed(cards)):
            show_on_page(key, cls.hidden.unique_id)
            raise ValueError(f"{left}. Accept them on this node, or switch wait off")
        return io.NodeOutput(report(cards), data_set, ui={"masked_lora_review": [key]})
