"""A ComfyUI model seen as trainer.Denoiser: raw predictions, and the noise schedule of its own model_sampling object."""
from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_sampling
import torch
from comfy.conds import CONDRegular as COND
from comfy.model_patcher import ModelPatcher
from comfy.samplers import cond_cat
from torch import Tensor, nn

Conds = Mapping[str, COND]


class ComfyDenoiser:
    """Calls `patcher.model` as the sampler does; `raw_denoiser` makes one whose result is the network's raw output.

    Raises ValueError for a model whose noise schedule the trainer cannot follow.
    """

    def __init__(self, patcher: ModelPatcher) -> None:
        self.model = patcher.model
        self.sampling = patcher.get_model_object("model_sampling")
        require_affine(self.sampling, type(self.model).__name__)
        options = patcher.model_options.get("transformer_options", {})
        # SDPA has a backward; sage and flash attention, which the host may have been started with, have none.
        self.gradient_scale = 1.0  # what gradients are multiplied by on their way into the network
        self.transformer_options = {**options, "optimized_attention_override": differentiable_attention,
                                    "sample_sigmas": torch.tensor([1.0, 0.0])}

    def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Sequence[Conds | Callable[[], Conds]]) -> Tensor:
        """A cond that is a function is made anew for this call."""
        told = cond_cat([cond() if callable(cond) else cond for cond in conds], noisy_BCHW.device)
        options = {**self.transformer_options, "sigmas": sigma_B.detach(), "cond_or_uncond": [0]}
        # `raw_denoiser` has replaced calculate_denoised, so this is the prediction and not x0.
        prediction: Tensor = self.model.apply_model(noisy_BCHW, sigma_B, transformer_options=options, **told)
        if prediction.requires_grad and self.gradient_scale != 1:
            prediction.register_hook(lambda grad: grad * self.gradient_scale)
        return prediction

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        noisy: Tensor = self.sampling.noise_scaling(sigma_B, noise_BCHW, latent_BCHW)
        if isinstance(self.sampling, comfy.model_sampling.V_PREDICTION_DDPM):
            # CogVideoX is told x_t of unit variance (its own docstring), and noise_scaling leaves that out.
            noisy = noisy / (1 + comfy.model_sampling.reshape_sigma(sigma_B, noisy.ndim).square()).sqrt()
        return noisy

    def target(self, latent_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        """The prediction from which the host's own `calculate_denoised` would get the clean latent.

        That is the noise for eps, the velocity for v and flow, and follows whatever a node has put in model_sampling's place.
        """
        # Low noise divides by a small sigma: in float64, which Apple's GPUs do not have.
        precise = torch.float32 if latent_BCHW.device.type == "mps" else torch.float64
        latent, noise, sigma = latent_BCHW.to(precise), noise_BCHW.to(precise), sigma_B.to(precise)
        noisy = self.add_noise(latent, noise, sigma)
        offset = self.sampling.calculate_denoised(sigma, torch.zeros_like(noisy), noisy)
        slope = self.sampling.calculate_denoised(sigma, torch.ones_like(noisy), noisy) - offset
        target: Tensor = ((latent - offset) / slope).to(latent_BCHW)
        return target

    @property
    def prediction(self) -> str:
        return prediction_name(self.sampling)

    def snr(self, sigma_B: Tensor) -> Tensor:
        if isinstance(self.sampling, comfy.model_sampling.CONST):
            return ((1 - sigma_B) / (sigma_B * getattr(self.sampling, "noise_scale", 1.0))).square()
        return sigma_B**-2

    def gain(self, sigma_B: Tensor) -> Tensor:
        flat = torch.zeros(len(sigma_B), 1, 1, 1, dtype=sigma_B.dtype)
        step = self.sampling.calculate_denoised(sigma_B, flat + 1, flat) - self.sampling.calculate_denoised(sigma_B, flat, flat)
        gain: Tensor = step.flatten().abs()
        return gain

    def sigma(self, level_B: Tensor) -> Tensor:
        """Flow matching mixes data and noise by the level itself; other schedules are tables of sigma, the level is a place in it."""
        if isinstance(self.sampling, comfy.model_sampling.CONST):
            return level_B
        table: Tensor = self.sampling.sigmas
        return table.cpu()[(level_B * len(table)).long().clamp(0, len(table) - 1)]


def prediction_name(sampling: nn.Module) -> str:
    """What a network predicts under this model_sampling object: flow, eps, v, v_ddpm, edm, x0, or the class's own name."""
    kinds = comfy.model_sampling
    names = ((kinds.V_PREDICTION_DDPM, "v_ddpm"), (kinds.EDM, "edm"), (kinds.V_PREDICTION, "v"), (kinds.X0, "x0"), (kinds.CONST, "flow"),
             (kinds.COSMOS_RFLOW, "cosmos_flow"), (kinds.EPS, "eps"))  # subclasses before their bases
    return next((name for kind, name in names if isinstance(sampling, kind)), type(sampling).__name__)


def require_affine(sampling: nn.Module, model: str) -> None:
    """Raises ValueError where the clean latent is no straight-line function of the prediction, so that no target can be told from it."""
    sigma, noisy = sampling.sigma_max.detach().double().cpu().reshape(1) / 2, torch.ones(1, 1, 1, 1, dtype=torch.float64)
    at = [sampling.calculate_denoised(sigma, noisy * value, noisy) for value in (0.0, 1.0, 2.0)]
    straight, moves = torch.allclose(at[2] - at[1], at[1] - at[0], rtol=1e-5), bool((at[1] != at[0]).all())
    if not (straight and moves):
        raise ValueError(f"{model} is sampled by {type(sampling).__name__} ({prediction_name(sampling)}), from which no training target "
                         "can be told; remove the node that patches its model sampling")


def differentiable_attention(func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """ComfyUI's `optimized_attention_override`: PyTorch's attention whatever backend the host was started with."""
    out: Tensor = comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
    return out


def raw_denoiser(patcher: ModelPatcher) -> tuple[ModelPatcher, ComfyDenoiser]:
    """A clone of `patcher` that predicts raw once it is loaded, and it as a denoiser; `patcher` and its model stay untouched."""
    borrowed = patcher.clone()
    denoiser = ComfyDenoiser(borrowed)
    borrowed.add_object_patch("model_sampling", raw_prediction(denoiser.sampling))
    return borrowed, denoiser


def raw_prediction(sampling: nn.Module) -> nn.Module:
    """A copy of a model_sampling object whose `calculate_denoised` hands the network's output through."""
    raw = copy.copy(sampling)
    raw.calculate_denoised = lambda sigma, model_output, model_input: model_output
    return raw
