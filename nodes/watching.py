"""What is looked at while a LoRA is trained: pictures, held-out loss, logs."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import types

if TYPE_CHECKING:
    from comfy.sd import CLIP, VAE

    from ..dataset.cache import TrainingSet as Set

CATEGORY = "masked lora/training"


class Previews(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        import comfy.samplers

        return io.Schema(
            node_id="MaskedLoRA_Previews",
            display_name="Training Previews",
            category=CATEGORY,
            description="Pictures by the LoRA while it is trained, in ComfyUI's own sampler and with the training's text padding. Training "
                        "goes on bit for bit as without them, also where a preview has too little memory.",
            search_aliases=["sample images", "validation images", "training samples", "preview every n steps"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder; prompts are encoded once, before the first step, or for every preview "
                              "while it is trained."),
                io.Vae.Input("vae", tooltip="Turns samples into pictures."),
                io.String.Input("prompts", multiline=True, tooltip="One prompt a line, as many as you like."),
                io.String.Input("negative", multiline=True, advanced=True, tooltip="What cfg above 1 moves away from, for all prompts."),
                io.Int.Input("every", default=250, min=1, max=1_000_000, tooltip="Steps between previews; one more comes at the end."),
                io.Int.Input("width", default=512, min=64, max=4096, step=16, tooltip="Pixels. Small previews take less memory and time."),
                io.Int.Input("height", default=512, min=64, max=4096, step=16, tooltip="Pixels."),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1,
                               tooltip="1 for Flux and other guided models; 5 to 7 for SDXL and SD 1.5."),
                io.Combo.Input("sampler", options=comfy.samplers.SAMPLER_NAMES, default="euler", advanced=True,
                               tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple", advanced=True,
                               tooltip="As in KSampler."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Of the noise, the same for all prompts and steps, so that pictures differ by training alone."),
                io.Boolean.Input("at_start", default=True, tooltip="Also before the first step, to compare with the model as it was."),
            ],
            outputs=[types.Previews.Output(display_name="previews", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, clip: CLIP, vae: VAE, prompts: str, negative: str, every: int, width: int, height: int, steps: int, cfg: float,
                sampler: str, scheduler: str, seed: int, at_start: bool) -> io.NodeOutput:
        from ..host.previews import PreviewSpec

        return io.NodeOutput(PreviewSpec(clip=clip, vae=vae, prompts=prompts, negative=negative, every=every, width=width, height=height,
                                         steps=steps, cfg=cfg, sampler=sampler, scheduler=scheduler, seed=seed, at_start=at_start))


class Validation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Validation",
            display_name="Validation",
            category=CATEGORY,
            description="The error on pictures that are not trained on, inside and outside of their masks (white = learn), on noise that "
                        "never changes: numbers of different runs can be compared.",
            search_aliases=["validation loss", "held-out", "overfitting", "eval loss", "stable loss"],
            inputs=[
                types.TrainingSet.Input("training_set", tooltip="Held-out pictures from an Encode Training Set of their own, with the same "
                                        "text padding. White in their masks = learn."),
                io.Int.Input("every", default=250, min=1, max=1_000_000, tooltip="Steps between validations; one more comes at the end."),
                io.String.Input("levels", default="0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9", advanced=True,
                                tooltip="Noise levels to measure at, from 0 (clean) to 1 (noise)."),
                io.Int.Input("draws", default=1, min=1, max=100, advanced=True,
                             tooltip="Noises for a picture, each at every level; more make the numbers steadier and take longer."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed, advanced=True,
                             tooltip="Seed of the noise; leave it alone to compare runs."),
            ],
            outputs=[types.Validation.Output(display_name="validation", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, training_set: Set, every: int, levels: str, draws: int, seed: int) -> io.NodeOutput:
        from ..host.validation import ValidationPlan
        from ..trainer.numbers import numbers
        from ..trainer.validation import ValidationSpec

        spec = ValidationSpec(levels=numbers(levels, "validation levels are", "0.2, 0.5, 0.8"), draws=draws, seed=seed)
        return io.NodeOutput(ValidationPlan(every=every, training_set=training_set, spec=spec))


class Logs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Logs",
            display_name="Training Logs",
            category=CATEGORY,
            description="Writes every step down: loss inside and outside of the masks (white = learn), mean weight, share of masked "
                        "pictures, gradient norm, learning rate. A table, TensorBoard event files and a picture of the losses.",
            search_aliases=["tensorboard", "csv", "loss plot", "loss curve", "metrics", "plot loss"],
            inputs=[
                io.Boolean.Input("table", default=True, tooltip="steps.csv: one line a step, for spreadsheets."),
                io.Boolean.Input("tensorboard", default=True, tooltip="Event files; TensorBoard itself need not be installed here."),
                io.Int.Input("plot_every", default=50, min=0, max=1_000_000,
                             tooltip="Steps between pictures of the losses (plot.png, and on the training node where no previews are); "
                             "0 = one at the end."),
            ],
            outputs=[types.Logs.Output(display_name="logs", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, table: bool, tensorboard: bool, plot_every: int) -> io.NodeOutput:
        from ..host.logs import LogSpec

        return io.NodeOutput(LogSpec(table=table, tensorboard=tensorboard, plot_every=plot_every))
