"""The check before sampling."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WARN, STOP = "warn", "stop"


class CheckPadding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CheckPadding",
            display_name="Check Text Padding",
            category="masked lora/text",
            description="Compares the text padding that the LoRAs on a model were trained with to that of the prompts, and says what to "
                        "change. Everything is passed on as it is.",
            search_aliases=["padding mismatch", "t5 attention mask", "matched inference", "verify prompt padding"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled, with its LoRAs."),
                io.Conditioning.Input("positive", tooltip="The prompt, from Text Encode (padding mode) or any other node."),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt, where the sampler uses one."),
                io.Combo.Input("on_mismatch", options=[WARN, STOP], default=WARN,
                               tooltip="warn: say it here and go on. stop: end the run before any sampling."),
            ],
            outputs=[io.Model.Output(display_name="model"), io.Conditioning.Output(display_name="positive"),
                     io.Conditioning.Output(display_name="negative", tooltip="Nothing if no negative prompt is connected.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, positive: list[list[Any]], on_mismatch: str,
                negative: list[list[Any]] | None = None) -> io.NodeOutput:
        from ..host.padding_check import applied_loras, problems, prompt_of, report

        named = {"positive": positive, "negative": negative or []}
        prompts = [prompt_of(name, (extra for _, extra in conditioning)) for name, conditioning in named.items() if conditioning]
        loras = applied_loras(model)
        found = problems(loras, prompts)
        words = report(loras, prompts, found)
        if found and on_mismatch == STOP:
            raise ValueError(words)
        return io.NodeOutput(model, positive, negative, ui=ui.PreviewText(words))
