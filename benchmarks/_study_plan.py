"""What the padding study trains, samples and asks: no ComfyUI, no files. tools/ is on sys.path."""
from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from demo_model.scenes import split_scenes
from demo_model.subject import SUBJECT_STYLES, TRIGGER

REGIMES = {"none": "comfyui", "zero": "comfyui-zero", "mask": "comfyui-mask"}
PRIOR = 0.5
TRAINING_PICTURES = (12, 7)  # how many styles the demo pictures were drawn from, and with which seed (tools/demo_model/subject.py)
# Seconds on two idle cores, about: a training step of 4 pictures, a sampling step of one picture.
STEP_SECONDS = {"none": 0.45, "zero": 0.45, "mask": 0.17}
SAMPLE_SECONDS = {"none": 0.043, "zero": 0.043, "mask": 0.012}
MEASURE_SECONDS = {"none": 22.0, "zero": 22.0, "mask": 10.0}  # validation and drift of a training
DECODE_SECONDS, PRIOR_COST = 0.055, 1.3


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train: text padding, whether masks weigh the loss, and the weight of the prior outside of them."""

    name: str
    padding: str
    masked: bool = True
    prior: float = 0.0


PADDING_ARMS = tuple(Arm(regime, regime) for regime in REGIMES)
# An unmasked loss leaves the prior nothing to hold: unmasked with prior is the same training bit for bit, and is not run twice.
UNMASKED, MASKED_PRIOR = Arm("unmasked", "mask", masked=False), Arm("masked_prior", "mask", prior=PRIOR)
LOSS_ARMS = (PADDING_ARMS[2], MASKED_PRIOR, UNMASKED)
ARMS = (*PADDING_ARMS, MASKED_PRIOR, UNMASKED)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`asked`: what the text asks for, by the heads of the classifier."""

    kind: str
    text: str
    asked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """One sheet of samples: all prompts, all noise seeds. Without a LoRA (`arm` is "") it is the base model."""

    arm: str
    seed: int
    step: int
    strength: float
    sampled: str

    @property
    def name(self) -> str:
        lora = f"{self.arm}_{self.seed}_step_{self.step:04d}_strength_{self.strength:g}" if self.arm else "base"
        return f"{lora}_{self.sampled}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Steps, seeds and prompts. The other settings of training are those of the shipped quickstart."""

    steps: int = 240
    checkpoints: tuple[int, ...] = (80, 160, 240)
    validate_every: int = 40
    seeds: tuple[int, ...] = (0, 1, 2)
    noise_seeds: tuple[int, ...] = (1000, 1001)
    rich: int = 4
    unrelated: int = 4
    sampling_steps: int = 8
    weak: float = 0.5
    classifier_pictures: int = 3000
    classifier_steps: int = 500
    examined: int = 200

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The study's protocol: the trigger alone, nothing, the subject in scenes that were not trained, other subjects."""
        return (Prompt("trigger", f"a {TRIGGER}"), Prompt("blank", ""), *rich_prompts(self.rich), *unrelated_prompts(self.unrelated))

    def cells(self) -> Iterator[Cell]:
        """In the order in which they are made: base, then every LoRA."""
        for regime in REGIMES:
            yield Cell("", 0, 0, 1.0, regime)
        for seed in self.seeds:
            for arm in ARMS:
                yield from self.cells_of(arm, seed)

    def cells_of(self, arm: Arm, seed: int) -> Iterator[Cell]:
        """A LoRA under all regimes, weaker too and at every checkpoint; those of the other question at their end and matched."""
        if arm not in PADDING_ARMS:
            yield Cell(arm.name, seed, self.steps, 1.0, arm.padding)
            return
        for step, strength in (*((step, 1.0) for step in self.checkpoints), (self.steps, self.weak)):
            for regime in REGIMES:
                yield Cell(arm.name, seed, step, strength, regime)

    def seconds(self, arms: list[tuple[Arm, int]], cells: list[Cell]) -> float:
        """What two idle cores take for these trainings and sheets."""
        training = sum(self.steps * STEP_SECONDS[arm.padding] * (PRIOR_COST if arm.prior else 1) + MEASURE_SECONDS[arm.padding]
                       for arm, _ in arms)
        pictures = len(self.prompts) * len(self.noise_seeds)
        return training + sum(pictures * (self.sampling_steps * SAMPLE_SECONDS[cell.sampled] + DECODE_SECONDS) for cell in cells)


QUICK = Plan(steps=12, checkpoints=(6, 12), validate_every=6, seeds=(0, 1), noise_seeds=(1000,), rich=1, unrelated=1,
             sampling_steps=2, classifier_pictures=600, classifier_steps=150, examined=40)


def rich_prompts(count: int) -> list[Prompt]:
    """The subject where the training pictures do not show it, in both orders of words."""
    seen = set(random.Random(TRAINING_PICTURES[1]).sample(SUBJECT_STYLES, TRAINING_PICTURES[0]))
    styles = random.Random(21).sample([style for style in SUBJECT_STYLES if style not in seen], count)
    return [Prompt("rich", style.caption() if i % 2 else ", ".join(reversed(style.caption().split(", "))),
                   {"position": style.position, "pattern": style.pattern, "background": style.background})
            for i, style in enumerate(styles)]


def unrelated_prompts(count: int) -> list[Prompt]:
    """Other subjects, in captions that the base model was not trained on either."""
    return [Prompt("unrelated", s.caption(), {"kind": s.kind, "colour": s.colour, "position": s.position, "pattern": s.pattern,
                                              "background": s.background})
            for s in random.Random(22).sample(split_scenes()[1], count)]
