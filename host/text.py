"""Encode text under a padding specification, without touching the CLIP that other nodes use."""
from __future__ import annotations

import logging
from typing import Any

import comfy.sd
from torch import Tensor

from .text_padding import TextPadding

logger = logging.getLogger(__name__)
T5_END_TOKEN = 1
SPEC_KEY = "masked_lora_text_padding"
Conditioning = list[list[Any]]


def encode_text(clip: comfy.sd.CLIP, text: str, padding: TextPadding) -> Conditioning:
    """CONDITIONING for `text`; each entry carries its specification as JSON under SPEC_KEY.

    Dropping padding tokens equals masking them in Flux and Chroma, where all text positions are zero, and makes a step
    cheaper. Raises ValueError where a specification has no meaning for this text encoder.
    """
    tokens: dict[str, list[list[Any]]] = clip.tokenize(text, **tokenizer_options(padding))
    if padding == TextPadding():
        return stamped(clip.encode_from_tokens_scheduled(tokens), padding)
    require_plain_t5(tokens)
    clip = clip.clone()
    if padding.max_length is not None:
        tokens["t5xxl"] = [cut_tokens(row, padding.max_length) for row in tokens["t5xxl"]]
    if padding.encoder_masked:
        clip.patcher.add_object_patch("t5xxl.enable_attention_masks", True)
    conditioning = clip.encode_from_tokens_scheduled(tokens)
    if any("attention_mask" in extra for _, extra in conditioning):
        raise ValueError("this text encoder makes an attention mask of its own, so padding modes mean nothing to it; "
                         "use the preset 'comfyui' (padding modes work with Flux and Chroma)")
    real = real_token_count(tokens["t5xxl"][0])
    return stamped([[pad_embeddings(cond, real, padding), extra] for cond, extra in conditioning], padding)


def stamped(conditioning: Conditioning, padding: TextPadding) -> Conditioning:
    return [[cond, {**extra, SPEC_KEY: padding.to_json()}] for cond, extra in conditioning]


def tokenizer_options(padding: TextPadding) -> dict[str, Any]:
    options = {}
    if padding.max_length is not None:
        options["t5xxl_min_length"] = padding.max_length
    if padding.keep_pads:  # Chroma's own tokenizer pads nothing
        options["t5xxl_min_padding"] = padding.keep_pads
    return {"tokenizer_options": options} if options else {}


def require_plain_t5(tokens: dict[str, Any]) -> None:
    if "t5xxl" not in tokens or "g" in tokens:
        raise ValueError(
            f"this text encoder reads {', '.join(sorted(tokens))} and not T5 alone beside CLIP-L, so padding modes mean nothing "
            "to it; use the preset 'comfyui' (padding modes work with Flux and Chroma)")
    if len(tokens["t5xxl"]) != 1:
        raise ValueError("the prompt was cut into several T5 sections; shorten it or use the preset 'comfyui'")


def real_token_count(row: list[Any]) -> int:
    """Tokens up to and with T5's end token. Embeddings stand in the row as tensors, one a token."""
    for i, entry in enumerate(row):
        if isinstance(entry[0], int) and entry[0] == T5_END_TOKEN:
            return i + 1
    return len(row)


def cut_tokens(row: list[Any], limit: int) -> list[Any]:
    """At most `limit` tokens with the end token last, as Hugging Face tokenizers truncate."""
    real = real_token_count(row)
    if real > limit:
        logger.warning("Masked LoRA: the prompt has %d T5 tokens and the padding mode keeps %d; the end of it is not read", real, limit)
        return [*row[:limit - 1], row[real - 1]]
    return row[:limit]


def pad_embeddings(cond_BTD: Tensor, real: int, padding: TextPadding) -> Tensor:
    if padding.attend == "real":
        cond_BTD = cond_BTD[:, :real + padding.keep_pads]
    cond_BTD = cond_BTD.clone()
    if padding.pad_embedding == "zero":
        cond_BTD[:, real:] = 0
    return cond_BTD
