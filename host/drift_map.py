"""Where a LoRA changes what the model predicts, picture by picture."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..dataset.cache import TrainingSet
from ..masks.canvas import Pixels
from ..masks.change import Change, weighted_sums
from ..masks.comparison import evenly
from ..masks.drift_picture import drift_card
from ..masks.preview import contact_sheet
from ..masks.recipe import MaskRecipe
from .drift import squared_drift
from .examples import Examples
from .progress import Progress
from .sampling import decode_first

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """One picture. `drift_hw`: root mean square change of each latent cell; `weight_hw`: the mask's weight there; of a clip, over
    its latent frames. `image_HWC`: the picture as the VAE gives it back. `change`: exact also for a clip.
    """

    name: str
    image_HWC: Tensor
    drift_hw: Tensor
    weight_hw: Tensor
    change: Change


@dataclass(frozen=True, slots=True, eq=False)
class DriftMap:
    """`all`: over all of `pictures`, which are some or all of a set of `of`."""

    pictures: Sequence[Mapped]
    all: Change
    of: int

    @property
    def scale(self) -> float:
        """The largest change of any cell, which is 1 in the maps; 0 for a LoRA that changes nothing."""
        return max(picture.drift_hw.max().item() for picture in self.pictures)

    def maps(self) -> list[Tensor]:
        """(1, H, W) for each picture, of its size: the change of each cell over `scale`."""
        return [self._scaled(p).repeat_interleave(p.image_HWC.shape[0] // len(p.drift_hw), 0)
                .repeat_interleave(p.image_HWC.shape[1] // p.drift_hw.shape[1], 1)[None] for p in self.pictures]

    def sheet(self) -> Pixels:
        cards = [drift_card(p.name, p.image_HWC, self._scaled(p), p.weight_hw, change_words(p.change)) for p in self.pictures]
        return contact_sheet(cards, ("Where the LoRA changes the prediction", *self.words().splitlines()[:2]),
                             ("0: no change", f"{self.scale:.3g}: the largest"))

    def words(self) -> str:
        shown = f"{len(self.pictures)} pictures" if len(self.pictures) == self.of else f"{len(self.pictures)} of {self.of} pictures"
        return "\n".join([f"White = learn = inside. {shown}; 1 in the map is a change of {self.scale:.4g}",
                          f"In all: {change_words(self.all)}", *(f"{p.name}: {change_words(p.change)}" for p in self.pictures)])

    def json(self) -> str:
        def numbers(change: Change) -> dict[str, float]:
            return {"drift_inside": change.inside, "drift_outside": change.outside}

        return json.dumps({**numbers(self.all), "map_scale": self.scale, "pictures_in_set": self.of,
                           "pictures": [{"name": p.name, **numbers(p.change)} for p in self.pictures]})

    def _scaled(self, picture: Mapped) -> Tensor:
        return picture.drift_hw / (self.scale or 1)


def change_words(change: Change) -> str:
    return f"change inside {change.inside:.3f}, outside {change.outside:.3f} (root mean square)"


def drift_map(patcher: ModelPatcher, lora: Mapping[str, Tensor], vae: comfy.sd.VAE, training_set: TrainingSet, recipe: MaskRecipe,
              seed: int, most: int, progress: Progress) -> DriftMap:
    """At most `most` pictures of the set. Their noise is that of `measure_drift`, so that of a whole set the numbers are the same."""
    examples = Examples(patcher, training_set, recipe)
    which = evenly(len(examples), most)
    squares = squared_drift(patcher, lora, examples, seed, which,
                            lambda done: progress.update(done, 2 * len(which), f"prediction {done + 1} of {2 * len(which)}"))
    sums = [weighted_sums(square, examples[i].weight_1HW[0]) for i, square in zip(which, squares, strict=True)]
    pictures = []
    for i, square, sum_22 in zip(which, squares, sums, strict=True):
        progress.update(2 * len(which), 2 * len(which), f"decoding {examples[i].name}")
        image_HWC = decode_first(vae, training_set.examples[i].latent_CHW[None]).float().cpu()
        frames = (-1, *square.shape[-2:])  # of a picture one
        weight_hw = examples[i].weight_1HW.reshape(frames).mean(0)
        pictures.append(Mapped(examples[i].name, image_HWC, square.reshape(frames).mean(0).sqrt().float(), weight_hw, Change.of([sum_22])))
    return DriftMap(pictures, Change.of(sums), len(examples))
