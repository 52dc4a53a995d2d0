"""The store gives back what was put in, or nothing and a warning: never something else."""
from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pack.dataset import store as module
from pack.dataset.keys import content_key
from pack.dataset.store import DamagedFile, TensorStore, checksum
from safetensors.torch import load_file, save_file

KEY = content_key("picture", "vae")
ROOT = Path(module.__file__).parents[1]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 8, 4, generator=generator)
    return {"latent": torch.randn(16, 4, 4, generator=generator).to(torch.bfloat16), "part": text[:1], "whole": text,
            "turned": text.transpose(1, 2), "ids": torch.ones(1, 8, dtype=torch.int64), "number": torch.tensor(1.5),
            "half": torch.rand(3, generator=generator).half(), "bytes": torch.arange(7, dtype=torch.uint8), "empty": torch.zeros(0, 2)}


def test_round_trip_is_exact(tmp_path: Path) -> None:
    with torch.inference_mode():
        TensorStore(tmp_path / "new").put(KEY, tensors())
    back = TensorStore(tmp_path / "new").get(KEY)
    assert back is not None
    assert back.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_files_are_sharded_by_the_keys_first_digits(tmp_path: Path) -> None:
    TensorStore(tmp_path).put(KEY, tensors())
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.*")] == [f"{KEY[:2]}/{KEY}.safetensors"]


def test_what_is_missing_is_none_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert TensorStore(tmp_path / "nowhere").get(KEY) is None
    assert caplog.records == []
    with pytest.raises(FileNotFoundError):
        TensorStore(tmp_path).load(KEY)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_file_is_told_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    store = TensorStore(tmp_path)
    store.put(KEY, tensors())
    file = store.file(KEY)
    file.write_bytes(file.read_bytes()[:kept])
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert str(file) in caplog.text
    store.put(KEY, tensors())
    assert store.get(KEY) is not None


def test_every_flipped_bit_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also in names, types, shapes and key, and wherever else the file tells something; only padding may change."""
    store = TensorStore(tmp_path)
    store.put(KEY, {"latent": torch.rand(2, 3), "other": torch.rand(2, 3)})
    file = store.file(KEY)
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(bytes(damaged))
        assert store.get(KEY) is None, f"byte {place} of {len(whole)}: {whole[max(0, place - 20):place + 20]!r}"
    assert len(caplog.records) == len(whole)


def test_a_file_under_another_key_and_another_format_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = TensorStore(tmp_path), content_key("another picture")
    store.put(KEY, tensors())
    store.file(other).parent.mkdir(exist_ok=True)
    store.file(other).write_bytes(store.file(KEY).read_bytes())
    with pytest.raises(DamagedFile, match="checksum"):
        store.load(other)
    with monkeypatch.context() as older:
        older.setattr(module, "FORMAT_VERSION", "0")
        store.put(KEY, tensors())
    assert store.get(KEY) is None
    assert "format version 0" in caplog.text
    save_file(load_file(store.file(KEY)), store.file(KEY))  # no metadata at all
    assert store.get(KEY) is None


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TensorStore(tmp_path)
    store.put(KEY, {"latent": torch.zeros(1)})

    def fails_half_way(tensors: object, file: Path, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module, "save_file", fails_half_way)
    with pytest.raises(OSError, match="disk full"):
        store.put(KEY, {"latent": torch.ones(1)})
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 1
    assert torch.equal(store.load(KEY)["latent"], torch.zeros(1))


def test_a_file_that_windows_cannot_replace_stays_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may hold it; equal keys are equal contents."""
    store = TensorStore(tmp_path)
    store.put(KEY, tensors())

    def held(source: Path, target: Path) -> None:
        raise PermissionError("in use")

    monkeypatch.setattr(module.os, "replace", held)
    with pytest.raises(PermissionError):
        store.put(KEY, tensors())
    # pathlib looks at os.name too: make what it needs first
    partial = tmp_path / "x.partial"
    file, missing = store.file(KEY), tmp_path / "missing"
    monkeypatch.setattr(module, "os", type("Windows", (), {"name": "nt", "replace": staticmethod(held)}))
    module.replace(partial, file)
    with pytest.raises(PermissionError):
        module.replace(partial, missing)


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_keys_cannot_name_other_files(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cache key"):
        TensorStore(tmp_path).get(key)


def test_missing_names_the_keys_without_a_file(tmp_path: Path) -> None:
    store, keys = TensorStore(tmp_path), [content_key(str(i)) for i in range(20)]
    for key in keys[::2]:
        store.put(key, {"latent": torch.zeros(1)})
    assert store.missing(set(keys)) == set(keys[1::2])


def test_checksums_tell_apart_what_has_the_same_bytes() -> None:
    one = torch.zeros(2, 3)
    others = [{"b": one}, {"a": one.reshape(3, 2)}, {"a": one.int()}, {"a": one + 1}, {"a": one, "b": one[:0]}]
    assert len({checksum(each) for each in ({"a": one}, *others)}) == 1 + len(others)


FILL = """
import importlib.util, sys
from pathlib import Path
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("pack", root / "__init__.py", submodule_search_locations=[str(root)])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
import torch
from pack.dataset.keys import content_key
from pack.dataset.store import TensorStore
store = TensorStore(folder)
(folder / f"ready {sys.argv[3]}").touch()
while not (folder / "go").exists():
    pass
for turn in range(15):
    for number in range(20):
        key = content_key(str(number))
        store.put(key, {"latent": torch.full((64, 64), float(number))})
        back = store.load(key)  # may be the other process's file, and must be whole
        assert back["latent"].eq(number).all()
"""


def test_two_processes_fill_one_folder(tmp_path: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", FILL, str(ROOT), str(tmp_path), str(n)], stderr=subprocess.PIPE, text=True)
            for n in range(2)]
    end = time.monotonic() + 60
    while not all((tmp_path / f"ready {n}").exists() for n in range(2)) and time.monotonic() < end:
        time.sleep(0.05)
    (tmp_path / "go").touch()
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    files = [file for file in tmp_path.rglob("*.*") if file.is_file()]
    assert len(files) == 20
    assert not [file for file in files if file.suffix == ".partial"]
    store = TensorStore(tmp_path)
    assert all(torch.equal(store.load(content_key(str(n)))["latent"], torch.full((64, 64), float(n))) for n in range(20))


def test_touching_marks_a_file_as_used(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    store.put(KEY, tensors())
    os.utime(store.file(KEY), (1, 1))
    assert store.use(KEY) is not None
    assert time.time() - store.file(KEY).stat().st_mtime < 60


def test_a_file_that_is_removed_before_it_is_used_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever another process removes it."""
    store = TensorStore(tmp_path)
    assert not store.touch(KEY)
    assert store.use(KEY) is None
    store.put(KEY, tensors())
    real = TensorStore.touch

    def removed_after(self: TensorStore, key: str) -> bool:
        there = real(self, key)
        self.file(key).unlink()
        return there

    monkeypatch.setattr(TensorStore, "touch", removed_after)
    assert store.use(KEY) is None
