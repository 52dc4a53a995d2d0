"""Encode pictures, clips, masks and captions once, and keep the result on disk.

Beside a GPU files are hashed and read in threads while the VAE works in the calling one; captions come first, so that a GPU changes
models once.
Shapes: T frames, H height, W width, C channels.
"""
from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comfy.sd
import torch
from torch import Tensor

from ..dataset.ahead import ReadAhead, WriteBehind
from ..dataset.cache import LATENT, MASK, ExampleCache, TrainingSet, pack_mask, reference_shapes
from ..dataset.item import DataSet, Item
from ..dataset.keys import Cut, Sources, content_key, latent_key, mask_key, reference_key, text_key
from ..dataset.load import load_item, load_mask
from ..dataset.manifest import LAST, save_set, set_file, stored_examples
from ..dataset.pixels import picture_size
from ..dataset.refs import ExampleRef, RefTable, TextRef
from ..dataset.running import Running
from ..dataset.store import TensorStore
from ..dataset.texts import CaptionSpec
from ..dataset.words import counted
from .cuts import cut_lines, cut_to, cuts_of, extent
from .fingerprints import clip_fingerprint, embeddings_of, vae_fingerprint
from .progress import Progress
from .prompts import Prompt, encode_caption, prompts_of, shown_to_encoder, text_lines
from .references import ReferenceUse, beside, reference_lines, reference_use
from .text_padding import TextPadding

logger = logging.getLogger(__name__)

PICTURES_AHEAD, CLIPS_AHEAD, WRITES_BEHIND = 4, 2, 4
SECONDS_BETWEEN_TEXTS = 0.5
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item after its files were hashed. latent and mask are shapes where the cache has them; else the picture to encode,
    (T, H, W, C), and the packed mask to store. No mask: key and mask are None. references: key and latent of each.
    """

    item: Item
    latent_key: str
    mask_key: str | None
    latent: tuple[int, ...] | Tensor
    mask: tuple[int, ...] | Tensor | None
    references: tuple[tuple[str, tuple[int, ...] | Tensor], ...] = ()


@dataclass(slots=True)
class Meter:
    """The node's progress bar, with a line of text now and then; `beat` tells others that the run is alive."""

    progress: Progress
    total: int
    beat: Callable[[], None]
    done: int = 0
    told: float = 0.0

    def step(self, count: int = 1) -> None:
        self.beat()
        self.done += count
        now = time.monotonic()
        text = f"encoding {self.done}/{self.total}" if now - self.told >= SECONDS_BETWEEN_TEXTS else ""
        self.told = now if text else self.told
        self.progress.update(self.done, self.total, text)

    def look(self) -> None:
        """Only sees whether Cancel was pressed."""
        self.step(0)


@dataclass(slots=True)
class Preparation:
    """What the reading threads do. `shapes` holds what this run has encoded so far: equal pictures are not read twice."""

    cache: ExampleCache
    vae: str
    cuts: dict[tuple[int, int, int], Cut]
    use: ReferenceUse
    sources: Sources = field(default_factory=lambda: Sources(lambda path: picture_size(path).has_alpha))
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, item: Item) -> Prepared:
        """Raises ValueError with the item's name."""
        try:
            return self.prepare(item)
        except (ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{item.name}: {error}") from error

    def prepare(self, item: Item) -> Prepared:
        cut = self.cuts[extent(item)]
        latent, mask = latent_key(item, cut, self.vae, self.sources), mask_key(item, cut, self.sources)
        latent_shape = self.shape_in_cache(self.cache.latents, latent, LATENT)
        mask_shape = None if mask is None else self.shape_in_cache(self.cache.masks, mask, MASK)
        needs_mask = mask is not None and mask_shape is None
        if latent_shape is not None:
            packed = pack(load_mask(item), cut, item) if needs_mask else mask_shape
            prepared = Prepared(item, latent, mask, latent_shape, packed, self.references(item))
        else:
            loaded = load_item(item)
            packed = pack(loaded.mask_THW, cut, item) if needs_mask else mask_shape
            prepared = Prepared(item, latent, mask, cut_to(loaded.image_THWC, cut, item), packed, self.references(item))
        self.sources.check_unchanged(item)
        return prepared

    def references(self, item: Item) -> tuple[tuple[str, tuple[int, ...] | Tensor], ...]:
        keys = [reference_key(picture, self.use.name, self.vae, self.sources) for picture in item.references]
        return tuple((key, self.shape_in_cache(self.cache.latents, key, LATENT) or self.use.scale(load_item(picture).image_THWC))
                     for key, picture in zip(keys, item.references, strict=True))

    def shape_in_cache(self, store: TensorStore, key: str, name: str) -> tuple[int, ...] | None:
        """Shape of what the cache has under the key, read and checked, and from now on in use; None if it has to be made."""
        if key in self.shapes:
            return self.shapes[key]
        tensors = store.use(key)
        return None if tensors is None else tuple(tensors[name].shape)


def pack(mask_THW: Tensor | None, cut: Cut, item: Item) -> Tensor:
    if mask_THW is None:
        raise ValueError("a mask was expected and none was loaded")
    return pack_mask(cut_to(mask_THW[..., None], cut, item)[..., 0])


@dataclass(slots=True)
class Counts:
    """How many of pictures, masks and captions were made, and how many the cache had."""

    pictures: list[int] = field(default_factory=lambda: [0, 0])
    masks: list[int] = field(default_factory=lambda: [0, 0])
    captions: list[int] = field(default_factory=lambda: [0, 0])
    references: list[int] = field(default_factory=lambda: [0, 0])

    def lines(self) -> list[str]:
        rows = (("picture", self.pictures, "encoded"), ("mask", self.masks, "stored"), ("caption", self.captions, "encoded"),
                *[("reference picture", self.references, "encoded")][:sum(self.references)])
        lines = [f"{counted(made + kept, what)}: {made} {verb}, {kept} from the cache" for what, (made, kept), verb in rows]
        without = sum(self.pictures) - sum(self.masks)
        return [*lines, f"without a mask, learned everywhere: {without}"] if without else lines


def encode_data_set(data_set: DataSet, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, padding: TextPadding, cache_folder: Path,
                    progress: Progress, name: str = "", captions: CaptionSpec | None = None) -> TrainingSet:
    """Latents, raw masks and embeddings of all items; what was encoded before, by the same weights, comes from the cache.

    The set is saved under `name`, or as the last encoded one. Raises ValueError, before anything is encoded, for a bad name, a
    picture smaller than a latent cell, and a clip for a VAE of pictures.
    """
    items, name = data_set.items, name or LAST
    set_file(cache_folder, name)
    if not items:
        raise ValueError("the data set is empty; give it at least one picture")
    cuts, cache, use = cuts_of(items, vae), ExampleCache(cache_folder), reference_use(clip)
    with Running(cache_folder) as running:
        captions = captions or CaptionSpec()
        meter = Meter(progress, work_of(items, captions, use), running.beat)
        encoders = Encoders(vae, vae_fingerprint(vae, meter.look), clip, clip_fingerprint(clip, meter.look), padding, captions)
        refs, counts = encode_items(items, encoders, Preparation(cache, encoders.vae_key, cuts, use), meter)
        if lost := cache.lost(refs):
            logger.warning("Masked LoRA: something removed files from %s meanwhile: %s; they are made again", cache_folder,
                           lost.describe(refs))
            again = [item for item, ref in zip(items, refs, strict=True) if lost.of(ref)]
            meter.total += work_of(again, captions, use)
            encode_items(again, encoders, Preparation(cache, encoders.vae_key, cuts, use), meter)
        report = "\n".join([*counts.lines(), *reference_lines(items, use), *cut_lines(items, cuts), *text_lines(refs, captions),
                            *group_lines(refs), f"text padding: {padding.describe()}"])
        logger.info("Masked LoRA: %s", report)
        save_set(cache, refs, padding.to_json(), report, name)
    return TrainingSet(stored_examples(cache, refs, padding.to_json(), name), padding.to_json(), report)


def work_of(items: Sequence[Item], captions: CaptionSpec, use: ReferenceUse) -> int:
    """Steps of progress: items and different texts."""
    return len(items) + len(prompts_of(items, captions, use))


@dataclass(frozen=True, slots=True, eq=False)
class Encoders:
    """What encodes, with what identifies it in cache keys."""

    vae: comfy.sd.VAE
    vae_key: str
    clip: comfy.sd.CLIP
    clip_key: str
    padding: TextPadding
    captions: CaptionSpec


def encode_items(items: Sequence[Item], encoders: Encoders, prepare: Preparation, meter: Meter) -> tuple[RefTable, Counts]:
    """Puts what it lacks of the items into the cache."""
    counts, refs = Counts(), RefTable()
    depth = read_ahead_depth(encoders.vae, items)
    with WriteBehind(WRITES_BEHIND) as write, ReadAhead(prepare, items, threads=2, depth=depth) as pictures:
        texts = encode_captions(prompts_of(items, encoders.captions, prepare.use), encoders, prepare, write, meter, counts)
        for prepared in pictures.results(meter.look):
            refs.append(finish(prepared, encoders, prepare, texts, write, counts))
            del prepared  # or its pixels would stay while the next picture is awaited
            meter.step()
    return refs, counts


def read_ahead_depth(vae: comfy.sd.VAE, items: Sequence[Item]) -> int:
    """How many pictures or clips are read while the VAE works. On a CPU none: the VAE uses every core and waits for its slowest
    thread, so that reading beside it costs more time than it saves.
    """
    if vae.device.type == "cpu":
        return 0
    return CLIPS_AHEAD if any(item.frames > 1 for item in items) else PICTURES_AHEAD


def finish(prepared: Prepared, encoders: Encoders, prepare: Preparation, texts: dict[Prompt, TextRef], write: WriteBehind,
           counts: Counts) -> ExampleRef:
    """Encodes what the cache lacks of one item and hands it to the writing thread."""
    item, mask, shapes = prepared.item, prepared.mask, prepare.shapes

    def latent_shape(key: str, latent: tuple[int, ...] | Tensor, count: list[int]) -> tuple[int, ...]:
        # An equal picture may have been encoded since this one was loaded.
        new = isinstance(latent, Tensor) and key not in shapes
        count[not new] += 1
        if not isinstance(latent, Tensor):
            return latent
        if new:
            encoded = encode_picture(latent, encoders.vae, item.name)
            shapes[key] = tuple(encoded.shape)
            write(partial(put, prepare.cache.latents, key, {LATENT: encoded}, item.name))
        return shapes[key]

    latent = latent_shape(prepared.latent_key, prepared.latent, counts.pictures)
    references = tuple((key, latent_shape(key, reference, counts.references)) for key, reference in prepared.references)
    if prepared.mask_key is not None:
        new = isinstance(mask, Tensor) and prepared.mask_key not in shapes
        counts.masks[not new] += 1
        if isinstance(mask, Tensor):
            if new:
                shapes[prepared.mask_key] = tuple(mask.shape)
                write(partial(put, prepare.cache.masks, prepared.mask_key, {MASK: mask}, item.name))
            mask = tuple(mask.shape)
    told, dropped = ([texts[text, shown_to_encoder(item, prepare.use)] for text in group]
                     for group in (encoders.captions.texts(item), encoders.captions.dropped))
    (caption, key, tokens), *others = told
    return ExampleRef(item.name, caption, prepared.latent_key, key, prepared.mask_key, latent, tokens, mask, item.repeats, item.weight,
                      item.regularisation, alternatives=tuple(others), dropped=tuple(dropped), references=references)


def encode_captions(prompts: Iterable[Prompt], encoders: Encoders, prepare: Preparation, write: WriteBehind, meter: Meter,
                    counts: Counts) -> dict[Prompt, TextRef]:
    """Each caption with its key and number of tokens; every caption is encoded once, however many pictures it has."""
    clip, padding, texts, store = encoders.clip, encoders.padding, dict[Prompt, TextRef](), prepare.cache.texts
    for caption, pictures in prompts:
        seen = content_key(*map(prepare.sources.shown, pictures)) if pictures else ""
        key = text_key(caption, encoders.clip_key + embeddings_of(caption, clip, padding) + seen, padding.to_json())
        cond = store.use(key)
        counts.captions[cond is not None] += 1
        if cond is None:
            cond = encode_caption(clip, caption, padding, pictures)
            write(partial(put, store, key, cond, repr(caption)))
        texts[caption, pictures] = (caption, key, cond["cross_attn"].shape[1])
        meter.step()
    return texts


def encode_picture(image_THWC: Tensor, vae: comfy.sd.VAE, name: str) -> Tensor:
    """The latent, (C, H, W) or (C, T, H, W), float32 on the CPU. One picture a call: batch mates would change its last bits."""
    latent = vae.encode(image_THWC)[0]
    if not torch.isfinite(latent).all():
        raise ValueError(f"{name}: the VAE produced NaN; start ComfyUI with --fp32-vae")
    return latent.float().cpu()


def put(store: TensorStore, key: str, tensors: dict[str, Tensor], name: str) -> None:
    try:
        store.put(key, tensors)
    except OSError as error:
        raise OSError(f"{name} could not be kept in {store.folder} ({error}); make room there or make it writable") from error


def group_lines(refs: Sequence[ExampleRef]) -> list[str]:
    """The kinds of batches: examples of one latent size and one text length."""
    groups = Counter((ref.latent_shape[1:], ref.text_tokens, reference_shapes(ref)) for ref in refs)
    lines = ["batches group by latent size and text length:"]
    for (shape, tokens, shown), count in groups.most_common(SHOWN):
        frames = f"{counted(shape[0], 'frame')} of " if len(shape) == 3 else ""
        lines.append(f"  {frames}{shape[-1]}x{shape[-2]} cells, {counted(tokens, 'token')}{beside(shown)}: {counted(count, 'example')}")
    if len(groups) > SHOWN:
        lines.append(f"  and {counted(len(groups) - SHOWN, 'more kind')}")
    return lines
