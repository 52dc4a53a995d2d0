"""Text padding: one specification for training and sampling."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.text_padding import MAX_LENGTH, PRESET_HELP, PRESETS
from ..host.text_padding import TextPadding as Padding
from . import types

if TYPE_CHECKING:
    from comfy.sd import CLIP

CUSTOM = "custom"


def custom_inputs() -> list[io.Input]:
    return [
        io.Int.Input("max_length", default=512, min=0, max=MAX_LENGTH,
                     tooltip="Tokens that T5 reads: shorter prompts are padded to it, longer ones cut. 0 = ComfyUI's own length."),
        io.Combo.Input("pad_embedding", options=["encoded", "zero"], default="encoded",
                       tooltip="What stands in the padding's place: what T5 makes of it, or zeros."),
        io.Combo.Input("attend", options=["all", "real"], default="all",
                       tooltip="Which tokens the diffusion model sees: all, or the real ones and keep_pads of the padding."),
        io.Int.Input("keep_pads", default=0, min=0, max=MAX_LENGTH,
                     tooltip="Padding tokens that stay visible when only the real tokens are attended; Chroma was trained with 1."),
        io.Boolean.Input("encoder_masked", default=False, tooltip="Hide the padding from T5 itself."),
    ]


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
            inputs=[io.DynamicCombo.Input("preset", tooltip=f"{PRESET_HELP} custom: choose each part.", options=[
                *(io.DynamicCombo.Option(name, []) for name in PRESETS), io.DynamicCombo.Option(CUSTOM, custom_inputs())])],
            outputs=[types.TextPadding.Output(display_name="padding", tooltip="Connect to Encode Training Set and Text Encode.")],
        )

    @classmethod
    def execute(cls, preset: dict[str, Any]) -> io.NodeOutput:
        values = dict(preset)
        name = values.pop("preset")
        if name != CUSTOM:
            return io.NodeOutput(PRESETS[name])
        return io.NodeOutput(Padding(max_length=values.pop("max_length") or None, **values))


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


class SetTextPadding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_SetTextPadding",
            display_name="Set Text Padding",
            category="masked lora/text",
            description="Sets the text padding of a prompt that another node encoded, where that is still possible: padding can be zeroed "
                        "or masked, but T5 cannot read another length, or read without its padding, after the fact. An error says why.",
            search_aliases=["t5 attention mask", "zero padding", "conditioning padding", "matched inference"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="A prompt of Flux or Chroma, straight from the node that encoded it."),
                types.TextPadding.Input("padding", tooltip="What shall happen to the padding of the prompt."),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP that encoded the prompt, to count its tokens. Not needed after Text "
                              "Encode (padding mode)."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, optional=True,
                                tooltip="The text that T5 encoded; read only with a CLIP."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]], padding: Padding, clip: CLIP | None = None, text: str = "") -> io.NodeOutput:
        from ..host.set_padding import set_padding

        return io.NodeOutput(set_padding(conditioning, padding, clip, text))
