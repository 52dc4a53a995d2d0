"""Attention to words: against the host's own attention with the identity for values, at places that are found by changing one word or
one part of the picture; on the demo model against the masks of drawn scenes.
"""
from __future__ import annotations

import copy
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import cv2
import numpy as np
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.host import attention_masks as module
from pack.host import attention_watch
from pack.host.architectures import PROVEN
from pack.host.attention_layout import FAMILIES
from pack.host.attention_masks import Looks, Question, attention_masks, attention_to_words, parse_blocks, report_of
from pack.host.drift import borrow_for_prediction
from pack.host.examples import model_cond
from pack.host.progress import Progress
from pack.masks.word_map import ALONE, BESIDE, OTSU
from pack.trainer.seeds import generator
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .server import Comfy
from .tiny import ARCHITECTURES, Architecture, tiny_patcher
from .watched import demo_models

WORDS = 7
Models = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


@pytest.fixture(scope="module")
def models() -> Models:
    return demo_models()


@dataclass
class Call:
    """One attention as the host was asked for it."""

    q: Tensor
    k: Tensor
    heads: int
    mask: Tensor | None
    options: dict[str, Any]

    def weights(self) -> Tensor:
        """(queries, keys): what PyTorch's attention makes of the identity for values, the mean over heads."""
        split = self.options.get("skip_reshape", False)
        width = self.q.shape[-1] // (1 if split else self.heads)
        q, k = self.q, self.k
        if not split:
            q, k = (x.reshape(1, x.shape[1], -1, width).movedim(1, 2) for x in (q, k))
        mask = self.mask if self.mask is None or self.mask.ndim != 3 else self.mask[:, None]
        identity = torch.eye(k.shape[2]).expand(*k.shape[:3], -1)
        return scaled_dot_product_attention(q, k, identity, mask, scale=self.options.get("scale"), enable_gqa=True)[0].mean(0)


@dataclass
class Recorder:
    calls: list[Call] = field(default_factory=list)

    def __call__(self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
                 **options: Any) -> Tensor:
        if len(q) == 1:
            kept = {name: options[name] for name in ("skip_reshape", "scale") if name in options}
            self.calls.append(Call(q.clone(), k.clone(), heads, mask, kept))
        return function(q, k, v, heads, mask, **options)


def calls_of(patcher: ModelPatcher, cond: dict[str, Tensor], latent: Tensor, level: float, seed: int) -> list[Call]:
    """The attentions of one look, as the host runs it."""
    latent = patcher.model.process_latent_in(latent.clone())
    told, recorder = model_cond(patcher, cond, latent), Recorder()
    noise = torch.randn(latent.shape, generator=generator(seed, "attention noise", 0))
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        sigma = model.sigma(torch.full((1,), level)).float()
        model.transformer_options = {**model.transformer_options, "optimized_attention_override": recorder}
        model(model.add_noise(latent, noise, sigma), sigma, [told])
    return recorder.calls


def picture_and_text(arch: Architecture, tokens: int = WORDS) -> tuple[Tensor, dict[str, Tensor]]:
    """A latent of one frame that is wider than high, and a caption."""
    draws = torch.Generator().manual_seed(3)
    channels, *_, side = arch.latent
    frames = (1,) * (len(arch.latent) - 3)
    return torch.randn(1, channels, *frames, side, side * 3 // 2, generator=draws), arch.cond(tokens, draws)


def only_passing_on(patcher: ModelPatcher) -> None:
    """Blocks that mix words with words, or parts of the picture, before the two meet hand on what they are given."""
    with torch.no_grad():
        for name, weight in patcher.model.diffusion_model.named_parameters():
            if "refiner" in name and any(last in name for last in (".out.", "to_out", "feed_forward.w2", "linear_2")):
                weight.zero_()


def most_changed(one: Tensor, other: Tensor) -> int:
    """The token, (1, [H,] L, D), that differs most."""
    difference = (one - other).square().sum(-1)
    return int(difference.reshape(-1, difference.shape[-1]).sum(0).argmax())


def is_joint(call: Call) -> bool:
    return call.q.shape[-2] == call.k.shape[-2]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_is_that_of_the_host_at_the_places_of_words_and_picture(name: str) -> None:
    patcher, arch = tiny_patcher(name)
    only_passing_on(patcher)
    latent, cond = picture_and_text(arch)
    found, = attention_to_words(patcher, cond, [latent], Looks(level=0.6, draws=1, seed=5), Progress(None))
    calls = calls_of(patcher, cond, latent, 0.6, 5)
    cross = [call for call in calls if not is_joint(call) and call.k.shape[-2] == WORDS]
    length = max(call.q.shape[-2] for call in calls)
    asked = cross or [call for call in calls if call.q.shape[-2] == length and is_joint(call)]
    columns = found.shape[2]
    patch = latent.shape[-1] // columns

    # Where the words are: the keys of the first such attention that change with one embedding.
    first = next(i for i, call in enumerate(calls) if call is asked[0])
    for word in (0, 4, WORDS - 1):
        other = {**cond, "cross_attn": cond["cross_attn"].clone()}
        other["cross_attn"][:, word] *= -1.5
        start = most_changed(asked[0].k, calls_of(patcher, other, latent, 0.6, 5)[first].k) - word
        assert start >= 0
        words = slice(start, start + WORDS) if word == 0 else words
        assert start == words.start
    # Where the picture is: the queries that change with one part of it. A U-Net's convolutions mix its parts before.
    start = 0
    for row, column in ((0, 0), (2, 1), (1, columns - 1)) if name not in ("sdxl", "sd15") else ():
        other_latent = latent.clone()
        other_latent[..., row * patch:(row + 1) * patch, column * patch:(column + 1) * patch] *= -2
        at = most_changed(asked[0].q, calls_of(patcher, cond, other_latent, 0.6, 5)[first].q) - row * columns - column
        start = at if row == 0 else start
        assert at == start >= 0

    assert found.shape == (WORDS, *found.shape[1:])
    expected = torch.zeros_like(found)
    for call in asked:
        per_word = call.weights()[:, words].T
        cells = len(per_word.T) if cross else found[0].numel()
        rows = round((cells * found.shape[1] / columns) ** 0.5)
        maps = per_word[:, start:start + cells].reshape(WORDS, rows, -1)
        expected += torch.stack([torch.from_numpy(cv2.resize(one.numpy(), (columns, found.shape[1]), interpolation=cv2.INTER_LINEAR))
                                 for one in maps]) / len(asked)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.shape[2] == found.shape[1] * 3 // 2
