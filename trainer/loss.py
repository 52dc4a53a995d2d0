"""The masked loss. It is a ratio, so numerators are summed over the step's images and divided once.

Formulas of the tools it matches (B images, e = error, w = weight, sums over an image's pixels and channels):
STEP   sum_b sum(e w) / sum_b sum(w)          ai-toolkit (mean-one), blissful-tuner's masked branch (weighted_mean)
IMAGE  1/B sum_b [ sum(e w) / sum(w) ]        OneTrainer with normalize_masked_area_loss
NONE   1/B sum_b mean(e w)                    sd-scripts, diffusion-pipe, FluxTrainer, SimpleTuner (mask)
An all-black mask has a numerator of zero and teaches nothing in any mode; an all-white mask gives the plain mean in all.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import Normalization


def image_scales(weights_1HW: Sequence[Tensor], normalization: Normalization) -> Tensor:
    """Factor (B,) float64 that turns each image's `mean(e w)` over all its pixels into its share of the step's loss.

    Weights (1, [T,] H, W) have the size of their latents, and images of a step may differ in size. A zero denominator gives a
    factor of zero, never a division by it.
    """
    mean_B = torch.stack([w.double().mean() for w in weights_1HW])
    pixels_B = torch.tensor([float(w.numel()) for w in weights_1HW], dtype=torch.float64)
    if normalization is Normalization.NONE:
        return torch.full_like(mean_B, 1 / len(weights_1HW))
    if normalization is Normalization.IMAGE:
        return torch.where(mean_B > 0, 1 / mean_B.clamp(min=torch.finfo(torch.float64).tiny), 0.0) / len(weights_1HW)
    total = (mean_B * pixels_B).sum()
    return pixels_B / total if total > 0 else torch.zeros_like(mean_B)


def masked_mean(error_BCHW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """`mean(e w)` of each image over all its channels and pixels, (B,)."""
    return (error_BCHW * weight_B1HW).flatten(1).mean(1)
