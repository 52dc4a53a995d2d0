"""Saved training sets: what is saved is opened, what is damaged or lost is told, and a large set opens without opening its files."""
from __future__ import annotations

import builtins
import json
import os
import shutil
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.dataset import manifest
from pack.dataset.cache import ExampleCache, ExampleRef, StoredExamples
from pack.dataset.keys import content_key
from pack.dataset.manifest import LAST, list_sets, loss_stamp, open_set, save_set, set_file, set_fingerprint
from pack.dataset.prune import survey
from pack.dataset.refs import RefTable

PADDING = '{"max_length": 512}'


def refs(count: int = 6) -> list[ExampleRef]:
    """Pictures and clips, with and without masks, some of them sharing captions."""
    def key(kind: str, number: int) -> str:
        return content_key(kind, str(number))

    return [ExampleRef(f"folder/caf\u00e9 {i}", f"caption {i // 2} \u2028\"", key("latent", i), key("text", i // 2),
                       key("mask", i) if i % 3 else None, (4, 2, 3) if i % 2 else (4, 5, 2, 3), 77 + i // 2,
                       (1, 16, 24) if i % 3 else None, 1 + i, 0.1 * i, i == 1)
            for i in range(count)]


def fill(folder: Path, entries: list[ExampleRef]) -> ExampleCache:
    cache = ExampleCache(folder)
    for ref in entries:
        cache.latents.put(ref.latent_key, {"latent": torch.zeros(ref.latent_shape)})
        cache.texts.put(ref.text_key, {"cross_attn": torch.zeros(1, ref.text_tokens, 2)})
        if ref.mask_key is not None and ref.mask_shape is not None:
            cache.masks.put(ref.mask_key, {"mask": torch.zeros(ref.mask_shape, dtype=torch.uint8)})
    return cache


def test_a_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    cache = fill(tmp_path, refs())
    save_set(cache, refs(), PADDING, "six\nexamples", "my set 1.0")
    opened = open_set(tmp_path, "my set 1.0")
    assert (opened.text_padding, opened.report) == (PADDING, "six\nexamples")
    assert isinstance(opened.examples, StoredExamples)
    assert list(opened.examples.refs) == refs()
    assert opened.latent_shapes() == [ref.latent_shape for ref in refs()]
    assert opened.examples[1].latent_CHW.shape == (4, 2, 3)
    assert [None if mask is None else tuple(mask.shape) for mask in opened.masks()] == [ref.mask_shape for ref in refs()]


def test_a_table_is_a_sequence_of_refs() -> None:
    table = RefTable(refs())
    assert (len(table), table[0], table[-1], list(table[1:3])) == (6, refs()[0], refs()[5], refs()[1:3])
    with pytest.raises(IndexError):
        table[6]
    assert table.keys("texts") == {ref.text_key for ref in refs()}
    assert table.keys("masks") == {ref.mask_key for ref in refs()} - {None}
    assert table.keys("latents") == {ref.latent_key for ref in refs()}
    again = RefTable.from_columns(json.loads(json.dumps(table.to_columns())))
    assert list(again) == refs()
    again.append(refs(7)[6])
    assert list(again) == refs(7)


def with_texts() -> list[ExampleRef]:
    """Two orders of each caption, texts for dropped captions that all share, and one example with its caption alone."""
    dropped = (("", content_key("text", "empty"), 2), ("quality", content_key("text", "quality"), 3))
    others = [replace(ref, alternatives=tuple((f"{order} {ref.caption}", content_key("text", f"{order} {ref.caption}"), 5)
                                             for order in "ab"),
                      dropped=dropped) for ref in refs()[1:]]
    return [refs()[0], *others]


def test_other_texts_come_back_and_are_kept_once() -> None:
    table = RefTable(with_texts())
    assert list(table) == with_texts()
    assert list(table[1:3]) == with_texts()[1:3]
    assert table.keys("texts") == {key for ref in with_texts() for key in ref.text_keys}
    assert len(table.texts.values) == 3 + 2 * 3 + 2
    again = RefTable.from_columns(json.loads(json.dumps(table.to_columns())))
    assert list(again) == with_texts()
    again.append(with_texts()[3])
    assert list(again) == [*with_texts(), with_texts()[3]]


def test_a_set_of_an_older_version_opens(tmp_path: Path) -> None:
    """The columns that there were before an example could have several texts."""
    cache = fill(tmp_path, refs())
    columns = RefTable(refs()).to_columns()
    assert columns.keys() - {"others", "other_of", "references", "references_of"} == {
        "names", "latents", "masks", "texts", "text_of", "shapes", "shape_of", "parts", "part_of"}
    old = {name: column for name, column in columns.items() if not name.startswith(("other", "references"))}
    contents = {"manifest_version": 1, "text_padding": PADDING, "report": "old", **old}
    rest = json.dumps(contents, separators=(",", ":"))[1:].encode()
    file = set_file(cache.folder, "old")
    file.parent.mkdir()
    file.write_bytes(b'{"crc32": "%08x", ' % zlib.crc32(rest) + rest)
    opened = open_set(tmp_path, "old")
    assert isinstance(opened.examples, StoredExamples)
    assert list(opened.examples.refs) == refs()
    assert opened.examples[0].alternatives == opened.examples[0].dropped == ()


@pytest.mark.parametrize("number", [-1, 11])
def test_a_number_of_a_text_that_is_not_there_is_told(number: int) -> None:
    columns = json.loads(json.dumps(RefTable(with_texts()).to_columns()))
    columns["others"][1][0][0] = number
    with pytest.raises(ValueError, match="its columns are wrong .*points behind the texts"):
        RefTable.from_columns(columns)


def test_a_lost_text_among_others_is_told_and_pruning_leaves_them(tmp_path: Path) -> None:
    cache = fill(tmp_path, with_texts())
    for ref in with_texts():
        for _, key, tokens in (*ref.alternatives, *ref.dropped):
            cache.texts.put(key, {"cross_attn": torch.full((1, tokens, 2), float(tokens))})
    save_set(cache, with_texts(), PADDING, "", "set")
    assert not survey(tmp_path, recent_seconds=0).unused
    example = open_set(tmp_path, "set").examples[1]
    assert [text.load()["cross_attn"].shape[1] for text in (*example.alternatives, *example.dropped)] == [5, 5, 2, 3]
    cache.texts.file(with_texts()[1].alternatives[1][1]).unlink()
    with pytest.raises(ValueError, match=r"1 of 6 examples have lost files \(1 text\): folder/caf\u00e9 1;"):
        open_set(tmp_path, "set")
    with pytest.raises(ValueError, match="caf\u00e9 1: .* is gone; run Encode Training Set again"):
        example.alternatives[1].load()


def test_an_example_without_a_latent_is_told() -> None:
    columns = RefTable([replace(refs()[0], mask_key=None)]).to_columns()
    table = RefTable.from_columns(columns | {"latents": columns["masks"]})
    with pytest.raises(ValueError, match="has no latent; run Encode Training Set again"):
        table[0]


@pytest.mark.parametrize("wrong", [
    {"names": ["a"]}, {"latents": "no base 64!"}, {"texts": []}, {"text_of": [9] * 6}, {"text_of": [-1] * 6}, {"shapes": 3},
    {"parts": None}])
def test_columns_that_do_not_belong_together(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="columns"):
        RefTable.from_columns(RefTable(refs()).to_columns() | wrong)


def test_lost_files_are_counted_and_named(tmp_path: Path) -> None:
    cache = fill(tmp_path, refs(20))
    save_set(cache, refs(20), PADDING, "", "set")
    for i in range(0, 16, 2):
        cache.latents.file(refs(20)[i].latent_key).unlink()
    cache.masks.file(refs(20)[19].mask_key or "").unlink()
    with pytest.raises(ValueError, match=r"'set': 9 of 20 examples have lost files \(8 latents, 1 mask\): folder/caf\u00e9 0, .* and "
                                         "4 more; run Encode Training Set again"):
        open_set(tmp_path, "set")
    shutil.rmtree(tmp_path / "texts")
    with pytest.raises(ValueError, match="20 of 20 examples.*10 texts"):
        open_set(tmp_path, "set")


def test_every_damaged_byte_of_a_set_is_found(tmp_path: Path) -> None:
    save_set(fill(tmp_path, refs()), refs(), PADDING, "", "set")
    file = set_file(tmp_path, "set")
    whole = file.read_bytes()
    assert json.loads(whole)["names"] == [ref.name for ref in refs()], "the file is plain JSON"
    for place in [*range(40), *range(40, len(whole), 7)]:
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="set.json is damaged"):
            open_set(tmp_path, "set")
    for kept in (0, 10, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="set.json is damaged"):
            open_set(tmp_path, "set")


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(manifest, "MANIFEST_VERSION", 2)
        save_set(fill(tmp_path, refs()), refs(), PADDING, "", "set")
    with pytest.raises(ValueError, match="version 2"):
        open_set(tmp_path, "set")


def test_a_set_is_not_saved_while_its_files_are_gone(tmp_path: Path) -> None:
    cache = fill(tmp_path, refs())
    save_set(cache, refs(), PADDING, "old", "set")
    cache.masks.file(refs()[1].mask_key or "").unlink()
    with pytest.raises(ValueError, match=r"'set' cannot be saved, because .*: 1 of 6 examples have .*\(1 mask\).*run again"):
        save_set(cache, refs(), PADDING, "new", "set")
    assert read_report(tmp_path) == "old"


def read_report(folder: Path) -> str:
    return manifest.read_set(set_file(folder, "set"))[1]


def test_a_loss_is_noted_of_the_set_that_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stamp changes with every loss and with nothing else, and is no set."""
    cache = fill(tmp_path, refs())
    for name in ("one 1.0", LAST):
        save_set(cache, refs(), PADDING, "", name)
    stamps = [tuple(loss_stamp(tmp_path, name) for name in ("one 1.0", LAST, None))]
    assert stamps == [("", "", "")]
    examples = open_set(tmp_path, "one 1.0").examples
    latent = cache.latents.file(refs()[0].latent_key)
    latent.write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(ValueError, match="is damaged"):
            examples[0]
        stamps.append(tuple(loss_stamp(tmp_path, name) for name in ("one 1.0", LAST, None)))
    latent.unlink()
    with pytest.raises(ValueError, match="'one 1.0': 1 of 6 examples have lost files"):
        open_set(tmp_path, "one 1.0")
    stamps.append(tuple(loss_stamp(tmp_path, name) for name in ("one 1.0", LAST, None)))
    assert len({stamp for stamp, _, _ in stamps}) == len({stamp for _, _, stamp in stamps}) == 4
    assert {stamp for _, stamp, _ in stamps} == {""}
    fill(tmp_path, refs())
    save_set(cache, refs(), PADDING, "", "one 1.0")
    assert open_set(tmp_path, "one 1.0").examples[0].name == refs()[0].name
    assert loss_stamp(tmp_path, "one 1.0") == stamps[-1][0], "what was encoded again is served again"
    assert list_sets(tmp_path) == [LAST, "one 1.0"]

    def full(*_: object) -> None:
        raise OSError("disk full")

    latent.write_bytes(b"damaged")
    monkeypatch.setattr(manifest, "write_whole", full)
    with pytest.raises(ValueError, match="is damaged"):
        examples[0]
    assert "could not be noted (disk full)" in caplog.text


def test_an_unknown_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no training set 'cats'"):
        open_set(tmp_path, "cats")
    assert list_sets(tmp_path) == []
    assert set_fingerprint(tmp_path, "cats") == ""


@pytest.mark.parametrize("name", ["", "  ", "../x", "a/b", "a\\b", ".hidden", "a\0b", "C:x", "dots..", "x" * 201, ".json"])
def test_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name a training set"):
        save_set(ExampleCache(tmp_path), refs(), PADDING, "", name)
    assert list(tmp_path.rglob("*")) == []


def test_sets_are_listed_and_their_fingerprints_follow_saving(tmp_path: Path) -> None:
    cache = fill(tmp_path, refs())
    for name in ("two", "one", "\u732b"):
        save_set(cache, refs(), PADDING, "", name)
    (tmp_path / "sets" / ".x.partial").touch()
    assert list_sets(tmp_path) == ["one", "two", "\u732b"]
    before = set_fingerprint(tmp_path, "one")
    assert before == set_fingerprint(tmp_path, "one.json ") != set_fingerprint(tmp_path, "two")
    save_set(cache, refs(2), PADDING, "", "one")
    assert set_fingerprint(tmp_path, "one") != before


def test_a_failed_save_leaves_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fill(tmp_path, refs())
    save_set(cache, refs(), PADDING, "old", "set")

    def fails(self: Path, data: bytes) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", fails)
        with pytest.raises(OSError, match="disk full"):
            save_set(cache, refs(), PADDING, "new", "set")
    assert open_set(tmp_path, "set").report == "old"
    assert len(list((tmp_path / "sets").iterdir())) == 1


def test_a_large_set_opens_without_opening_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 examples; the benchmark has 100,000. The files are empty: nobody looks inside."""
    count = 20_000
    cache, table = ExampleCache(tmp_path), RefTable()
    for store in (cache.latents, cache.masks):
        for shard in range(256):
            (store.folder / f"{shard:02x}").mkdir(parents=True)
    text = content_key("text")
    cache.texts.put(text, {"cross_attn": torch.zeros(1, 8, 2)})
    for i in range(count):
        key = content_key(str(i))
        for store in (cache.latents, cache.masks):
            os.close(os.open(store.file(key), os.O_CREAT | os.O_WRONLY))
        table.append(ExampleRef(f"folder/picture {i:06d}", "a caption", key, text, key, (16, 64, 64), 77, (1, 512, 512)))
    save_set(cache, table, PADDING, "", "large")
    opened: list[object] = []
    real = builtins.open

    def watched(file: object, *args: object, **kwargs: object) -> object:
        opened.append(file)
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr("pack.dataset.store.safe_open", lambda *_, **__: pytest.fail("a tensor file was opened"))
    tracemalloc.start()
    started = time.perf_counter()
    training_set = open_set(tmp_path, "large")
    seconds = time.perf_counter() - started
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(training_set.examples) == count
    assert len(opened) <= 1
    assert kept < 600 * count, f"{kept / count:.0f} bytes for each example"
    assert seconds < 8, "tracing slows this down about fourfold"
