"""Dropped padding together with what other nodes do, in ComfyUI's sampler: equal to the same graph with the padding masked instead."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from pack.host.set_padding import set_padding
from pack.host.text_padding import PRESETS
from torch import Tensor

import nodes

from .padding_graphs import COMBINATIONS, NEGATIVE, REAL, TOKENS, Graph, controlnet, graph, kontext, prompt, redux, sampled

TOLERANCE = 1e-5
ON_CHROMA = ("two pictures in a batch", "areas", "masked regions", "timestep ranges", "Conditioning Concat", "attention patch",
             "attention output patch", "attention override")


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", list(COMBINATIONS))
def test_dropped_padding_is_masked_padding_in_every_combination(name: str) -> None:
    dropped, masked = (COMBINATIONS[name](graph(whole)) for whole in (False, True))
    result = sampled(dropped)
    assert error(result, sampled(masked)) <= TOLERANCE
    assert error(result, sampled(masked, hide=False)) > 1e-3  # padding that is seen
    assert result.shape[0] > 1 or error(result, sampled(graph(whole=False))) > 1e-3  # without the combination


@pytest.mark.parametrize("name", ON_CHROMA)
def test_the_same_for_chroma(name: str) -> None:
    dropped, masked = (COMBINATIONS[name](graph(whole, "chroma")) for whole in (False, True))
    assert error(sampled(dropped), sampled(masked)) <= TOLERANCE
    assert error(sampled(dropped), sampled(masked, hide=False)) > 1e-3


@pytest.mark.parametrize("name", list(COMBINATIONS))
def test_the_docs_have_a_row_for_every_combination(name: str, root: Path) -> None:
    assert f"\n| {name} |" in (root / "docs" / "text_padding.md").read_text(encoding="utf-8")


def test_a_mask_on_the_model_alone_leaves_the_padding_to_a_controlnet() -> None:
    whole = graph(whole=True)
    seen_by_control = replace(controlnet(replace(whole, hidden=((), ()))), hidden=whole.hidden)
    assert error(sampled(seen_by_control), sampled(controlnet(whole))) > 1e-3


# Prompts of different lengths


def rows_of_passes(made: Graph) -> list[list[int]]:
    """For each call of the model in a step, which prompts it was for: 0 the positive, 1 the negative one."""
    seen: list[list[int]] = []
    patcher = made.patcher.clone()

    def note(executor: Any, *args: Any, **options: Any) -> Any:
        seen.append(sorted(args[-1]["cond_or_uncond"] if isinstance(args[-1], dict) else options["transformer_options"]["cond_or_uncond"]))
        return executor(*args, **options)

    patcher.add_wrapper(WrappersMP.DIFFUSION_MODEL, note)
    sampled(replace(made, patcher=patcher))
    return sorted(seen)


def test_prompts_of_one_length_share_a_forward_pass_and_others_have_one_each() -> None:
    assert rows_of_passes(graph(whole=True)) == [[0, 1], [0, 1]]
    assert rows_of_passes(graph(whole=False)) == [[0], [0], [1], [1]]
    equal = replace(graph(whole=False), negative=prompt(REAL, False, 5))
    assert rows_of_passes(equal) == [[0, 1], [0, 1]]


def test_guidance_is_that_of_two_separate_passes() -> None:
    """One step from noise at sigma 1 to 0, where the sampler's result is what guidance makes of two predictions."""
    made, noise = graph(whole=False), torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def denoised(positive: list[Any], negative: list[Any], cfg: float) -> Tensor:
        with torch.inference_mode():
            return comfy.sample.sample(made.patcher, noise, 1, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=0,
                                       disable_pbar=True)

    alone = [denoised(cond, cond, 1.0) for cond in (made.positive, made.negative)]
    assert error(denoised(made.positive, made.negative, 3.0), alone[1] + 3.0 * (alone[0] - alone[1])) <= TOLERANCE
    assert error(alone[0], alone[1]) > 1e-3


# What ComfyUI or its nodes do not allow, with padding or without


@pytest.mark.parametrize("whole", [False, True], ids=["dropped", "whole"])
def test_an_attention_bias_of_redux_does_not_fit_reference_latents(whole: bool) -> None:
    """Its mask is as wide as text and picture; the reference latents are more keys."""
    made = redux(0.4, "attn_bias")(kontext(graph(whole)))
    with pytest.raises(RuntimeError):
        sampled(made, hide=False)


def test_averaged_prompts_of_different_lengths_lose_words_or_gain_zeros() -> None:
    """Conditioning Average keeps the length of its first prompt; padding used to stand where words are missing."""
    average = nodes.ConditioningAverage().addWeighted
    long, short = prompt(REAL, False, 1), prompt(NEGATIVE, False, 5)
    ((kept, _),), ((cut, _),) = average(long, short, 0.25)[0], average(short, long, 0.25)[0]
    zeros = torch.zeros(1, REAL - NEGATIVE, kept.shape[-1])
    assert torch.allclose(kept, 0.25 * long[0][0] + 0.75 * torch.cat([short[0][0], zeros], dim=1), atol=1e-6)
    assert torch.allclose(cut, 0.25 * short[0][0] + 0.75 * long[0][0][:, :NEGATIVE], atol=1e-6)
    assert cut.shape[1] < REAL < TOKENS


def test_padding_is_set_before_redux_and_not_after_it() -> None:
    plain = redux(1.0, "multiply")(graph(whole=True))
    biased = redux(0.4, "attn_bias")(graph(whole=True))
    with pytest.raises(ValueError, match="another node encoded, mixed or lengthened it"):
        set_padding(plain.positive, PRESETS["comfyui-mask"])
    with pytest.raises(ValueError, match="put Set Text Padding before the node that adds it"):
        set_padding(biased.positive, PRESETS["comfyui-mask"])
