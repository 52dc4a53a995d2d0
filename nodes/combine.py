"""Masks out of other masks, and out of nothing. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..masks.combine import HOW
from ..masks.regions import OWN_TABLE, REGION_PRESETS, REGION_TABLE

if TYPE_CHECKING:
    from torch import Tensor

    from ..masks.combine import How

CATEGORY = "masked lora/mask"
MOST = 50


def _masks(tooltip: str) -> io.Input:
    mask = io.Mask.Input("mask", tooltip="White = learn.")
    return io.Autogrow.Input("masks", template=io.Autogrow.TemplatePrefix(mask, prefix="mask", min=1, max=MOST), tooltip=tooltip)


def _batches(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask.reshape(-1, *mask.shape[-2:]) for name, mask in masks.items()}


class CombineMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CombineMasks",
            display_name="Combine Masks",
            category=CATEGORY,
            description="Makes one mask (white = learn) out of any number of masks, each with a weight.",
            search_aliases=["mask composite", "add masks", "multiply masks", "union", "intersection", "instance mask", "maximum"],
            inputs=[
                _masks("Masks of one size; one mask serves a whole batch. A new socket appears when the last is used. White = learn."),
                io.Combo.Input(
                    "how", options=list(HOW), default="max",
                    tooltip="max: the greatest of weight x mask. add: their sum, at most 1. multiply: their product, such as all people x "
                    "one person; a mask of weight 0 is left out. replace: a later mask covers earlier ones where it is not black."),
                io.String.Input(
                    "weights", multiline=True, default="", optional=True,
                    tooltip="One number from 0 to 1 a line, for the first mask, the second, and so on. Empty: 1. White = learn, at "
                    "this weight."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="White = learn.")],
        )

    @classmethod
    def execute(cls, masks: io.Autogrow.Type, how: How, weights: str = "") -> io.NodeOutput:
        from ..masks.combine import combine_masks, read_weights_in_order

        return io.NodeOutput(combine_masks(_batches(masks), how, read_weights_in_order(weights)))


class RegionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_RegionMask",
            display_name="Region Weights",
            category=CATEGORY,
            description="One mask for each region (face, body, hair) becomes one mask of weights (white = learn): "
            "the greatest of weight x mask.",
            search_aliases=["face weight", "body part mask", "blissful mask", "weighted mask", "segmentation weights", "per region weight"],
            inputs=[
                _masks("One mask for each region, in the order of the table's lines. White = learn, at the region's weight."),
                io.DynamicCombo.Input("table", tooltip="The regions and their weights. White = learn.", options=[
                    *(io.DynamicCombo.Option(name, []) for name in REGION_PRESETS),
                    io.DynamicCombo.Option(OWN_TABLE, [io.String.Input(
                        "weights", multiline=True, default=REGION_TABLE,
                        tooltip="One region and its weight a line. A line \"background\" without a mask of its own is the least weight "
                        "of any pixel.")]),
                ]),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="The weight of every pixel. White = learn.")],
        )

    @classmethod
    def execute(cls, masks: io.Autogrow.Type, table: dict[str, Any]) -> io.NodeOutput:
        from ..masks.regions import combine_regions, name_masks, read_weights

        weights = read_weights(table["weights"]) if table["table"] == OWN_TABLE else REGION_PRESETS[table["table"]]
        return io.NodeOutput(combine_regions(name_masks(list(_batches(masks).values()), weights), weights))


class RandomBlobs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_RandomBlobs",
            display_name="Random Blob Masks",
            category=CATEGORY,
            description="Makes black and white masks (white = learn) of smooth random blobs: to try a graph, or as a random part to learn.",
            search_aliases=["random mask", "noise mask", "mask augmentation", "test mask"],
            inputs=[
                io.Int.Input("width", default=512, min=8, max=16384, tooltip="Pixels. White = learn."),
                io.Int.Input("height", default=512, min=8, max=16384, tooltip="Pixels."),
                io.Int.Input("count", default=1, min=1, max=4096, tooltip="How many masks, each with other blobs."),
                io.Float.Input("coverage", default=0.5, min=0.0, max=1.0, step=0.05, round=0.001,
                               tooltip="Share of white pixels; white = learn."),
                io.Float.Input("size", default=0.2, min=0.01, max=1.0, step=0.01, round=0.001,
                               tooltip="Size of a blob as a share of the short side."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="The same seed gives the same masks."),
            ],
            outputs=[io.Mask.Output(display_name="masks", tooltip="A batch. White = learn.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, count: int, coverage: float, size: float, seed: int) -> io.NodeOutput:
        import torch

        from ..masks.blobs import Blobs
        from ..masks.recipe import MaskRecipe, apply_recipe

        return io.NodeOutput(apply_recipe(torch.ones(count, height, width), MaskRecipe((Blobs(coverage, size, seed),))))
