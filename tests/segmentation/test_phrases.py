"""Words of captions: golden cases by hand."""
from __future__ import annotations

import pytest
from pack.segmentation.phrases import named, phrases_of, same_word, words_of


@pytest.mark.parametrize(("one", "other", "same"), [
    ("eye", "eyes", True), ("women", "woman", True), ("person", "people", True), ("hoodie", "hoodies", True), ("lady", "ladies", True),
    ("dress", "dresses", True), ("scarf", "scarves", True), ("knife", "knives", True), ("policemen", "policeman", True),
    ("horse", "horses", True), ("hat", "hats", True), ("glasses", "glass", True), ("hair", "hair", True), ("a", "as", False),
    ("hat", "that", False), ("man", "woman", False), ("car", "cart", False), ("", "s", False)])
def test_singular_and_plural(one: str, other: str, same: bool) -> None:
    assert same_word(one, other) is same
    assert same_word(other, one) is same


@pytest.mark.parametrize(("lines", "caption", "expected"), [
    (["hair", "red hair"], "A woman with RED hair.", ["red hair"]),
    (["hair", "red hair"], "red hair and long hair", ["hair", "red hair"]),
    (["woman", "man"], "two women", ["woman"]),
    (["long_hair"], "1girl, long hair, solo", ["long_hair"]),
    (["long hair"], "1girl,long_hair,solo", ["long hair"]),
    (["hat"], "what a chat", []),
    (["hair red"], "red hair", []),
    (["hat"], "the woman's hats", ["hat"]),
    (["t-shirt"], "a T-shirt", ["t-shirt"]),
    (["caf\u00e9"], "a cafe\u0301 at night", ["caf\u00e9"]),
    (["\u732b"], "\u767d\u3044\u732b\u3068\u72ac", ["\u732b"]),
    (["\uff26\uff21\uff23\uff25"], "a face", ["\uff26\uff21\uff23\uff25"]),
    (["stra\u00dfe"], "STRASSE", ["stra\u00dfe"]),
    (["face"], "", []),
    (["\U0001f600", "...", ""], "\U0001f600 ... smile", []),
    ([], "a face", []),
    (["face"], "\x00\ufffd face\u200b", ["face"])])
def test_words_that_a_caption_names(lines: list[str], caption: str, expected: list[str]) -> None:
    assert named(lines, caption) == expected


@pytest.mark.parametrize(("caption", "expected"), [
    ("a woman with red hair standing in a forest", ["woman", "red hair", "forest"]),
    ("1girl, long_hair, looking at viewer, (red dress:1.2), outdoors", ["1girl", "long hair", "viewer", "red dress", "outdoors"]),
    ("A photo of a cat. The cat wears a small green hat.", ["cat", "cat wears", "small green hat"]),
    ("cup of tea, mother-in-law", ["cup of tea", "mother-in-law"]),
    ("Face, face, FACE", ["face"]),
    ("the, a, of", []),
    ("1.2, 34, ---, \U0001f600", []),
    ("", []),
    ("\u9577\u3044\u9aea\u3001\u8d64\u3044\u670d", ["\u9577\u3044\u9aea", "\u8d64\u3044\u670d"])])
def test_phrases_of_a_caption(caption: str, expected: list[str]) -> None:
    assert phrases_of(caption) == expected


def test_words_are_folded() -> None:
    assert words_of("The WOMAN's long_hair, 2 T-shirts") == ["the", "woman", "s", "long", "hair", "2", "t", "shirts"]
