"""Every preset against the tool that it is named after: same tokens, same embeddings, same output of the same model."""
from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.text_encoders import pixart_t5
from pack.host.demo_model import load_diffusion_model, load_text_encoders, read_weights
from pack.host.folders import DEMO_MODEL
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from torch import Tensor

from . import regimes

TOLERANCE, GUIDANCE = 1e-5, 3.5
COLOURS = ("red", "green", "blue", "grey", "pink", "gold", "black", "white")
SHAPES = ("star", "moon", "tree", "boat", "bird", "house", "stone", "chair", "lamp", "river")
WORDS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
PROMPTS = {
    "blank": "",
    "a caption": "a red star on the left, plain grey background",
    "longer than OneTrainer's 77": ", ".join(WORDS[:40]),
    "longer than ComfyUI's 256": ", ".join(WORDS * 2),
    "longer than 512": ", ".join(WORDS * 4),
}


@pytest.fixture(scope="module", autouse=True)
def forget_models() -> Iterator[None]:
    yield
    for loader in (encoders, diffusion_model):
        loader.cache_clear()


@cache
def encoders(kind: str) -> comfy.sd.CLIP:
    if kind == "flux":
        return load_text_encoders(DEMO_MODEL)
    # As ComfyUI's loader makes it for CLIPType.CHROMA, which tells T5-XXL from other T5 by sizes that the demo model does not have.
    target = SimpleNamespace(clip=pixart_t5.pixart_te(), tokenizer=pixart_t5.PixArtTokenizer, params={})
    return comfy.sd.CLIP(target, state_dict=[read_weights(DEMO_MODEL, "t5xxl")],
                         model_options={"t5xxl_model_config": regimes.sizes()["t5xxl"]})


@cache
def diffusion_model() -> ModelPatcher:
    return load_diffusion_model(DEMO_MODEL)


def noisy_latent() -> tuple[Tensor, Tensor]:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.7])


def host_prediction(cond_BTD: Tensor, extra: dict[str, Any], **options: Any) -> Tensor:
    """By way of ComfyUI's own extra_conds, as its samplers go."""
    patcher, (latent, sigma) = diffusion_model(), noisy_latent()
    comfy.model_management.load_models_gpu([patcher])
    known = {key: value for key, value in extra.items() if value is not None}
    conds = patcher.model.extra_conds(cross_attn=cond_BTD, noise=latent, device=latent.device, guidance=GUIDANCE, **known)
    return patcher.model.apply_model(latent, sigma, **{key: cond.cond for key, cond in conds.items()},
                                     transformer_options={"sample_sigmas": torch.tensor([1.0, 0.0]), **options})


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@torch.no_grad()
def compare(tool: str, text: str, **options: Any) -> tuple[float, float, float]:
    """Errors of the T5 embeddings, CLIP-L's pooled embedding and the model's output against `tool`."""
    preset, regime = regimes.REGIMES[tool]
    seen = regime(text)
    clip = encoders("chroma" if preset == "chroma" else "flux")
    ((cond, extra),) = encode_text(clip, text, PRESETS[preset])
    attended = seen.text if seen.mask is None else seen.text[:, seen.mask[0].bool()]
    assert cond.shape == attended.shape
    pooled = torch.zeros(1, 16) if preset == "chroma" else regimes.pooled(text)
    of_pooled = 0.0 if preset == "chroma" else error(extra["pooled_output"], pooled)
    theirs = regimes.prediction(seen, pooled, *noisy_latent(), GUIDANCE)
    return error(cond, attended), of_pooled, error(host_prediction(cond, extra, **options), theirs)


def test_every_preset_that_names_a_tool_is_compared_with_it() -> None:
    assert PRESETS.keys() - {preset for preset, _ in regimes.REGIMES.values()} == {"comfyui-zero", "comfyui-mask"}


# ComfyUI cuts no prompt, and neither does the preset for its Chroma; diffusers cuts at 512.
CASES = [(tool, prompt) for tool in regimes.REGIMES for prompt in PROMPTS if (tool, prompt) != ("Chroma in diffusers", "longer than 512")]


@pytest.mark.parametrize(("tool", "prompt"), CASES)
def test_preset_is_what_its_tool_does(tool: str, prompt: str) -> None:
    assert max(compare(tool, PROMPTS[prompt])) <= TOLERANCE


@pytest.mark.parametrize("preset", ["comfyui-zero", "comfyui-mask"])
@torch.no_grad()
def test_presets_at_the_hosts_own_length_do_the_same_there(preset: str) -> None:
    text = PROMPTS["a caption"]
    ids, mask = regimes.tokens(text, 256)
    zeroed, masked = regimes.Seen(regimes.t5(ids) * mask[..., None]), regimes.Seen(regimes.t5(ids), mask, additive=True)
    seen = zeroed if preset == "comfyui-zero" else masked
    ((cond, extra),) = encode_text(encoders("flux"), text, PRESETS[preset])
    assert error(cond, seen.text[:, :cond.shape[1]]) <= TOLERANCE
    theirs = regimes.prediction(seen, regimes.pooled(text), *noisy_latent(), GUIDANCE)
    assert error(host_prediction(cond, extra), theirs) <= TOLERANCE


@torch.no_grad()
def test_regimes_differ_by_far_more_than_the_tolerance() -> None:
    """Else the tests above could not fail. Real tokens of a short caption; SimpleTuner and ai-toolkit do the same."""
    text = PROMPTS["a caption"]
    outputs = {preset: regimes.prediction(regime(text), regimes.pooled(text), *noisy_latent(), GUIDANCE)
               for preset, regime in regimes.REGIMES.values()}
    names = list(outputs)
    closest = min(error(outputs[a], outputs[b]) for i, a in enumerate(names) for b in names[:i])
    assert closest > 20 * TOLERANCE
