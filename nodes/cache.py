"""Pictures, masks and captions, encoded once."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import types

if TYPE_CHECKING:
    from comfy.sd import CLIP, VAE
    from torch import Tensor

    from ..host.text_padding import TextPadding as Padding


class EncodeTrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_EncodeTrainingSet",
            display_name="Encode Training Set",
            category="masked lora/dataset",
            description="Encodes pictures and captions once and keeps latents, raw masks and embeddings on disk. Masks are stored as "
                        "drawn: changing the mask recipe encodes nothing again.",
            search_aliases=["cache latents", "cache text encoder", "latent cache", "make training set", "training dataset"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="One picture for each caption: a list, or batches."),
                io.Mask.Input("masks", optional=True, tooltip="One mask for each picture, of its size. White = learn. Without this input "
                              "every pixel of every picture is learned."),
                io.String.Input("captions", force_input=True, tooltip="One caption for each picture, or one for all."),
                io.String.Input("names", optional=True, force_input=True, tooltip="Names for reports and error messages."),
                io.Clip.Input("clip", tooltip="The text encoders that the LoRA will be sampled with."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                types.TextPadding.Input("padding", tooltip="How the padding of captions is treated; saved in the LoRA, so "
                                        "that sampling can match."),
            ],
            outputs=[
                types.TrainingSet.Output(display_name="training set"),
                io.String.Output(display_name="report", tooltip="How many pictures were encoded and how many came from the cache."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images: list[Tensor], captions: list[str], clip: list[CLIP], vae: list[VAE], padding: list[Padding],
                masks: list[Tensor] | None = None, names: list[str] | None = None) -> io.NodeOutput:
        from ..host.encode import encode_training_set, pair_up
        from ..host.folders import cache_folder
        from ..host.progress import Progress

        pictures = pair_up(images, masks, captions, names)
        training_set = encode_training_set(pictures, clip[0], vae[0], padding[0], cache_folder(), Progress(cls.hidden.unique_id))
        return io.NodeOutput(training_set, training_set.report)
