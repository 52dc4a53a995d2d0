"""How much a LoRA changes what the model predicts, where the mask learns and where it does not."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..dataset.cache import TrainingSet
from ..masks.recipe import MaskRecipe
from ..trainer.example import Example
from ..trainer.seeds import generator
from .denoiser import ComfyDenoiser, raw_denoiser
from .examples import Examples

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)  # from fine detail to layout


@dataclass(frozen=True, slots=True)
class Drift:
    """Root mean square of adapted minus base prediction, per latent value, weighted by the mask and by its complement."""

    inside: float
    outside: float


@contextmanager
def borrow_for_prediction(patcher: ModelPatcher) -> Iterator[ComfyDenoiser]:
    """The model as a raw predictor, given back afterwards."""
    borrowed, denoiser = raw_denoiser(patcher)
    try:
        comfy.model_management.load_models_gpu([borrowed])
        yield denoiser
    finally:
        comfy.model_management.unload_model_and_clones(borrowed)


def measure_drift(patcher: ModelPatcher, lora: Mapping[str, Tensor], training_set: TrainingSet, recipe: MaskRecipe, seed: int) -> Drift:
    """Compare predictions on noise that training never drew, with the LoRA as the host itself loads it."""
    examples = Examples(patcher, training_set, recipe)
    adapted, _ = comfy.sd.load_lora_for_models(patcher, None, dict(lora), 1.0, 0.0)
    with torch.no_grad():
        difference = [a - b for a, b in zip(predictions(adapted, examples, seed), predictions(patcher, examples, seed), strict=True)]
    squares = torch.zeros(2, 2, dtype=torch.float64)  # (inside, outside) x (sum of squares, weight)
    for d_BCHW, example in zip(difference, examples, strict=True):
        inside = example.weight_1HW.double()
        for row, weight in enumerate((inside, 1 - inside)):
            squares[row] += torch.stack([(d_BCHW.double().square().mean(1) * weight).sum(), weight.sum() * len(d_BCHW)])
    root = (squares[:, 0] / squares[:, 1].clamp(min=1e-12)).sqrt()
    return Drift(root[0].item(), root[1].item())


def predictions(patcher: ModelPatcher, examples: Sequence[Example], seed: int) -> list[Tensor]:
    """For each example the predictions (levels, C, H, W) on the CPU."""
    out = []
    with borrow_for_prediction(patcher) as model:
        for i, example in enumerate(examples):
            latent = example.latent_CHW[None].to(patcher.load_device)
            noise = torch.randn(latent.shape, generator=generator(seed, "held-out noise", i)).to(latent)
            levels = [model.sigma(torch.full((1,), level)).to(latent) for level in LEVELS]
            out.append(torch.cat([model(model.add_noise(latent, noise, s), s, [example.cond]) for s in levels]).float().cpu())
    return out
