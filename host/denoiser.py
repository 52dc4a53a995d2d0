"""A ComfyUI model seen as trainer.Denoiser: raw predictions, and the noise schedule of its own model_sampling object."""
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_sampling
import torch
from comfy.conds import CONDRegular as COND
from comfy.model_patcher import ModelPatcher
from comfy.samplers import cond_cat
from torch import Tensor, nn


class ComfyDenoiser:
    """Calls `patcher.model` as the sampler does; `raw_denoiser` makes one whose result is the network's raw output.

    Raises ValueError for a model whose noise schedule the trainer cannot follow.
    """

    def __init__(self, patcher: ModelPatcher, shift: float) -> None:
        self.model, self.shift = patcher.model, shift
        self.sampling = patcher.get_model_object("model_sampling")
        if not isinstance(self.sampling, comfy.model_sampling.CONST):
            raise ValueError(
                f"{type(self.model).__name__} predicts {self.model.model_type.name}, and this version trains flow-matching models "
                "only (Flux, Chroma, SD3, Wan, HunyuanVideo, Qwen-Image, Z-Image)")
        options = patcher.model_options.get("transformer_options", {})
        # SDPA has a backward; sage and flash attention, which the host may have been started with, have none.
        self.transformer_options = {**options, "optimized_attention_override": differentiable_attention,
                                    "sample_sigmas": torch.tensor([1.0, 0.0])}

    def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Sequence[Mapping[str, COND]]) -> Tensor:
        options = {**self.transformer_options, "sigmas": sigma_B.detach(), "cond_or_uncond": [0]}
        # `raw_denoiser` has replaced calculate_denoised, so this is the prediction and not x0.
        prediction: Tensor = self.model.apply_model(noisy_BCHW, sigma_B, transformer_options=options, **cond_cat(conds, noisy_BCHW.device))
        return prediction

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        noisy: Tensor = self.sampling.noise_scaling(sigma_B, noise_BCHW, latent_BCHW)
        return noisy

    def target(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Rectified flow: the velocity from data to noise."""
        return noise_BCHW * getattr(self.sampling, "noise_scale", 1.0) - latent_BCHW

    def sigma(self, normal_B: Tensor) -> Tensor:
        """Logit-normal levels (SD3, arXiv 2403.03206 section 3.1), moved towards noise by `shift` (1 = unshifted)."""
        level = normal_B.sigmoid()
        return self.shift * level / (1 + (self.shift - 1) * level)


def differentiable_attention(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """ComfyUI's `optimized_attention_override`: PyTorch's attention whatever backend the host was started with."""
    out: Tensor = comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
    return out


def raw_denoiser(patcher: ModelPatcher, shift: float) -> tuple[ModelPatcher, ComfyDenoiser]:
    """A clone of `patcher` that predicts raw once it is loaded, and it as a denoiser; `patcher` and its model stay untouched."""
    borrowed = patcher.clone()
    denoiser = ComfyDenoiser(borrowed, shift)
    borrowed.add_object_patch("model_sampling", raw_prediction(denoiser.sampling))
    return borrowed, denoiser


def raw_prediction(sampling: nn.Module) -> nn.Module:
    """A copy of a model_sampling object whose `calculate_denoised` hands the network's output through."""
    raw = copy.copy(sampling)
    raw.calculate_denoised = lambda sigma, model_output, model_input: model_output
    return raw
