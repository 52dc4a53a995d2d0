"""From cached latents, masks and text to what the trainer eats, through the model's own latent format and extra_conds."""
from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from comfy.conds import CONDConstant, CONDList, CONDRegular
from comfy.model_patcher import ModelPatcher

from ..dataset.cache import CachedExample, TrainingSet
from ..masks.latent_grid import latent_weight
from ..masks.recipe import MaskRecipe, apply_recipe
from ..trainer.example import Example

PIXELS_PER_CELL = 8  # what the host's own sampler assumes when it tells a model the picture's size


def make_examples(patcher: ModelPatcher, training_set: TrainingSet, recipe: MaskRecipe) -> list[Example]:
    """One Example a picture; the recipe is applied here, so that editing it re-encodes nothing."""
    return [make_example(patcher, cached, recipe) for cached in training_set.examples]


def make_example(patcher: ModelPatcher, cached: CachedExample, recipe: MaskRecipe) -> Example:
    latent_BCHW = cached.latent_CHW.clone()[None]
    check_channels(patcher, cached)
    cond = model_cond(patcher, cached, latent_BCHW)
    weight_1HW = latent_weight(apply_recipe(cached.mask_HW[None], recipe), tuple(latent_BCHW.shape[-2:]))[0]
    if latent_BCHW.ndim == 5:
        weight_1HW = weight_1HW[:, None]
    latent = patcher.model.process_latent_in(latent_BCHW)[0].float()
    return Example(cached.name, latent, weight_1HW, cond, tuple(sorted((k, shape_of(v)) for k, v in cond.items())))


def check_channels(patcher: ModelPatcher, cached: CachedExample) -> None:
    expected = patcher.model.latent_format.latent_channels
    if cached.latent_CHW.shape[0] != expected:
        raise ValueError(
            f"{cached.name} was encoded to {cached.latent_CHW.shape[0]} latent channels and {type(patcher.model).__name__} works on "
            f"{expected}; encode the pictures with the VAE that belongs to this model")


def model_cond(patcher: ModelPatcher, cached: CachedExample, latent_BCHW: torch.Tensor) -> dict[str, CONDRegular]:
    """What the sampler would hand the model for this caption and size: one caption a picture, never averaged over a batch."""
    given: dict[str, Any] = {k: v.clone() for k, v in cached.cond.items()}
    height, width = (side * PIXELS_PER_CELL for side in latent_BCHW.shape[-2:])
    conds: Mapping[str, CONDRegular] = patcher.model.extra_conds(
        **given, noise=latent_BCHW, device=torch.device("cpu"), width=width, height=height, prompt_type="positive", latent_image=None,
        denoise_mask=None, seed=0, latent_shapes=[latent_BCHW.shape])
    return {k: v.process_cond(batch_size=1, area=None) for k, v in conds.items()}


def shape_of(cond: CONDRegular) -> Hashable:
    """Equal for conds that the host can stack: by shape, and constants by value."""
    if isinstance(cond, CONDConstant):
        return repr(cond.cond)
    if isinstance(cond, CONDList):
        return repr([tuple(c.shape) for c in cond.cond])
    return repr(tuple(cond.cond.shape))
