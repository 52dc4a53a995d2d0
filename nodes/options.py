"""Settings of a training run that most runs leave alone: what counts how much, what is kept, which noise is trained."""
from __future__ import annotations

from comfy_api.latest import io

from . import types

CATEGORY = "masked lora/training"


class Prior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Prior",
            display_name="Prior Preservation",
            category=CATEGORY,
            description="Holds the model to its own predictions where the masks are black, so that what is not learned stays as it was "
                        "(white = learn). Costs one more forward pass for every step it takes part in.",
            search_aliases=["masked prior", "inverted mask prior", "prior loss", "keep background", "contrastive adapter training"],
            inputs=[
                io.Float.Input("weight", default=0.5, min=0.0, max=100.0, step=0.05,
                               tooltip="How much staying counts against learning. 0 is off; 0.5 is ai-toolkit's, 1 the blissful guide's."),
                io.Float.Input("threshold", default=0.0, min=0.0, max=1.0, step=0.01,
                               tooltip="0: each cell stays as much as it is not learned (1 - weight). Above 0: cells of a lower weight "
                               "stay fully and are not learned at all (white = learn)."),
                io.Float.Input("minimum", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                               tooltip="Only from this noise level on (0 = clean, 1 = noise)."),
                io.Float.Input("maximum", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True,
                               tooltip="Only up to this noise level (0 = clean, 1 = noise)."),
                io.Int.Input("every", default=1, min=1, max=1000, advanced=True, tooltip="Only every so many steps; 2 halves the cost."),
            ],
            outputs=[types.Prior.Output(display_name="prior")],
        )

    @classmethod
    def execute(cls, weight: float, threshold: float, minimum: float, maximum: float, every: int) -> io.NodeOutput:
        from ..trainer.config import PriorSpec

        return io.NodeOutput(PriorSpec(weight=weight, threshold=threshold or None, minimum=minimum, maximum=maximum, every=every))


class LossOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LossOptions",
            display_name="Loss Options",
            category=CATEGORY,
            description="How far a prediction is off, what each noise level counts, and how often masks apply (white = learn).",
            search_aliases=["huber loss", "min snr gamma", "debiased estimation", "unmasked probability", "masked loss probability"],
            inputs=[
                io.Combo.Input("error", options=["mse", "l1", "huber", "smooth l1"], default="mse",
                               tooltip="mse: squares. l1: absolute values. huber and smooth l1: squares near 0, straight lines far out."),
                io.Float.Input("delta", default=0.1, min=0.0001, max=100.0, step=0.01, advanced=True,
                               tooltip="Where huber and smooth l1 bend from squares to straight lines."),
                io.Combo.Input("weighting", options=["none", "min-snr", "debiased", "sigma sqrt", "cosmap"], default="none",
                               tooltip="What a noise level counts. min-snr: any model. debiased: eps and v (SDXL, SD 1.5). sigma sqrt, "
                               "cosmap: flow (SD3's)."),
                io.Float.Input("gamma", default=5.0, min=0.01, max=1000.0, step=0.5, advanced=True,
                               tooltip="Of min-snr; 5 is the paper's."),
                io.Float.Input("damping", default=0.0, min=0.0, max=1.0, step=0.05,
                               tooltip="Multiplies the loss by (mean weight) to this power, so that tiny masks count less; 0.5 is usual, 0 "
                               "is off. For normalization step and image."),
                io.Float.Input("mask_probability", default=1.0, min=0.0, max=1.0, step=0.05,
                               tooltip="Share of draws in which the mask applies (white = learn); the rest learns every pixel. "
                               "OneTrainer's unmasked probability of 0.1 is 0.9 here."),
                io.Float.Input("mask_threshold", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                               tooltip="Above 0: cells from this weight on are learned fully, the others not at all (SimpleTuner's "
                               "segmentation). White = learn."),
                io.Float.Input("noise_cap", default=1.0, min=0.05, max=1.0, step=0.05, advanced=True,
                               tooltip="Pictures with a mask (white = learn) see noise up to this level: in pure noise the subject may lie "
                               "outside of its mask. StableTuner took about 0.75."),
            ],
            outputs=[types.Loss.Output(display_name="loss options")],
        )

    @classmethod
    def execute(cls, error: str, delta: float, weighting: str, gamma: float, damping: float, mask_probability: float,
                mask_threshold: float, noise_cap: float) -> io.NodeOutput:
        from ..trainer.config import LossSpec, MaskUse

        loss = LossSpec(error=error, delta=delta, weighting=weighting, gamma=gamma, damping=damping)
        return io.NodeOutput((loss, MaskUse(probability=mask_probability, threshold=mask_threshold or None, level_cap=noise_cap)))


class Noise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Noise",
            display_name="Noise Levels",
            category=CATEGORY,
            description="How often each noise level is trained, from 0 (clean: fine detail) to 1 (noise: layout).",
            search_aliases=["timestep sampling", "sigma distribution", "logit normal", "flux shift", "timestep bias"],
            inputs=[
                io.Combo.Input("distribution", options=["logit-normal", "uniform", "mode", "cosmap", "beta", "curve"],
                               default="logit-normal",
                               tooltip="logit-normal: most in the middle (SD3, Flux). uniform: all alike (SDXL, SD 1.5). mode, cosmap: "
                               "SD3's. beta: by alpha and beta. curve: by the numbers below."),
                io.Float.Input("shift", default=1.0, min=0.05, max=20.0, step=0.05,
                               tooltip="Above 1 trains layout more, below 1 detail; 3 is usual for flow models at 1024 px."),
                io.Boolean.Input("flux_shift", default=False, tooltip="Shifts further with the picture's size, as Flux samples."),
                io.Float.Input("minimum", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True, tooltip="The smallest level."),
                io.Float.Input("maximum", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True, tooltip="The largest level."),
                io.Float.Input("mean", default=0.0, min=-10.0, max=10.0, step=0.1, advanced=True, tooltip="Of logit-normal."),
                io.Float.Input("std", default=1.0, min=0.01, max=10.0, step=0.1, advanced=True, tooltip="Of logit-normal."),
                io.Float.Input("scale", default=1.29, min=-1.0, max=1.75, step=0.01, advanced=True, tooltip="Of mode."),
                io.Float.Input("alpha", default=1.0, min=0.01, max=100.0, step=0.1, advanced=True, tooltip="Of beta."),
                io.Float.Input("beta", default=1.0, min=0.01, max=100.0, step=0.1, advanced=True, tooltip="Of beta."),
                io.String.Input("curve", default="1, 1", advanced=True,
                                tooltip="Of curve: how often, at equal distances from level 0 to level 1; '0, 1, 0' is a triangle."),
            ],
            outputs=[types.Noise.Output(display_name="noise levels")],
        )

    @classmethod
    def execute(cls, distribution: str, shift: float, flux_shift: bool, minimum: float, maximum: float, mean: float, std: float,
                scale: float, alpha: float, beta: float, curve: str) -> io.NodeOutput:
        from ..trainer.noise import NoiseLevels
        from ..trainer.numbers import numbers

        return io.NodeOutput(NoiseLevels(
            distribution=distribution, shift=shift, flux_shift=flux_shift, minimum=minimum, maximum=maximum, mean=mean, std=std,
            scale=scale, alpha=alpha, beta=beta, curve=numbers(curve, "noise curve is", "0, 1, 0")))
