"""The same seeds by the base model and by a LoRA, without and with the words that the LoRA was trained on."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..masks.canvas import Pixels
from ..masks.change import rms
from ..masks.comparison import comparison_grid
from .lora_loading import put_on
from .progress import Progress
from .studio import Settings, Studio, chosen_padding, seeds_of
from .text_padding import TextPadding

ROWS = ("base model, without trigger", "with LoRA, without trigger", "base model, with trigger", "with LoRA, with trigger")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The trained words and a prompt without them; both are sampled with `count` seeds from `seed` on."""

    trigger: str
    plain: str
    seed: int
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """`rows`: pictures (B, H, W, C) of ROWS. Each change is between the base model and the LoRA for the same prompt and seed.
    `notes`: what of the LoRA found no place.
    """

    rows: tuple[Tensor, Tensor, Tensor, Tensor]
    prompts: Prompts
    padding: TextPadding
    padding_words: str
    notes: tuple[str, ...] = ()

    def changes(self, with_trigger: bool) -> tuple[float, list[float]]:
        """Root mean square over all pictures, and for each; 0..1."""
        base, adapted = self.rows[2:] if with_trigger else self.rows[:2]
        return rms(adapted, base), [rms(a, b) for a, b in zip(adapted, base, strict=True)]

    def grid(self) -> Pixels:
        return comparison_grid(list(self.rows), ROWS, [f"seed {seed}" for seed in seeds_of(self.prompts.seed, self.prompts.count)])

    def words(self) -> str:
        (plain, each_plain), (trigger, each_trigger) = self.changes(False), self.changes(True)
        times = f", {trigger / plain:.2g} times as much" if plain else ""
        each = zip(seeds_of(self.prompts.seed, self.prompts.count), each_plain, each_trigger, strict=True)
        return "\n".join([
            f"Without the trigger the LoRA changes the pictures by {plain:.3f} (root mean square, 0 to 1)",
            f"With the trigger by {trigger:.3f}{times}",
            *(f"seed {seed}: {one:.3f} without, {other:.3f} with" for seed, one, other in each),
            f"Text padding: {self.padding_words}", *self.notes])

    def json(self) -> str:
        (plain, each_plain), (trigger, each_trigger) = self.changes(False), self.changes(True)
        return json.dumps({
            "seeds": list(seeds_of(self.prompts.seed, self.prompts.count)), "prompt_with_trigger": self.prompts.trigger,
            "prompt_without_trigger": self.prompts.plain,
            "change_without_trigger": plain, "change_with_trigger": trigger, "each_without_trigger": each_plain,
            "each_with_trigger": each_trigger, "text_padding": asdict(self.padding)})


def compare_lora(patcher: ModelPatcher, lora: Mapping[str, Tensor], prompts: Prompts, settings: Settings, padding: TextPadding | None,
                 progress: Progress) -> Comparison:
    """Four rows of pictures. Base model and LoRA read the same conditioning, unless the LoRA changes the text encoder too."""
    padding, words = chosen_padding(lora, patcher, padding)
    studio = Studio(settings, progress, total=4 * prompts.count)
    loaded = put_on(patcher, settings.clip, lora, 1.0, 1.0)
    texts = (prompts.plain, prompts.trigger, settings.negative)
    base = [studio.encode(text, padding) for text in texts]
    own = [studio.encode(text, padding, loaded.clip) for text in texts] if loaded.text else base
    for model, (*positives, negative) in ((patcher, base), (loaded.model, own)):  # one after the other: weights are patched only once
        for positive in positives:
            for seed in seeds_of(prompts.seed, prompts.count):
                studio.sample(model, positive, negative, seed)
    base_plain, base_trigger, lora_plain, lora_trigger = studio.pictures().split(prompts.count)
    return Comparison((base_plain, lora_plain, base_trigger, lora_trigger), prompts, padding, words, loaded.notes)
