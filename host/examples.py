"""From cached latents, masks and text to what the trainer eats, through the model's own latent format and extra_conds."""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import torch
from comfy.conds import CONDConstant, CONDList, CONDRegular
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..dataset.cache import REFERENCES, CachedExample, ExampleRef, OtherText, StoredExamples, TrainingSet, reference_shapes
from ..masks.latent_grid import clip_weight, latent_weight
from ..masks.recipe import MaskRecipe, apply_recipe
from ..trainer.epoch import Epoch
from ..trainer.example import Example, Text
from .architectures import reference_method

if TYPE_CHECKING:
    from .live_text import LiveText

PIXELS_PER_CELL = 8  # what the host's own sampler assumes when it tells a model the picture's size
KEPT_BYTES = 4 * 2**30


class Examples(Sequence[Example]):
    """The examples of a training set, each made when it is first asked for and kept while there is room.

    The recipe is applied here, so that editing it re-encodes nothing. What goes beyond `room` bytes is read again from the
    cache whenever it is drawn, so that a set of any size can be trained on.
    """

    def __init__(self, patcher: ModelPatcher, training_set: TrainingSet, recipe: MaskRecipe, room: int = KEPT_BYTES,
                 text: LiveText | None = None) -> None:
        self.patcher, self.training_set, self.recipe, self.room, self.text = patcher, training_set, recipe, room, text
        self.outline = outline(training_set)
        self._examples: dict[int, Example] = {}
        self._weights: dict[int, Tensor] = {}
        self._texts: dict[tuple[int, int], Text] = {}

    def __len__(self) -> int:
        return len(self.outline)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index in self._examples:
            return self._examples[index]
        example = make_example(self.patcher, self.training_set.examples[index], self.recipe, self._weights.get(index), self.text)
        texts = [partial(self._text, (index, place), make) for place, make in enumerate((*example.alternatives, *example.dropped))]
        split = len(example.alternatives)
        example = replace(example, alternatives=tuple(texts[:split]), dropped=tuple(texts[split:]))
        if self._takes(example.latent_CHW, *tensors_of(example.cond)):
            self._examples[index] = example
        return example

    def _text(self, place: tuple[int, int], make: Callable[[], Text]) -> Text:
        """`place`: the example's and the text's own among its others."""
        if place in self._texts:
            return self._texts[place]
        text = make()
        if self._takes(*tensors_of(text.cond)):
            self._texts[place] = text
        return text

    def weights(self) -> Iterator[Tensor]:
        """The loss weight of every example, in order; reads masks but no latents."""
        shapes = self.training_set.latent_shapes()
        for i, (mask_THW, shape) in enumerate(zip(self.training_set.masks(), shapes, strict=True)):
            weight_1HW = loss_weight(mask_THW, shape, self.recipe, self.outline[i].name)
            if self._takes(weight_1HW):
                self._weights[i] = weight_1HW
            yield weight_1HW

    def epoch(self) -> Epoch:
        return Epoch.of([e.repeats for e in self.outline], [e.regularisation for e in self.outline])

    def _takes(self, *tensors: Tensor) -> bool:
        size = sum(tensor.nbytes for tensor in tensors)
        fits = size <= self.room
        self.room -= size if fits else 0
        return fits


def outline(training_set: TrainingSet) -> Sequence[CachedExample | ExampleRef]:
    """Names, repeats and the like of every example, without its tensors where they lie on disk."""
    examples = training_set.examples
    return examples.refs if isinstance(examples, StoredExamples) else examples


@dataclass(frozen=True, slots=True, eq=False)
class LiveCond:
    """A caption that trained text encoders read anew on every call; `cond` is what the cache has of it."""

    patcher: ModelPatcher
    text: LiveText
    caption: str
    cond: Mapping[str, Tensor]
    latent_BCHW: Tensor

    def __call__(self) -> dict[str, CONDRegular]:
        return model_cond(self.patcher, self.text.cond(self.caption, self.cond), self.latent_BCHW)


def make_example(patcher: ModelPatcher, cached: CachedExample, recipe: MaskRecipe, weight_1HW: Tensor | None = None,
                 live: LiveText | None = None) -> Example:
    """`weight_1HW`: the loss weight where it is known already. With `live` text encoders every cond is a LiveCond."""
    check_channels(patcher, cached)
    latent = patcher.model.process_latent_in(cached.latent_CHW.clone()[None])[0].float()
    if weight_1HW is None:
        weight_1HW = loss_weight(cached.mask_THW, tuple(cached.latent_CHW.shape), recipe, cached.name)

    def text(caption: str, cond: Mapping[str, Tensor]) -> Text:
        told = model_cond(patcher, cond, latent[None])
        group = tuple(sorted((k, shape_of(v)) for k, v in told.items()))
        return Text(LiveCond(patcher, live, caption, cond, latent[None]) if live else told, group)

    def later(other: OtherText) -> Callable[[], Text]:
        return lambda: text(other.caption, other.load())

    own = text(cached.caption, cached.cond)
    require_references_read(patcher, cached, own)
    return Example(cached.name, latent, weight_1HW, own.cond, own.group, cached.weight,
                   tuple(map(later, cached.alternatives)), tuple(map(later, cached.dropped)))


def require_references_read(patcher: ModelPatcher, cached: CachedExample, text: Text) -> None:
    """Raises ValueError for reference pictures that the model has no place for."""
    named = {name for name, _ in text.group}  # type: ignore[attr-defined]  # made in make_example
    if reference_shapes(cached) and not {"ref_latents", "reference_latent"} & named:
        raise ValueError(f"{cached.name} has reference pictures and {type(patcher.model).__name__} takes none; load the edit model that "
                         "they are for, or make the training set without references")


def tensors_of(cond: Mapping[str, CONDRegular] | LiveCond) -> list[Tensor]:
    """All that takes memory in what a model is told."""
    if isinstance(cond, LiveCond):
        return list(cond.cond.values())
    values = [value for one in cond.values() for value in (one.cond if isinstance(one, CONDList) else [one.cond])]
    return [value for value in values if isinstance(value, Tensor)]


def loss_weight(mask_THW: Tensor | None, latent_shape: Sequence[int], recipe: MaskRecipe, name: str) -> Tensor:
    """The weight of every latent cell, (1, H, W) for a picture and (1, T, H, W) for a latent (C, T, H, W). No mask is all ones."""
    cells = tuple(latent_shape[1:])
    if mask_THW is None:
        return torch.ones(1, *cells)
    weight_THW = apply_recipe(mask_THW, recipe, [name] * len(mask_THW))
    if len(cells) == 3:
        return clip_weight(weight_THW, len(mask_THW), cells)
    return latent_weight(weight_THW, cells)[0]


def check_channels(patcher: ModelPatcher, cached: CachedExample) -> None:
    expected = patcher.model.latent_format.latent_channels
    if cached.latent_CHW.shape[0] != expected:
        raise ValueError(
            f"{cached.name} was encoded to {cached.latent_CHW.shape[0]} latent channels and {type(patcher.model).__name__} works on "
            f"{expected}; encode the pictures with the VAE that belongs to this model")


def model_cond(patcher: ModelPatcher, cond: Mapping[str, Tensor], latent_BCHW: torch.Tensor) -> dict[str, CONDRegular]:
    """What the sampler would hand the model for this caption and size: one caption a picture, never averaged over a batch."""
    given = conditioning(cond)
    if REFERENCES in given:
        given |= reference_method(patcher)
    height, width = (side * PIXELS_PER_CELL for side in latent_BCHW.shape[-2:])
    conds: Mapping[str, CONDRegular] = patcher.model.extra_conds(
        **given, noise=latent_BCHW, device=torch.device("cpu"), width=width, height=height, prompt_type="positive", latent_image=None,
        denoise_mask=None, seed=0, latent_shapes=[latent_BCHW.shape])
    return {k: v.process_cond(batch_size=1, area=None) for k, v in conds.items()}


def conditioning(cond: Mapping[str, Tensor]) -> dict[str, Any]:
    """The entries of a CONDITIONING that cached tensors stand for.

    A tensor without dimensions is a number (`guidance`), and `reference_latents.0`, `.1`, ... are the list `reference_latents` of an
    edit model, (1, C, [T,] H, W) each, as the VAE gives them.
    """
    # Core's text nodes always hand over pooled_output, None where there is none, and some models demand the entry.
    given: dict[str, Any] = {"pooled_output": None}
    for name, value in sorted(cond.items(), key=lambda item: natural(item[0])):
        name, _, place = name.partition(".")
        if place:
            given.setdefault(name, []).append(value.clone())
        else:
            given[name] = value.clone() if value.ndim else value.item()
    return given


def natural(name: str) -> tuple[str, int]:
    """Sorts reference_latents.10 behind reference_latents.9."""
    start, _, place = name.partition(".")
    return start, int(place or 0)


def shape_of(cond: CONDRegular) -> Hashable:
    """Equal for conds that the host can stack: by shape, and constants by value."""
    if isinstance(cond, CONDConstant):
        return repr(cond.cond)
    if isinstance(cond, CONDList):
        return repr([tuple(c.shape) for c in cond.cond])
    return repr(tuple(cond.cond.shape))
