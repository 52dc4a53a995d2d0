"""From sheets of samples to numbers: no ComfyUI. A frozen classifier reads the samples; what remains is arithmetic."""
from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from _study_plan import Plan, Prompt
from demo_model.classifier import HEADS, Classifier
from demo_model.scenes import SIZE
from demo_model.subject import TRIGGER
from PIL import Image
from torch import Tensor

SUBJECT = HEADS["kind"].index(TRIGGER)
CLUTTERED = HEADS["clutter"].index("cluttered")
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over training seeds, and their standard deviation (n - 1); nan of a single one, or where one is infinite."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        known = len(values) > 1 and all(math.isfinite(value) for value in values)
        return cls(statistics.fmean(values), statistics.stdev(values) if known else math.nan)

    def words(self, digits: int = 3) -> str:
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


def spreads(seeds: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """One mapping of measures for each training seed."""
    return {name: Spread.of([values[name] for values in seeds]) for name in seeds[0]}


def verdict(differences: Sequence[float]) -> str:
    """Paired differences, one a training seed. A difference counts that is larger than its own standard error twice over."""
    found = Spread.of(differences)
    error = found.deviation / math.sqrt(len(differences))
    if not abs(found.mean) > 2 * error:
        return "not told apart"
    return "yes" if found.mean > 0 else "no, the other way round"


def read_sheet(file: Path, plan: Plan) -> Tensor:
    """(prompts, noise seeds, H, W, C), float32 0..1."""
    with Image.open(file) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB"))).float() / 255
    rows, columns = len(plan.prompts), len(plan.noise_seeds)
    if pixels.shape != (rows * SIZE, columns * SIZE, 3):
        raise ValueError(f"{file} has {pixels.shape[1]}x{pixels.shape[0]} pixels and not {columns * SIZE}x{rows * SIZE}; remove it")
    return pixels.reshape(rows, SIZE, columns, SIZE, 3).transpose(1, 2)


def followed(found: Mapping[str, Tensor], prompts: Sequence[Prompt]) -> list[float]:
    """For each picture the share of what its prompt asks for that the classifier sees; only prompts that ask for something.

    found: probabilities (prompts, noise seeds, words).
    """
    shares = []
    for row, prompt in enumerate(prompts):
        right = [found[head][row].argmax(-1) == HEADS[head].index(word) for head, word in prompt.asked.items()]
        if right:
            shares += torch.stack(right).float().mean(0).tolist()
    return shares


def measures(sheet: Tensor, base: Tensor, plain: Tensor, plan: Plan, classifier: Classifier) -> Values:
    """Of one sheet beside the base model's with the same noise: `base` under the same regime, `plain` as Flux was released.

    subject: share of pictures of the trigger and rich prompts that show the pibo. leak: the same of unrelated prompts. clutter: share
    of trigger and rich pictures with frame and confetti. followed: see above. drift: root mean square over pixels, 0..1.
    """
    flat = classifier.read(sheet.flatten(0, 1))
    found = {head: probability.reshape(*sheet.shape[:2], -1) for head, probability in flat.items()}
    rows = {kind: [i for i, prompt in enumerate(plan.prompts) if prompt.kind == kind] for kind in ("trigger", "blank", "rich", "unrelated")}
    about = rows["trigger"] + rows["rich"]

    def share(head: str, word: int, of: list[int]) -> float:
        return (found[head][of].argmax(-1) == word).float().mean().item()

    def follow(kind: str) -> float:
        of = rows[kind]
        return statistics.fmean(followed({head: p[of] for head, p in found.items()}, [plan.prompts[i] for i in of]))

    def drift(of: list[int], before: Tensor = base) -> float:
        return (sheet[of] - before[of]).double().square().mean().sqrt().item()

    return {
        "subject": share("kind", SUBJECT, about), "subject_probability": found["kind"][about][..., SUBJECT].mean().item(),
        "clutter": share("clutter", CLUTTERED, about), "followed_rich": follow("rich"),
        "followed_unrelated": follow("unrelated"), "leak": share("kind", SUBJECT, rows["unrelated"]),
        "drift_unrelated": drift(rows["unrelated"]), "drift_plain": drift(rows["unrelated"], plain), "drift_blank": drift(rows["blank"]),
    }


def reached(curve: Mapping[int, float], goal: float) -> float:
    """The step at which a falling curve first is at `goal` or below, on straight lines between its points; infinite if never."""
    points = sorted(curve.items())
    if points[0][1] <= goal:
        return float(points[0][0])
    for (before, high), (after, low) in pairwise(points):
        if low <= goal:
            return before + (after - before) * (high - goal) / (high - low)
    return math.inf
