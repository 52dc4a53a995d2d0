"""Where a LoRA changes something: in the model's predictions, and in pictures. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types
from .verify import CATEGORY, MODEL_TOOLTIP, as_image, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from torch import Tensor

    from ..dataset.cache import TrainingSet as Set
    from ..masks.recipe import MaskRecipe as Recipe


class DriftMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_DriftMap",
            display_name="Drift Map",
            category=CATEGORY,
            description="Where a LoRA changes the model's predictions: a heat map over each picture of a training set, with the border of "
                        "its mask (white = learn). Measure LoRA Drift says the same in two numbers.",
            search_aliases=["lora heat map", "lora effect", "mask leak", "where does the lora change", "attention map"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                types.LoraModel.Input("lora", tooltip="From Train Masked LoRA or Load LoRA (matched)."),
                types.TrainingSet.Input("training_set", tooltip="The pictures and masks to look at. White in the masks = learn."),
                io.Vae.Input("vae", tooltip="The VAE of the training set, which shows its pictures."),
                types.MaskRecipe.Input("recipe", optional=True, tooltip="Says what counts as inside. White = learn."),
                io.Int.Input("most", default=12, min=1, max=90, tooltip="At most so many pictures, evenly spread over the set."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Seed of the noise."),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="Every picture beside its heat map. The light line is the mask's border."),
                io.Mask.Output(display_name="maps", is_output_list=True, tooltip="The change of each latent cell over the largest one of "
                               "all pictures: 1 is the number in the report. A map for each picture, of its size."),
                io.Float.Output(display_name="inside", tooltip="Root mean square, as Measure LoRA Drift gives it."),
                io.Float.Output(display_name="outside", tooltip="Root mean square, as Measure LoRA Drift gives it."),
                io.String.Output(display_name="report", tooltip="In words: in all, then for each picture."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora: Mapping[str, Tensor], training_set: Set, vae: VAE, most: int, seed: int,
                recipe: Recipe | None = None) -> io.NodeOutput:
        from ..host.drift_map import drift_map
        from ..host.progress import Progress
        from ..masks.recipe import MaskRecipe

        found = drift_map(model, lora, vae, training_set, recipe or MaskRecipe(), seed, most, Progress(cls.hidden.unique_id))
        sheet, words = as_image(found.sheet()), found.words()
        return io.NodeOutput(sheet, found.maps(), found.all.inside, found.all.outside, words, found.json(), ui=shown(sheet, words, cls))


class BleedScore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_BleedScore",
            display_name="Bleed Score",
            category=CATEGORY,
            description="How much pictures change inside and outside of a mask (white = learn) between two batches of the same seeds: base "
                        "model and LoRA. The score is outside over inside; 0 is best.",
            search_aliases=["lora bleed", "background change", "image difference", "inside outside", "rms difference", "compare images"],
            is_output_node=True,
            inputs=[
                io.Image.Input("base", tooltip="Pictures by the base model."),
                io.Image.Input("changed", tooltip="Pictures with the LoRA, by the same seeds in the same order."),
                io.Mask.Input("mask", tooltip="Where the LoRA may change something: one mask for all pictures, or one for each, of their "
                              "size. White = learn."),
            ],
            outputs=[
                io.Float.Output(display_name="bleed", tooltip="Change outside over change inside: 0 is best, 1 is as much outside as "
                                "inside."),
                io.Float.Output(display_name="inside", tooltip="Root mean square change of the pixels, 0 to 1."),
                io.Float.Output(display_name="outside", tooltip="Root mean square change of the pixels, 0 to 1."),
                io.String.Output(display_name="report", tooltip="In words: in all, then for each picture."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
        )

    @classmethod
    def execute(cls, base: Tensor, changed: Tensor, mask: Tensor) -> io.NodeOutput:
        from ..host.bleed import bleed_score

        found = bleed_score(base, changed, mask.reshape(-1, *mask.shape[-2:]))
        words = found.words()
        return io.NodeOutput(found.all.bleed, found.all.inside, found.all.outside, words, found.json(), ui=ui.PreviewText(words))
