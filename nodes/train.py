"""Train a masked LoRA, and measure what it changed."""
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from pathlib import Path

    from comfy.model_patcher import ModelPatcher

    from ..dataset.cache import TrainingSet as Set
    from ..host.live_text import TextEncoderSpec
    from ..host.run import Observer
    from ..masks.recipe import MaskRecipe as Recipe
    from ..trainer.adapter_spec import AdapterSpec
    from ..trainer.config import LossSpec, MaskUse, PriorSpec
    from ..trainer.noise import NoiseLevels
    from ..trainer.optimizer import Optimization

CATEGORY = "masked lora/training"
NORMALIZATIONS = ["step", "image", "none"]


class Watching(Protocol):
    """What the nodes for checkpoints, previews, validation and logs make."""

    def observer(self, run_folder: Path) -> Observer:
        """That of one run; `run_folder` is where the runs of one place keep their files."""


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Train",
            display_name="Train Masked LoRA",
            category=CATEGORY,
            description="Trains a LoRA in ComfyUI itself, on the model that is loaded, with the loss weighted by the masks "
                        "(white = learn). Cancel saves what was learned so far, Finish now goes on through the graph with it; the model is "
                        "left exactly as it was.",
            search_aliases=["lora training", "masked training", "masked loss", "dreambooth", "finetune", "train lora"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model. It is sampled and trained by the same model sampling, "
                               "whichever node has set it."),
                types.TrainingSet.Input("training_set", tooltip="From Encode Training Set. White in its masks = learn."),
                types.MaskRecipe.Input("recipe", optional=True, tooltip="Applied to the raw masks at training time. White = learn."),
                types.Prior.Input("prior", optional=True, tooltip="From Prior Preservation: what is black in the masks (white = "
                                  "learn) stays as the model had it."),
                types.Loss.Input("loss_options", optional=True, tooltip="From Loss Options."),
                types.Noise.Input("noise_levels", optional=True, tooltip="From Noise Levels; then shift below must be 1."),
                types.Optimizer.Input("optimizer", optional=True, tooltip="From Optimizer and Schedule; without it AdamW at a "
                                      "constant learning rate."),
                types.Adapter.Input("adapter", optional=True, tooltip="From LoRA Settings: kind, size and layers. Its rank and alpha "
                                    "then count instead of those below."),
                types.TextEncoderLora.Input("text_encoder", optional=True, tooltip="From Text Encoder LoRA (CLIP-L and CLIP-G); "
                                            "without it the text encoders stay as they are."),
                types.Checkpoints.Input("checkpoints", optional=True, tooltip="From Checkpoints and Resume: the run can be gone on from."),
                types.Previews.Input("previews", optional=True, tooltip="From Training Previews: pictures by the LoRA, meanwhile."),
                types.Validation.Input("validation", optional=True, tooltip="From Validation: the loss on pictures that are held out."),
                types.Logs.Input("logs", optional=True, tooltip="From Training Logs: what is written down of every step."),
                io.Int.Input("steps", default=1000, min=1, max=1_000_000, tooltip="Optimizer steps."),
                io.Int.Input("batch_size", default=1, min=1, max=1024, tooltip="Pictures in an optimizer step."),
                io.Int.Input("micro_batch", default=0, min=0, max=1024, advanced=True,
                             tooltip="Pictures in a forward pass; 0 = all of the step's "
                             "that have equal size and token count. Less takes less memory and gives the same gradient."),
                io.Float.Input("learning_rate", default=1e-4, min=1e-7, max=1.0, step=1e-7, round=1e-8,
                               tooltip="The optimizer's learning rate; 1e-4 is a good start for AdamW."),
                io.Int.Input("rank", default=16, min=1, max=1024, tooltip="Size of the LoRA."),
                io.Float.Input("alpha", default=16.0, min=0.01, max=1024.0, step=0.5,
                               tooltip="The LoRA's effect is scaled by alpha / rank."),
                io.Combo.Input("normalization", options=NORMALIZATIONS, default="step",
                               tooltip="How masked errors become one loss. step: every "
                               "learned pixel counts the same (ai-toolkit). image: every picture counts the same (OneTrainer, normalized). "
                               "none: plain mean, so a small mask teaches less (sd-scripts, diffusion-pipe, SimpleTuner)."),
                io.Float.Input("shift", default=1.0, min=0.05, max=20.0, step=0.05, advanced=True,
                               tooltip="Moves the logit-normal noise levels "
                               "towards noise (above 1: layout) or towards detail (below 1)."),
                io.Boolean.Input("gradient_checkpointing", default=False, tooltip="Computes every block twice and keeps less in memory; "
                                 "the gradients are the same."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="The same seed gives the same run."),
                io.String.Input("name", default="masked_lora", tooltip="The run's name: the LoRA's title, and the names of "
                                "its files. A run of the same name can be resumed with Checkpoints and Resume."),
                io.Float.Input("caption_dropout", default=0.0, min=0.0, max=1.0, step=0.01, optional=True, advanced=True,
                               tooltip="Share of draws that see the text for dropped captions, which Caption Options gives to Encode "
                               "Training Set; 0.05 to 0.1 is usual. Regularisation pictures likewise. Changing it encodes nothing."),
            ],
            outputs=[
                types.LoraModel.Output(display_name="lora", tooltip="For Save LoRA, Apply Trained LoRA and core's Load LoRA Model."),
                types.LossMap.Output(display_name="loss", tooltip="For ComfyUI's Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="Loss inside and outside the masks, speed and memory, as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, training_set: Set, steps: int, batch_size: int, micro_batch: int, learning_rate: float, rank: int,
                alpha: float, normalization: str, shift: float, gradient_checkpointing: bool, seed: int, name: str,
                recipe: Recipe | None = None, prior: PriorSpec | None = None, loss_options: tuple[LossSpec, MaskUse] | None = None,
                noise_levels: NoiseLevels | None = None, optimizer: Optimization | None = None, adapter: AdapterSpec | None = None,
                text_encoder: TextEncoderSpec | None = None, checkpoints: Watching | None = None, previews: Watching | None = None,
                validation: Watching | None = None, logs: Watching | None = None, caption_dropout: float = 0.0) -> io.NodeOutput:
        import torch

        from ..host.finish import finish_button
        from ..host.folders import lora_file, runs_folder
        from ..host.progress import Progress
        from ..host.run import RunConfig, run_training
        from ..masks.recipe import MaskRecipe
        from ..trainer.config import LoraSpec, LossSpec, MaskUse, Normalization, PriorSpec, TrainConfig
        from ..trainer.noise import NoiseLevels
        from ..trainer.optimizer import Optimization

        if noise_levels and shift != 1:
            raise ValueError(f"shift is {shift:g} here and {noise_levels.shift:g} in Noise Levels; set it to 1 here")
        loss, mask = loss_options or (LossSpec(), MaskUse())
        moved = optimizer or Optimization()
        file = lora_file(name)  # a name that cannot become a file is told now, not after hours of training
        watching = [w.observer(runs_folder(file)) for w in (checkpoints, previews, validation, logs) if w is not None]
        button = finish_button(cls.hidden.unique_id)
        run = RunConfig(
            train=TrainConfig(steps=steps, batch_size=batch_size, micro_batch=micro_batch, learning_rate=learning_rate,
                              normalization=Normalization(normalization), noise=noise_levels or NoiseLevels(shift=shift),
                              optimizer=moved.optimizer, schedule=moved.schedule, ema=moved.ema,
                              loss=loss, mask=mask, prior=prior or PriorSpec(), caption_dropout=caption_dropout, seed=seed),
            lora=adapter or LoraSpec(rank=rank, alpha=alpha), recipe=recipe or MaskRecipe(), checkpointing=gradient_checkpointing,
            name=file.stem, rescue_folder=file.parent, text_encoder=text_encoder,
            observers=(*watching, *([button] if button else [])))
        result = run_training(model, training_set, run, Progress(cls.hidden.unique_id))
        report = json.dumps(result.report)
        return io.NodeOutput(result.lora, {"loss": [torch.tensor(v) for v in result.losses]}, report, ui=ui.PreviewText(report))


class MeasureDrift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_MeasureDrift",
            display_name="Measure LoRA Drift",
            category=CATEGORY,
            description="How much a LoRA changes the model's predictions where the masks learn and where they do not (root mean square, on "
                        "noise that training never drew). A mask did its work when the outside number is well under the inside one.",
            search_aliases=["lora effect", "overfitting", "mask leak", "compare lora"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model without the LoRA."),
                types.LoraModel.Input("lora", tooltip="The LoRA to measure."),
                types.TrainingSet.Input("training_set", tooltip="The pictures and masks to measure on."),
                types.MaskRecipe.Input("recipe", optional=True, tooltip="Says what counts as inside. White = learn."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=io.ControlAfterGenerate.fixed,
                             tooltip="Seed of the noise."),
            ],
            outputs=[
                io.Float.Output(display_name="inside"), io.Float.Output(display_name="outside"),
                io.String.Output(display_name="report", tooltip="Both numbers as JSON."),
            ],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, lora: dict[str, Any], training_set: Set, seed: int,
                recipe: Recipe | None = None) -> io.NodeOutput:
        from ..host.drift import measure_drift
        from ..masks.recipe import MaskRecipe

        drift = measure_drift(model, lora, training_set, recipe or MaskRecipe(), seed)
        report = json.dumps({"drift_inside": drift.inside, "drift_outside": drift.outside})
        return io.NodeOutput(drift.inside, drift.outside, report, ui=ui.PreviewText(report))
