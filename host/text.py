"""Encode text under a padding specification, without touching the CLIP that other nodes use."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sd
from torch import Tensor

from .text_padding import TextPadding
from .text_tokens import TextTokens, cut_tokens, real_token_count

SPEC_KEY = "masked_lora_text_padding"
Conditioning = list[list[Any]]


def encode_text(clip: comfy.sd.CLIP, text: str, padding: TextPadding) -> Conditioning:
    """CONDITIONING for `text`; each entry carries its specification as JSON under SPEC_KEY, and under TOKENS_KEY how many of a T5
    prompt's tokens are real.

    Dropping padding tokens equals masking them in Flux and Chroma, where all text positions are zero, and makes a step
    cheaper. Raises ValueError where a specification has no meaning for this text encoder.
    """
    tokens: dict[str, list[list[Any]]] = clip.tokenize(text, **tokenizer_options(padding))
    if padding == TextPadding():
        return stamped(clip.encode_from_tokens_scheduled(tokens), tokens, padding)
    require_plain_t5(tokens)
    if padding.max_length is not None:
        tokens["t5xxl"] = [cut_tokens(row, padding.max_length) for row in tokens["t5xxl"]]
    if padding.encoder_masked:
        with masked_encoder(clip) as encoder:
            conditioning = encoder.encode_from_tokens_scheduled(tokens)
    else:
        conditioning = clip.encode_from_tokens_scheduled(tokens)
    if any("attention_mask" in extra for _, extra in conditioning):
        raise ValueError("this text encoder makes an attention mask of its own, so padding modes mean nothing to it; "
                         "use the preset 'comfyui' (padding modes work with Flux and Chroma)")
    return stamped(conditioning, tokens, padding)


@contextmanager
def masked_encoder(clip: comfy.sd.CLIP) -> Iterator[comfy.sd.CLIP]:
    """A clone whose T5 does not see its padding. The module that all clones share sees it again afterwards, also after an error."""
    clone = clip.clone()
    clone.patcher.add_object_patch("t5xxl.enable_attention_masks", True)
    try:
        yield clone
    finally:
        clone.patcher.unpatch_model(unpatch_weights=False)


def stamped(conditioning: Conditioning, tokens: dict[str, Any], padding: TextPadding) -> Conditioning:
    """Padding as the specification wants it, and what tells so."""
    result = []
    for cond_BTD, extra in conditioning:
        carried = {SPEC_KEY: padding.to_json()}
        if is_plain_t5(tokens) and "attention_mask" not in extra:
            row = tokens["t5xxl"][0]
            count = TextTokens(real=real_token_count(row, cond_BTD.shape[-1]), encoded=len(row))
            cond_BTD = pad_embeddings(cond_BTD, count.real, padding)
            carried |= count.beside(cond_BTD)
        result.append([cond_BTD, {**extra, **carried}])
    return result


def tokenizer_options(padding: TextPadding) -> dict[str, Any]:
    options = {}
    if padding.max_length is not None:
        options["t5xxl_min_length"] = padding.max_length
    if padding.keep_pads:  # Chroma's own tokenizer pads nothing
        options["t5xxl_min_padding"] = padding.keep_pads
    return {"tokenizer_options": options} if options else {}


def is_plain_t5(tokens: dict[str, Any]) -> bool:
    """T5 alone, or beside a CLIP-L that only gives the pooled embedding, and in one piece."""
    return "t5xxl" in tokens and "g" not in tokens and len(tokens["t5xxl"]) == 1


def require_plain_t5(tokens: dict[str, Any]) -> None:
    if is_plain_t5(tokens):
        return
    if "t5xxl" in tokens and "g" not in tokens:
        raise ValueError("the prompt was cut into several T5 sections; shorten it or use the preset 'comfyui'")
    raise ValueError(
        f"this text encoder reads {', '.join(sorted(tokens))} and not T5 alone beside CLIP-L, so padding modes mean nothing "
        "to it; use the preset 'comfyui' (padding modes work with Flux and Chroma)")


def pad_embeddings(cond_BTD: Tensor, real: int, padding: TextPadding) -> Tensor:
    if padding.attend == "real":
        cond_BTD = cond_BTD[:, :real + padding.keep_pads]
    cond_BTD = cond_BTD.clone()
    if padding.pad_embedding == "zero":
        cond_BTD[:, real:] = 0
    return cond_BTD
