"""Looks into a model's attention while it predicts: how much each part of a picture attends to each word.

Shapes: H heads, Q queries, K keys, D width of a head, N picture tokens, T text tokens, h rows and w columns of picture tokens.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor
from torch.nn.functional import interpolate

from .attention_layout import Layout

AT_ONCE = 2**24  # numbers of an attention matrix that are in memory at once, 64 MiB


@dataclass(slots=True, eq=False)
class AttentionWatch:
    """ComfyUI's `optimized_attention_override`: attention as ever, by PyTorch, and beside it the weights of the words.

    `blocks`: which attentions between picture and words are kept, counted from 0 in one pass; empty is all. `passed` counts those of
    the pass so far. `sums`: by (rows, columns) of picture tokens the (N, T) sum of the weights and how many were added.
    """

    layout: Layout
    blocks: Collection[int] = ()
    passed: int = 0
    sums: dict[tuple[int, int], tuple[Tensor, int]] = field(default_factory=dict)

    def __call__(self, function: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any,
                 skip_reshape: bool = False, **kwargs: Any) -> Tensor:
        seen = None
        if len(q) == 1:
            seen = self.layout.of(q.shape[-2], k.shape[-2], kwargs.get("transformer_options") or {})
        if seen is not None:
            self.passed += 1
            if not self.blocks or self.passed - 1 in self.blocks:
                q_HQD, k_HKD = (of_heads(x, heads, q.shape[-1], skip_reshape) for x in (q, k))
                weights_NT = word_weights(q_HQD, k_HKD, mask, seen.picture, seen.words, kwargs.get("scale"))
                total, count = self.sums.get((seen.rows, seen.columns), (torch.zeros(()), 0))
                self.sums[seen.rows, seen.columns] = total.to(weights_NT) + weights_NT, count + 1
        out: Tensor = attention_pytorch(q, k, v, heads, mask, *args, skip_reshape=skip_reshape, **kwargs)
        return out

    def mean(self) -> Tensor:
        """(T, h, w) float32 on the CPU: the mean over all that was kept, on the finest grid of picture tokens."""
        finest = max(self.sums)
        total = torch.zeros(1, self.layout.words, *finest)
        for (rows, columns), (sum_NT, _) in self.sums.items():
            maps = sum_NT.float().cpu().T.reshape(1, -1, rows, columns)
            total += maps if (rows, columns) == finest else interpolate(maps, finest, mode="bilinear")
        return total[0] / sum(count for _, count in self.sums.values())


def of_heads(x: Tensor, heads: int, width: int, split: bool) -> Tensor:
    """(H, L, D) of what attention is called with; `width`: of the queries, which with grouped heads are wider than the keys."""
    return x[0] if split else x[0].unflatten(-1, (-1, width // heads)).transpose(0, 1)


def word_weights(q_HQD: Tensor, k_HKD: Tensor, mask: Tensor | None, picture: slice, words: slice, scale: float | None) -> Tensor:
    """softmax(q k^T) from the picture to the words, (N, T) float32, the mean over heads: the whole matrix is never in memory."""
    heads, keys = len(q_HQD), k_HKD.shape[1]
    scale = q_HQD.shape[-1] ** -0.5 if scale is None else scale
    asking = range(*picture.indices(q_HQD.shape[1]))
    summed = torch.zeros(len(asking), words.stop - words.start, device=q_HQD.device)
    step = max(1, AT_ONCE // keys)
    mask_HQK = None if mask is None else additive(mask).expand(heads, q_HQD.shape[1], keys)
    for head in range(heads):
        key_KD = k_HKD[head * len(k_HKD) // heads].float()
        for at in range(0, len(asking), step):
            rows = slice(asking[at], asking[at] + min(step, len(asking) - at))
            score_QK = q_HQD[head, rows].float() @ key_KD.T * scale
            if mask_HQK is not None:
                score_QK += mask_HQK[head, rows]
            summed[at:at + len(score_QK)] += score_QK.softmax(-1)[:, words]
    return summed / heads


def additive(mask: Tensor) -> Tensor:
    """One, two, three or four dimensions of ([B, [H,]] Q, K) for the first of the batch, as numbers to add."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
    if mask.ndim == 4:
        return mask[0].float()
    return mask[0].float() if mask.ndim == 3 else mask.float()

