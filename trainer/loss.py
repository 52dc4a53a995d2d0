"""The masked loss. It is a ratio, so numerators are summed over the step's images and divided once.

Formulas of the tools it matches (B images, e = error, w = weight, sums over an image's pixels and channels):
STEP   sum_b sum(e w) / sum_b sum(w)          ai-toolkit (mean-one), blissful-tuner's masked branch (weighted_mean)
IMAGE  1/B sum_b [ sum(e w) / sum(w) ]        OneTrainer with normalize_masked_area_loss
NONE   1/B sum_b mean(e w)                    sd-scripts, diffusion-pipe, FluxTrainer, SimpleTuner (mask)
The same sums over the complement hold the model to its base (PriorSpec), with denominators of their own:
STEP   blissful-tuner's prior branch     IMAGE  OneTrainer's prior, normalized, and ai-toolkit's inverted mask prior done per image
NONE   OneTrainer's prior
An all-black mask has a numerator of zero and teaches nothing in any mode; an all-white mask gives the plain mean in all.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .config import Normalization


def image_scales(weights_1HW: Sequence[Tensor], normalization: Normalization, damping: float = 0.0) -> Tensor:
    """Factor (B,) float64 that turns each image's `mean(e w)` over all its pixels into its share of the step's loss.

    damping: b in (mean weight)**b, of the step or of the image, by which STEP and IMAGE are multiplied; 0 is 1, also for black.

    Weights (1, [T,] H, W) have the size of their latents, and images of a step may differ in size. A zero denominator gives a
    factor of zero, never a division by it.
    """
    mean_B = torch.stack([w.double().mean() for w in weights_1HW])
    pixels_B = torch.tensor([float(w.numel()) for w in weights_1HW], dtype=torch.float64)
    if normalization is Normalization.NONE:
        return torch.full_like(mean_B, 1 / len(weights_1HW))
    if normalization is Normalization.IMAGE:
        return torch.where(mean_B > 0, mean_B.clamp(min=torch.finfo(torch.float64).tiny) ** (damping - 1), 0.0) / len(weights_1HW)
    total = (mean_B * pixels_B).sum()
    return pixels_B / total * (total / pixels_B.sum()) ** damping if total > 0 else torch.zeros_like(mean_B)


def masked_mean(error_BCHW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """`mean(e w)` of each image over all its channels and pixels, (B,)."""
    return (error_BCHW * weight_B1HW).flatten(1).mean(1)
