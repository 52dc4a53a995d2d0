"""Set Text Padding gives what Text Encode would have given, for every pair of presets and also ComfyUI's own encoding, or says why not."""
from __future__ import annotations

from typing import Any

import comfy.sd
import comfy_extras.nodes_flux
import pytest
import torch
from pack.host.demo_model import load_text_encoders
from pack.host.folders import DEMO_MODEL
from pack.host.set_padding import set_padding
from pack.host.text import SPEC_KEY, Conditioning, encode_text
from pack.host.text_padding import PRESETS, TextPadding
from pack.host.text_tokens import TOKENS_KEY, TextTokens, carried_tokens
from pack.nodes.text import SetTextPadding
from pack.nodes.text import TextPadding as TextPaddingNode

import nodes

from .test_text_regimes import encoders

CAPTION = "a red star on the left, plain grey background"
# What can be had from what, by hand: the same length and the same view for T5, and no padding embedding that is gone.
POSSIBLE = {
    "comfyui": {"comfyui-zero", "comfyui-mask", "chroma"},
    "comfyui-zero": {"comfyui-mask"},
    "comfyui-mask": {"comfyui-zero"},
    "none-512": {"zero-512", "mask-512"},
    "zero-512": {"mask-512"},
    "zero-77": set(),
    "mask-512": {"zero-512"},
    "mask-512-encoder": set(),
    "chroma": {"comfyui-zero", "comfyui-mask"},
}


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return load_text_encoders(DEMO_MODEL)


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def core_encode(clip: comfy.sd.CLIP, text: str) -> Conditioning:
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def same(a: Conditioning, b: Conditioning) -> bool:
    ((x, of_x),), ((y, of_y),) = a, b
    return torch.equal(x, y) and of_x[SPEC_KEY] == of_y[SPEC_KEY] and carried_tokens(x, of_x) == carried_tokens(y, of_y) is not None


@pytest.mark.parametrize("after", list(PRESETS))
@pytest.mark.parametrize("before", list(PRESETS))
def test_what_text_encode_would_have_given_or_why_not(clip: comfy.sd.CLIP, before: str, after: str) -> None:
    encoded = encode_text(clip, CAPTION, PRESETS[before])
    copy = encoded[0][0].clone()
    if after == before or after in POSSIBLE[before]:
        assert same(set_padding(encoded, PRESETS[after]), encode_text(clip, CAPTION, PRESETS[after]))
        assert same(set_padding(encoded, PRESETS[after], clip, CAPTION), encode_text(clip, CAPTION, PRESETS[after]))
    else:
        with pytest.raises(ValueError, match=r"Text Encode \(padding mode\) instead"):
            set_padding(encoded, PRESETS[after])
    assert torch.equal(encoded[0][0], copy)
    assert TextPadding.from_json(encoded[0][1][SPEC_KEY]) == PRESETS[before]


@pytest.mark.parametrize("after", ["comfyui", "comfyui-zero", "comfyui-mask", "chroma"])
def test_conditioning_of_comfyuis_own_nodes_needs_the_text(clip: comfy.sd.CLIP, after: str) -> None:
    encoded = core_encode(clip, CAPTION)
    with pytest.raises(ValueError, match="does not tell how many of its tokens are real"):
        set_padding(encoded, PRESETS[after])
    assert same(set_padding(encoded, PRESETS[after], clip, CAPTION), encode_text(clip, CAPTION, PRESETS[after]))
    for other in ("none-512", "zero-512", "mask-512", "mask-512-encoder"):
        with pytest.raises(ValueError, match=r"T5 read 256 tokens and '\w+-512' wants 512 tokens|hidden from|seen by T5"):
            set_padding(encoded, PRESETS[other], clip, CAPTION)


def test_two_prompts_of_flux_keep_theirs(clip: comfy.sd.CLIP) -> None:
    """CLIPTextEncodeFlux takes a text for each encoder; what it adds stays, and T5's text counts."""
    (encoded,) = comfy_extras.nodes_flux.CLIPTextEncodeFlux.execute(clip, "another text for CLIP-L", CAPTION, 2.5).result
    ((cond, extra),) = set_padding(encoded, PRESETS["comfyui-mask"], clip, CAPTION)
    assert torch.equal(cond, encode_text(clip, CAPTION, PRESETS["comfyui-mask"])[0][0])
    assert extra["guidance"] == 2.5
    assert torch.equal(extra["pooled_output"], encoded[0][1]["pooled_output"])


def test_a_length_that_the_clip_was_told_counts(clip: comfy.sd.CLIP) -> None:
    longer = clip.clone()
    longer.set_tokenizer_option("t5xxl_min_length", 512)
    encoded = core_encode(longer, CAPTION)
    for after in ("zero-512", "mask-512"):
        assert same(set_padding(encoded, PRESETS[after], longer, CAPTION), encode_text(clip, CAPTION, PRESETS[after]))
    with pytest.raises(ValueError, match="the text gives 256 tokens with this CLIP and the conditioning has 512"):
        set_padding(encoded, PRESETS["zero-512"], clip, CAPTION)


def test_what_other_nodes_did_to_the_tokens_is_noticed(clip: comfy.sd.CLIP) -> None:
    ours, other = encode_text(clip, CAPTION, PRESETS["comfyui"]), encode_text(clip, "a boat", PRESETS["comfyui"])
    mixed = [nodes.ConditioningConcat().concat(ours, other)[0], nodes.ConditioningAverage().addWeighted(ours, other, 0.5)[0],
             nodes.ConditioningZeroOut().zero_out(ours)[0]]
    for conditioning in mixed:
        assert TOKENS_KEY in conditioning[0][1]
        with pytest.raises(ValueError, match="another node encoded, mixed or lengthened it"):
            set_padding(conditioning, PRESETS["comfyui-zero"])
    with pytest.raises(ValueError, match="the text gives 256 tokens with this CLIP and the conditioning has 512: it is of another text"):
        set_padding(mixed[0], PRESETS["comfyui-zero"], clip, CAPTION)
    redux = [[ours[0][0], ours[0][1] | {"attention_mask": torch.zeros(1, 8, 8)}]]
    with pytest.raises(ValueError, match="has an attention mask"):
        set_padding(redux, PRESETS["comfyui-zero"])


def test_combined_prompts_are_set_each_by_what_it_carries(clip: comfy.sd.CLIP) -> None:
    texts = (CAPTION, "a boat")
    both = [entry for text in texts for entry in encode_text(clip, text, PRESETS["comfyui"])]
    for entry, text in zip(set_padding(both, PRESETS["comfyui-mask"]), texts, strict=True):
        assert same([entry], encode_text(clip, text, PRESETS["comfyui-mask"]))
    with pytest.raises(ValueError, match="of 2 prompts and the text is of one"):
        set_padding(both, PRESETS["comfyui-mask"], clip, CAPTION)


def test_timestep_ranges_stay(clip: comfy.sd.CLIP) -> None:
    (ranged,) = nodes.ConditioningSetTimestepRange().set_range(encode_text(clip, CAPTION, PRESETS["comfyui"]), 0.2, 0.7)
    ((_, extra),) = set_padding(ranged, PRESETS["comfyui-mask"])
    assert (extra["start_percent"], extra["end_percent"]) == (0.2, 0.7)


def test_a_text_encoder_that_does_not_pad_cannot_keep_a_pad_afterwards() -> None:
    """Chroma's T5 reads the pad that is kept, so it must be there when it encodes."""
    chroma = encoders("chroma")
    encoded = encode_text(chroma, CAPTION, PRESETS["comfyui"])
    with pytest.raises(ValueError, match="read 0 padding tokens, and keeping 1 instead of 0 changes their number"):
        set_padding(encoded, PRESETS["chroma"])
    with pytest.raises(ValueError, match="read 1 padding tokens, and keeping 0 instead of 1 changes their number"):
        set_padding(encode_text(chroma, CAPTION, PRESETS["chroma"]), PRESETS["comfyui"])
    assert same(set_padding(encoded, PRESETS["comfyui-mask"]), encode_text(chroma, CAPTION, PRESETS["comfyui-mask"]))


@pytest.mark.parametrize(("real", "encoded"), [(0, 4), (5, 4), (True, 4), (1.5, 4), ("1", 4)])
def test_impossible_counts_are_refused(real: Any, encoded: Any) -> None:
    with pytest.raises(ValueError, match="encode it again"):
        TextTokens(real=real, encoded=encoded)


def test_nodes_pass_their_choices_on(clip: comfy.sd.CLIP) -> None:
    values = {"preset": "custom", "max_length": 300, "pad_embedding": "zero", "attend": "real", "keep_pads": 2, "encoder_masked": True}
    (padding,) = TextPaddingNode.execute(values).result
    assert padding == TextPadding(max_length=300, pad_embedding="zero", attend="real", keep_pads=2, encoder_masked=True)
    (own_length,) = TextPaddingNode.execute(values | {"max_length": 0}).result
    assert own_length.max_length is None
    for name, preset in PRESETS.items():
        assert TextPaddingNode.execute({"preset": name}).result == (preset,)
    with pytest.raises(ValueError, match="from 2"):
        TextPaddingNode.execute(values | {"max_length": 1})
    (done,) = SetTextPadding.execute(core_encode(clip, CAPTION), PRESETS["comfyui-zero"], clip, CAPTION).result
    assert same(done, encode_text(clip, CAPTION, PRESETS["comfyui-zero"]))
