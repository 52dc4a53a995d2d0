"""What a LoRA does, seen on pictures that it samples: beside the base model, and over strengths and checkpoints."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from collections.abc import Mapping

    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from numpy.typing import NDArray
    from torch import Tensor

    from ..host.studio import Settings
    from ..host.text_padding import TextPadding as Padding

CATEGORY = "masked lora/verify"
MODEL_TOOLTIP = "The model without the LoRA. It is not changed."


def sampling_inputs() -> list[io.Input]:
    import comfy.samplers

    return [
        io.String.Input("negative", multiline=True, default="", advanced=True, tooltip="What cfg above 1 moves away from."),
        io.Int.Input("seed", default=1, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                     tooltip="Of the noise, as in KSampler."),
        io.Int.Input("width", default=1024, min=16, max=16384, step=16, tooltip="Pixels."),
        io.Int.Input("height", default=1024, min=16, max=16384, step=16, tooltip="Pixels."),
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1,
                       tooltip="1 for Flux and other guided models; 5 to 7 for SDXL and SD 1.5."),
        io.Float.Input("guidance", default=3.5, min=0.0, max=100.0, step=0.1,
                       tooltip="Of guided models such as Flux, as in FluxGuidance; others do not look at it."),
        io.Combo.Input("sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", advanced=True, tooltip="As in KSampler."),
        io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", advanced=True, tooltip="As in KSampler."),
        types.TextPadding.Input("padding", optional=True, tooltip="Leave it open for the text padding that the LoRA was trained with."),
    ]


def settings_of(clip: CLIP, vae: VAE, negative: str, guidance: float, **sampling: Any) -> Settings:
    from ..host.sampling import Sampling
    from ..host.studio import Settings

    return Settings(clip=clip, vae=vae, sampling=Sampling(**sampling), negative=negative, guidance=guidance)


def as_image(pixels_HWC: NDArray[Any]) -> Tensor:
    """uint8 to an IMAGE of one picture."""
    import torch

    return torch.from_numpy(pixels_HWC).float().div(255)[None]


def shown(image_BHWC: Tensor, text: str, cls: type[io.ComfyNode]) -> dict[str, Any]:
    """A picture and words on the node itself."""
    return ui.PreviewImage(image_BHWC, cls=cls).as_dict() | ui.PreviewText(text).as_dict()


class CompareLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CompareLora",
            display_name="Compare LoRA",
            category=CATEGORY,
            description="Samples the same seeds by the base model and by the LoRA, with its trigger words and without, and says how far "
                        "the LoRA moves the pictures. Without the trigger little should move.",
            search_aliases=["before after", "lora test", "trigger word", "same seed", "lora leak", "overfitting", "side by side"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                types.LoraModel.Input("lora", tooltip="From Train Masked LoRA or Load LoRA (matched)."),
                io.Clip.Input("clip", tooltip="The text encoder. It is not changed."),
                io.Vae.Input("vae", tooltip="Turns samples into pictures."),
                io.String.Input("with_trigger", multiline=True, tooltip="A prompt with the words that the LoRA was trained on."),
                io.String.Input("without_trigger", multiline=True, tooltip="The same prompt with ordinary words in their place, or any "
                                "prompt that the LoRA should leave alone."),
                io.Int.Input("count", default=4, min=1, max=64, tooltip="How many seeds: seed, seed + 1, ... Each is sampled four times."),
                *sampling_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All pictures with labels."),
                io.Image.Output(display_name="base_without", tooltip="Base model, without trigger: a picture for each seed."),
                io.Image.Output(display_name="lora_without", tooltip="With LoRA, without trigger: a picture for each seed."),
                io.Image.Output(display_name="base_with", tooltip="Base model, with trigger: a picture for each seed."),
                io.Image.Output(display_name="lora_with", tooltip="With LoRA and trigger: a picture for each seed."),
                io.String.Output(display_name="report", tooltip="How far the pictures moved, in words."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora: Mapping[str, Tensor], clip: CLIP, vae: VAE, with_trigger: str, without_trigger: str,
                count: int, negative: str, seed: int, guidance: float, padding: Padding | None = None, **sampling: Any) -> io.NodeOutput:
        from ..host.compare import Prompts, compare_lora
        from ..host.progress import Progress

        prompts = Prompts(trigger=with_trigger, plain=without_trigger, seed=seed, count=count)
        settings = settings_of(clip, vae, negative, guidance, **sampling)
        found = compare_lora(model, lora, prompts, settings, padding, Progress(cls.hidden.unique_id))
        grid, words = as_image(found.grid()), found.words()
        return io.NodeOutput(grid, *found.rows, words, found.json(), ui=shown(grid, words, cls))


class LoraGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoraGrid",
            display_name="LoRA Grid",
            category=CATEGORY,
            description="One prompt and seed by several LoRA files, or by the checkpoints of a run, at several strengths: see which one to "
                        "keep, and how strong.",
            search_aliases=["xy plot", "lora strength", "checkpoint comparison", "epoch grid", "lora weights grid", "overfitting"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                types.LoraModel.Input("lora", optional=True, tooltip="One more LoRA as the last row: the finished one from Train Masked "
                                      "LoRA. The grid then waits for the training."),
                io.Clip.Input("clip", tooltip="The text encoder. It is not changed."),
                io.Vae.Input("vae", tooltip="Turns samples into pictures."),
                io.String.Input("loras", multiline=True, default="", tooltip="One a line: a LoRA as ComfyUI lists it, or the name of a run "
                                "of Train Masked LoRA that had Checkpoints and Resume, for its checkpoints."),
                io.Int.Input("checkpoints", default=4, min=1, max=20, tooltip="At most so many of a run, evenly spread, the last always."),
                io.String.Input("strengths", default="0.5, 0.75, 1", tooltip="Numbers with commas between them; 0 is the base model."),
                io.String.Input("prompt", multiline=True, tooltip="What is sampled, the same for all."),
                *sampling_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="A row for each LoRA and a column for each strength, with labels."),
                io.Image.Output(display_name="pictures", tooltip="The single pictures, row by row."),
                io.String.Output(display_name="report", tooltip="What was sampled, in words."),
                io.String.Output(display_name="json", tooltip="The same as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, loras: str | None = "", checkpoints: int | None = 1, **others: Any) -> str:
        """Files may change under the same names."""
        from ..host.lora_grid import rows_of

        if loras is None or checkpoints is None:  # from another node, and not known yet
            return ""
        try:
            return repr([(row.label, row.file and row.file.stat().st_mtime_ns) for row in rows_of(loras, checkpoints)])
        except ValueError:  # told when the node runs: a training before it may yet write them
            return ""

    @classmethod
    def execute(cls, model: ModelPatcher, clip: CLIP, vae: VAE, loras: str, checkpoints: int, strengths: str, prompt: str, negative: str,
                seed: int, guidance: float, lora: Mapping[str, Tensor] | None = None, padding: Padding | None = None,
                **sampling: Any) -> io.NodeOutput:
        from ..host.lora_grid import Plan, Row, lora_grid, rows_of, strengths_of
        from ..host.progress import Progress

        rows = [*rows_of(loras, checkpoints), *([Row("connected LoRA")] if lora is not None else [])]
        plan = Plan(prompt, seed, strengths_of(strengths))
        settings = settings_of(clip, vae, negative, guidance, **sampling)
        found = lora_grid(model, rows, lora, plan, settings, padding, Progress(cls.hidden.unique_id))
        grid, words = as_image(found.grid()), found.words()
        return io.NodeOutput(grid, found.pictures, words, found.json(), ui=shown(grid, words, cls))
