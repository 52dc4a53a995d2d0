"""Encoded examples: in memory, or as references into the files that keep them. Masks are stored raw, so that a new recipe
needs no new encoding.

Shapes: C channels, T frames, H height, W width; a latent's T, H and W count cells, a mask's count frames and pixels.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from .refs import ExampleRef, RefTable
from .store import TensorStore
from .words import counted

KINDS = ("latents", "masks", "texts")
LATENT, MASK = "latent", "mask"
REFERENCES = "reference_latents"  # ComfyUI's name of them in a CONDITIONING
SHOWN = 5
STEPS = np.float32(255)
ALMOST = 2.0**-20  # floats this close to k/255 are k/255: 1 - k/255, as other nodes compute it, is off by its last bit


@dataclass(frozen=True, slots=True, eq=False)
class OtherText:
    """A text that may come in place of a caption; its embeddings are loaded when they are asked for."""

    caption: str
    load: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class CachedExample:
    """One picture or clip, encoded.

    latent_CHW: (C, H, W) or (C, T, H, W), as the VAE gives it. mask_THW: raw, float32 0..1 at pixel size, white = learn, T = 1
    or the clip's frames; None is learned everywhere. text_padding: the spec as JSON. repeats: how often it comes in an epoch.
    weight: factor of its loss. alternatives: texts that may come in the caption's place; dropped: those that stand for a dropped caption.
    """

    name: str
    caption: str
    latent_CHW: Tensor
    mask_THW: Tensor | None
    cond: Mapping[str, Tensor]
    text_padding: str
    repeats: int = 1
    weight: float = 1.0
    regularisation: bool = False
    alternatives: tuple[OtherText, ...] = ()
    dropped: tuple[OtherText, ...] = ()


class ExampleCache:
    """Latents, masks and texts in three stores in one folder, so that a change of one redoes that one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latents, self.masks, self.texts = (TensorStore(folder / kind) for kind in KINDS)

    def store(self, kind: str) -> TensorStore:
        return {"latents": self.latents, "masks": self.masks, "texts": self.texts}[kind]

    def lost(self, refs: RefTable) -> Lost:
        """Which files of these examples are not there. Reads the names in the folders and opens nothing."""
        return Lost({kind: self.store(kind).missing(refs.keys(kind)) for kind in KINDS})


@dataclass(frozen=True, slots=True)
class Lost:
    """Keys without a file, by kind; false where there are none."""

    keys: dict[str, set[str]]

    def __bool__(self) -> bool:
        return any(self.keys.values())

    def of(self, ref: ExampleRef) -> bool:
        """Whether the example lacks a file."""
        latents = {ref.latent_key, *(key for key, _ in ref.references)}
        return (bool(latents & self.keys["latents"]) or not self.keys["texts"].isdisjoint(ref.text_keys)
                or ref.mask_key in self.keys["masks"])

    def describe(self, refs: RefTable) -> str:
        names = [ref.name for ref in refs if self.of(ref)]
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        kinds = ", ".join(counted(len(keys), kind.removesuffix("s")) for kind, keys in self.keys.items() if keys)
        return f"{len(names)} of {counted(len(refs), 'example')} have lost files ({kinds}): {shown}"


class StoredExamples(Sequence[CachedExample]):
    """Examples on disk; each is loaded when asked for and not kept.

    Loading raises ValueError naming the example and the file, if it is missing or damaged, and calls `on_loss` first: the host
    serves what it has encoded from its own cache and has to learn that it must be encoded again.
    """

    def __init__(self, cache: ExampleCache, refs: Sequence[ExampleRef], text_padding: str,
                 on_loss: Callable[[], None] = lambda: None) -> None:
        self.cache, self.text_padding, self.on_loss = cache, text_padding, on_loss
        self.refs = refs if isinstance(refs, RefTable) else RefTable(refs)

    def __len__(self) -> int:
        return len(self.refs)

    @overload
    def __getitem__(self, index: int) -> CachedExample: ...

    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...

    def __getitem__(self, index: int | slice) -> CachedExample | StoredExamples:
        if isinstance(index, slice):
            return StoredExamples(self.cache, self.refs[index], self.text_padding, self.on_loss)
        ref = self.refs[index]
        latent = self._load(self.cache.latents, ref.latent_key, ref.name)[LATENT]
        alternatives, dropped = (tuple(OtherText(caption, partial(self._cond, index, key)) for caption, key, _ in texts)
                                 for texts in (ref.alternatives, ref.dropped))
        return CachedExample(ref.name, ref.caption, latent, self.mask(index), self._cond(index, ref.text_key), self.text_padding,
                             ref.repeats, ref.weight, ref.regularisation, alternatives=alternatives, dropped=dropped)

    def references(self, index: int) -> dict[str, Tensor]:
        """The latents of its reference pictures as entries of a conditioning, (1, C, [T,] H, W) each."""
        ref = self.refs[index]
        return {f"{REFERENCES}.{place}": self._load(self.cache.latents, key, ref.name)[LATENT][None]
                for place, (key, _) in enumerate(ref.references)}

    def _cond(self, index: int, text_key: str) -> dict[str, Tensor]:
        return self._load(self.cache.texts, text_key, self.refs[index].name) | self.references(index)

    def mask(self, index: int) -> Tensor | None:
        """The raw mask alone, float32 (T, H, W); the latent is not read."""
        ref = self.refs[index]
        return None if ref.mask_key is None else unpack_mask(self._load(self.cache.masks, ref.mask_key, ref.name)[MASK])

    def check_files(self) -> None:
        """Raises ValueError, with how many and which, if files of any example are gone; opens none."""
        if lost := self.cache.lost(self.refs):
            self.on_loss()
            raise ValueError(f"{lost.describe(self.refs)}; run Encode Training Set again")

    def _load(self, store: TensorStore, key: str, name: str) -> dict[str, Tensor]:
        try:
            return store.load(key)
        except FileNotFoundError as error:
            self.on_loss()
            raise ValueError(f"{name}: {store.file(key)} is gone; run Encode Training Set again") from error
        except ValueError as error:
            self.on_loss()
            raise ValueError(f"{name}: {error}; run Encode Training Set again, which makes it anew") from error


def reference_shapes(example: CachedExample | ExampleRef) -> tuple[tuple[int, ...], ...]:
    """Of the latents of its reference pictures, without the batch."""
    if isinstance(example, ExampleRef):
        return tuple(shape for _, shape in example.references)
    return tuple(tuple(value.shape[1:]) for name, value in example.cond.items() if name.startswith(f"{REFERENCES}."))


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Examples that were encoded under one text padding spec (JSON), and what a person should know about them."""

    examples: Sequence[CachedExample] = field(repr=False)  # ComfyUI prints a failing node's inputs
    text_padding: str
    report: str

    def __post_init__(self) -> None:
        if not self.examples:
            raise ValueError("the training set is empty; give it at least one picture")
        if isinstance(self.examples, StoredExamples):
            self._check_padding("the stored set", self.examples.text_padding)
        else:
            for example in self.examples:
                self._check_padding(example.name, example.text_padding)

    def _check_padding(self, name: str, padding: str) -> None:
        if padding != self.text_padding:
            raise ValueError(f"{name} was encoded with text padding {padding}, the set has {self.text_padding}; encode it again")

    def latent_shapes(self) -> list[tuple[int, ...]]:
        """Of each example's latent; nothing is loaded when the examples are stored."""
        if isinstance(self.examples, StoredExamples):
            return [ref.latent_shape for ref in self.examples.refs]
        return [tuple(example.latent_CHW.shape) for example in self.examples]

    def reference_shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Of each example's reference latents, likewise."""
        return [reference_shapes(one) for one in (self.examples.refs if isinstance(self.examples, StoredExamples) else self.examples)]

    def masks(self) -> Iterator[Tensor | None]:
        """Each example's raw mask, one at a time; latents are not loaded when the examples are stored.

        Training begins with this, so lost files of any kind are told here (ValueError) and not hours later.
        """
        if isinstance(self.examples, StoredExamples):
            self.examples.check_files()
            yield from (self.examples.mask(i) for i in range(len(self.examples)))
        else:
            yield from (example.mask_THW for example in self.examples)


def pack_mask(mask_THW: Tensor) -> Tensor:
    """The smallest type that keeps a mask: uint8 where every value is k/255, else float16.

    A value comes back (unpack_mask) the same whatever the rest of its mask is: k/255 exactly, others off by at most 2^-11.
    Values outside 0..1 are clipped; raises ValueError for NaN.
    """
    # numpy, because torch would start threads of its own in each thread that loads
    values = mask_THW.detach().cpu().numpy().astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError("the mask has values that are not numbers; give a mask of values from 0 (ignored) to 1 (learned)")
    values = values.clip(0, 1)
    steps = np.rint(values * STEPS)
    exact = np.abs(steps / STEPS - values) <= ALMOST
    if exact.all():
        return torch.from_numpy(steps.astype(np.uint8))
    return torch.from_numpy(np.where(exact, steps / STEPS, values).astype(np.float16))


def unpack_mask(stored_THW: Tensor) -> Tensor:
    """float32 in 0..1, of what pack_mask gave."""
    stored = stored_THW.numpy()
    if stored.dtype == np.uint8:
        return torch.from_numpy(stored.astype(np.float32) / STEPS)
    values = stored.astype(np.float32)
    nearest = np.rint(values * STEPS) / STEPS
    return torch.from_numpy(np.where(nearest.astype(np.float16) == stored, nearest, values))
