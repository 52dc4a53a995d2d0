"""How much a LoRA changes what the model predicts, where the mask learns and where it does not."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..dataset.cache import TrainingSet
from ..masks.change import Change, weighted_sums
from ..masks.recipe import MaskRecipe
from ..trainer.example import Example
from ..trainer.seeds import generator
from .denoiser import ComfyDenoiser, raw_denoiser
from .examples import Examples
from .lora_loading import put_on

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)  # from fine detail to layout


@contextmanager
def borrow_for_prediction(patcher: ModelPatcher) -> Iterator[ComfyDenoiser]:
    """The model as a raw predictor, given back afterwards."""
    borrowed, denoiser = raw_denoiser(patcher)
    try:
        comfy.model_management.load_models_gpu([borrowed])
        yield denoiser
    finally:
        comfy.model_management.unload_model_and_clones(borrowed)


def measure_drift(patcher: ModelPatcher, lora: Mapping[str, Tensor], training_set: TrainingSet, recipe: MaskRecipe, seed: int) -> Change:
    """Compare predictions on noise that training never drew, with the LoRA as Load LoRA (matched) puts it on."""
    examples = Examples(patcher, training_set, recipe)
    squares = squared_drift(patcher, lora, examples, seed, range(len(examples)))
    return Change.of([weighted_sums(square, examples[i].weight_1HW[0]) for i, square in enumerate(squares)])


def squared_drift(patcher: ModelPatcher, lora: Mapping[str, Tensor], examples: Sequence[Example], seed: int, which: Sequence[int],
                  predicted: Callable[[int], None] = lambda count: None) -> list[Tensor]:
    """For each of the examples `which` the squared change of every latent cell, ([T,] H, W), float64 on the CPU: the mean over
    noise levels and channels of (adapted - base)^2. `predicted` is told how many of the 2 * len(which) looks are done.

    Of the LoRA only the part on the diffusion model. Raises ValueError where it has none for this one.
    """
    adapted = put_on(patcher, None, lora, 1.0, 0.0).model
    count = len(which)
    with torch.no_grad():
        after = predictions(adapted, examples, seed, which, predicted)
        before = predictions(patcher, examples, seed, which, lambda done: predicted(count + done))
    return [(a.double() - b.double()).square().mean((0, 1)) for a, b in zip(after, before, strict=True)]


def predictions(patcher: ModelPatcher, examples: Sequence[Example], seed: int, which: Sequence[int],
                predicted: Callable[[int], None]) -> list[Tensor]:
    """For each of the examples `which` the predictions (levels, C, [T,] H, W) on the CPU. The noise is the example's own."""
    out = []
    with borrow_for_prediction(patcher) as model:
        for done, i in enumerate(which):
            predicted(done)
            example = examples[i]
            latent = example.latent_CHW[None].to(patcher.load_device)
            noise = torch.randn(latent.shape, generator=generator(seed, "held-out noise", i)).to(latent)
            levels = [model.sigma(torch.full((1,), level)).to(latent) for level in LEVELS]
            out.append(torch.cat([model(model.add_noise(latent, noise, s), s, [example.cond]) for s in levels]).float().cpu())
    return out
