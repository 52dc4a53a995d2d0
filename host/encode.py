"""Encode pictures, clips, masks and captions once, and keep the result on disk.

Files are hashed and read in threads while the VAE works in the calling one; captions come first, so that a GPU changes models once.
Shapes: T frames, H height, W width, C channels.
"""
from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comfy.sd
import torch
from torch import Tensor, nn

from ..dataset.ahead import ReadAhead, WriteBehind
from ..dataset.cache import LATENT, MASK, ExampleCache, ExampleRef, StoredExamples, TrainingSet, pack_mask
from ..dataset.item import DataSet, Item
from ..dataset.keys import Cut, Sources, content_key, hash_tensor, latent_key, mask_key, text_key
from ..dataset.load import load_item, load_mask
from ..dataset.manifest import LAST, save_set, set_file
from ..dataset.pixels import picture_size
from ..dataset.refs import RefTable
from ..dataset.store import TensorStore
from .cuts import cut_lines, cut_to, cuts_of, extent
from .progress import Progress
from .text import encode_text, tokenizer_options
from .text_padding import TextPadding

logger = logging.getLogger(__name__)

PICTURES_AHEAD, CLIPS_AHEAD, WRITES_BEHIND = 4, 2, 4
SECONDS_BETWEEN_TEXTS = 0.5
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item after its files were hashed. Shapes are those found in the cache; image and mask are what it lacks."""

    item: Item
    latent_key: str
    mask_key: str | None
    latent_shape: tuple[int, ...] | None
    mask_shape: tuple[int, ...] | None
    image_THWC: Tensor | None
    packed_mask: Tensor | None


@dataclass(slots=True)
class Meter:
    """The node's progress bar, with a line of text now and then."""

    progress: Progress
    total: int
    done: int = 0
    told: float = 0.0

    def step(self, count: int = 1) -> None:
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
        latent_shape = self.known(self.cache.latents, latent, LATENT)
        mask_shape = None if mask is None else self.known(self.cache.masks, mask, MASK)
        needs_mask = mask is not None and mask_shape is None
        if latent_shape is not None and not needs_mask:
            return Prepared(item, latent, mask, latent_shape, mask_shape, None, None)
        image_THWC = None
        if latent_shape is None:
            loaded = load_item(item)
            image_THWC, mask_THW = cut_to(loaded.image_THWC, cut, item), loaded.mask_THW
        else:
            mask_THW = load_mask(item)
        self.sources.check_unchanged(item)
        if not needs_mask:
            return Prepared(item, latent, mask, latent_shape, mask_shape, image_THWC, None)
        if mask_THW is None:
            raise ValueError("a mask was expected and none was loaded")
        packed = pack_mask(cut_to(mask_THW[..., None], cut, item)[..., 0])
        return Prepared(item, latent, mask, latent_shape, tuple(packed.shape), image_THWC, packed)

    def known(self, store: TensorStore, key: str, name: str) -> tuple[int, ...] | None:
        """Shape of what the cache has under the key, read and checked; None if it has to be made."""
        if key in self.shapes:
            return self.shapes[key]
        tensors = store.get(key)
        if tensors is None:
            return None
        store.touch(key)
        return tuple(tensors[name].shape)


@dataclass(slots=True)
class Counts:
    """How many of pictures, masks and captions were made, and how many the cache had."""

    pictures: list[int] = field(default_factory=lambda: [0, 0])
    masks: list[int] = field(default_factory=lambda: [0, 0])
    captions: list[int] = field(default_factory=lambda: [0, 0])

    def lines(self) -> list[str]:
        rows = (("pictures", self.pictures, "encoded"), ("masks", self.masks, "stored"), ("captions", self.captions, "encoded"))
        lines = [f"{made + kept} {what}: {made} {verb}, {kept} from the cache" for what, (made, kept), verb in rows]
        without = sum(self.pictures) - sum(self.masks)
        return [*lines, f"without a mask, learned everywhere: {without}"] if without else lines


def encode_data_set(data_set: DataSet, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, padding: TextPadding, cache_folder: Path,
                    progress: Progress, name: str = "") -> TrainingSet:
    """Latents, raw masks and embeddings of all items; what was encoded before, by the same weights, comes from the cache.

    The set is saved under `name`, or as the last encoded one. Raises ValueError, before anything is encoded, for a bad name, a
    picture smaller than a latent cell, and a clip for a VAE of pictures.
    """
    set_file(cache_folder, name or LAST)
    if not data_set.items:
        raise ValueError("the data set is empty; give it at least one picture")
    cuts = cuts_of(data_set.items, vae)
    cache, counts, refs = ExampleCache(cache_folder), Counts(), RefTable()
    prepare = Preparation(cache, vae_fingerprint(vae), cuts)
    captions = dict.fromkeys(item.caption for item in data_set.items)
    meter = Meter(progress, len(data_set.items) + len(captions))
    # On a CPU the VAE needs the cores: one thread loads faster than it encodes.
    threads = 1 if vae.device.type == "cpu" else 2
    depth = CLIPS_AHEAD if any(item.frames > 1 for item in data_set.items) else PICTURES_AHEAD
    with WriteBehind(WRITES_BEHIND) as write, ReadAhead(prepare, data_set.items, threads=threads, depth=depth) as pictures:
        texts = encode_captions(captions, clip, padding, cache, write, meter, counts)
        for prepared in pictures.results(meter.look):
            refs.append(finish(prepared, vae, prepare, texts, write, counts))
            del prepared  # or its pixels would stay while the next picture is awaited
            meter.step()
    report = "\n".join([*counts.lines(), *cut_lines(data_set.items, cuts), *group_lines(refs), f"text padding: {padding.describe()}"])
    logger.info("Masked LoRA: %s", report)
    save_set(cache, refs, padding.to_json(), report, name or LAST)
    return TrainingSet(StoredExamples(cache, refs, padding.to_json()), padding.to_json(), report)


def finish(prepared: Prepared, vae: comfy.sd.VAE, prepare: Preparation, texts: dict[str, tuple[str, int]], write: WriteBehind,
           counts: Counts) -> ExampleRef:
    """Encodes what the cache lacks of one item and hands it to the writing thread."""
    item, latent_shape = prepared.item, prepared.latent_shape or prepare.shapes.get(prepared.latent_key)
    counts.pictures[latent_shape is not None] += 1
    if latent_shape is None:
        assert prepared.image_THWC is not None
        latent = encode_picture(prepared.image_THWC, vae, item.name)
        prepare.shapes[prepared.latent_key] = latent_shape = tuple(latent.shape)
        write(partial(put, prepare.cache.latents, prepared.latent_key, {LATENT: latent}, item.name))
    if prepared.mask_key is not None:
        new = prepared.packed_mask is not None and prepared.mask_key not in prepare.shapes
        counts.masks[not new] += 1
        if new:
            assert prepared.mask_shape is not None
            prepare.shapes[prepared.mask_key] = prepared.mask_shape
            write(partial(put, prepare.cache.masks, prepared.mask_key, {MASK: prepared.packed_mask}, item.name))
    key, tokens = texts[item.caption]
    return ExampleRef(item.name, item.caption, prepared.latent_key, key, prepared.mask_key, latent_shape, tokens, prepared.mask_shape,
                      item.repeats, item.weight, item.regularisation)


def encode_captions(captions: Sequence[str] | dict[str, None], clip: comfy.sd.CLIP, padding: TextPadding, cache: ExampleCache,
                    write: WriteBehind, meter: Meter, counts: Counts) -> dict[str, tuple[str, int]]:
    """Each caption's key and number of tokens; every caption is encoded once, however many pictures it has."""
    encoder, texts = clip_fingerprint(clip), {}
    for caption in captions:
        key = text_key(caption, encoder + embeddings_of(caption, clip, padding), padding.to_json())
        cond = cache.texts.get(key)
        counts.captions[cond is not None] += 1
        if cond is None:
            cond = encode_caption(clip, caption, padding)
            write(partial(put, cache.texts, key, cond, repr(caption)))
        else:
            cache.texts.touch(key)
        texts[caption] = (key, cond["cross_attn"].shape[1])
        meter.step()
    return texts


def encode_picture(image_THWC: Tensor, vae: comfy.sd.VAE, name: str) -> Tensor:
    """The latent, (C, H, W) or (C, T, H, W), float32 on the CPU. One picture a call: batch mates would change its last bits."""
    latent = vae.encode(image_THWC)[0]
    if not torch.isfinite(latent).all():
        raise ValueError(f"{name}: the VAE produced NaN; start ComfyUI with --fp32-vae")
    return latent.float().cpu()


def encode_caption(clip: comfy.sd.CLIP, caption: str, padding: TextPadding) -> dict[str, Tensor]:
    conditioning = encode_text(clip, caption, padding)
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
    groups = Counter((ref.latent_shape[1:], ref.text_tokens) for ref in refs)
    lines = ["batches group by latent size and text length:"]
    for (shape, tokens), count in groups.most_common(SHOWN):
        frames = f"{shape[0]} frames of " if len(shape) == 3 else ""
        lines.append(f"  {frames}{shape[-1]}x{shape[-2]} cells, {tokens} tokens: {count} examples")
    if len(groups) > SHOWN:
        lines.append(f"  and {len(groups) - SHOWN} more kinds")
    return lines


def embeddings_of(caption: str, clip: comfy.sd.CLIP, padding: TextPadding) -> str:
    """What a caption that names textual inversions (embedding:x) reads from their files, as a hash; else nothing."""
    if "embedding:" not in caption:
        return ""
    tokens = clip.tokenize(caption, **tokenizer_options(padding))
    parts = [hash_tensor(token[0]) if isinstance(token[0], Tensor) else repr(token[0])
             for rows in tokens.values() for row in rows for token in row]
    return content_key(*parts)


def vae_fingerprint(vae: comfy.sd.VAE) -> str:
    """What decides a picture's latent: the weights, the kind of network, and the precision that it runs in."""
    kind = type(vae.first_stage_model)
    return f"{kind.__module__}.{kind.__qualname__} {weights_fingerprint(vae.first_stage_model)} {vae.vae_dtype}"


def clip_fingerprint(clip: comfy.sd.CLIP) -> str:
    """What decides the embeddings of a text: weights, patches, and the kind of encoder and tokenizer, which pads."""
    kinds = [f"{type(part).__module__}.{type(part).__qualname__}" for part in (clip.cond_stage_model, clip.tokenizer)]
    patches = str(clip.patcher.patches_uuid) if clip.patcher.patches else ""
    options = repr(sorted(clip.tokenizer_options.items()))
    return " ".join([weights_fingerprint(clip.cond_stage_model), *kinds, str(clip.layer_idx), options, patches])


def weights_fingerprint(module: nn.Module) -> str:
    """A hash that tells weights apart without reading gigabytes: names, shapes, types and 16 values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:32]
