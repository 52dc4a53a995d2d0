"""What masks do before a step is trained: previews and growth for the latent grid. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from comfy.sd import VAE
    from torch import Tensor

    from ..dataset.item import DataSet
    from ..masks.recipe import MaskRecipe as Recipe

CATEGORY = "masked lora/mask"


class PreviewMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_PreviewMask",
            display_name="Preview Mask Weights",
            category=CATEGORY,
            description="Shows what will be learned (white = learn): each mask after its recipe, and each latent cell's weight.",
            search_aliases=["mask overlay", "show mask", "mask heat map", "mask coverage", "check masks", "latent mask",
                            "contact sheet", "mask histogram", "mask statistics"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                types.DataSet.Input(
                    "data_set", optional=True,
                    tooltip="Pictures or clips with their masks, as training gets them. White in their masks = learn. Connect this, or "
                    "images and masks."),
                io.Image.Input("images", optional=True, tooltip="Pictures, as a list or a batch. White in their masks = learn."),
                io.Mask.Input("masks", optional=True, tooltip="One mask for each picture, of its size. White = learn."),
                types.MaskRecipe.Input(
                    "recipe", optional=True,
                    tooltip="The recipe that training will use; without it masks count as drawn. White = learn."),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Tells how many pixels and frames a latent cell covers; 8 x 8 pixels without it. White = learn with any VAE."),
                io.String.Input(
                    "names", optional=True, force_input=True,
                    tooltip="Titles for images, one for each. Every card also says that white = learn."),
                io.Int.Input(
                    "shown", default=30, min=1, max=90, optional=True,
                    tooltip="How many pictures are drawn at most, with their masks (white = learn). The numbers count them all."),
                io.Combo.Input(
                    "order", options=["worst first", "as loaded"], default="worst first", optional=True,
                    tooltip="worst first: all black, without contrast, inverted-looking (white = learn), under 1% white, over 50% white, "
                    "thin details lost, no mask, then the rest. as loaded: in the order of the set."),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All cards in one picture. White = learn."),
                io.String.Output(display_name="statistics", tooltip="Totals, then one line for each mask. White = learn."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, data_set: list[DataSet] | None = None, images: list[Tensor] | None = None, masks: list[Tensor] | None = None,
                recipe: list[Recipe] | None = None, vae: list[VAE] | None = None, names: list[str] | None = None,
                shown: Sequence[int] = (30,), order: Sequence[str] = ("worst first",)) -> io.NodeOutput:
        import torch

        from ..host.preview import latent_grid, preview_sources
        from ..host.progress import Progress
        from ..masks.recipe import MaskRecipe as Recipe
        from ..masks.review import first_lines, review

        sources = preview_sources(data_set[0] if data_set else None, images, masks, names)
        pixels, text = review(sources, recipe[0] if recipe else Recipe(), latent_grid(vae[0] if vae else None), shown[0], order[0],
                              Progress(cls.hidden.unique_id).update)
        sheet_BHWC = torch.from_numpy(pixels).float().div(255)[None]
        picture, summary = ui.PreviewImage(sheet_BHWC, cls=cls), ui.PreviewText(first_lines(text))
        return io.NodeOutput(sheet_BHWC, text, ui=picture.as_dict() | summary.as_dict())


class GrowForLatentGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_GrowForLatentGrid",
            display_name="Grow Mask for Latent Grid",
            category=CATEGORY,
            description="Shows which thin white (learned) details vanish between latent cells, and grows masks just enough to keep them.",
            search_aliases=["dilate mask", "expand mask", "grow mask", "thin details", "hair mask", "latent mask", "mask detail"],
            is_output_node=True,
            inputs=[
                io.Mask.Input("mask", tooltip="One mask or a batch; all are grown alike. White = learn."),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Tells how many pixels a latent cell covers; 8 without it. White = learn with any VAE."),
                io.Float.Input(
                    "keep", default=0.99, min=0.0, max=1.0, step=0.01, round=0.0001,
                    tooltip="Share of each mask's white pixels (white = learn) that must not vanish."),
                io.Float.Input(
                    "threshold", default=0.5, min=0.01, max=1.0, step=0.05, round=0.001,
                    tooltip="A white pixel (white = learn) vanishes if the mean of the mask in its latent cell is below this."),
                io.Int.Input(
                    "largest", default=16, min=0, max=256,
                    tooltip="Growth in pixels that is never exceeded, even if more white (learned) pixels vanish than allowed."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="Grown by one radius for the whole batch. White = learn."),
                io.Image.Output(display_name="picture", tooltip="Before and after growth for up to 8 masks, those that lose most first. "
                                "White = learn."),
                io.Int.Output(display_name="growth", tooltip="The radius in pixels by which white (learned) grew."),
                io.String.Output(display_name="report", tooltip="What vanishes and what growth adds, for each mask. White = learn."),
            ],
        )

    @classmethod
    def execute(cls, mask: Tensor, keep: float, threshold: float, largest: int, vae: VAE | None = None) -> io.NodeOutput:
        import torch

        from ..host.preview import latent_grid
        from ..masks.detail import grow_for_latent_grid, report
        from ..masks.detail_picture import detail_pictures
        from ..masks.review import first_lines

        mask_BHW, cell = mask.reshape(-1, *mask.shape[-2:]), latent_grid(vae).cell
        growth = grow_for_latent_grid(mask_BHW, cell, keep=keep, threshold=threshold, largest=largest)
        text = report(growth, keep, threshold)
        picture_BHWC = torch.from_numpy(detail_pictures(mask_BHW, growth, cell, threshold)).float().div(255)
        shown = ui.PreviewImage(picture_BHWC, cls=cls).as_dict() | ui.PreviewText(first_lines(text)).as_dict()
        return io.NodeOutput(growth.mask_BHW, picture_BHWC, growth.pixels, text, ui=shown)
