"""Orphans are found and removed; what a saved set needs, what is recent, and what is not ours stays."""
from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from pack.dataset.cache import ExampleCache, ExampleRef
from pack.dataset.keys import content_key
from pack.dataset.manifest import open_set, save_set, set_file
from pack.dataset.prune import describe, prune, survey
from pack.dataset.running import Running, marks

PADDING = "{}"


def ref(number: int) -> ExampleRef:
    keys = [content_key(kind, str(number)) for kind in ("latent", "text", "mask")]
    return ExampleRef(f"item {number}", "", *keys, (4, 2, 2), 3, (1, 16, 16))


def fill(folder: Path, numbers: range) -> ExampleCache:
    """Files of two hours ago."""
    cache = ExampleCache(folder)
    for number in numbers:
        each = ref(number)
        for store, key in ((cache.latents, each.latent_key), (cache.texts, each.text_key), (cache.masks, each.mask_key or "")):
            store.put(key, {store.folder.name[:-1]: torch.zeros(4, 2, 2)})
            age(store.file(key), 2)
    return cache


def age(file: Path, hours: float) -> None:
    os.utime(file, (time.time() - 3600 * hours,) * 2)


def files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def test_what_no_set_needs_is_removed_and_the_rest_stays(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(5))
    save_set(cache, [ref(0), ref(1)], PADDING, "", "one")
    save_set(cache, [ref(1), ref(2)], PADDING, "", "two")
    before = files(tmp_path)
    found = survey(tmp_path)
    assert files(tmp_path) == before, "looking removes nothing"
    assert (found.sets, found.used, len(found.unused), found.recent) == (2, 9, 6, 0)
    assert {each.path for each in found.unused} == {
        store.file(key) for n in (3, 4) for store, key in (
            (cache.latents, ref(n).latent_key), (cache.texts, ref(n).text_key), (cache.masks, ref(n).mask_key or ""))}
    size = cache.latents.file(ref(0).latent_key).stat().st_size
    text = describe(found)
    assert "in use by 2 saved training sets: 9 files" in text
    assert f"  latents: 2 files, {2 * size} bytes" in text
    assert prune(found) == 6
    assert files(tmp_path) == before - {each.path for each in found.unused}
    assert prune(found) == 0, "gone is no error"
    for name in ("one", "two"):
        assert open_set(tmp_path, name).examples[1].latent_CHW.shape == (4, 2, 2)


def test_recent_files_stay_for_a_run_that_still_fills_the_cache(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(2))
    cache.latents.touch(ref(0).latent_key)
    assert [len(survey(tmp_path).unused), survey(tmp_path).recent] == [5, 1]
    assert "too recent to remove: 1 file" in describe(survey(tmp_path))
    assert len(survey(tmp_path, recent_seconds=0).unused) == 6


def test_what_a_run_made_stays_until_it_has_saved_its_set(tmp_path: Path) -> None:
    """However long it takes, and for a day when it was stopped; what lay there before it began goes."""
    fill(tmp_path, range(1))
    with Running(tmp_path) as run:
        text = run.file.read_text()
        run.file.write_text(repr(time.time() - 5 * 3600))  # begun five hours ago
        cache = fill(tmp_path, range(1, 3))
        for store in (cache.latents, cache.texts, cache.masks):
            for entry in store.files():
                age(Path(entry.path), 6 if entry.name[:64] in keys(0) else 3)
        found = survey(tmp_path)
        assert (len(found.unused), found.held) == (3, 6)
        assert {each.path.name[:64] for each in found.unused} == keys(0)
        assert "kept for runs that have not saved their set yet: 6 files" in describe(found)
        assert survey(tmp_path, recent_seconds=0).held == 6, "also when everything unused is asked for"
        save_set(cache, [ref(1)], PADDING, "", "set")
    assert text == repr(run.started)
    found = survey(tmp_path)
    assert (found.used, len(found.unused), found.held) == (3, 6, 0), "its mark is gone"


def keys(number: int) -> set[str]:
    each = ref(number)
    return {each.latent_key, each.text_key, each.mask_key or ""}


def test_a_killed_run_holds_its_files_for_a_day(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Running(tmp_path) as run:
        fill(tmp_path, range(1))
        raise KeyboardInterrupt
    assert run.file.is_file()
    run.file.write_text(repr(time.time() - 40 * 3600))
    age(run.file, 23)
    assert (len(survey(tmp_path).unused), survey(tmp_path, 0).held) == (0, 3)
    age(run.file, 25)
    found = survey(tmp_path)
    assert [each.kind for each in found.unused if each.path == run.file] == ["unfinished"]
    assert prune(found) == 1 + 3
    assert not run.file.exists()


def test_a_run_gives_signs_of_life(tmp_path: Path) -> None:
    with Running(tmp_path) as run:
        age(run.file, 30)
        run.beat()
        assert survey(tmp_path).unused[0].path == run.file, "not more than one in a minute"
        run.beaten -= 61
        run.beat()
        assert survey(tmp_path).unused == ()
        assert [mark.started for mark in marks(tmp_path)] == [run.started - 2]
        run.file.unlink()  # by a person
        run.beaten -= 61
        run.beat()
        assert [mark.started for mark in marks(tmp_path)] == [run.started - 2]
        run.file.write_text("")  # half written
        assert len(list(marks(tmp_path))) == 1


def test_a_file_that_is_used_between_listing_and_pruning_stays(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(1))
    found = survey(tmp_path)
    assert cache.latents.use(ref(0).latent_key) is not None
    assert prune(found) == 2
    assert cache.latents.file(ref(0).latent_key).is_file()


def test_rests_of_interrupted_writes_go_after_a_day(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(1))
    save_set(cache, [ref(0)], PADDING, "", "set")
    shard = cache.latents.file(ref(0).latent_key).parent
    old, new, old_set = shard / ".old.partial", shard / ".new.partial", tmp_path / "sets" / ".old.partial"
    for file, hours in ((old, 25), (new, 23), (old_set, 25)):
        file.write_bytes(b"half")
        age(file, hours)
    found = survey(tmp_path, recent_seconds=0)
    assert [(each.path, each.kind) for each in found.unused] == [(old, "unfinished"), (old_set, "unfinished")]
    assert "unfinished: 2 files, 8 bytes" in describe(found)
    assert prune(found) == 2
    assert new.exists()


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(1))
    shard = cache.latents.file(ref(0).latent_key).parent
    elsewhere = tmp_path.parent / "elsewhere.safetensors"
    elsewhere.write_bytes(b"x")
    strange = [shard / "notes.txt", tmp_path / "latents" / "a.safetensors", tmp_path / "x.partial", tmp_path / "sets.safetensors"]
    for file in strange:
        file.write_bytes(b"mine")
        age(file, 100)
    (shard / "link.safetensors").symlink_to(elsewhere)
    found = survey(tmp_path, recent_seconds=0)
    assert len(found.unused) == 3
    prune(found)
    assert all(file.exists() for file in [*strange, elsewhere])


def test_nothing_is_listed_while_a_set_cannot_be_read(tmp_path: Path) -> None:
    cache = fill(tmp_path, range(2))
    save_set(cache, [ref(0)], PADDING, "", "set")
    set_file(tmp_path, "set").write_bytes(b"{}")
    with pytest.raises(ValueError, match="set.json is damaged"):
        survey(tmp_path)


def test_an_empty_cache(tmp_path: Path) -> None:
    found = survey(tmp_path / "nowhere")
    assert (found.used, found.unused, found.recent) == (0, (), 0)
    assert describe(found) == "in use by 0 saved training sets: 0 files, 0 bytes\nunused: 0 files, 0 bytes"
