"""LoRA files that say how they were trained, and loading them so that sampling matches."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from collections.abc import Mapping

    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP
    from torch import Tensor

CATEGORY = "masked lora/lora"
STRENGTH_TOOLTIP = "1 = as trained."
CLIP_TOOLTIP = "For a LoRA that also changes the text encoder. It is not changed itself."
CLIP_OUT_TOOLTIP = "The connected CLIP with the LoRA's text encoder part."
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
        from ..host.lora_format import save_lora
        from ..host.lora_padding import trained_padding

        file = free_lora_file(filename)
        save_lora(lora, file)
        padding = trained_padding(lora).padding
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
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TOOLTIP),
            ],
            outputs=[io.Model.Output(display_name="model"), types.TextPadding.Output(display_name="padding", tooltip=PADDING_TOOLTIP),
                     io.Clip.Output(display_name="clip", tooltip=CLIP_OUT_TOOLTIP)],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora: dict[str, Any], strength: float, clip: CLIP | None = None) -> io.NodeOutput:
        return apply_lora(model, clip, lora, "the trained LoRA", strength, strength)


class LoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        import folder_paths

        return io.Schema(
            node_id="MaskedLoRA_LoadLora",
            display_name="Load LoRA (matched)",
            category=CATEGORY,
            description="Loads a LoRA file, says what of it found no place, and hands on the text padding that it was trained with. For a "
                        "file that does not tell, the node says what its trainer usually does, or hands on ComfyUI's own padding.",
            search_aliases=["load lora", "lora loader", "matched inference", "lora metadata", "lora clip", "peft", "diffusers lora"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Combo.Input("lora_name", options=folder_paths.get_filename_list("loras"),
                               tooltip="A file in a LoRA folder or in output/loras."),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.05, tooltip=STRENGTH_TOOLTIP),
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TOOLTIP),
                io.Float.Input("strength_clip", default=1.0, min=-100.0, max=100.0, step=0.05, optional=True,
                               tooltip="Strength for the text encoder. 1 = as trained."),
            ],
            outputs=[io.Model.Output(display_name="model"), types.TextPadding.Output(display_name="padding", tooltip=PADDING_TOOLTIP),
                     io.Clip.Output(display_name="clip", tooltip=CLIP_OUT_TOOLTIP),
                     types.LoraModel.Output(display_name="lora", tooltip="The LoRA itself, for nodes that measure one.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str | None, **others: object) -> str:
        """Changes with the file: a second training may have written another LoRA under the same name."""
        from pathlib import Path

        import folder_paths

        from ..host.peft_files import file_stamp

        # None: the name comes from another node and is not known yet.
        file = folder_paths.get_full_path("loras", lora_name) if lora_name else None
        return file_stamp(Path(file)) if file else ""

    @classmethod
    def execute(cls, model: ModelPatcher, lora_name: str, strength: float, clip: CLIP | None = None,
                strength_clip: float = 1.0) -> io.NodeOutput:
        from pathlib import Path

        import folder_paths

        from ..host.lora_format import load_lora
        from ..host.peft_files import scaled_as_trained

        file = Path(folder_paths.get_full_path_or_raise("loras", lora_name))
        lora, scaled = scaled_as_trained(load_lora(file), file)
        applied = apply_lora(model, clip, lora, lora_name, strength, strength_clip, scaled)
        return io.NodeOutput(*applied.args, lora, ui=applied.ui)


def apply_lora(model: ModelPatcher, clip: CLIP | None, lora: Mapping[str, Tensor], name: str, strength: float,
               strength_clip: float = 1.0, scaled: str = "") -> io.NodeOutput:
    from ..host.lora_loading import put_on
    from ..host.lora_padding import trained_padding
    from ..host.padding_check import AppliedLora, mark

    trained = trained_padding(lora, type(model.model).__name__)
    loaded = put_on(model, clip, lora, strength, strength_clip)
    if loaded.model is not model:
        mark(loaded.model, AppliedLora(name, trained))
    notes = [*([scaled] if scaled else []), *loaded.notes]
    report = json.dumps({"text_padding": json.loads(trained.padding.to_json()), "known": trained.known, "says": trained.sentence,
                         "notes": notes})
    return io.NodeOutput(loaded.model, trained.padding, loaded.clip, ui=ui.PreviewText(report))
