"""Words of a prompt among the tokens of the real tokenizers that ComfyUI has: what stands at the found places, spelled by the
tokenizers' own decoder.
"""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.text_encoders.aura_t5
import comfy.text_encoders.flux
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.omnigen2
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.z_image
import pytest
import torch
from pack.host.prompt_words import prompt_words, read_in_order
from pack.host.prompts import encode_caption
from pack.host.text_padding import PRESETS, TextPadding

from .test_live_text import tiny_clip
from .tiny import random_weights

# By model: the tokenizer, and how many tokens of its template are cut off before the diffusion model reads.
TOKENIZERS = {
    "sd15": (comfy.sd1_clip.SD1Tokenizer, 0), "sdxl": (comfy.sdxl_clip.SDXLTokenizer, 0),
    "flux": (comfy.text_encoders.flux.FluxTokenizer, 0),
    "sd3": (comfy.text_encoders.sd3_clip.SD3Tokenizer, 0), "auraflow": (comfy.text_encoders.aura_t5.AuraT5Tokenizer, 0),
    "qwen_image": (comfy.text_encoders.qwen_image.QwenImageTokenizer, 34), "z_image": (comfy.text_encoders.z_image.ZImageTokenizer, 0),
    "omnigen2": (comfy.text_encoders.omnigen2.Omnigen2Tokenizer, 0),
}
PROMPT = "a (red:1.3) star, an image of one starfish-shaped cookie, \\(left\\) of a Star"


@pytest.fixture(scope="module", params=TOKENIZERS)
def read(request: pytest.FixtureRequest) -> Any:
    """A function of a prompt: its words, and what the tokenizer's decoder says of tokens at places in the conditioning."""
    kind, cut = TOKENIZERS[request.param]
    tokenizer = kind()
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)

    def reader(prompt: str) -> Any:
        tokens = clip.tokenize(prompt)
        rows = [(key, entry[0]) for key in read_in_order(tokens) for row in tokens[key] for entry in row][cut:]

        def spell(places: tuple[int, ...]) -> str:
            by = {key: getattr(tokenizer, key, None) or getattr(tokenizer, f"clip_{key}") for key, _ in rows}
            groups = [[rows[place][1] for place in places if rows[place][0] == key] for key in by]
            return "|".join(of.tokenizer.decode(group) for of, group in zip(by.values(), groups, strict=True)).lower().replace(" ", "")

        return prompt_words(clip, prompt, TextPadding(), len(rows)), spell, len({key for key, _ in rows})
    return reader


def test_words_stand_where_the_tokenizer_put_them(read: Any) -> None:
    words, spell, encoders = read(PROMPT)
    for phrase, spelled in {"red": "red", "star": "starstar", "STAR": "starstar", "red star": "redstar", "cookie": "cookie",
                            "starfish-shaped": "starfish-shaped", "starfish-shaped  cookie": "starfish-shapedcookie", "one": "one",
                            "left": "left", "(left)": "(left)", "image": "image"}.items():
        assert spell(words.positions(phrase)) == "|".join([spelled] * encoders), phrase


def test_weights_move_no_word(read: Any) -> None:
    assert read("a ((red)) star")[0].text == "a red star"
    plain, _, encoders = read("red, star")
    weighted = read("(red:1.5), star")[0]
    assert plain.positions("red") == weighted.positions("red")
    assert len(plain.positions("red")) == encoders


def test_all_words_of_a_prompt(read: Any) -> None:
    words, spell, _ = read("a red star on a star")
    assert list(words.all()) == ["a", "red", "star", "on"]
    for word, places in words.all().items():
        assert places == words.positions(word)


def test_what_is_not_in_the_prompt_is_said(read: Any) -> None:
    words = read("a starfish, high-quality")[0]
    for phrase in ("star", "fish", "assistant", "user", "</s>"):  # in a word, and in templates
        with pytest.raises(ValueError, match=r"does not have the words '.*'; write them as they stand in the prompt"):
            words.positions(phrase)
    with pytest.raises(ValueError, match="no words were given"):
        words.positions("  ")


def test_letters_of_several_tokens_and_scripts_without_blanks() -> None:
    tokenizer = comfy.text_encoders.qwen_image.QwenImageTokenizer()
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)
    row = tokenizer.tokenize_with_weights("一颗红色的星星 🦊 café")["qwen25_7b"][0]
    words = prompt_words(clip, "一颗红色的星星 🦊 café", TextPadding(), len(row))
    for phrase in ("星星", "🦊", "café"):
        assert phrase in tokenizer.qwen25_7b.tokenizer.decode([row[place][0] for place in words.positions(phrase)])
    assert len(words.positions("🦊")) > 1


def test_a_long_prompt_of_clip_goes_on_in_the_next_section() -> None:
    tokenizer = comfy.sdxl_clip.SDXLTokenizer()
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)
    prompt = "dog " * 80 + "cat"
    rows = tokenizer.tokenize_with_weights(prompt)["g"]
    assert len(rows) == 2
    place, = prompt_words(clip, prompt, TextPadding(), 154).positions("cat")
    assert 77 < place < 154
    assert tokenizer.clip_g.tokenizer.decode([rows[1][place - 77][0]]).strip() == "cat"


def test_padding_modes_of_t5() -> None:
    """Dropped padding is at the end; a prompt that is cut has no more words than are read."""
    tokenizer = comfy.text_encoders.flux.FluxTokenizer()
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=tokenizer.tokenize_with_weights)
    whole = prompt_words(clip, "a red star", PRESETS["none-512"], 512)
    assert whole.positions("star") == prompt_words(clip, "a red star", PRESETS["mask-512"], 5).positions("star") == (3,)
    cut = prompt_words(clip, "dog " * 80 + "cat", PRESETS["zero-77"], 77)
    assert cut.positions("dog")
    with pytest.raises(ValueError, match="does not read 'cat': the prompt was cut before it"):
        cut.positions("cat")


def test_embeddings_among_the_words_are_refused() -> None:
    tokenizer = comfy.sd1_clip.SD1Tokenizer()
    row = [(49406, 1.0), (torch.zeros(768), 1.0), (320, 1.0), (49407, 1.0)]
    clip = SimpleNamespace(tokenizer=tokenizer, tokenize=lambda text, **options: {"l": [row]})
    with pytest.raises(ValueError, match=r"embeddings \(embedding:name\)"):
        prompt_words(clip, "embedding:x a", TextPadding(), 4)


SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1, "num_key_value_heads": 1}
LANGUAGE_MODELS = {
    "qwen_image": (comfy.text_encoders.qwen_image.QwenImageTEModel, comfy.text_encoders.qwen_image.QwenImageTokenizer, "qwen25_7b"),
    "z_image": (comfy.text_encoders.z_image.ZImageTEModel, comfy.text_encoders.z_image.ZImageTokenizer, "qwen3_4b"),
    "omnigen2": (comfy.text_encoders.omnigen2.Omnigen2Model, comfy.text_encoders.omnigen2.Omnigen2Tokenizer, "qwen25_3b"),
    "hunyuan_video": (comfy.text_encoders.hunyuan_video.HunyuanVideoClipModel, comfy.text_encoders.hunyuan_video.HunyuanVideoTokenizer,
                      "llama"),
}


def text_encoder(name: str) -> comfy.sd.CLIP:
    """ComfyUI's own, with its own tokenizer and a few random values to a token."""
    if name in ("sd15", "sdxl"):
        return tiny_clip(name)
    model, tokenizer, key = LANGUAGE_MODELS[name]
    target = SimpleNamespace(params={}, clip=model, tokenizer=tokenizer)
    clip = comfy.sd.CLIP(target, model_options={f"{key}_model_config": SMALL, "dtype": torch.float32})
    clip.cond_stage_model.load_state_dict(random_weights(clip.cond_stage_model))
    return clip


@pytest.mark.parametrize("name", ["sd15", "sdxl", *LANGUAGE_MODELS])
def test_another_word_changes_the_conditioning_where_it_is_said_to_stand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These encoders read from left to right: nothing before the word changes."""
    small_eyes = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer
    eyes = {"hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "num_layers": 2}
    monkeypatch.setattr(comfy.text_encoders.qwen_vl, "Qwen2VLVisionTransformer", lambda **given: small_eyes(**given | eyes))
    with torch.inference_mode():
        clip = text_encoder(name)
        prompts = (f"on the left a (red:1.2) {word}, a house" for word in ("star", "dog"))
        one, other = (encode_caption(clip, prompt, TextPadding())["cross_attn"] for prompt in prompts)
    place, = prompt_words(clip, "on the left a (red:1.2) star, a house", TextPadding(), one.shape[1]).positions("star")
    change = (one - other).abs().sum((0, 2))
    assert place == int((change > 1e-5).int().argmax())
    assert change[place] > 1e-3
