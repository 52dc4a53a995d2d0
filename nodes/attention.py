"""A mask of a word from the diffusion model's own attention. White = learn."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..masks.word_map import EDGES, MAPS
from . import types
from .plan_inputs import CATEGORY
from .verify import shown

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from torch import Tensor

    from ..host.text_padding import TextPadding as Padding


class AttentionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_AttentionMask",
            display_name="Attention Mask",
            category=CATEGORY,
            description="Where in a picture a diffusion model sees a word: its own attention to the word as a mask (white = learn) and a "
                        "heat map. Shows whether a training mask covers what the model takes the word for.",
            search_aliases=["cross attention map", "attention heat map", "daam", "freefuse", "token attention", "word mask",
                            "where does the model look"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with or without a LoRA. It is not changed."),
                io.Clip.Input("clip", tooltip="The text encoder. It is not changed."),
                io.Vae.Input("vae", tooltip="Turns pictures into what the model reads."),
                io.Image.Input("image", tooltip="One picture or several of one size, each looked at by itself."),
                io.String.Input("prompt", multiline=True, tooltip="What the picture shows, as in a caption, with the word in it."),
                io.String.Input("words", tooltip="One word or several, as they stand in the prompt; with commas between words that do "
                                "not stand together. Every time that they stand there counts."),
                io.Combo.Input("map", options=list(MAPS), default=MAPS[0], tooltip="beside other words: the attention to the word as a "
                               "share of that to all words of the prompt. attention alone: without comparison; some parts of a "
                               "picture attend to every word."),
                io.Combo.Input("edge", options=list(EDGES), default=EDGES[0], tooltip="soft: from 0 where the map is least to 1 where it "
                               "is greatest. Otsu: black and white, cut where the two sides differ most."),
                io.Float.Input("noise", default=0.5, min=0.01, max=0.99, step=0.01, tooltip="How much noise the model sees the picture "
                               "through: little for details, much for the layout."),
                io.Int.Input("draws", default=4, min=1, max=64, tooltip="How many times each picture is looked at, with other noise."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the noise."),
                io.Mask.Input("mask", optional=True, tooltip="A training mask to compare with, one for all pictures or one for each, of "
                              "their size. White = learn."),
                types.TextPadding.Input("padding", optional=True, tooltip="Leave it open for what ComfyUI does."),
                io.String.Input("blocks", default="", optional=True, advanced=True, tooltip="Which of the model's attentions between "
                                "picture and words to look at, counted from 0, such as 4-11, 15. Nothing: all."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="One for each picture, of its size. White = learn."),
                io.Image.Output(display_name="heat_map", tooltip="Each picture under the colours of the map; the line is the border of the "
                                "training mask."),
                io.String.Output(display_name="report", tooltip="How much attention each word gets, and how it fits the training mask."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, clip: CLIP, vae: VAE, image: Tensor, prompt: str, words: str, map: str, edge: str, noise: float,
                draws: int, seed: int, mask: Tensor | None = None, padding: Padding | None = None, blocks: str = "") -> io.NodeOutput:
        import torch

        from ..host.attention_masks import Looks, Question, attention_masks, parse_blocks, report_of
        from ..host.progress import Progress
        from ..host.text_padding import TextPadding

        question = Question(prompt=prompt, words=words, kind=map, edge=edge, padding=padding or TextPadding())
        looks = Looks(level=noise, draws=draws, seed=seed, blocks=parse_blocks(blocks))
        compared = None if mask is None else mask.reshape(-1, *mask.shape[-2:])
        found = attention_masks(model, clip, vae, image, question, looks, compared, Progress(cls.hidden.unique_id))
        heat = torch.stack([torch.from_numpy(one.heat()) for one in found]).float() / 255
        report = report_of(found)
        return io.NodeOutput(torch.stack([one.mask_HW for one in found]), heat, report, ui=shown(heat, report, cls))
