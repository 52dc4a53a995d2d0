"""Encoded examples in memory and on disk, what masks keep on the way, and which change makes which key another."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.dataset.ahead import ReadAhead, WriteBehind
from pack.dataset.cache import CachedExample, ExampleCache, ExampleRef, StoredExamples, TrainingSet, pack_mask, unpack_mask
from pack.dataset.geometry import Placement
from pack.dataset.item import ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels, OwnAlpha, Transparency
from pack.dataset.keys import Cut, Sources, content_key, has_mask, hash_tensor, latent_key, mask_key, text_key
from PIL import Image
from skimage import data

PADDING = '{"max_length": 512}'
CUT = Cut(1, slice(0, 32), slice(0, 48))
Change = Callable[[Item], Item]


def example(name: str = "pibo_01") -> CachedExample:
    return CachedExample(name, "pibo", torch.rand(16, 4, 4), torch.rand(1, 32, 32), {"cross_attn": torch.rand(1, 8, 4)}, PADDING)


def stored(folder: Path, count: int = 3) -> StoredExamples:
    cache, refs = ExampleCache(folder), []
    for i in range(count):
        keys = [content_key(kind, str(i)) for kind in ("latent", "mask", "text")]
        cache.latents.put(keys[0], {"latent": torch.full((4, 2, 3 + i), float(i))})
        cache.masks.put(keys[1], {"mask": torch.full((1, 16, 24), i, dtype=torch.uint8)})
        cache.texts.put(keys[2], {"cross_attn": torch.full((1, 5, 2), float(i)), "pooled_output": torch.zeros(1, 3)})
        refs.append(ExampleRef(f"item {i}", f"caption {i}", keys[0], keys[2], keys[1] if i else None, (4, 2, 3 + i), 5,
                               (1, 16, 24) if i else None, 1 + i, 0.5 * i, i == 1))
    return StoredExamples(cache, refs, PADDING)


def test_a_training_set_has_one_text_padding_and_at_least_one_example(tmp_path: Path) -> None:
    assert TrainingSet((example(),), PADDING, "").examples[0].name == "pibo_01"
    with pytest.raises(ValueError, match="pibo_01 was encoded with text padding"):
        TrainingSet((example(), replace(example(), text_padding="{}")), PADDING, "")
    with pytest.raises(ValueError, match="the stored set was encoded with text padding"):
        TrainingSet(stored(tmp_path), "{}", "")
    for nothing in ((), stored(tmp_path, 0)):
        with pytest.raises(ValueError, match="empty"):
            TrainingSet(nothing, PADDING, "")


def test_stored_examples_are_loaded_when_asked_for(tmp_path: Path) -> None:
    examples = stored(tmp_path)
    second = examples[1]
    assert (second.name, second.caption, second.text_padding, second.repeats, second.weight, second.regularisation) == (
        "item 1", "caption 1", PADDING, 2, 0.5, True)
    assert torch.equal(second.latent_CHW, torch.ones(4, 2, 4))
    assert second.mask_THW is not None
    assert torch.equal(second.mask_THW, torch.full((1, 16, 24), 1 / 255))
    assert torch.equal(second.cond["cross_attn"], torch.ones(1, 5, 2))
    assert examples[0].mask_THW is None
    assert examples[-1].name == "item 2"
    assert [each.name for each in examples[1:]] == ["item 1", "item 2"]
    assert [each.name for each in examples] == ["item 0", "item 1", "item 2"]
    with pytest.raises(IndexError):
        examples[3]


def test_shapes_and_masks_need_no_latents(tmp_path: Path) -> None:
    training_set = TrainingSet(stored(tmp_path), PADDING, "")
    latents = list((tmp_path / "latents").rglob("*.safetensors"))
    for file in latents:
        file.write_bytes(b"")
    assert training_set.latent_shapes() == [(4, 2, 3), (4, 2, 4), (4, 2, 5)]
    masks = list(training_set.masks())
    assert masks[0] is None
    assert [mask.shape for mask in masks[1:]] == [(1, 16, 24)] * 2
    latents[0].unlink()
    with pytest.raises(ValueError, match=r"1 of 3 examples have lost files \(1 latent\): item \d; run Encode Training Set again"):
        next(training_set.masks())  # before hours of training, and not in the middle of it
    in_memory = TrainingSet((example(),), PADDING, "")
    assert in_memory.latent_shapes() == [(16, 4, 4)]
    assert [mask.shape for mask in in_memory.masks()] == [(1, 32, 32)]


def test_a_lost_or_damaged_file_names_the_example(tmp_path: Path) -> None:
    noted: list[int] = []
    examples = stored(tmp_path)
    examples.on_loss = lambda: noted.append(1)
    file = examples.cache.latents.file(examples.refs[1].latent_key)
    assert examples[1].name == "item 1"
    assert noted == []
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"item 1: .*{file.name} is damaged .*Encode Training Set again"):
        examples[1]
    file.unlink()
    with pytest.raises(ValueError, match=rf"item 1: .*{file.name} is gone; run Encode Training Set again"):
        examples[1:][0]
    assert noted == [1, 1], "told, so that the host encodes again"


@pytest.mark.parametrize("divide", [
    lambda k: k.astype(np.float32) / np.float32(255), lambda k: k.astype(np.float32) * np.float32(1 / 255),
    lambda k: (1.0 - torch.from_numpy((255 - k).astype(np.float32) / 255)).numpy(), lambda k: (k / 255).astype(np.float64)])
def test_masks_of_eight_bits_come_back_exactly(divide: Callable[[np.ndarray], np.ndarray]) -> None:
    """Of every grey there is, however another node divided by 255."""
    greys = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    packed = pack_mask(torch.from_numpy(divide(greys)))
    assert packed.dtype == torch.uint8
    back = unpack_mask(packed)
    assert back.dtype == torch.float32
    assert np.array_equal(back.numpy(), greys.astype(np.float32) / np.float32(255))


def test_other_masks_are_off_by_less_than_a_2048th() -> None:
    values = torch.cat([torch.linspace(0, 1, 65536), torch.rand(1 << 16, generator=torch.Generator().manual_seed(0))]).reshape(2, 256, 256)
    packed = pack_mask(values)
    assert packed.dtype == torch.float16
    assert (unpack_mask(packed) - values).abs().max() <= 2**-11
    for between in (0.3, 76 / 255 + 2e-4, 76 / 255 + 2e-5):  # a single value between two greys
        one_off = torch.zeros(1, 8, 8)
        one_off[0, 3, 3] = between
        assert pack_mask(one_off).dtype == torch.float16


def test_a_value_comes_back_the_same_whatever_is_around_it() -> None:
    """So that what was cut off a mask, and is kept or not, changes nothing of the rest."""
    greys = torch.arange(256).float().div(255)
    alike = torch.cat([greys, greys - 2**-21, greys + 2**-21]).reshape(1, 24, 32)  # across the steps of half precision too
    other = torch.rand(1, 24, 1, generator=torch.Generator().manual_seed(0))
    assert pack_mask(alike).dtype == torch.uint8
    assert pack_mask(torch.cat([alike, other], -1)).dtype == torch.float16
    both = unpack_mask(pack_mask(torch.cat([alike, other], -1)))
    assert torch.equal(both[..., :32], unpack_mask(pack_mask(alike)))
    assert torch.equal(both[..., 32:], unpack_mask(pack_mask(other)))


def test_masks_outside_their_range() -> None:
    assert unpack_mask(pack_mask(torch.tensor([[[-1.0, 2.0, 1.0]]]))).tolist() == [[[0, 1, 1]]]
    with pytest.raises(ValueError, match="not numbers"):
        pack_mask(torch.tensor([[[0.0, float("nan")]]]))


@pytest.fixture
def item(tmp_path: Path) -> Item:
    """A photograph with transparency and a mask, as files."""
    cat = data.chelsea()[:32, :48]
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, :9] = 0
    Image.fromarray(np.dstack([cat, alpha])).save(tmp_path / "cat.png")
    Image.fromarray(cat).save(tmp_path / "opaque.png")
    Image.fromarray(data.coins()[:32, :48]).save(tmp_path / "mask.png")
    return Item("cat", ImageFiles((tmp_path / "cat.png",)), MaskFiles((tmp_path / "mask.png",)), "a cat", (48, 32))


def sources() -> Sources:
    def has_alpha(path: Path) -> bool:
        with Image.open(path) as picture:
            return bool(picture.has_transparency_data)

    return Sources(has_alpha)


def keys(item: Item, cut: Cut = CUT, vae: str = "vae") -> tuple[str, str | None]:
    return latent_key(item, cut, vae, sources()), mask_key(item, cut, sources())


def with_size(item: Item) -> Item:
    return replace(item, placement=Placement((32, 32), (0, 0, 32, 32)))


def opaque(item: Item) -> Item:
    return replace(item, image=ImageFiles((item.image.paths[0].with_name("opaque.png"),)))


RANDOM, FILL = Transparency("random", seed=1), Transparency("fill")
NEITHER: dict[str, tuple[Change, Change]] = {
    "name": (lambda i: i, lambda i: replace(i, name="dog")),
    "part in training": (lambda i: i, lambda i: replace(i, caption="x", repeats=3, weight=0.5, regularisation=True, variant=2)),
    "fill colour of an opaque picture": (opaque, lambda i: replace(opaque(i), transparency=FILL)),
    "way for an opaque picture": (lambda i: replace(opaque(i), transparency=RANDOM), opaque),
    "colour that is not used": (lambda i: replace(i, transparency=RANDOM),
                                lambda i: replace(i, transparency=replace(RANDOM, colour=(1, 2, 3)))),
    "seed that is not used": (lambda i: replace(i, transparency=FILL), lambda i: replace(i, transparency=replace(FILL, seed=7))),
}
LATENT_ONLY: dict[str, tuple[Change, Change]] = {
    "picture": (lambda i: i, opaque),
    "hidden colours": (lambda i: i, lambda i: replace(i, transparency=FILL)),
    "fill colour": (lambda i: replace(i, transparency=FILL), lambda i: replace(i, transparency=replace(FILL, colour=(1, 2, 3)))),
    "seed": (lambda i: replace(i, transparency=RANDOM), lambda i: replace(i, transparency=replace(RANDOM, seed=2))),
    "name that draws the colour": (lambda i: replace(i, transparency=RANDOM), lambda i: replace(i, transparency=RANDOM, name="dog")),
}
MASK_ONLY: dict[str, tuple[Change, Change]] = {
    "no mask": (lambda i: i, lambda i: replace(i, mask=None)),
    "alpha": (lambda i: i, lambda i: replace(i, mask=OwnAlpha())),
    "channel": (lambda i: i, lambda i: replace(i, mask=MaskFiles(i.mask.paths, "red"))),
    "pixels": (lambda i: i, lambda i: replace(i, mask=MaskPixels(torch.zeros(1, 32, 48)))),
    "other pixels": (lambda i: replace(i, mask=MaskPixels(torch.zeros(1, 32, 48))),
                     lambda i: replace(i, mask=MaskPixels(torch.ones(1, 32, 48)))),
    "fit": (lambda i: i, lambda i: replace(i, fit_mask=True)),
    "source size": (lambda i: i, lambda i: replace(i, size=(96, 64))),
}
BOTH: dict[str, tuple[Change, Change]] = {
    "placement": (lambda i: i, with_size),
    "flip": (with_size, lambda i: replace(i, placement=replace(with_size(i).placement, flip=True))),
    "rotation without a mask": (lambda i: replace(with_size(i), mask=None),
                                lambda i: replace(i, mask=None, placement=replace(with_size(i).placement, angle=5.0))),
}
CASES = [(kind, name, changes) for kind, table in (("neither", NEITHER), ("latent", LATENT_ONLY), ("mask", MASK_ONLY), ("both", BOTH))
         for name, changes in table.items()]


@pytest.mark.parametrize(("kind", "name", "changes"), CASES, ids=[f"{kind}: {name}" for kind, name, _ in CASES])
def test_what_each_change_redoes(item: Item, kind: str, name: str, changes: tuple[Change, Change]) -> None:
    before, after = (keys(change(item)) for change in changes)
    assert (before[0] != after[0], before[1] != after[1]) == (kind in ("latent", "both"), kind in ("mask", "both"))


def test_keys_follow_bytes_and_not_names(item: Item, tmp_path: Path) -> None:
    before = keys(item)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in ("cat.png", "mask.png"):
        (moved / file).write_bytes((tmp_path / file).read_bytes())
    assert keys(replace(item, image=ImageFiles((moved / "cat.png",)), mask=MaskFiles((moved / "mask.png",)))) == before
    for file, changed in (("cat.png", 0), ("mask.png", 1)):
        whole = bytearray((tmp_path / file).read_bytes())
        whole[-1] ^= 1
        (tmp_path / file).write_bytes(whole)
        assert [a != b for a, b in zip(keys(item), before, strict=True)] == [place == changed for place in range(2)]
        before = keys(item)


def test_keys_follow_vae_cut_and_graph_pixels(item: Item) -> None:
    assert keys(item, vae="other")[0] != keys(item)[0]
    assert keys(item, vae="other")[1] == keys(item)[1]
    for other in (replace(CUT, frames=5), replace(CUT, rows=slice(1, 32)), replace(CUT, columns=slice(0, 40))):
        assert not set(keys(item, other)) & set(keys(item))
    image = torch.rand(1, 32, 48, 3)
    versions = [image, image * 0.5, torch.cat([image, torch.ones(1, 32, 48, 1)], -1), image.reshape(1, 48, 32, 3)]
    assert len({keys(replace(item, image=ImagePixels(version)))[0] for version in versions}) == 4
    assert hash_tensor(image.bfloat16()) != hash_tensor(image.half())


def test_a_mask_is_where_loading_gives_one(item: Item) -> None:
    plain = replace(item, mask=None)
    turned = replace(plain, placement=Placement((32, 32), (0, 0, 32, 32), angle=3.0))
    assert [has_mask(each) for each in (item, plain, with_size(plain), turned)] == [True, False, False, True]
    assert mask_key(plain, CUT, sources()) is None
    assert mask_key(turned, CUT, sources()) != mask_key(replace(turned, size=(60, 60)), CUT, sources())


def test_text_keys() -> None:
    ways = [("a cat", "t5", PADDING), ("a dog", "t5", PADDING), ("a cat", "clip", PADDING), ("a cat", "t5", "{}"), ("", "a catt5", PADDING)]
    assert len({text_key(*way) for way in ways}) == len(ways)


def test_content_keys_differ_where_the_parts_do() -> None:
    parts: list[tuple[bytes | str, ...]] = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("c", "ab"), (b"ab", "c"), ()]
    assert len({content_key(*each) for each in parts}) == len(parts)
    assert content_key("ab", b"c") == content_key("ab", b"c")
    assert len(content_key("half of a pair: \ud800")) == 64


def test_a_file_that_changes_after_it_was_hashed_is_refused(item: Item, tmp_path: Path) -> None:
    seen = sources()
    latent_key(item, CUT, "vae", seen), mask_key(item, CUT, seen)
    seen.check_unchanged(item)
    (tmp_path / "mask.png").write_bytes((tmp_path / "mask.png").read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"mask.png changed while it was read"):
        seen.check_unchanged(item)


def test_reading_ahead_keeps_order_and_never_runs_far() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    with ReadAhead(work, range(40), threads=2, depth=3) as reading:
        for expected, got in enumerate(reading.results(lambda: None)):
            assert got == expected
            time.sleep(0.003)
            assert len(begun) <= expected + 1 + 3
    assert sorted(begun) == list(range(40))


def test_a_depth_of_nothing_reads_only_while_the_caller_waits() -> None:
    begun: list[int] = []
    with ReadAhead(begun.append, range(10), threads=2, depth=0) as reading:
        for number, _ in enumerate(reading.results(lambda: None), start=1):
            time.sleep(0.005)
            assert len(begun) == number
    assert begun == list(range(10))


def test_an_error_while_reading_arrives_in_its_turn_and_ends_the_threads() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError("item 2: unreadable")
        return number

    taken = []
    with pytest.raises(ValueError, match="item 2"), ReadAhead(work, range(100), threads=2, depth=4) as reading:
        taken.extend(reading.results(lambda: None))
        raise AssertionError("not reached")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("masked-lora")]


def test_what_was_not_begun_is_dropped() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError), ReadAhead(work, range(100), threads=1, depth=50):
        raise ZeroDivisionError
    assert len(begun) <= 2


def test_cancel_while_nothing_is_ready() -> None:
    released = threading.Event()

    def cancelled() -> None:
        released.set()  # or leaving would wait for the thread that reads
        raise KeyboardInterrupt

    started = time.monotonic()
    with (pytest.raises(KeyboardInterrupt), ReadAhead(lambda _: released.wait(20), range(3), threads=1, depth=2) as reading):
        list(reading.results(cancelled))
    assert time.monotonic() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("masked-lora")]


def test_writing_behind_waits_for_all_and_raises() -> None:
    written: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.01)
        written.append(number)

    with WriteBehind(2) as write:
        for number in range(6):
            write(lambda number=number: slow(number))
            assert number + 1 - len(written) <= 2 + 1
    assert written == list(range(6))

    def full() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind(2) as write:
        write(full)
    with pytest.raises(ZeroDivisionError), WriteBehind(4) as write:
        write(lambda: slow(7))
        raise ZeroDivisionError
    assert written[-1] == 7, "what was encoded is kept"
