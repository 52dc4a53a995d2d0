"""What the tools that the presets are named after do with a prompt, in plain transformers and PyTorch, on the demo model's weights.

Read in BFL's and diffusers' Flux pipeline, SimpleTuner (t5_padding), ai-toolkit (attn_masking), OneTrainer (FluxModel.encode_text),
sd-scripts (strategy_flux, flux_models with apply_t5_attn_mask), ComfyUI (text_encoders/flux.py) and diffusers' Chroma pipeline.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import comfy.text_encoders
import torch
from pack.host.folders import DEMO_MODEL
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from .plain_flux import PlainFlux

TOKENIZERS = Path(next(iter(comfy.text_encoders.__path__)))
CLIP_LENGTH = 77


@dataclass(frozen=True)
class Seen:
    """The T5 embeddings (1, T, D) that a tool hands its model, and which of them (1, T) its attention sees; None = no mask."""

    text: Tensor
    mask: Tensor | None = None
    additive: bool = False


@cache
def sizes() -> dict[str, dict[str, int]]:
    return json.loads((DEMO_MODEL / "config.json").read_text(encoding="utf-8"))


@cache
def weights(name: str) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(DEMO_MODEL / f"{name}.safetensors").items()}


@cache
def t5_tokenizer() -> T5TokenizerFast:
    return T5TokenizerFast.from_pretrained(TOKENIZERS / "t5_tokenizer")


@cache
def t5_model() -> T5EncoderModel:
    config = T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", relative_attention_num_buckets=32, **sizes()["t5xxl"])
    model = T5EncoderModel(config).eval()
    missing, unexpected = model.load_state_dict(weights("t5xxl"), strict=False)
    assert not unexpected and all("embed_tokens" in key for key in missing)  # the same tensor as `shared`
    return model


@cache
def clip_model() -> CLIPTextModel:
    sized = {"vocab_size": 49408, "max_position_embeddings": CLIP_LENGTH, "hidden_act": "quick_gelu"} | sizes()["clip_l"]
    model = CLIPTextModel(CLIPTextConfig(eos_token_id=49407, bos_token_id=49406, pad_token_id=49407, **sized)).eval()
    prefix = "" if any(key.startswith("text_model.") for key in model.state_dict()) else "text_model."
    own = {key.removeprefix(prefix): value for key, value in weights("clip_l").items() if "text_projection" not in key}
    missing, unexpected = model.load_state_dict(own, strict=False)
    assert not unexpected and all("position_ids" in key for key in missing)
    return model


@cache
def flux() -> PlainFlux:
    return PlainFlux(weights("flux"), heads=sizes()["flux"]["num_heads"])


def tokens(text: str, length: int, truncation: bool = True) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (1, length) each."""
    told = t5_tokenizer()(text, padding="max_length", max_length=length, truncation=truncation, return_tensors="pt")
    return told["input_ids"], told["attention_mask"]


def t5(ids: Tensor, mask: Tensor | None = None) -> Tensor:
    return t5_model()(ids, attention_mask=torch.ones_like(ids) if mask is None else mask).last_hidden_state


def pooled(text: str) -> Tensor:
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZERS.parent / "sd1_tokenizer")
    return clip_model()(tokenizer(text, padding="max_length", max_length=CLIP_LENGTH, truncation=True, return_tensors="pt")["input_ids"]
                        ).pooler_output


def bfl(text: str) -> Seen:
    ids, _ = tokens(text, 512)
    return Seen(t5(ids))


def zeroed(length: int) -> Callable[[str], Seen]:
    def regime(text: str) -> Seen:
        ids, mask = tokens(text, length)
        return Seen(t5(ids) * mask[..., None])
    return regime


def study(text: str) -> Seen:
    ids, mask = tokens(text, 512)
    return Seen(t5(ids), mask, additive=True)


def kohya(text: str) -> Seen:
    ids, mask = tokens(text, 512)
    return Seen(t5(ids, mask), mask)


def comfyui(text: str) -> Seen:
    ids, _ = tokens(text, 256, truncation=False)
    return Seen(t5(ids))


def chroma(text: str) -> Seen:
    ids, mask = tokens(text, 512)
    mask = (torch.arange(mask.shape[1])[None] <= mask.sum(dim=1, keepdim=True)).long()  # one padding token is seen
    return Seen(t5(ids, mask), mask)


# By the tool: our preset and what the tool does.
REGIMES: dict[str, tuple[str, Callable[[str], Seen]]] = {
    "BFL and diffusers": ("none-512", bfl),
    "SimpleTuner t5_padding=zero": ("zero-512", zeroed(512)),
    "ai-toolkit attn_masking": ("zero-512", zeroed(512)),
    "OneTrainer attention mask": ("zero-77", zeroed(77)),
    "sd-scripts apply_t5_attn_mask": ("mask-512-encoder", kohya),
    "the masked mode at 512": ("mask-512", study),
    "ComfyUI": ("comfyui", comfyui),
    "Chroma in diffusers": ("chroma", chroma),
}


def prediction(seen: Seen, pooled_BD: Tensor, x_BCHW: Tensor, sigma_B: Tensor, guidance: float) -> Tensor:
    """The denoised latent of the plain Flux."""
    mask = None
    if seen.mask is not None:
        cells = x_BCHW.shape[2] * x_BCHW.shape[3] // 4
        seen_BT = torch.cat([seen.mask.bool(), torch.ones(1, cells, dtype=torch.bool)], dim=1)[:, None, None]
        mask = torch.zeros(seen_BT.shape).masked_fill(~seen_BT, torch.finfo(torch.float32).min) if seen.additive else seen_BT
    return x_BCHW - sigma_B * flux().velocity(x_BCHW, sigma_B, seen.text, pooled_BD, torch.tensor([guidance]), mask)
