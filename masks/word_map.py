"""What a model's attention to the words of a prompt says about a picture: a map of one word, and how it fits a mask. White = learn.

Shapes: T text tokens, h rows and w columns of picture tokens, H height, W width in pixels, C channels.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .canvas import Pixels, to_picture
from .heat_map import colours, outlined

Words = Mapping[str, Sequence[int]]  # for each word of the prompt, its tokens
MAPS = BESIDE, ALONE = "beside other words", "attention alone"
EDGES = SOFT, OTSU = "soft", "Otsu"
STRENGTH = 0.6  # of the colours over the picture


def word_map(attention_Thw: Tensor, places: Sequence[int], words: Words, kind: str) -> Tensor:
    """(h, w): the mean attention to the tokens `places`; beside other words: as a share of that to all words.

    Some parts of a picture attend to any word more than others do, so that alone the maps of all words look alike.
    """
    alone_hw = attention_Thw[list(places)].mean(0)
    if kind == ALONE:
        return alone_hw
    beside_hw = sum((attention_Thw[list(found)].mean(0) for found in others(places, words).values()), torch.zeros_like(alone_hw))
    return alone_hw / (alone_hw + beside_hw)


def others(places: Sequence[int], words: Words) -> Words:
    """The words that are no part of `places`."""
    return {word: found for word, found in words.items() if not set(found) <= set(places)}


def require_others(places: Sequence[int], words: Words, kind: str) -> None:
    """Raises ValueError for a prompt of which nothing is left to compare with."""
    if kind == BESIDE and not others(places, words):
        raise ValueError(f"the prompt has no words but {', '.join(words)} to compare with; describe the whole picture in the prompt, or "
                         f"choose the map {ALONE!r}")


@dataclass(frozen=True, slots=True)
class Area:
    """Which pixels a map is of. A picture's latent is cut from its middle, and a map may reach beyond the latent by part of a token.

    picture: height and width in pixels. latent: height and width in cells of `cell` pixels.
    """

    picture: tuple[int, int]
    latent: tuple[int, int]
    cell: int

    def spread(self, map_hw: Tensor) -> Tensor:
        """(H, W) of the picture, smooth between the middles of the tokens; what the latent lacks is as the nearest pixel of it."""
        tokens = [side * math.ceil(cells / side) * self.cell for side, cells in zip(map_hw.shape, self.latent, strict=True)]
        height, width = (cells * self.cell for cells in self.latent)
        known = interpolate(map_hw[None, None], tuple(tokens), mode="bilinear")[..., :height, :width]
        top, left = (self.picture[0] - height) // 2, (self.picture[1] - width) // 2
        edges = (left, self.picture[1] - width - left, top, self.picture[0] - height - top)
        return pad(known, edges, mode="replicate")[0, 0]


def stretched(map_HW: Tensor) -> Tensor:
    """From 0 at the least to 1 at the greatest; a map that is the same everywhere says nothing and becomes 0."""
    low, high = map_HW.min(), map_HW.max()
    return (map_HW - low) / (high - low) if high > low else torch.zeros_like(map_HW)


def otsu(soft_HW: Tensor) -> Tensor:
    """1 where a map of 0 to 1 is above the threshold of Otsu (1979), which parts it into two groups that differ most; else 0."""
    import cv2  # here, so that naming the edges loads nothing heavy

    levels = soft_HW.mul(255).round().byte().numpy()
    return torch.from_numpy(cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]).float()


def inside(map_HW: Tensor, mask_HW: Tensor) -> float:
    """The share of a map that lies in the mask; of a black map 0."""
    return ((map_HW * mask_HW).sum() / map_HW.sum().clamp_min(1e-12)).item()


def overlap(one_HW: Tensor, other_HW: Tensor) -> float:
    """Intersection over union of what is at least 0.5; of nothing with nothing 1."""
    one, other = one_HW >= 0.5, other_HW >= 0.5
    union = (one | other).sum().item()
    return (one & other).sum().item() / union if union else 1.0


def separation(map_HW: Tensor, mask_HW: Tensor) -> float:
    """How often a pixel in the mask has more than one outside (the area under the ROC curve): 1 always, 0.5 by chance. NaN for a mask
    that is all black or all white.
    """
    within = (mask_HW >= 0.5).flatten().numpy()
    _, group, counts = np.unique(map_HW.flatten().numpy(), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[group]  # equal values share the mean of their ranks
    positive = int(within.sum())
    pairs = positive * (within.size - positive)
    return (float(ranks[within].sum()) - positive * (positive + 1) / 2) / pairs if pairs else math.nan


def heat_picture(image_HWC: Tensor, soft_HW: Tensor, mask_HW: Tensor | None) -> Pixels:
    """The picture in grey under the colours of the map, and a light line along the border of the mask."""
    grey = to_picture(image_HWC).convert("L").convert("RGB")
    drawn = Image.blend(grey, Image.fromarray(colours(soft_HW.numpy())), STRENGTH)
    return np.array(drawn if mask_HW is None else outlined(drawn, (mask_HW >= 0.5).numpy()))
