"""LoRA files that say how they were trained, and loading them so that sampling matches."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "masked lora/lora"
STRENGTH_TOOLTIP = "1 = as trained."
PADDING_TOOLTIP = "The text padding that the LoRA was trained with, for Text Encode (padding mode)."


class SaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_SaveLora",
            display_name="Save LoRA (with metadata)",
            category=CATEGORY,
            description="Writes a safetensors file that ComfyUI and other tools load, with the conditions of training in its metadata. It "
                        "appears in the LoRA lists after a refresh (R).",
            search_aliases=["save lora weights", "export lora", "lora metadata"],
            is_output_node=True,
            inputs=[
                types.LoraModel.Input("lora", tooltip="From Train Masked LoRA, or any LORA_MODEL."),
                io.String.Input("filename", default="masked_lora", tooltip="Name below output/loras; sub-folders are "
                                "allowed. A number is added."),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="Path of the file.")],
        )

    @classmethod
    def execute(cls, lora: dict[str, Any], filename: str) -> io.NodeOutput:
        from ..host.folders import free_lora_file, output_relative
        from ..host.lora_format import padding_of, save_lora

        file = free_lora_file(filename)
        save_lora(lora, file)
        padding, _ = padding_of(lora)
        report = json.dumps({"file": output_relative(file), "text_padding": json.loads(padding.to_json())})
        return io.NodeOutput(str(file), ui=ui.PreviewText(report))


class ApplyLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_ApplyLora",
            display_name="Apply Trained LoRA (matched)",
            category=CATEGORY,
            description="Applies a LoRA from training in the same graph, and hands on the text padding that it was trained with.",
            search_aliases=["load lora model", "matched inference", "lora text padding"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                types.LoraModel.Input("lora", tooltip="From Train Masked LoRA."),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip=STRENGTH_TOOLTIP),
            ],
            outputs=[io.Model.Output(display_name="model"), types.TextPadding.Output(display_name="padding", tooltip=PADDING_TOOLTIP)],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora: dict[str, Any], strength: float) -> io.NodeOutput:
        return apply_lora(model, lora, strength)


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        import folder_paths

        return io.Schema(
            node_id="MaskedLoRA_LoadLora",
            display_name="Load LoRA (matched)",
            category=CATEGORY,
            description="Loads a LoRA file and hands on the text padding that it was trained with. For a file that does not tell, the node "
                        "says so and hands on ComfyUI's own padding.",
            search_aliases=["load lora", "lora loader", "matched inference", "lora metadata"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Combo.Input("lora_name", options=folder_paths.get_filename_list("loras"),
                               tooltip="A file in a LoRA folder or in output/loras."),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip=STRENGTH_TOOLTIP),
            ],
            outputs=[io.Model.Output(display_name="model"), types.TextPadding.Output(display_name="padding", tooltip=PADDING_TOOLTIP),
                     types.LoraModel.Output(display_name="lora", tooltip="The LoRA itself, for nodes that measure one.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora_name: str, strength: float) -> io.NodeOutput:
        from pathlib import Path

        import folder_paths

        from ..host.lora_format import load_lora

        lora = load_lora(Path(folder_paths.get_full_path_or_raise("loras", lora_name)))
        applied = apply_lora(model, lora, strength)
        return io.NodeOutput(*applied.args, lora, ui=applied.ui)


def apply_lora(model: ModelPatcher, lora: dict[str, Any], strength: float) -> io.NodeOutput:
    import comfy.sd

    from ..host.lora_format import padding_of

    adapted, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0.0)
    padding, words = padding_of(lora)
    report = json.dumps({"text_padding": json.loads(padding.to_json()), "says": words})
    return io.NodeOutput(adapted, padding, ui=ui.PreviewText(report))
