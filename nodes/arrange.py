"""Which size the pictures of a data set get."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types
from .reporting import own_first

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

    from ..dataset.item import DataSet
    from ..masks.recipe import MaskRecipe as Recipe


class Arrange(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Arrange",
            display_name="Crop and Bucket Pictures",
            category="masked lora/dataset",
            description="Gives every picture of a data set its training size: aspect-ratio buckets or squares, cropped to the centre or to "
                        "the mask (white = learn), with mirrored and seeded random copies. Picture and mask always move together.",
            search_aliases=["aspect ratio bucket", "bucketing", "resize dataset", "crop to mask", "augmentation", "flip augmentation",
                            "random rotation"],
            is_output_node=True,
            inputs=[
                types.DataSet.Input("data_set", tooltip="Pictures with their masks (white = learn) and captions, as loaded."),
                io.Vae.Input("vae", tooltip="The model's VAE. Sides become multiples of what it makes one latent cell of."),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The model that will be trained: sides become multiples of its patches too. Without it patches count as 2 "
                    "latent cells."),
                types.MaskRecipe.Input(
                    "recipe", optional=True,
                    tooltip="For crop mask: the recipe that training will use, so that an inverted mask crops to what is learned. White = "
                    "learn."),
                io.Int.Input(
                    "size", default=1024, min=16, max=8192, step=8,
                    tooltip="The area is that of a square with this side, in pixels."),
                io.Combo.Input(
                    "shape", options=["buckets", "square"], default="buckets",
                    tooltip="buckets: every picture gets the nearest of several aspect ratios of one area. square: all get the same size."),
                io.Combo.Input(
                    "crop", options=["centre", "mask"], default="centre",
                    tooltip="What is kept of pictures that do not fit. mask: the window with the most white (white = learn); the centre "
                    "where the mask is all black."),
                io.Combo.Input(
                    "small", options=["enlarge", "own size"], default="enlarge",
                    tooltip="For pictures smaller than their bucket. enlarge: scaled up, which blurs. own size: kept at their scale and "
                    "cut to multiples of the step."),
                io.Boolean.Input("flip", default=False, tooltip="Every picture also comes mirrored, with its mask. Not for text or "
                                 "asymmetric subjects."),
                io.Int.Input("variants", default=0, min=0, max=1000, tooltip="Random copies of each picture, made with the four inputs "
                             "below. An epoch sees each of them."),
                io.Float.Input("rotation", default=0.0, min=0.0, max=180.0, step=0.5, round=0.01, tooltip="Copies are turned by up to "
                               "so many degrees either way. What lies outside of the picture is not learned, as if black in the mask."),
                io.Float.Input("zoom", default=0.0, min=0.0, max=0.9, step=0.05, round=0.001, tooltip="Copies show a part that is "
                               "smaller by up to this share of the kept width and height."),
                io.Float.Input("shift", default=0.0, min=0.0, max=1.0, step=0.05, round=0.001, tooltip="Copies show a part that is "
                               "moved by up to this share of the free margin."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the random copies. The same seed makes the same copies on every machine."),
                io.Int.Input("step", default=64, min=1, max=512, advanced=True, tooltip="Sides of buckets are multiples of it, in pixels."),
                io.Float.Input("longest", default=2.0, min=1.0, max=16.0, step=0.1, round=0.01, advanced=True,
                               tooltip="The largest aspect ratio of a bucket, long side over short side."),
            ],
            outputs=[
                types.DataSet.Output(display_name="data set", tooltip="The same pictures, masks (white = learn) and captions with their "
                                     "places, and the copies."),
                io.String.Output(display_name="report", tooltip="Buckets, cut off pixels, enlarged pictures."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, data_set: DataSet, vae: VAE, size: int, shape: str, crop: str, small: str, flip: bool, variants: int, rotation: float,
                zoom: float, shift: float, seed: int, step: int, longest: float, model: ModelPatcher | None = None,
                recipe: Recipe | None = None) -> io.NodeOutput:
        from dataclasses import replace

        from ..dataset.buckets import Arrangement, arrange
        from ..host.crop_masks import recipe_mask
        from ..host.picture_multiple import picture_multiple
        from ..host.progress import Progress

        multiple = picture_multiple(vae, model)
        arrangement = Arrangement(
            side=size, shape=shape, step=step, multiple=multiple.pixels, longest=longest, crop=crop, small=small, flip=flip,
            variants=variants, rotation=rotation, zoom=zoom, shift=shift, seed=seed)
        arranged = arrange(data_set, arrangement, recipe_mask(recipe), Progress(cls.hidden.unique_id).update)
        arranged = replace(arranged, report=f"{arranged.report}\n{multiple.source}")
        return io.NodeOutput(arranged, arranged.report, ui=ui.PreviewText(own_first(arranged.report, data_set.report)))
