"""Encoding data sets with the demo model's own encoders: what is made, what is not made again, and what happens in between."""
from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import numpy as np
import pytest
import torch
from pack.dataset.cache import TrainingSet
from pack.dataset.geometry import Placement
from pack.dataset.item import DataSet, ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels, OwnAlpha, Transparency
from pack.dataset.manifest import LAST, list_sets, open_set
from pack.dataset.prune import survey
from pack.host import encode as module
from pack.host import prompts
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.encode import encode_data_set
from pack.host.fingerprints import clip_fingerprint, embeddings_of, vae_fingerprint
from pack.host.folders import DEMO_MODEL, PACK_ROOT
from pack.host.preview import preview_sources
from pack.host.progress import Progress
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from pack.masks.latent_grid import latent_weight
from pack.nodes.cache import CleanCache, EncodeTrainingSet, OpenTrainingSet
from PIL import Image
from safetensors.torch import save_file
from skimage import data

from .tiny import random_weights

PADDING = PRESETS["comfyui-mask"]
Vae = comfy.sd.VAE
Counted = tuple[int, int, int]


@pytest.fixture(scope="module")
def models() -> tuple[comfy.sd.CLIP, Vae]:
    with torch.inference_mode():
        return load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)


@pytest.fixture
def encode(models: tuple[comfy.sd.CLIP, Vae], tmp_path: Path) -> Callable[..., TrainingSet]:
    def run(items: list[Item], vae: Vae | None = None, padding: Any = PADDING, name: str = "") -> TrainingSet:
        with torch.inference_mode():
            data_set, cache = DataSet(tuple(items), ""), tmp_path / "cache"
            return encode_data_set(data_set, models[0], vae or models[1], padding, cache, Progress(None), name)

    return run


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, models: tuple[comfy.sd.CLIP, Vae]) -> Iterator[Callable[[], Counted]]:
    """Calls of the VAE, reads of pictures and encoded texts since the last look."""
    counts = [0, 0, 0]

    def counted(place: int, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            counts[place] += 1
            return call(*args)
        return wrapper

    def look() -> Counted:
        seen = (counts[0], counts[1], counts[2])
        counts[:] = [0, 0, 0]
        return seen

    monkeypatch.setattr(models[1], "encode", counted(0, models[1].encode))
    monkeypatch.setattr(module, "load_item", counted(1, module.load_item))
    monkeypatch.setattr(prompts, "encode_text", counted(2, prompts.encode_text))
    yield look
    comfy.model_management.interrupt_current_processing(False)


def photographs(folder: Path, count: int = 3) -> list[Item]:
    """Crops of photographs with masks, all files; two captions."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for i in range(count):
        pixels = data.astronaut()[i * 8:i * 8 + 64, 100:196]
        alpha = np.full((64, 96), 255, np.uint8)
        alpha[:, :30] = 0
        Image.fromarray(np.dstack([pixels, alpha]) if i == 0 else pixels).save(folder / f"{i}.png")
        Image.fromarray(data.camera()[i * 8:i * 8 + 64, 200:296]).save(folder / f"{i}.mask.png")
        image, mask = ImageFiles((folder / f"{i}.png",)), MaskFiles((folder / f"{i}.mask.png",))
        items.append(Item(f"photo {i}", image, mask, f"a star {i % 2}", (96, 64)))
    return items


def pixels_item(name: str, image_HWC: torch.Tensor, mask_HW: torch.Tensor | None = None, caption: str = "a star") -> Item:
    height, width = image_HWC.shape[:2]
    return Item(name, ImagePixels(image_HWC[None]), None if mask_HW is None else MaskPixels(mask_HW[None]), caption, (width, height))


def test_what_is_stored_is_what_the_encoders_give(encode: Any, models: Any, tmp_path: Path) -> None:
    clip, vae = models
    items = photographs(tmp_path)
    examples = encode([replace(items[0], repeats=3, weight=0.5, regularisation=True), *items[1:]]).examples
    with torch.inference_mode():
        for i, (item, example) in enumerate(zip(items, examples, strict=True)):
            with Image.open(item.image.paths[0]) as picture:
                image_HWC = torch.from_numpy(np.asarray(picture.convert("RGB") if i else picture)[..., :3].astype(np.float32) / 255)
            assert torch.equal(example.latent_CHW, vae.encode(image_HWC[None])[0].float())
            mask_HW = np.asarray(Image.open(item.mask.paths[0]), np.float32) / np.float32(255)
            assert example.mask_THW is not None
            assert np.array_equal(example.mask_THW[0].numpy(), mask_HW), "8-bit masks come back exactly"
            cross_attn, extra = encode_text(clip, item.caption, PADDING)[0]
            assert torch.equal(example.cond["cross_attn"], cross_attn)
            assert torch.equal(example.cond["pooled_output"], extra["pooled_output"])
            assert (example.name, example.caption, example.text_padding) == (item.name, item.caption, PADDING.to_json())
    assert [(e.repeats, e.weight, e.regularisation) for e in examples] == [(3, 0.5, True), (1, 1.0, False), (1, 1.0, False)]


@pytest.mark.parametrize("height, width", [(135, 143), (64, 71), (129, 128)])
def test_mask_is_cut_as_the_vae_cuts_the_picture(encode: Any, height: int, width: int) -> None:
    """The VAE drops what does not fill a cell, from the centre out: a mask on the dropped pixels alone must weigh nothing."""
    mask = torch.ones(height, width)
    top, left = height % 8 // 2, width % 8 // 2
    mask[top:top + height // 8 * 8, left:left + width // 8 * 8] = 0
    training_set = encode([pixels_item("odd", torch.rand(height, width, 3), mask)])
    example = training_set.examples[0]
    assert example.latent_CHW.shape[-2:] == (height // 8, width // 8)
    assert example.mask_THW.shape == (1, height // 8 * 8, width // 8 * 8)
    assert not latent_weight(example.mask_THW, example.latent_CHW.shape[-2:]).any()
    assert "edges cut, which fill no latent cell: 1 picture (odd)" in training_set.report


def test_the_preview_shows_the_mask_that_is_kept(encode: Any) -> None:
    """Also where only the edge that the VAE cuts off holds values that eight bits cannot: packed with it or without it."""
    mask = torch.arange(64 * 67).remainder(256).reshape(64, 67).float() / 255
    mask[:, 66] = 0.3333
    item = pixels_item("odd", torch.rand(64, 67, 3), mask)
    (example,) = encode([item]).examples
    (source,) = preview_sources(DataSet((item,), ""), None, None, None)
    shown = source.mask()
    assert example.mask_THW is not None
    assert shown is not None
    assert torch.equal(shown[..., 1:65], example.mask_THW)


def test_only_what_changed_is_made_again(encode: Any, work: Callable[[], Counted], tmp_path: Path) -> None:
    """(calls of the VAE, pictures read, texts encoded) after each change of a set of three pictures and two captions."""
    items = photographs(tmp_path)
    encode(items)
    assert work() == (3, 3, 2)
    first = encode(items)
    assert work() == (0, 0, 0)
    assert "3 pictures: 0 encoded, 3 from the cache\n3 masks: 0 stored, 3 from the cache\n2 captions: 0 encoded, 2" in first.report

    renamed = encode([replace(item, name=f"new {item.name}", repeats=2) for item in items])
    assert (work(), renamed.examples[0].name) == ((0, 0, 0), "new photo 0")
    encode([replace(items[0], caption="a comet"), *items[1:]])
    assert work() == (0, 0, 1)
    masked = encode([replace(items[0], mask=OwnAlpha()), *items[1:]])
    assert work() == (0, 0, 0), "toggling alpha encodes nothing"
    assert masked.examples[0].mask_THW[0, 0, 29:31].tolist() == [0, 1]
    bare = encode([replace(items[0], mask=None), *items[1:]])
    assert (work(), bare.examples[0].mask_THW) == ((0, 0, 0), None)
    assert "without a mask, learned everywhere: 1" in bare.report
    encode([replace(item, transparency=Transparency("fill")) for item in items])
    assert work() == (1, 1, 0), "only one of the pictures has hidden colours"

    Image.fromarray(data.coins()[:64, :96]).save(items[1].mask.paths[0])
    changed = encode(items)
    assert work() == (0, 0, 0), "a new mask is stored and nothing is encoded"
    assert np.array_equal(changed.examples[1].mask_THW[0].numpy(), data.coins()[:64, :96].astype(np.float32) / np.float32(255))
    Image.fromarray(data.chelsea()[:64, :96]).save(items[2].image.paths[0])
    changed = encode(items)
    assert work() == (1, 1, 0)
    assert not torch.equal(changed.examples[2].latent_CHW, first.examples[2].latent_CHW)
    encode(items, padding=PRESETS["comfyui"])
    assert work() == (0, 0, 2)


def test_equal_pictures_and_captions_are_encoded_once(encode: Any, work: Callable[[], Counted]) -> None:
    image = torch.rand(64, 64, 3)
    training_set = encode([pixels_item(str(i), image, torch.ones(64, 64)) for i in range(7)])
    assert work()[::2] == (1, 1)
    assert "7 pictures: 1 encoded, 6 from the cache\n7 masks: 1 stored, 6 from" in training_set.report


def test_other_weights_are_other_keys(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, vae = models
    other = clip.clone()
    other.set_tokenizer_option("t5xxl_min_length", 77)
    assert clip_fingerprint(clip) != clip_fingerprint(other)
    before = vae_fingerprint(vae)
    weight = next(iter(vae.first_stage_model.parameters()))
    with torch.inference_mode():
        kept = weight.clone()
        weight.view(-1)[0] += 1
        changed = vae_fingerprint(vae)
        weight.copy_(kept)
    assert changed != before == vae_fingerprint(vae)
    with monkeypatch.context() as other_precision:  # --bf16-vae
        other_precision.setattr(vae, "vae_dtype", torch.bfloat16)
        assert vae_fingerprint(vae) != before


def test_files_that_were_removed_meanwhile_are_made_again(
    encode: Any, work: Callable[[], Counted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a person, or by another process that prunes; once, and then the set is refused instead of saved."""
    items = [replace(item, caption="a star") for item in photographs(tmp_path)]
    gone: list[Path] = []

    def removes(kind: str, times: int) -> Callable[..., Any]:
        lost = module.ExampleCache.lost

        def wrapper(self: Any, refs: Any) -> Any:
            if len(gone) < times:
                file = sorted((tmp_path / "cache" / kind).rglob("*.safetensors"))[0]
                file.unlink()
                gone.append(file)
            return lost(self, refs)
        return wrapper

    for kind, made in (("latents", (4, 4, 1)), ("masks", (0, 0, 0)), ("texts", (0, 0, 1))):
        with monkeypatch.context() as once:
            once.setattr(module.ExampleCache, "lost", removes(kind, 1))
            training_set = encode(items)
        assert work() == made
        assert [example.name for example in training_set.examples] == [item.name for item in items]
        assert gone.pop().is_file()
    assert "something removed files" in caplog.text
    with monkeypatch.context() as always:
        always.setattr(module.ExampleCache, "lost", removes("latents", 9))
        with pytest.raises(ValueError, match="cannot be saved, because something removed its files from .*cache: .*; run again"):
            encode(items)


def test_a_run_is_marked_while_it_fills_the_cache(encode: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two hours of encoding are not pruned away, and a day passes before what a failed run made is."""
    items, cache, held = photographs(tmp_path), tmp_path / "cache", []

    def looks(*args: Any) -> None:
        put(*args)
        held.append((survey(cache, 0).held, survey(cache, 0).unused))

    put = module.put
    with monkeypatch.context() as watched:
        watched.setattr(module, "put", looks)
        encode(items)
    assert held == [(written, ()) for written in range(1, 3 + 3 + 2 + 1)]
    assert not list((cache / "running").iterdir())
    items[2].image.paths[0].write_bytes(b"")
    with pytest.raises(ValueError, match="photo 2"):
        encode([replace(item, transparency=Transparency("fill", colour=(1, 2, 3))) for item in items], name="other")
    assert len(list((cache / "running").iterdir())) == 1
    assert survey(cache, 0).unused == ()


def test_the_files_of_textual_inversions_count(
    encode: Any, models: Any, work: Callable[[], Counted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The caption stays the same when the file that it names is trained further."""
    monkeypatch.setattr(models[0].tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    made = []
    for value in (0.0, 0.0, 1.0):
        save_file({"clip_l": torch.full((2, 768), value)}, tmp_path / "face.safetensors")
        made.append(embeddings_of("a embedding:face", models[0], PADDING))
    assert made[0] == made[1] != made[2]
    assert embeddings_of("a face", models[0], PADDING) == ""
    keys = []
    for seen in made[1:]:
        with monkeypatch.context() as named:
            named.setattr(module, "embeddings_of", lambda *_, seen=seen: seen)
            keys.append(encode([pixels_item("one", torch.zeros(64, 64, 3))]).examples.refs[0].text_key)
    assert keys[0] != keys[1]
    assert work()[2] == 2


def test_a_file_that_changes_during_the_run_is_refused(encode: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its new pixels must not be kept under the key of the old ones."""
    items, real = photographs(tmp_path), module.load_item

    def overtaken(item: Item) -> Any:
        if item.name == "photo 1":
            Image.fromarray(data.chelsea()[:64, :96]).save(item.image.paths[0])
        return real(item)

    with monkeypatch.context() as racing:
        racing.setattr(module, "load_item", overtaken)
        with pytest.raises(ValueError, match=r"photo 1: .*1\.png changed while it was read"):
            encode(items)
    assert len(encode(items).examples) == 3


def test_files_from_the_cache_count_as_used(encode: Any, tmp_path: Path) -> None:
    """Pruning leaves recent files alone: a run that is not saved yet may need them."""
    items = photographs(tmp_path)
    encode(items)
    files = [file for file in (tmp_path / "cache").rglob("*.safetensors") if file.is_file()]
    assert len(files) == 3 + 3 + 2
    for file in files:
        os.utime(file, (1, 1))
    encode(items)
    assert all(time.time() - file.stat().st_mtime < 60 for file in files)


@pytest.mark.parametrize("kind", ["latents", "masks", "texts"])
def test_damaged_files_are_told_and_made_again(
    encode: Any, work: Callable[[], Counted], tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    items = photographs(tmp_path)
    first = [(e.latent_CHW, e.mask_THW, e.cond["cross_attn"]) for e in encode(items).examples]
    work()
    file = sorted((tmp_path / "cache" / kind).rglob("*.safetensors"))[0]
    whole = bytearray(file.read_bytes())
    whole[-3] ^= 16
    file.write_bytes(whole)
    with caplog.at_level(logging.WARNING):
        again = encode(items).examples
    assert str(file) in caplog.text
    assert work() == {"latents": (1, 1, 0), "masks": (0, 0, 0), "texts": (0, 0, 1)}[kind]
    for before, after in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, (after.latent_CHW, after.mask_THW, after.cond["cross_attn"]), strict=True))


def test_a_turned_picture_has_a_mask_for_its_corners(encode: Any, tmp_path: Path) -> None:
    item = replace(photographs(tmp_path)[1], mask=None)
    turned = replace(item, placement=Placement((64, 64), (0, 0, 64, 64), angle=20.0))
    straight = replace(item, placement=Placement((64, 64), (0, 0, 64, 64)))
    for _ in range(2):  # encoded, and from the cache
        with_corners, without = encode([turned, straight]).examples
        assert without.mask_THW is None
        assert with_corners.mask_THW.min() == 0
        assert with_corners.mask_THW[0, 20:44, 20:44].min() == 1


def test_sets_are_saved_under_their_names(encode: Any, tmp_path: Path) -> None:
    items = photographs(tmp_path)
    named = encode(items, name="my stars")
    encode(items[:1])
    assert list_sets(tmp_path / "cache") == [LAST, "my stars"]
    opened = open_set(tmp_path / "cache", "my stars")
    assert (opened.text_padding, opened.report, opened.latent_shapes()) == (named.text_padding, named.report, named.latent_shapes())
    assert torch.equal(opened.examples[2].latent_CHW, named.examples[2].latent_CHW)
    assert len(open_set(tmp_path / "cache", LAST).examples) == 1


def test_the_report_tells_the_kinds_of_batches(encode: Any) -> None:
    kinds = [(64, 64, "a star"), (64, 64, "a star"), (128, 64, "a star of many, many more words")]
    report = encode([pixels_item(str(i), torch.rand(h, w, 3), None, caption) for i, (w, h, caption) in enumerate(kinds)]).report
    assert "8x8 cells, 4 tokens: 2 examples" in report
    assert "16x8 cells, " in report
    assert PADDING.describe() in report


def test_bad_sets_are_refused_before_anything_is_encoded(encode: Any, work: Callable[[], Counted], tmp_path: Path) -> None:
    items = photographs(tmp_path)
    with pytest.raises(ValueError, match="tiny is 96x7 pixels, less than the 8 of one latent cell"):
        encode([*items, pixels_item("tiny", torch.rand(7, 96, 3))])
    with pytest.raises(ValueError, match="clip has 5 frames and needs a video VAE, and .* encodes pictures, not clips"):
        encode([*items, Item("clip", ImagePixels(torch.rand(5, 64, 64, 3)), None, "", (64, 64), frames=5)])
    with pytest.raises(ValueError, match="cannot name a training set"):
        encode(items, name="../x")
    with pytest.raises(ValueError, match="the data set is empty"):
        encode([])
    assert work() == (0, 0, 0)


def test_an_unreadable_picture_is_named_and_earlier_ones_are_kept(encode: Any, work: Callable[[], Counted], tmp_path: Path) -> None:
    items = photographs(tmp_path, 4)
    whole = items[3].image.paths[0].read_bytes()
    items[3].image.paths[0].write_bytes(whole[:200])
    with pytest.raises(ValueError, match=r"photo 3: .*3\.png"):
        encode(items)
    items[3].image.paths[0].write_bytes(whole)
    work()
    encode(items)
    assert work()[0] == 1
    items[3].image.paths[0].unlink()
    with pytest.raises(ValueError, match=r"photo 3: .*3\.png"):
        encode(items)
    assert not reading_threads()


def test_nan_is_an_error_in_words(encode: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models[1], "encode", lambda pixels: torch.full((1, 16, 8, 12), float("nan")))
    with pytest.raises(ValueError, match="photo 0: the VAE produced NaN; start ComfyUI with --fp32-vae"):
        encode(photographs(tmp_path))
    assert not list((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    real = prompts.encode_text
    monkeypatch.setattr(prompts, "encode_text", lambda *args: [[cond * float("nan"), extra] for cond, extra in real(*args)])
    with pytest.raises(ValueError, match="caption 'a comet': the text encoder produced NaN"):
        encode([replace(photographs(tmp_path)[0], caption="a comet")])
    monkeypatch.setattr(prompts, "encode_text", lambda *args: real(*args) * 2)
    with pytest.raises(ValueError, match="caption 'a planet': the CLIP is scheduled by hooks and gives 2 conditionings"):
        encode([replace(photographs(tmp_path)[0], caption="a planet")])


def test_a_failed_write_reaches_the_caller(encode: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pack.dataset.store.save_file", full)
    with pytest.raises(OSError, match="'a star 0' could not be kept in .*No space left on device.*make room"):
        encode(photographs(tmp_path))
    assert not reading_threads()


def test_cancel_stops_at_once_and_keeps_what_was_encoded(
    encode: Any, models: Any, work: Callable[[], Counted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    items, counted = photographs(tmp_path, 12), models[1].encode

    def pressed_at_the_third(pixels: torch.Tensor) -> torch.Tensor:
        latent = counted(pixels)
        pressed_at_the_third.calls = getattr(pressed_at_the_third, "calls", 0) + 1
        if pressed_at_the_third.calls == 3:
            comfy.model_management.interrupt_current_processing()
        return latent

    with monkeypatch.context() as pressed:
        pressed.setattr(models[1], "encode", pressed_at_the_third)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            encode(items)
    assert work()[0] == 3
    assert not reading_threads()
    encode(items)
    assert work()[0] == 9


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_only_a_few_pictures_are_in_memory(encode: Any, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a CPU one after the other; beside a GPU, which there is none of here, a few are read ahead."""
    if device == "gpu":
        monkeypatch.setattr(module, "read_ahead_depth", lambda vae, items: module.PICTURES_AHEAD)
    alive: set[int] = set()
    most, real = [0], module.load_item

    def watched(item: Item) -> Any:
        """A view of loaded pixels keeps their storage alive, and with it the numpy array that it was made of."""
        loaded = real(item)
        pixels = loaded.image_THWC.numpy().copy()
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        most[0] = max(most[0], len(alive))
        return replace(loaded, image_THWC=torch.from_numpy(pixels))

    monkeypatch.setattr(module, "load_item", watched)
    encode(photographs(tmp_path, 24))
    assert most[0] == 1 if device == "cpu" else 1 < most[0] <= module.PICTURES_AHEAD + 1


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("masked-lora")]


CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.path.insert(0, sys.argv[1])
import conftest
from comfy.cli_args import args
args.cpu = True
import torch
from pack.dataset.item import DataSet
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.encode import encode_data_set
from pack.host.folders import DEMO_MODEL
from pack.host.progress import Progress
from pack.host.text_padding import PRESETS
from pack.dataset.item import ImageFiles, Item, MaskFiles
folder, cache, pause, count = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
items = tuple(Item(f"photo {i}", ImageFiles((folder / f"{i}.png",)), MaskFiles((folder / f"{i}.mask.png",)), f"a star {i % 2}", (96, 64))
              for i in range(count))
with torch.inference_mode():
    clip, vae = load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)
    real = vae.encode
    vae.encode = lambda pixels: (time.sleep(pause), real(pixels))[1]
    encode_data_set(DataSet(items, ""), clip, vae, PRESETS["comfyui-mask"], cache, Progress(None))
"""


def start(folder: Path, cache: Path, pause: float, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(PACK_ROOT / "tests"), str(folder), str(cache), str(pause), str(count)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=variables)


def test_a_killed_run_goes_on_where_it_was(encode: Any, work: Callable[[], Counted], tmp_path: Path) -> None:
    items, latents = photographs(tmp_path, 10), tmp_path / "cache" / "latents"
    child = start(tmp_path, tmp_path / "cache", 0.2, 10)
    end = time.monotonic() + 120
    while len(list(latents.rglob("*.safetensors"))) < 3 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert child.poll() is None, child.communicate()[1]
    child.kill()  # SIGKILL, or TerminateProcess: nothing is tidied up
    child.communicate()
    kept = len(list(latents.rglob("*.safetensors")))
    assert 3 <= kept < 10
    training_set = encode(items)
    assert work() == (10 - kept, 10 - kept, 0)
    assert f"{10 - kept} encoded, {kept} from the cache" in training_set.report
    assert len([example.latent_CHW for example in training_set.examples]) == 10


def test_two_processes_fill_one_cache(encode: Any, work: Callable[[], Counted], tmp_path: Path) -> None:
    items = photographs(tmp_path, 8)
    child = start(tmp_path, tmp_path / "cache", 0.1, 8)
    end = time.monotonic() + 120
    while not (tmp_path / "cache" / "latents").is_dir() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    both = encode(items)
    assert 0 < work()[0] <= 8, "this process has its part in it"
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    encode(items)
    assert work() == (0, 0, 0)
    assert not list((tmp_path / "cache").rglob("*.partial"))
    latents = [example.latent_CHW for example in both.examples]
    (tmp_path / "cache").rename(tmp_path / "filled by two")
    alone = encode(items)
    assert list(alone.examples.refs) == list(both.examples.refs)
    assert all(torch.allclose(mine.latent_CHW, theirs, atol=1e-5) for mine, theirs in zip(alone.examples, latents, strict=True))


@pytest.fixture(scope="module")
def wan_vae() -> Vae:
    """Wan 2.1's video VAE with few channels and random weights."""
    from comfy.ldm.wan.vae import WanVAE

    network = WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], temperal_downsample=[False, True, True],
                     image_channels=3, conv_out_channels=3, dropout=0.0)
    with torch.inference_mode():
        vae = comfy.sd.VAE(sd=random_weights(network))
    assert vae.latent_dim == 3
    return vae


@pytest.mark.parametrize(("frames", "kept", "latent_frames"), [(1, 1, 1), (4, 1, 1), (5, 5, 2), (6, 5, 2), (9, 9, 3)])
def test_clips_are_cut_to_whole_latent_frames(encode: Any, wan_vae: Vae, frames: int, kept: int, latent_frames: int) -> None:
    clip_THWC = torch.rand(frames, 32, 40, 3, generator=torch.Generator().manual_seed(0))
    mask_THW = torch.rand(frames, 32, 40, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    training_set = encode([Item("walk", ImagePixels(clip_THWC), MaskPixels(mask_THW), "", (40, 32), frames=frames)], vae=wan_vae)
    (example,) = training_set.examples
    assert example.latent_CHW.shape == (16, latent_frames, 4, 5)
    assert torch.equal(example.mask_THW, mask_THW[:kept])
    with torch.inference_mode():  # the VAE would drop the same frames, without a word
        assert torch.allclose(example.latent_CHW, wan_vae.encode(clip_THWC)[0].float(), atol=1e-5)
    dropped = f"last frames dropped, which fill no latent frame: 1 clip (walk {frames} to {kept})"
    assert (dropped in training_set.report) == (frames != kept)
    if latent_frames > 1:
        assert f"{latent_frames} frames of 5x4 cells" in training_set.report


def test_one_mask_serves_a_whole_clip(encode: Any, wan_vae: Vae) -> None:
    item = Item("walk", ImagePixels(torch.rand(6, 32, 32, 3)), MaskPixels(torch.ones(1, 32, 32)), "", (32, 32), frames=6)
    (example,) = encode([item], vae=wan_vae).examples
    assert example.mask_THW.shape == (1, 32, 32)


def test_the_nodes(models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Encode under a name, open it, change a picture, clean up."""
    monkeypatch.setattr("folder_paths.get_user_directory", lambda: str(tmp_path / "user"))
    items = photographs(tmp_path)

    def encoded(caption: str) -> Any:
        node = EncodeTrainingSet.PREPARE_CLASS_CLONE(None)
        data_set = DataSet(tuple(replace(item, caption=caption) for item in items), "")
        with torch.inference_mode():
            return node.execute(data_set=data_set, clip=models[0], vae=models[1], padding=PADDING, name=" stars ")

    assert OpenTrainingSet.define_schema().inputs[0].options == []
    first = encoded("a star")
    assert first.args[1] == first.args[0].report == first.ui.as_dict()["text"][0]
    assert OpenTrainingSet.define_schema().inputs[0].options == ["stars"]
    opened = OpenTrainingSet.execute(name="stars")
    assert opened.args == (opened.args[0], first.args[1])
    assert torch.equal(opened.args[0].examples[0].latent_CHW, first.args[0].examples[0].latent_CHW)
    before = OpenTrainingSet.fingerprint_inputs(name="stars")
    assert before == OpenTrainingSet.fingerprint_inputs(name="stars")
    encoded("a comet")
    assert OpenTrainingSet.fingerprint_inputs(name="stars") != before
    assert "unused: 0 files" in CleanCache.execute(action="prune", unused_hours=1.0).args[0]
    assert "  texts: 1 file" in CleanCache.execute(action="list", unused_hours=0.0).args[0]
    assert "removed: 1 file" in CleanCache.execute(action="prune", unused_hours=0.0).args[0]
    assert "unused: 0 files" in CleanCache.execute(action="list", unused_hours=0.0).args[0]
    assert CleanCache.fingerprint_inputs(action="list", unused_hours=0.0) != CleanCache.fingerprint_inputs(action="list", unused_hours=0.0)
    assert OpenTrainingSet.execute(name="stars").args[0].examples[0].caption == "a comet"
    with pytest.raises(ValueError, match="gone; run Encode Training Set again"):
        first.args[0].examples[0]
