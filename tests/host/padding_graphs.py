"""Graphs for a tiny Flux twice: on prompts without their padding, and on whole prompts of which every attention masks the padding.

What other nodes add to a graph is made by ComfyUI's own nodes, or done as packs of attention patches do it. COMBINATIONS are the rows
of docs/text_padding.md.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import comfy.controlnet
import comfy.ldm.flux.redux
import comfy.sample
import comfy.sd
import comfy.supported_models as supported
import comfy_extras.nodes_edit_model
import torch
import torch.nn.functional as F
from comfy.ldm.flux.controlnet import ControlNetFlux
from comfy.ldm.flux.math import apply_rope
from comfy.ldm.flux.model import Flux
from comfy.model_patcher import ModelPatcher
from pack.host.set_padding import set_padding
from pack.host.text import SPEC_KEY
from pack.host.text_padding import PRESETS
from pack.host.text_tokens import TextTokens
from torch import Tensor, nn

import nodes

from .tiny import KW, Architecture, flux_config, patcher_of, random_weights, tiny_patcher

Conditioning = list[list[Any]]
TOKENS, REAL, NEGATIVE = 20, 6, 3  # as encoded; the words and the end token of the prompt and of the negative prompt
LATENT, WIDTH, POOLED, BLOCKS = (16, 8, 8), 64, 32, 2
HIDDEN = -1e30  # finite, as an attention may multiply it by zero


@dataclass(frozen=True)
class Graph:
    """`whole`: the prompts still have their padding. `hidden`: its places in the positive and in the negative prompt."""

    patcher: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    whole: bool
    hidden: tuple[tuple[int, ...], tuple[int, ...]] = (tuple(range(REAL, TOKENS)), tuple(range(NEGATIVE, TOKENS)))
    batch: int = 1


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt(real: int, whole: bool, seed: int) -> Conditioning:
    """As Text Encode (padding mode) gives it with `comfyui`; without its padding by way of Set Text Padding."""
    text = random(1, TOKENS, WIDTH, seed=seed)
    carried = TextTokens(real=real, encoded=TOKENS).beside(text) | {SPEC_KEY: PRESETS["comfyui"].to_json()}
    encoded = [[text, {"pooled_output": random(1, POOLED, seed=seed + 1), **carried}]]
    return encoded if whole else set_padding(encoded, PRESETS["comfyui-mask"])


def graph(whole: bool, name: str = "flux") -> Graph:
    return Graph(tiny_patcher(name)[0], prompt(REAL, whole, 1), prompt(NEGATIVE, whole, 5), whole)


def mask(rows: Iterable[Iterable[int]], length: int) -> Tensor:
    """(rows, 1, length, length) to add to what attention weighs."""
    hidden = [F.one_hot(torch.tensor(list(row)), length).sum(0) for row in rows]
    return (torch.stack(hidden) * HIDDEN)[:, None, None].expand(-1, -1, length, -1)


def padding_hidden(made: Graph) -> ModelPatcher:
    """By ComfyUI's attn1_patch, which every attention of the blocks asks; a mask that is there stays."""
    patcher = made.patcher.clone()

    def patch(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, attn_mask: Tensor | None, extra_options: dict[str, Any]) -> dict[str, Tensor]:
        rows = extra_options["cond_or_uncond"]
        added = mask([made.hidden[i] for i in rows], k.shape[2])[..., :q.shape[2], :].repeat_interleave(q.shape[0] // len(rows), dim=0)
        return {"attn_mask": added if attn_mask is None else added + attn_mask.float()[:, None]}

    patcher.set_model_attn1_patch(patch)
    return patcher


def sampled(made: Graph, hide: bool = True, cfg: float = 3.0) -> Tensor:
    """Two steps of ComfyUI's sampler."""
    patcher = padding_hidden(made) if made.whole and hide else made.patcher
    noise = random(made.batch, *LATENT, seed=0)
    with torch.inference_mode():
        return comfy.sample.sample(patcher, noise, 2, cfg, "euler", "simple", made.positive, made.negative, torch.zeros_like(noise), seed=0,
                                   disable_pbar=True)


def on_both(made: Graph, change: Callable[[Conditioning], Conditioning]) -> Graph:
    return replace(made, positive=change(made.positive), negative=change(made.negative))


# ControlNet


def control_network(hidden: Iterable[int]) -> nn.Module:
    """ComfyUI gives no mask to a ControlNet; `hidden` masks text inside."""
    network = ControlNetFlux(**KW, **flux_config(depth=BLOCKS, single=BLOCKS))
    network.load_state_dict(random_weights(network))
    places = tuple(hidden)

    def masked(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**options, "attn_mask": mask([places], options["pe"].shape[2])}

    if places:
        for block in (*network.double_blocks, *network.single_blocks):
            block.register_forward_pre_hook(masked, with_kwargs=True)
    return network


def controlnet(made: Graph) -> Graph:
    """Without padding both prompts share one; else each has its own, with its own mask."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))

    def applied(positive: Conditioning, negative: Conditioning, hidden: Iterable[int]) -> tuple[Conditioning, Conditioning]:
        control = comfy.controlnet.ControlNet(control_network(hidden), load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
        return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, picture, 0.8, 0.0, 1.0)

    if not made.whole:
        positive, negative = applied(made.positive, made.negative, ())
    else:
        positive, negative = applied(made.positive, [], made.hidden[0])[0], applied([], made.negative, made.hidden[1])[1]
    return replace(made, positive=positive, negative=negative)


# Redux, Kontext, Fill


def redux(strength: float, kind: str) -> Callable[[Graph], Graph]:
    def apply(made: Graph) -> Graph:
        encoder = comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=32, txt_in_features=WIDTH, dtype=torch.float32)
        encoder.load_state_dict(random_weights(encoder))
        seen = SimpleNamespace(last_hidden_state=random(1, 5, 32, seed=4))
        with torch.inference_mode():
            (positive,) = nodes.StyleModelApply().apply_stylemodel(made.positive, comfy.sd.StyleModel(encoder), seen, strength, kind)
        return replace(made, positive=positive)

    return apply


def kontext(made: Graph) -> Graph:
    latent = {"samples": random(1, 16, 6, 8, seed=6)}
    return on_both(made, lambda cond: comfy_extras.nodes_edit_model.ReferenceLatent.execute(cond, latent).result[0])


def fill(made: Graph) -> Graph:
    """Flux Fill reads the latent of what is kept and the mask as 80 more channels."""
    config = flux_config(depth=BLOCKS, single=BLOCKS) | {"in_channels": 96}
    patcher = patcher_of(Architecture(supported.FluxInpaint, lambda: Flux(**KW, **config), config, LATENT, WIDTH))
    generator = torch.Generator().manual_seed(7)
    pixels, inpainted = torch.rand(1, 64, 64, 3, generator=generator), torch.rand(1, 64, 64, generator=generator)
    vae = SimpleNamespace(encode=lambda picture: F.avg_pool2d(picture.movedim(-1, 1), 8).repeat(1, 6, 1, 1)[:, :16])
    positive, negative, _ = nodes.InpaintModelConditioning().encode(made.positive, made.negative, pixels, vae, inpainted, False)
    return replace(made, patcher=patcher, positive=positive, negative=negative)


# Where and when a prompt counts


def another(made: Graph) -> Conditioning:
    return prompt(REAL, made.whole, 9)


def areas(made: Graph) -> Graph:
    left = nodes.ConditioningSetArea().append(made.positive, 32, 64, 0, 0, 1.0)[0]
    return replace(made, positive=left + nodes.ConditioningSetArea().append(another(made), 40, 64, 24, 0, 0.7)[0])


def regions(made: Graph) -> Graph:
    region = torch.zeros(1, 64, 64)
    region[:, :, 32:] = 1
    left = nodes.ConditioningSetMask().append(made.positive, 1 - region, "default", 1.0)[0]
    return replace(made, positive=left + nodes.ConditioningSetMask().append(another(made), region, "mask bounds", 0.8)[0])


def schedule(made: Graph) -> Graph:
    set_range = nodes.ConditioningSetTimestepRange().set_range
    return replace(made, positive=set_range(made.positive, 0.0, 0.5)[0] + set_range(another(made), 0.5, 1.0)[0])


def joined(made: Graph) -> Graph:
    """Conditioning Concat: one prompt behind the other."""
    both = nodes.ConditioningConcat().concat(made.positive, another(made))[0]
    first, second = made.hidden
    return replace(made, positive=both, hidden=((*first, *(TOKENS + place for place in first)), second))


def zeroed(made: Graph) -> Graph:
    return replace(made, negative=nodes.ConditioningZeroOut().zero_out(made.negative)[0])


def pictures(made: Graph) -> Graph:
    return replace(made, batch=2)


# Attention patches, as packs install them for pictures as prompts (IP-Adapter)


def looked_at(img: Tensor) -> Tensor:
    """What the picture's tokens take from an adapter's tokens."""
    keys, values = random(2, 4, img.shape[-1], seed=10)
    return 0.5 * torch.softmax(img @ keys.T / img.shape[-1] ** 0.5, dim=-1) @ values


def blocks_replaced(made: Graph) -> Graph:
    patcher = made.patcher.clone()

    def double(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Tensor]:
        out = extra["original_block"](args)
        return {**out, "img": out["img"] + looked_at(out["img"])}

    def single(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Tensor]:
        both, text = extra["original_block"](args)["img"], args["transformer_options"]["img_slice"][0]
        return {"img": torch.cat([both[:, :text], both[:, text:] + looked_at(both[:, text:])], dim=1)}

    for i in range(BLOCKS):
        patcher.set_model_patch_replace(double, "dit", "double_block", i)
        patcher.set_model_patch_replace(single, "dit", "single_block", i)
    return replace(made, patcher=patcher)


def keys_added(made: Graph) -> Graph:
    """An attn1_patch whose keys and values stand behind those of text and picture, without a position."""
    patcher = made.patcher.clone()

    def patch(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, **_: Any) -> dict[str, Tensor | None]:
        q, k = apply_rope(q, k, pe)
        more = random(2, 1, k.shape[1], 4, k.shape[-1], seed=11).expand(-1, k.shape[0], -1, -1, -1)
        return {"q": q, "k": torch.cat([k, more[0]], dim=2), "v": torch.cat([v, more[1]], dim=2), "pe": None}

    patcher.set_model_attn1_patch(patch)
    return replace(made, patcher=patcher)


def output_patched(made: Graph) -> Graph:
    patcher = made.patcher.clone()

    def patch(attended: Tensor, extra_options: dict[str, Any]) -> Tensor:
        text = extra_options["img_slice"][0]
        return torch.cat([attended[:, :text], attended[:, text:] + looked_at(attended[:, text:])], dim=1)

    patcher.set_model_attn1_output_patch(patch)
    return replace(made, patcher=patcher)


def attention_overridden(made: Graph) -> Graph:
    patcher = made.patcher.clone()

    def override(function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, **options: Any) -> Tensor:
        more = random(2, 1, k.shape[1], 4, k.shape[-1], seed=12).expand(-1, k.shape[0], -1, -1, -1)
        return function(q, k, v, heads, **options) + 0.5 * function(q, more[0], more[1], heads, **options | {"mask": None})

    patcher.model_options["transformer_options"]["optimized_attention_override"] = override
    return replace(made, patcher=patcher)


COMBINATIONS: dict[str, Callable[[Graph], Graph]] = {
    "two pictures in a batch": pictures,
    "ControlNet": controlnet,
    "Flux Redux": redux(1.0, "multiply"),
    "Flux Redux, attn_bias": redux(0.4, "attn_bias"),
    "Flux Kontext": kontext,
    "Flux Fill": fill,
    "areas": areas,
    "masked regions": regions,
    "timestep ranges": schedule,
    "Conditioning Concat": joined,
    "Conditioning Zero Out": zeroed,
    "blocks replaced": blocks_replaced,
    "attention patch": keys_added,
    "attention output patch": output_patched,
    "attention override": attention_overridden,
}
