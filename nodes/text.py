"""Text padding: one specification for training and sampling."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.text_padding import PRESET_HELP, PRESETS
from . import types

if TYPE_CHECKING:
    from comfy.sd import CLIP

    from ..host.text_padding import TextPadding as Padding


class TextPadding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_TextPadding",
            display_name="Text Padding",
            category="masked lora/text",
            description="How the padding of a T5 prompt is treated (Flux, Chroma). Train and sample with the same choice: trainers differ, "
                        "and a LoRA sampled under another one loses detail.",
            search_aliases=["t5 attention mask", "t5 padding", "zero padding", "max sequence length", "apply_t5_attn_mask"],
            inputs=[io.Combo.Input("preset", options=list(PRESETS), default="comfyui", tooltip=PRESET_HELP)],
            outputs=[types.TextPadding.Output(display_name="padding", tooltip="Connect to Encode Training Set and Text Encode.")],
        )

    @classmethod
    def execute(cls, preset: str) -> io.NodeOutput:
        return io.NodeOutput(PRESETS[preset])


class TextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_TextEncode",
            display_name="Text Encode (padding mode)",
            category="masked lora/text",
            description="Encodes a prompt under a text padding specification. Connect the padding of Load LoRA (matched) or of Apply "
                        "Trained LoRA (matched), and the LoRA is sampled as it was trained.",
            search_aliases=["clip text encode", "flux prompt", "t5 attention mask", "zero padding", "matched inference"],
            inputs=[
                io.Clip.Input("clip", tooltip="A text encoder of Flux or Chroma; others take the preset 'comfyui' only. It is "
                              "not changed."),
                io.String.Input("text", multiline=True, dynamic_prompts=True,
                                tooltip="The prompt; weights and embeddings work as in ComfyUI."),
                types.TextPadding.Input("padding", tooltip="What happens to the padding of the prompt."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, clip: CLIP, text: str, padding: Padding) -> io.NodeOutput:
        from ..host.text import encode_text

        return io.NodeOutput(encode_text(clip, text, padding))
