"""The text padding specification itself: its table, its words, and what it refuses to read."""
from __future__ import annotations

import dataclasses
import json
import re

import pytest
from pack.host.text_padding import PRESET_HELP, PRESETS, TextPadding

# As published in the design, from the settings of the tools they are named after.
TABLE = {
    "comfyui": (None, "encoded", "all", 0, False),
    "none-512": (512, "encoded", "all", 0, False),
    "zero-512": (512, "zero", "all", 0, False),
    "zero-77": (77, "zero", "all", 0, False),
    "mask-512": (512, "encoded", "real", 0, False),
    "mask-512-encoder": (512, "encoded", "real", 0, True),
    "chroma": (None, "encoded", "real", 1, False),
}


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_those_of_the_table(name: str) -> None:
    assert dataclasses.astuple(PRESETS[name]) == TABLE[name]


def test_every_preset_has_its_own_values_and_its_own_words() -> None:
    assert len(set(PRESETS.values())) == len(PRESETS)
    assert len({spec.describe() for spec in PRESETS.values()}) == len(PRESETS)
    assert next(iter(PRESETS)) == "comfyui"
    assert PRESETS["comfyui"] == TextPadding()
    for name, spec in PRESETS.items():
        assert spec.preset == name
        assert spec.describe().startswith(f"{name}: ")
        assert name in PRESET_HELP


@pytest.mark.parametrize("spec", [*PRESETS.values(), TextPadding(max_length=300, pad_embedding="zero", keep_pads=2)])
def test_json_brings_the_same_specification_back(spec: TextPadding) -> None:
    text = spec.to_json()
    assert TextPadding.from_json(text) == spec
    assert set(json.loads(text)) == {"max_length", "pad_embedding", "attend", "keep_pads", "encoder_masked"}
    assert TextPadding.from_json(text).to_json() == text  # equal specifications are equal text, which cache keys rely on


def test_what_json_leaves_out_is_comfyuis_own() -> None:
    assert TextPadding.from_json("{}") == TextPadding()
    assert TextPadding.from_json('{"max_length": 77, "pad_embedding": "zero"}') == PRESETS["zero-77"]


def test_other_values_are_custom() -> None:
    spec = TextPadding(max_length=300, attend="real", keep_pads=2, encoder_masked=True)
    assert spec.preset == "custom"
    assert spec.describe() == "custom: 300 tokens, padding as encoded, padding masked but for 2, padding hidden from the encoder"
    assert TextPadding().describe() == "comfyui: the host's own length, padding as encoded, all tokens attended"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": 1}, "max_length must be a whole number of tokens from 2 (a word and the end token) to 4096, got 1"),
        ({"max_length": -512}, "got -512"),
        ({"pad_embedding": "none"}, "pad_embedding must be 'encoded' or 'zero', got 'none'"),
        ({"attend": "words"}, "attend must be 'all' or 'real', got 'words'"),
        ({"keep_pads": -1}, "keep_pads must be a whole number and not negative, got -1"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TextPadding(**values)
    with pytest.raises(ValueError, match=re.escape(message)):
        TextPadding.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "text",
    ["", "mask-512", "null", "7", "[]", '"zero"', "{", '{"length": 512}', '{"max_length": "512"}', '{"keep_pads": null}',
     '{"max_length": [512]}', '{"max_length": 512.5}', '{"keep_pads": 0.5}', '{"encoder_masked": "no"}', '{"encoder_masked": null}'],
)
def test_text_that_is_no_specification_is_refused(text: str) -> None:
    """It comes from the metadata of a stranger's file: 'no' must not become yes because it is a full string."""
    with pytest.raises(ValueError):
        TextPadding.from_json(text)


def test_specifications_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TextPadding().max_length = 512


def test_chroma_sees_one_pad_under_its_own_text_encoder() -> None:
    """ComfyUI's CLIP of type chroma does not pad (pixart_t5.py), so the pad that the preset keeps must be asked for."""
    from comfy.text_encoders.pixart_t5 import PixArtTokenizer
    from pack.host.text import tokenizer_options
    from pack.host.text_tokens import row_end

    (row,) = PixArtTokenizer().tokenize_with_weights("a red star", **tokenizer_options(PRESETS["chroma"]))["t5xxl"]
    assert len(row) >= row_end(row) + PRESETS["chroma"].keep_pads
