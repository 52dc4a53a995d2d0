"""Texts besides a picture's caption: which they are, that no tag is lost or moved that must not be, and that they stay the same."""
from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from pack.dataset.item import ImagePixels, Item
from pack.dataset.scan import FolderSpec, scan_folder
from pack.dataset.texts import CaptionSpec
from PIL import Image

TAGS = "pibo, red scarf, smiling, outdoors, night, close-up"


def texts(caption: str, *members: str, **settings: Any) -> tuple[str, ...]:
    return CaptionSpec(**settings).texts(Item("p", ImagePixels(torch.zeros(1, 8, 8, 3)), None, caption, (8, 8), captions=members))


@pytest.mark.parametrize("caption", ["", TAGS, "one\ntwo", "a ||| b, c"])
def test_without_options_there_is_the_caption_alone(caption: str) -> None:
    assert texts(caption) == (caption,)
    assert texts(caption, "a list's first", "second") == (caption,)
    assert CaptionSpec().describe() == ""


def test_lines_of_a_caption() -> None:
    caption = " a cat on a mat \n\n  a tabby  \na cat on a mat"
    assert texts(caption, lines="first") == ("a cat on a mat",)
    assert texts(caption, lines="random") == ("a cat on a mat", "a tabby")
    assert texts("", lines="random") == texts(" \n ", lines="first") == ("",)
    assert texts("one, two", "one", "two", lines="random") == ("one", "two")
    assert texts("one, two", "one", "two", lines="first") == ("one",)


@pytest.mark.parametrize("kept", [0, 1, 3, 6, 9])
def test_kept_tags_stay_in_front_and_none_is_lost(kept: int) -> None:
    found = texts(TAGS, orders=20, kept=kept)
    assert found[0] == TAGS
    for text in found:
        tags = text.split(", ")
        assert tags[:kept] == TAGS.split(", ")[:kept]
        assert sorted(tags) == sorted(TAGS.split(", "))
    assert len(found) == len(set(found))
    assert len(found) == {0: 20, 1: 20, 3: 6, 6: 1, 9: 1}[kept], "as many as were asked for, or all that there are"


def test_marks_keep_what_is_around_them() -> None:
    found = texts("pibo, scarf ||| smiling, outdoors, night ||| best quality", orders=30, kept=1)
    assert found[0] == "pibo, scarf, smiling, outdoors, night, best quality"
    assert {text.split(", ")[0] + text.split(", ")[1] + text.split(", ")[-1] for text in found} == {"piboscarfbest quality"}
    assert {frozenset(text.split(", ")[2:5]) for text in found} == {frozenset(("smiling", "outdoors", "night"))}
    assert len(found) == 6, "all orders of three tags"
    assert texts("pibo ||| a, b", orders=9) == ("pibo, a, b", "pibo, b, a")


def test_separators() -> None:
    assert set(texts("a; b, c", orders=20, separator=";")) == {"a; b, c", "b, c; a"}
    assert set(texts("a  b", orders=20, separator=" ")) == {"a  b", "a b", "b a"}


def test_each_line_has_its_orders() -> None:
    assert set(texts("a, b\nc, d", orders=20, lines="random")) == {"a, b", "b, a", "c, d", "d, c"}


def test_equal_captions_have_equal_orders_for_ever() -> None:
    """Keys of the cache hang on them. The expected order was computed by hashing `order`, `1 <caption>` and the place by hand."""
    import hashlib

    def key(*parts: str) -> str:
        return hashlib.sha256(b"".join(f"str {len(p.encode())}:".encode() + p.encode() for p in parts)).hexdigest()

    tags = TAGS.split(", ")
    by_hand = [tags[i] for i in sorted(range(6), key=lambda place: key("order", f"1 {TAGS}", str(place)))]
    assert texts(TAGS, orders=2)[1] == ", ".join(by_hand)
    assert texts(TAGS, orders=8)[:5] == texts(TAGS, orders=5), "more orders encode the new ones alone"


def test_all_orders_are_alike_likely() -> None:
    """Each tag at each place in a sixth of the shuffles of 6, within 5 standard deviations, and each pair either way round."""
    count, places, first = 2000, Counter[tuple[str, int]](), Counter[tuple[str, str]]()
    for number in range(count):
        shuffled = texts(f"a{number}, b, c, d, e, f", orders=2)[-1].replace(str(number), "").split(", ")
        places.update((tag, place) for place, tag in enumerate(shuffled))
        first.update(combinations(shuffled, 2))
    for tag in "abcdef":
        for place in range(6):
            assert abs(places[tag, place] - count / 6) < 5 * (count * 5 / 36) ** 0.5
    for pair in combinations("abcdef", 2):
        assert abs(first[pair] - count / 2) < 5 * (count / 4) ** 0.5


def test_eight_orders_seldom_agree_on_a_pair() -> None:
    """As the node says: once in 128."""
    agree = 0
    for number in range(2000):
        found = texts(f"{number}, b, c, d, e, f", orders=8)
        assert len(found) == 8
        agree += all(text.split(", ").index("b") < text.split(", ").index("c") for text in found)
    assert abs(agree - 2000 / 128) < 5 * (2000 / 128) ** 0.5


@pytest.mark.parametrize(("wrong", "said"), [({"lines": "last"}, "lines are 'last'"), ({"orders": 0}, "orders is 0"),
                                             ({"kept": -1}, "kept tags are -1"), ({"separator": ""}, "separator of tags is empty")])
def test_wrong_settings_are_told(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CaptionSpec(**wrong)


def test_settings_in_words() -> None:
    spec = CaptionSpec(lines="random", orders=8, kept=1, dropped=("", "best quality"))
    assert spec.describe() == ("each line, or member of a list, is a caption of its own; tags in 8 orders, with 1 tag, or those before "
                               "|||, kept in front; for dropped captions '' or 'best quality'")


def found(folder: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    data_set = scan_folder(FolderSpec(folder=folder, mask_source="none"))
    return {item.name: (item.caption, item.captions) for item in data_set.items}


def test_lists_in_metadata_are_one_text_and_their_members(tmp_path: Path) -> None:
    """Hugging Face keeps several captions of a picture as a list; sd-scripts appends tags, which are no captions, to each."""
    for number in range(1, 8):
        Image.new("RGB", (16, 16), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(entry) for entry in (
        {"file_name": "1.png", "text": ["a cat", " a tabby "]}, {"file_name": "2.png", "text": "one, two"},
        {"image_path": "3.png", "caption": ["a", "", "b"], "tags": ["x", "y"]}, {"file_name": "4.png", "tags": ["x", "y"]})))
    (tmp_path / "metadata.json").write_text(json.dumps({"5.png": {"caption": ["c", "d"]}, "7.png": ["e", "f"]}))
    (tmp_path / "6.json").write_text(json.dumps({"caption": ["g", "h"], "tags": "z"}))
    assert found(tmp_path) == {
        "1": ("a cat, a tabby", ("a cat", "a tabby")), "2": ("one, two", ()), "3": ("a, b, x, y", ("a, x, y", "b, x, y")),
        "4": ("x, y", ()), "5": ("c, d", ("c", "d")), "6": ("g, h, z", ("g, z", "h, z")), "7": ("e, f", ("e", "f"))}


def test_lists_of_no_texts_are_no_captions(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "caption": [1, 2], "tags": ["x"]}))
    assert found(tmp_path) == {"1": ("x", ())}
