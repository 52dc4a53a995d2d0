"""Text padding for conditioning that is already encoded, where nothing that encoding decides would have been different."""
from __future__ import annotations

from typing import Any

import comfy.sd
import torch
from torch import Tensor

from .text import SPEC_KEY, Conditioning, require_plain_t5, tokenizer_options
from .text_padding import TextPadding
from .text_tokens import TextTokens, carried_tokens, cut_tokens, real_token_count

INSTEAD = "encode the prompt with Text Encode (padding mode) instead"


def set_padding(conditioning: Conditioning, padding: TextPadding, clip: comfy.sd.CLIP | None = None, text: str = "") -> Conditioning:
    """The same as Text Encode (padding mode) with `padding` would have given, or a ValueError that says why that cannot be had.

    `clip` and `text`, the T5 prompt, tell how many tokens are real where the conditioning does not carry it.
    """
    if clip is not None and len(conditioning) > 1 and not all("clip_start_percent" in extra for _, extra in conditioning):
        raise ValueError(f"the conditioning is of {len(conditioning)} prompts and the text is of one; connect the prompts before they are "
                         "combined")
    return [repadded(cond, extra, padding, clip, text) for cond, extra in conditioning]


def repadded(cond_BTD: Tensor, extra: dict[str, Any], padding: TextPadding, clip: comfy.sd.CLIP | None, text: str) -> list[Any]:
    before = TextPadding.from_json(extra.get(SPEC_KEY, "{}"))
    if "attention_mask" in extra:
        raise ValueError("this conditioning has an attention mask, which belongs to the tokens that it has now; put Set Text Padding "
                         "before the node that adds it (Apply Style Model), or use the preset 'comfyui' where the text encoder makes it")
    tokens = carried_tokens(cond_BTD, extra) if clip is None else counted_tokens(cond_BTD, before, clip, text)
    if tokens is None:
        raise ValueError("this conditioning does not tell how many of its tokens are real: another node encoded, mixed or lengthened it. "
                         f"Connect the CLIP and give the text that was encoded, or {INSTEAD}")
    if padding != before:
        check_same_encoding(before, padding, tokens)
        cond_BTD = with_pads(cond_BTD, before, padding, tokens)
    return [cond_BTD, {**extra, SPEC_KEY: padding.to_json(), **tokens.beside(cond_BTD)}]


def counted_tokens(cond_BTD: Tensor, before: TextPadding, clip: comfy.sd.CLIP, text: str) -> TextTokens:
    rows: dict[str, list[list[Any]]] = clip.tokenize(text, **tokenizer_options(before))
    require_plain_t5(rows)
    row = rows["t5xxl"][0] if before.max_length is None else cut_tokens(rows["t5xxl"][0], before.max_length)
    tokens = TextTokens(real=real_token_count(row, cond_BTD.shape[-1]), encoded=len(row))
    expected = tokens.encoded if before.attend == "all" else min(tokens.encoded, tokens.real + before.keep_pads)
    if cond_BTD.shape[1] != expected:
        raise ValueError(f"the text gives {expected} tokens with this CLIP and the conditioning has {cond_BTD.shape[1]}: it is of another "
                         "text, CLIP or length, or a node added tokens; give the text that was encoded, and put Set Text Padding right "
                         "after encoding")
    return tokens


def check_same_encoding(before: TextPadding, padding: TextPadding, tokens: TextTokens) -> None:
    """T5 reads its padding, so another length or mask gives other embeddings of the real tokens too."""
    if padding.encoder_masked != before.encoder_masked:
        seen = "hidden from" if before.encoder_masked else "seen by"
        raise ValueError(f"the padding was {seen} T5 while it encoded, which cannot be changed afterwards; {INSTEAD}")
    if padding.max_length not in (before.max_length, tokens.encoded):
        wanted = "ComfyUI's own length" if padding.max_length is None else f"{padding.max_length} tokens"
        raise ValueError(f"T5 read {tokens.encoded} tokens and '{padding.preset}' wants {wanted}, which cannot be changed afterwards; "
                         f"{INSTEAD}")
    more = max(before.keep_pads, padding.keep_pads)
    if padding.max_length is None and before.keep_pads != padding.keep_pads and tokens.encoded - tokens.real <= more:
        raise ValueError(f"the text encoder read {tokens.encoded - tokens.real} padding tokens, and keeping {padding.keep_pads} instead of "
                         f"{before.keep_pads} changes their number; {INSTEAD}")


def with_pads(cond_BTD: Tensor, before: TextPadding, padding: TextPadding, tokens: TextTokens) -> Tensor:
    pads = tokens.encoded - tokens.real
    if padding.attend == "real":
        pads = min(pads, padding.keep_pads)
    if padding.pad_embedding == "zero":
        batch, _, width = cond_BTD.shape
        return torch.cat([cond_BTD[:, :tokens.real], cond_BTD.new_zeros(batch, pads, width)], dim=1)
    if pads and (before.pad_embedding == "zero" or cond_BTD.shape[1] < tokens.real + pads):
        state = "set to zero" if before.pad_embedding == "zero" else "dropped"
        raise ValueError(f"the padding embeddings that '{padding.preset}' keeps were {state} before; {INSTEAD}")
    return cond_BTD[:, :tokens.real + pads].clone()
