"""What kind of adapter is trained, how large, on which layers, and from where it starts."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

CATEGORY = "masked lora/training"
FRESH = "none"


class Adapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        import folder_paths

        return io.Schema(
            node_id="MaskedLoRA_Adapter",
            display_name="LoRA Settings",
            category=CATEGORY,
            description="The kind of adapter, its size, the layers that it is trained on, and a LoRA to start from. ComfyUI loads every "
                        "kind as it was trained.",
            search_aliases=["lora rank", "network dim", "lycoris", "lokr", "loha", "dora", "rslora", "oft", "continue lora", "warm start",
                            "target modules", "train blocks"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("kind", options=["lora", "rslora", "dora", "loha", "lokr", "oft"], default="lora",
                               tooltip="lora: the usual one. rslora: scaled by alpha / sqrt(rank). dora: learns the size of each input's "
                               "weights too; not for quantized models. loha, lokr: products of small matrices. oft: turns outputs."),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Size of the adapter; for oft the largest size of a block."),
                io.Float.Input("alpha", default=16.0, min=0.01, max=1024.0, step=0.5,
                               tooltip="The effect is scaled by alpha / rank (rslora: its square root). Means nothing to oft."),
                io.Combo.Input("layers", options=["attention and feed-forward of the blocks", "attention of the blocks",
                                                  "all linear layers", "own regular expression"],
                               default="attention and feed-forward of the blocks",
                               tooltip="All linear layers include modulation and embedders, which steer the whole picture past any mask."),
                io.String.Input("blocks", default="", tooltip="Only these numbered blocks: 0-5, 18 or, by the beginning of a list's name, "
                                "double 0-5, single 18 (Flux) or input 4-8, output 0-5 (SDXL). Empty: all."),
                io.String.Input("pattern", default="", advanced=True, tooltip="For 'own regular expression': has to match a layer's "
                                r"full name, such as double_blocks\.\d+\.img_attn\..*"),
                io.String.Input("sizes", default="", multiline=True, advanced=True, tooltip="Sizes of some layers' own, one line each: "
                                "regular expression = rank, alpha. The first that matches a layer's full name counts."),
                io.Float.Input("dropout", default=0.0, min=0.0, max=0.95, step=0.05, advanced=True,
                               tooltip="Share of each layer's ranks switched off for a picture (kohya's rank_dropout). For lora, rslora, "
                               "dora."),
                io.Combo.Input("start_from", options=[FRESH, *folder_paths.get_filename_list("loras")], default=FRESH,
                               tooltip="A LoRA of the same kind to go on training: of this pack, kohya, diffusers or LyCORIS. Its own "
                               "ranks and alphas are kept."),
                io.Model.Input("model", optional=True, tooltip="Only to be told here which layers are trained."),
            ],
            outputs=[types.Adapter.Output(display_name="adapter", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, kind: str, rank: int, alpha: float, layers: str, blocks: str, pattern: str, sizes: str, dropout: float,
                start_from: str, model: ModelPatcher | None = None) -> io.NodeOutput:
        import folder_paths

        from ..trainer.adapter_spec import AdapterSpec, patterns_of
        from ..trainer.targets import describe, targets

        start = "" if start_from == FRESH else folder_paths.get_full_path_or_raise("loras", start_from)
        spec = AdapterSpec(kind=kind, rank=rank, alpha=alpha, targets=targets(layers, blocks, pattern), dropout=dropout,
                           patterns=patterns_of(sizes), start=start)
        words = [spec.describe()] + ([describe(model.model.diffusion_model, spec.targets)] if model else [])
        return io.NodeOutput(spec, ui=ui.PreviewText("; ".join(words)))


class TextEncoderLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_TextEncoderLora",
            display_name="Text Encoder LoRA",
            category=CATEGORY,
            description="Trains a LoRA on CLIP-L and CLIP-G too (SD 1.5, SDXL, the CLIP-L of Flux), into the same file. Captions are then "
                        "encoded in every step. Most LoRAs do without.",
            search_aliases=["train text encoder", "clip lora", "text_encoder_lr", "te lora"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that has encoded the training set. It is left as it was."),
                io.Combo.Input("encoders", options=["CLIP-L and CLIP-G", "CLIP-L", "CLIP-G"], default="CLIP-L and CLIP-G",
                               tooltip="Which of them; one that is not there is left out. T5 and language models are not trained."),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Size of the LoRA."),
                io.Float.Input("alpha", default=16.0, min=0.01, max=1024.0, step=0.5, tooltip="The effect is scaled by alpha / rank."),
                io.Float.Input("rate", default=0.5, min=0.001, max=100.0, step=0.05,
                               tooltip="Learning rate as a multiple of the diffusion model's; text encoders overfit sooner."),
            ],
            outputs=[types.TextEncoderLora.Output(display_name="text_encoder", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, clip: CLIP, encoders: str, rank: int, alpha: float, rate: float) -> io.NodeOutput:
        from ..host.live_text import TextEncoderSpec

        return io.NodeOutput(TextEncoderSpec(clip=clip, encoders=encoders, rank=rank, alpha=alpha, rate=rate))
