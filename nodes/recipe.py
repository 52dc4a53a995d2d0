"""Mask recipes, and the same operations on masks of any graph. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..masks.menu import AFFINE, CLAMP, DISC, REGION_LEVELS
from ..masks.presets import PRESET_HELP, PRESETS
from . import types

if TYPE_CHECKING:
    from torch import Tensor

    from ..masks.recipe import MaskRecipe as Recipe

CATEGORY = "masked lora/mask"


def _recipe_before() -> io.Input:
    return types.MaskRecipe.Input(
        "recipe", optional=True, tooltip="Its steps run first; the new ones are put behind them. White = learn at the start and the end.")


def _recipe_output() -> io.Output:
    return types.MaskRecipe.Output(display_name="recipe", tooltip="For more steps, preview, editing and training. White = learn.")


def _length(share: float, most_share: float, pixels: float, most_pixels: float, what: str) -> io.Input:
    return io.DynamicCombo.Input("unit", tooltip=f"How to tell {what}.", options=[
        io.DynamicCombo.Option("share", [io.Float.Input(
            "amount", default=share, min=0.0, max=most_share, step=0.005, round=0.0001,
            tooltip=f"{what.capitalize()} as a share of the picture's short side: 0.01 of 1024 px is 10 px. The same for every size.")]),
        io.DynamicCombo.Option("pixels", [io.Float.Input(
            "amount", default=pixels, min=0.0, max=most_pixels, step=1.0, round=0.01, tooltip=f"{what.capitalize()} in pixels.")]),
    ])


def _seed() -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                        tooltip="The same seed and item name give the same shape; every item gets another one.")


def _floor(formula: str) -> list[io.Input]:
    return [io.Float.Input("weight", default=0.05, min=0.0, max=1.0, step=0.01, round=0.001,
                           tooltip=f"The weight f of black: {formula}. White stays 1.")]


def _step() -> io.Input:
    option = io.DynamicCombo.Option
    return io.DynamicCombo.Input("step", tooltip="What to do with the mask (white = learn); its settings appear below.", options=[
        option("blur", [_length(0.01, 0.1, 8.0, 512.0, "the standard deviation of the Gaussian")]),
        option("grow", [_length(0.01, 0.25, 8.0, 1024.0, "by how much the white part grows on each side")]),
        option("shrink", [_length(0.01, 0.25, 8.0, 1024.0, "by how much the white part shrinks on each side")]),
        option("feather", [_length(0.01, 0.25, 8.0, 1024.0, "the width of the soft edge, which lies inside the mask")]),
        option("fill holes", []),
        option("invert", []),
        option("threshold", [io.Float.Input(
            "level", default=0.5, min=0.001, max=1.0, step=0.01, round=0.001,
            tooltip="Weights of this level and above become 1 (learn), all others 0.")]),
        option("gamma", [io.Float.Input(
            "exponent", default=0.7, min=0.05, max=10.0, step=0.05, round=0.001,
            tooltip="Weight to this power: grey 0.5 becomes 0.62 at 0.7 and 0.35 at 1.5. Black and white stay.")]),
        option(AFFINE, _floor("weight x (1 - f) + f, so that grey 0.5 becomes 0.525 at 0.05")),
        option(CLAMP, _floor("the greater of weight and f, so that grey above f stays")),
        option("region weights", [io.String.Input(
            "levels", multiline=True, default=REGION_LEVELS,
            tooltip="For masks that code regions as grey levels. One line each: grey level 0 to 255 and the weight that it gets. Each "
            "pixel counts as the nearest level; lines up to 4 pixels wide between a brighter and a darker one join them.")]),
        option("random blobs", [
            io.Float.Input("coverage", default=0.5, min=0.0, max=1.0, step=0.05, round=0.001,
                           tooltip="Share of the picture in which the mask stays; elsewhere it becomes black."),
            io.Float.Input("size", default=0.2, min=0.01, max=1.0, step=0.01, round=0.001,
                           tooltip="Size of a blob as a share of the short side."),
            _seed()]),
        option(DISC, [
            io.Float.Input("least", default=0.2, min=0.0, max=1.0, step=0.05, round=0.001,
                           tooltip="Least radius, as a factor of the distance from the disc's centre to the mask's farthest pixel."),
            io.Float.Input("most", default=1.0, min=0.0, max=1.0, step=0.05, round=0.001,
                           tooltip="Greatest radius, counted in the same way."),
            _seed()]),
    ])


class MaskRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MaskRecipe",
            display_name="Mask Recipe",
            category=CATEGORY,
            description="How a mask (white = learn) becomes a loss weight: invert, blur, gamma, floor, in this order. For other steps or "
            "another order use Mask Step.",
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
                _recipe_before(),
            ],
            outputs=[_recipe_output()],
        )

    @classmethod
    def execute(cls, invert: bool, blur: float, gamma: float, floor: float, recipe: Recipe | None = None) -> io.NodeOutput:
        from ..masks.recipe import MaskRecipe as Recipe
        from ..masks.recipe import simple_recipe

        return io.NodeOutput((recipe or Recipe()).then(*simple_recipe(invert, blur, gamma, floor).steps))


class MaskStep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MaskStep",
            display_name="Mask Step",
            category=CATEGORY,
            description="One step of a mask recipe (white = learn). Chain several: they run in the order of the chain.",
            search_aliases=["grow mask", "dilate mask", "erode mask", "feather mask", "fill holes", "threshold mask", "region weights",
                            "random mask", "unmasked weight"],
            inputs=[_step(), _recipe_before()],
            outputs=[_recipe_output()],
        )

    @classmethod
    def execute(cls, step: dict[str, Any], recipe: Recipe | None = None) -> io.NodeOutput:
        from ..masks.menu import make_step
        from ..masks.recipe import MaskRecipe as Recipe

        return io.NodeOutput((recipe or Recipe()).then(make_step(step["step"], step)))


class MaskPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MaskPreset",
            display_name="Mask Preset",
            category=CATEGORY,
            description="A mask recipe (white = learn) that a trainer or its guide uses, by name.",
            search_aliases=["mask recipe", "blissful", "onetrainer", "ai-toolkit", "face focus", "unmasked weight", "mask_min_value"],
            inputs=[io.Combo.Input("preset", options=list(PRESETS), default="character (blissful-tuner guide)", tooltip=PRESET_HELP),
                    _recipe_before()],
            outputs=[_recipe_output()],
        )

    @classmethod
    def execute(cls, preset: str, recipe: Recipe | None = None) -> io.NodeOutput:
        from ..masks.recipe import MaskRecipe as Recipe

        return io.NodeOutput((recipe or Recipe()).then(*PRESETS[preset].steps))


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
                    tooltip="From Mask Recipe, Mask Step or Mask Preset. White = learn. Training applies its own recipe to the masks that "
                    "it gets: give a recipe here or there, not in both places."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="The weight of every pixel. White = learn.")],
        )

    @classmethod
    def execute(cls, mask: Tensor, recipe: Recipe) -> io.NodeOutput:
        from ..masks.recipe import apply_recipe

        return io.NodeOutput(apply_recipe(mask.reshape(-1, *mask.shape[-2:]), recipe))


class StepMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_StepMask",
            display_name="Edit Mask (one step)",
            category=CATEGORY,
            description="Blur, grow, shrink, feather, fill holes, threshold, gamma, floor and more on a mask (white = learn) of any graph.",
            search_aliases=["grow mask", "dilate mask", "erode mask", "feather mask", "blur mask", "invert mask", "fill holes",
                            "threshold mask"],
            inputs=[io.Mask.Input("mask", tooltip="One mask or a batch. White = learn."), _step()],
            outputs=[io.Mask.Output(display_name="mask", tooltip="White = learn.")],
        )

    @classmethod
    def execute(cls, mask: Tensor, step: dict[str, Any]) -> io.NodeOutput:
        from ..masks.menu import make_step
        from ..masks.recipe import MaskRecipe as Recipe
        from ..masks.recipe import apply_recipe

        recipe = Recipe((make_step(step["step"], step),))
        return io.NodeOutput(apply_recipe(mask.reshape(-1, *mask.shape[-2:]), recipe))
