"""The table of models in docs/text_padding.md: its rows are measured here, and a failing test shows the row that belongs there."""
from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import comfy.sample
import pytest
import sentencepiece
import torch
from comfy import sdxl_clip
from comfy.text_encoders import hunyuan_video, qwen_image, sd3_clip, wan, z_image
from pack.host.set_padding import set_padding
from pack.host.text import SPEC_KEY, encode_text
from pack.host.text_padding import PRESETS, TextPadding
from torch import Tensor

from .test_text_regimes import encoders
from .tiny import ARCHITECTURES, tiny_patcher

MODELS = ("flux", "chroma", "sd3", "wan", "hunyuan_video", "qwen_image", "z_image", "sdxl")
CAPTION = "a red star"
REAL, ALL = 6, 14  # tokens
SAME = 1e-5
TEXT_WITHIN = {"z_image": 32}  # it pads text to a multiple itself, with a learned token
LATENT = {"z_image": (16, 16, 16)}  # so that its picture has not as many tokens as its text


@cache
def sampled(name: str, change: str) -> Tensor:
    """One step of ComfyUI's sampler from pure noise: the model's prediction. `change`: none, zeroed, dropped or masked padding."""
    patcher, arch = tiny_patcher(name)
    latent = LATENT.get(name, arch.latent)
    cond = arch.cond(ALL, torch.Generator().manual_seed(1))
    text = cond.pop("cross_attn")
    if change == "zeroed":
        text = torch.cat([text[:, :REAL], torch.zeros_like(text[:, REAL:])], dim=1)
    elif change == "dropped":
        text = text[:, :REAL]
    elif change == "masked":
        patcher = patcher.clone()
        attention = masked_attention(TEXT_WITHIN.get(name, ALL), math.prod(latent[1:]) // 4)
        patcher.model_options["transformer_options"]["optimized_attention_override"] = attention
    noise = torch.randn(1, *latent, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return comfy.sample.sample(patcher, noise, 1, 1.0, "euler", "simple", [[text, cond]], [[text, cond]], torch.zeros_like(noise),
                                   seed=0, disable_pbar=True)


def masked_attention(text: int, picture: int) -> Callable[..., Tensor]:
    """Hides the padding from every attention that reads text, alone or in front of the picture. `text`, `picture`: tokens."""

    def attend(function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
               **options: Any) -> Tensor:
        keys = k.shape[2] if options.get("skip_reshape") else k.shape[1]
        queries = q.shape[2] if options.get("skip_reshape") else q.shape[1]
        if keys in (text, text + picture):
            added = torch.zeros(q.shape[0], 1, queries, keys)
            added[..., REAL:ALL] = -1e30
            mask = added if mask is None else added + mask
        return function(q, k, v, heads, mask=mask, **options)

    return attend


def difference(name: str, a: str, b: str) -> float:
    return ((sampled(name, a) - sampled(name, b)).norm() / sampled(name, b).norm()).item()


def yes(condition: bool) -> str:
    return "yes" if condition else "no"


# Text encoders


class HostTokenizer:
    """ComfyUI's tokenizer of a model whose text encoder is too large for a test, and embeddings that mean nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def tokenize(self, text: str, **options: Any) -> dict[str, list[Any]]:
        return self.tokenizer.tokenize_with_weights(text, **options)

    def encode_from_tokens_scheduled(self, tokens: dict[str, list[Any]]) -> list[list[Any]]:
        return [[torch.zeros(1, sum(len(row) for rows in tokens.values() for row in rows), 64), {}]]


def tiny_sentencepiece() -> bytes:
    """In place of the model that Wan's tokenizer takes from the text encoder's file."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([CAPTION, "a grey boat", "the star and the boat"]), model_writer=model, vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
    return model.getvalue()


@cache
def clip(name: str) -> Any:
    if name in ("flux", "chroma"):
        return encoders(name)
    made = {"sd3": sd3_clip.SD3Tokenizer, "hunyuan_video": hunyuan_video.HunyuanVideoTokenizer, "qwen_image": qwen_image.QwenImageTokenizer,
            "z_image": z_image.ZImageTokenizer, "sdxl": sdxl_clip.SDXLTokenizer,
            "wan": lambda: wan.WanT5Tokenizer(tokenizer_data={"spiece_model": tiny_sentencepiece()})}
    return HostTokenizer(made[name]())


def tokens_of(name: str) -> str:
    """What ComfyUI makes of a short caption: how many tokens for each text encoder."""
    rows = clip(name).tokenize(CAPTION)
    return ", ".join(f"{key} {len(rows[key][0])}" for key in sorted(rows))


def refusal(name: str) -> str | None:
    """The words in which every preset but `comfyui` is refused; None where every preset encodes."""
    said = set[str]()
    for preset in PRESETS.values():
        try:
            with torch.no_grad():
                ((_, extra),) = encode_text(clip(name), CAPTION, preset)
        except ValueError as error:
            assert preset != TextPadding()
            said.add(str(error))
        else:
            assert TextPadding.from_json(extra[SPEC_KEY]) == preset
    assert len(said) <= 1
    return said.pop() if said else None


def nodes_of(name: str) -> str:
    words = refusal(name)
    return "all presets" if words is None else f"`comfyui`; others: *{words.partition(', so')[0]}*"


def row(name: str) -> str:
    patcher, _ = tiny_patcher(name)
    cells = [name, type(patcher.model).__name__, tokens_of(name), yes(difference(name, "zeroed", "none") > 1e-3),
             yes(difference(name, "dropped", "none") > 1e-3), yes(difference(name, "masked", "dropped") <= SAME), nodes_of(name)]
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("name", MODELS)
def test_the_table_in_the_docs_is_what_is_measured(name: str, root: Path) -> None:
    assert difference(name, "masked", "none") > 1e-3  # else the mask has not reached the attention
    lines = (root / "docs" / "text_padding.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(f"| {name} |")] == [row(name)]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("flux", "chroma")])
def test_set_text_padding_refuses_in_the_same_words(name: str) -> None:
    words = refusal(name)
    assert words is not None
    assert "use the preset 'comfyui' (padding modes work with Flux and Chroma)" in words
    conditioning = [[torch.zeros(1, 5, 64), {}]]
    with pytest.raises(ValueError) as caught:
        set_padding(conditioning, PRESETS["mask-512"], clip(name), CAPTION)
    assert str(caught.value) == words


def test_every_preset_is_in_the_docs_and_in_its_table(root: Path) -> None:
    text = (root / "docs" / "text_padding.md").read_text(encoding="utf-8")
    assert all(f"\n| `{preset}` |" in text for preset in PRESETS)
    assert set(MODELS) < set(ARCHITECTURES)
