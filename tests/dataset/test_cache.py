"""The cache gives back what was put in, or nothing."""
from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.dataset import cache
from pack.dataset.cache import CachedExample, ExampleCache, TrainingSet, content_key
from safetensors.torch import load_file, save_file

KEY = content_key("picture", "vae")
PADDING = '{"max_length": 512}'


def example(name: str = "pibo_01") -> CachedExample:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 8, 4, generator=generator)
    cond = {"cross_attn": text[:1], "whole": text, "turned": text.transpose(1, 2),
            "attention_mask": torch.ones(1, 8, dtype=torch.int64)}
    return CachedExample(name, "pibo, caf\u00e9", torch.randn(16, 4, 4, generator=generator).to(torch.bfloat16),
                         torch.rand(32, 32, generator=generator), cond, PADDING)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    with torch.inference_mode():
        ExampleCache(tmp_path / "new").put(KEY, example())
    back = ExampleCache(tmp_path / "new").get(KEY)
    put = example()
    assert back is not None
    assert (back.name, back.caption, back.text_padding) == (put.name, put.caption, put.text_padding)
    assert back.latent_CHW.dtype == torch.bfloat16
    assert torch.equal(back.latent_CHW, put.latent_CHW)
    assert torch.equal(back.mask_HW, put.mask_HW)
    assert back.cond.keys() == put.cond.keys()
    assert all(torch.equal(back.cond[name], put.cond[name]) for name in put.cond)


def test_a_missing_example_is_none_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ExampleCache(tmp_path / "nowhere").get(KEY) is None
    assert caplog.records == []


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_damaged_file_counts_as_missing_and_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    store = ExampleCache(tmp_path)
    store.put(KEY, example())
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert file.name in caplog.text
    store.put(KEY, example())
    assert store.get(KEY) is not None


def test_another_format_counts_as_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExampleCache(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(cache, "FORMAT_VERSION", "0")
        store.put(KEY, example())
    assert store.get(KEY) is None
    assert "format_version 0" in caplog.text
    file = next(tmp_path.iterdir())
    save_file(load_file(file), file)  # no metadata at all
    assert store.get(KEY) is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExampleCache(tmp_path)
    store.put(KEY, example("old"))

    def fails_half_way(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(cache, "save_file", fails_half_way)
    with pytest.raises(OSError, match="disk full"):
        store.put(KEY, example("new"))
    assert len(list(tmp_path.iterdir())) == 1
    back = store.get(KEY)
    assert back is not None
    assert back.name == "old"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_keys_cannot_name_other_files(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cache key"):
        ExampleCache(tmp_path).get(key)


def test_content_keys_differ_where_the_parts_do() -> None:
    parts: list[tuple[bytes | str, ...]] = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("c", "ab"), (b"ab", "c"), ()]
    assert len({content_key(*each) for each in parts}) == len(parts)
    assert content_key("ab", b"c") == content_key("ab", b"c")
    assert len(content_key()) == 64


def test_a_training_set_has_one_text_padding_and_at_least_one_example() -> None:
    assert TrainingSet((example(),), PADDING, "").examples[0].name == "pibo_01"
    with pytest.raises(ValueError, match="pibo_01 was encoded with text padding"):
        TrainingSet((example(), replace(example(), text_padding="{}")), PADDING, "")
    with pytest.raises(ValueError, match="empty"):
        TrainingSet((), PADDING, "")
