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
from ..dataset.refs import ExampleRef, RefTable
from ..dataset.running import Running
from ..dataset.store import TensorStore
from .cuts import cut_lines, cut_to, cuts_of, extent
from .fingerprints import clip_fingerprint, embeddings_of, vae_fingerprint
from .progress import Progress
from .references import ReferenceUse, beside, encode_with_pictures, reference_lines, reference_use
from .text import encode_text
from .text_padding import TextPadding

logger = logging.getLogger(__name__)

PICTURES_AHEAD, CLIPS_AHEAD, WRITES_BEHIND = 4, 2, 4
SECONDS_BETWEEN_TEXTS = 0.5
SHOWN = 20
Prompt = tuple[str, tuple[Item, ...]]  # a caption, and the reference pictures that its text encoder reads


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
        rows = (("pictures", self.pictures, "encoded"), ("masks", self.masks, "stored"), ("captions", self.captions, "encoded"))
        lines = [f"{made + kept} {what}: {made} {verb}, {kept} from the cache" for what, (made, kept), verb in rows]
        if sum(self.references):
            made, kept = self.references
            lines.append(f"{made + kept} reference pictures: {made} encoded, {kept} from the cache")
        without = sum(self.pictures) - sum(self.masks)
        return [*lines, f"without a mask, learned everywhere: {without}"] if without else lines


def encode_data_set(data_set: DataSet, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, padding: TextPadding, cache_folder: Path,
                    progress: Progress, name: str = "") -> TrainingSet:
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
        meter = Meter(progress, work_of(items, use), running.beat)
        encoders = Encoders(vae, vae_fingerprint(vae, meter.look), clip, clip_fingerprint(clip, meter.look), padding)
        refs, counts = encode_items(items, encoders, Preparation(cache, encoders.vae_key, cuts, use), meter)
        if lost := cache.lost(refs):
            logger.warning("Masked LoRA: something removed files from %s meanwhile: %s; they are made again", cache_folder,
                           lost.describe(refs))
            again = [item for item, ref in zip(items, refs, strict=True) if lost.of(ref)]
            meter.total += work_of(again, use)
            encode_items(again, encoders, Preparation(cache, encoders.vae_key, cuts, use), meter)
        report = "\n".join([*counts.lines(), *reference_lines(items, use), *cut_lines(items, cuts), *group_lines(refs),
                            f"text padding: {padding.describe()}"])
        logger.info("Masked LoRA: %s", report)
        save_set(cache, refs, padding.to_json(), report, name)
    return TrainingSet(stored_examples(cache, refs, padding.to_json(), name), padding.to_json(), report)


def work_of(items: Sequence[Item], use: ReferenceUse) -> int:
    """Steps of progress: items and different captions."""
    return len(items) + len({prompt_of(item, use) for item in items})


@dataclass(frozen=True, slots=True, eq=False)
class Encoders:
    """What encodes, with what identifies it in cache keys."""

    vae: comfy.sd.VAE
    vae_key: str
    clip: comfy.sd.CLIP
    clip_key: str
    padding: TextPadding


def encode_items(items: Sequence[Item], encoders: Encoders, prepare: Preparation, meter: Meter) -> tuple[RefTable, Counts]:
    """Puts what it lacks of the items into the cache."""
    counts, refs = Counts(), RefTable()
    depth = read_ahead_depth(encoders.vae, items)
    with WriteBehind(WRITES_BEHIND) as write, ReadAhead(prepare, items, threads=2, depth=depth) as pictures:
        texts = encode_captions(dict.fromkeys(prompt_of(item, prepare.use) for item in items), encoders, prepare, write, meter, counts)
        for prepared in pictures.results(meter.look):
            refs.append(finish(prepared, encoders.vae, prepare, texts, write, counts))
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


def finish(prepared: Prepared, vae: comfy.sd.VAE, prepare: Preparation, texts: dict[Prompt, tuple[str, int]], write: WriteBehind,
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
            encoded = encode_picture(latent, vae, item.name)
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
    key, tokens = texts[prompt_of(item, prepare.use)]
    return ExampleRef(item.name, item.caption, prepared.latent_key, key, prepared.mask_key, latent, tokens, mask, item.repeats, item.weight,
                      item.regularisation, references)


def prompt_of(item: Item, use: ReferenceUse) -> Prompt:
    """What decides an item's embeddings: its caption, and the reference pictures where the text encoder reads them."""
    return item.caption, item.references if use.read else ()


def encode_captions(prompts: Iterable[Prompt], encoders: Encoders, prepare: Preparation, write: WriteBehind, meter: Meter,
                    counts: Counts) -> dict[Prompt, tuple[str, int]]:
    """Each caption's key and number of tokens; every caption is encoded once, however many pictures it has."""
    clip, padding, texts, store = encoders.clip, encoders.padding, {}, prepare.cache.texts
    for caption, pictures in prompts:
        seen = content_key(*map(prepare.sources.shown, pictures)) if pictures else ""
        key = text_key(caption, encoders.clip_key + embeddings_of(caption, clip, padding) + seen, padding.to_json())
        cond = store.use(key)
        counts.captions[cond is not None] += 1
        if cond is None:
            cond = encode_caption(clip, caption, padding, pictures)
            write(partial(put, store, key, cond, repr(caption)))
        texts[caption, pictures] = (key, cond["cross_attn"].shape[1])
        meter.step()
    return texts


def encode_picture(image_THWC: Tensor, vae: comfy.sd.VAE, name: str) -> Tensor:
    """The latent, (C, H, W) or (C, T, H, W), float32 on the CPU. One picture a call: batch mates would change its last bits."""
    latent = vae.encode(image_THWC)[0]
    if not torch.isfinite(latent).all():
        raise ValueError(f"{name}: the VAE produced NaN; start ComfyUI with --fp32-vae")
    return latent.float().cpu()


def encode_caption(clip: comfy.sd.CLIP, caption: str, padding: TextPadding, pictures: Sequence[Item] = ()) -> dict[str, Tensor]:
    conditioning = encode_with_pictures(clip, caption, padding, pictures) if pictures else encode_text(clip, caption, padding)
    if len(conditioning) != 1:
        raise ValueError(f"caption {caption[:60]!r}: the CLIP is scheduled by hooks and gives {len(conditioning)} conditionings; "
                         "training takes one, use a CLIP without scheduled hooks")
    cross_attn, extra = conditioning[0]
    cond = {"cross_attn": cross_attn} | {k: v for k, v in extra.items() if isinstance(v, Tensor)}
    if not all(torch.isfinite(v).all() for v in cond.values()):
        raise ValueError(f"caption {caption[:60]!r}: the text encoder produced NaN; start ComfyUI with --fp32-text-enc")
    return {k: v.cpu() for k, v in cond.items()}


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
        frames = f"{shape[0]} frames of " if len(shape) == 3 else ""
        lines.append(f"  {frames}{shape[-1]}x{shape[-2]} cells, {tokens} tokens{beside(shown)}: {count} examples")
    if len(groups) > SHOWN:
        lines.append(f"  and {len(groups) - SHOWN} more kinds")
    return lines
