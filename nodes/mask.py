"""Mask recipes and previews. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from comfy.sd import VAE
    from torch import Tensor

    from ..masks.recipe import MaskRecipe as Recipe

CATEGORY = "masked lora/mask"


class MaskRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MaskRecipe",
            display_name="Mask Recipe",
            category=CATEGORY,
            description="How a mask (white = learn) becomes a loss weight: invert, blur, gamma, floor, in this order.",
            search_aliases=["invert mask", "blur mask", "feather mask", "mask gamma", "unmasked weight", "mask minimum"],
            inputs=[
                io.Boolean.Input("invert", default=False, tooltip="White = learn. Switch on for masks drawn the other way."),
                io.Float.Input(
                    "blur", default=0.0, min=0.0, max=0.1, step=0.005, round=0.0001,
                    tooltip="Softens the border of the white (learned) part: standard deviation of a Gaussian as a share of the "
                    "short side (0.02 of 1024 px: 20 px)."),
                io.Float.Input(
                    "gamma", default=1.0, min=0.05, max=10.0, step=0.05, round=0.001,
                    tooltip="Weight = grey to the power of gamma. Below 1 learns grey more, above 1 less; white (learn) stays."),
                io.Float.Input(
                    "floor", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="Weight of black; white (learn) stays 1. At 0 nothing guides the black part; 0.05 to 0.1 keeps a "
                    "little of it in the loss."),
            ],
            outputs=[types.MaskRecipe.Output(display_name="recipe", tooltip="For preview, editing and training. White = learn.")],
        )

    @classmethod
    def execute(cls, invert: bool, blur: float, gamma: float, floor: float) -> io.NodeOutput:
        from ..masks.recipe import MaskRecipe as Recipe

        return io.NodeOutput(Recipe(invert=invert, gamma=gamma, floor=floor, blur=blur))


class EditMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_EditMask",
            display_name="Edit Mask",
            category=CATEGORY,
            description="Applies a mask recipe and returns the weight as a mask (white = learn).",
            search_aliases=["apply mask recipe", "invert mask", "blur mask", "mask gamma", "mask floor"],
            inputs=[
                io.Mask.Input("mask", tooltip="White = learn."),
                types.MaskRecipe.Input(
                    "recipe",
                    tooltip="From Mask Recipe. White = learn. Training applies its own recipe to the masks that it gets: give a "
                    "recipe here or there, not in both places."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="The weight of every pixel. White = learn.")],
        )

    @classmethod
    def execute(cls, mask: Tensor, recipe: Recipe) -> io.NodeOutput:
        from ..masks.recipe import apply_recipe

        return io.NodeOutput(apply_recipe(mask.reshape(-1, *mask.shape[-2:]), recipe))


class PreviewMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_PreviewMask",
            display_name="Preview Mask Weights",
            category=CATEGORY,
            description="Shows what will be learned (white = learn): each mask after its recipe, and each latent cell's weight.",
            search_aliases=["mask overlay", "show mask", "mask heat map", "mask coverage", "check masks", "latent mask"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="Pictures, as a list or a batch. White in their masks = learn."),
                io.Mask.Input("masks", tooltip="One mask for each picture, of its size. White = learn."),
                types.MaskRecipe.Input(
                    "recipe", optional=True,
                    tooltip="The recipe that training will use; without it masks count as drawn. White = learn."),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="Tells how many pixels a latent cell covers; 8 without it. White = learn with any VAE."),
                io.String.Input(
                    "names", optional=True, force_input=True,
                    tooltip="Titles, one for each picture. Every card also says that white = learn."),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All cards in one picture. White = learn."),
                io.String.Output(display_name="statistics", tooltip="One line for each mask. White = learn."),
            ],
        )

    @classmethod
    def execute(cls, images: list[Tensor], masks: list[Tensor], recipe: list[Recipe] | None = None, vae: list[VAE] | None = None,
                names: list[str] | None = None) -> io.NodeOutput:
        import torch

        from ..masks.preview import review

        cell = int(vae[0].spacial_compression_encode()) if vae else 8
        pixels, text = review(images, masks, recipe[0] if recipe else None, cell, names or ())
        sheet_BHWC = torch.from_numpy(pixels).float().div(255)[None]
        shown = ui.PreviewImage(sheet_BHWC, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(sheet_BHWC, text, ui=shown)
