"""The study's tables, as numbers and as Markdown: no ComfyUI."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from _study_measures import Spread, Values, reached, spreads, verdict
from _study_plan import ARMS, LOSS_ARMS, PADDING_ARMS, REGIMES, Arm, Cell, Plan

CELL_COLUMNS = {"subject": "subject learned", "followed_rich": "prompt followed, subject", "clutter": "clutter learned",
                "followed_unrelated": "prompt followed, unrelated", "leak": "subject leaks", "drift_unrelated": "drift, unrelated",
                "drift_plain": "drift, unrelated, from plain", "drift_blank": "drift, blank"}
LOSS_NAMES = {"mask": "masked", "masked_prior": "masked, prior 0.5", "unmasked": "unmasked"}


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured: of each cell, of each LoRA (arm, seed), and how well the classifier reads."""

    plan: Plan
    cells: Mapping[Cell, Values]
    records: Mapping[tuple[str, int], Mapping[str, Any]]
    classifier: Mapping[str, Mapping[str, float]]

    def of(self, arm: str, sampled: str, step: int = 0, strength: float = 1.0) -> list[Values]:
        """One for each training seed; step 0 is the last one."""
        return [self.cells[Cell(arm, seed, step or self.plan.steps, strength, sampled)] for seed in self.plan.seeds]

    def curve(self, arm: str, seed: int, where: str = "inside") -> dict[int, float]:
        return {int(step): values[where] for step, values in self.records[arm, seed]["validation"].items()}


def to_json(found: Findings) -> dict[str, Any]:
    """Every table as numbers; spreads as [mean, deviation], what is not finite as null."""
    arms = {arm.name: arm_values(found, arm) for arm in ARMS}
    cells = [{"trained": arm.name, "sampled": sampled, "step": step, "strength": strength,
              **jsonable(spreads(found.of(arm.name, sampled, step, strength)))} for arm, sampled, step, strength in grid_of(found.plan)]
    base = {regime: found.cells[Cell("", 0, 0, 1.0, regime)] for regime in REGIMES}
    return {"steps": found.plan.steps, "seeds": list(found.plan.seeds), "classifier_accuracy": found.classifier, "base": base,
            "cells": cells, "loss": {name: jsonable(values) for name, values in arms.items()}, "claims": claims(found)}


def grid_of(plan: Plan) -> Iterable[tuple[Arm, str, int, float]]:
    """The cells without their seeds."""
    for arm in ARMS:
        for cell in plan.cells_of(arm, plan.seeds[0]):
            yield arm, cell.sampled, cell.step, cell.strength


def arm_values(found: Findings, arm: Arm) -> dict[str, Spread]:
    """Errors on held-out pictures and drift of a way to train."""
    rows = []
    for seed in found.plan.seeds:
        record, inside, outside = found.records[arm.name, seed], found.curve(arm.name, seed), found.curve(arm.name, seed, "outside")
        last = max(inside)
        rows.append({"inside_before": inside[0], "inside_after": inside[last], "outside_before": outside[0], "outside_after": outside[last],
                     "drift_inside": record["drift_inside"], "drift_outside": record["drift_outside"],
                     "drift_predictions": record["sample_drift"][arm.padding], "reaches_none": reaches_none(found, arm.name, seed)})
    return spreads(rows)


def reaches_none(found: Findings, arm: str, seed: int) -> float:
    """The step at which a LoRA has the lowest error inside the masks that the one trained with plain padding ever has, same seed.

    Not the error that it ends with: pictures that are learned by heart raise it again, and all LoRAs pass that on their way down.
    """
    return reached(found.curve(arm, seed), min(found.curve("none", seed).values()))


def claims(found: Findings) -> dict[str, Any]:
    """What the study says, by paired differences of the training seeds: [mean, deviation] and a verdict."""
    def value(trained: str, sampled: str, name: str) -> list[float]:
        return [values[name] for values in found.of(trained, sampled)]

    def compared(more: Sequence[float], less: Sequence[float]) -> dict[str, Any]:
        differences = [a - b for a, b in zip(more, less, strict=True)]
        return {"difference": jsonable(Spread.of(differences)), "verdict": verdict(differences)}

    plan, answers = found.plan, {}
    for arm in ("zero", "mask"):
        late, plain_late = ([min(reaches_none(found, name, seed), 2 * plan.steps) for seed in plan.seeds] for name in (arm, "none"))
        answers[f"{arm} converges sooner than none (steps saved)"] = compared(plain_late, late)
        plain, own = value(arm, "none", "subject"), value(arm, arm, "subject")
        answers[f"a {arm} LoRA shows the subject more often sampled its own way than the plain way"] = compared(own, plain)
        answers[f"a {arm} LoRA follows prompts of the subject better sampled its own way"] = compared(
            value(arm, arm, "followed_rich"), value(arm, "none", "followed_rich"))
    for other in ("none", "mask"):
        answers[f"zero leaks more into unrelated prompts than {other} (drift of pictures)"] = compared(
            value("zero", "zero", "drift_unrelated"), value(other, other, "drift_unrelated"))
        answers[f"zero follows unrelated prompts worse than {other}, each sampled its own way"] = compared(
            value(other, other, "followed_unrelated"), value("zero", "zero", "followed_unrelated"))
    return answers


def jsonable(value: Any) -> Any:
    if isinstance(value, Spread):
        return [number if math.isfinite(number) else None for number in (value.mean, value.deviation)]
    return {name: jsonable(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def to_markdown(found: Findings, command: str) -> str:
    plan, seeds = found.plan, len(found.plan.seeds)
    accuracy = [f"| {name} | " + " | ".join(f"{found.classifier[name][head]:.1%}" for head in found.classifier["drawn"]) + " |"
                for name in found.classifier]
    parts = [
        f"# Padding study: results\n\nWritten by `{command}`: {plan.steps} steps of 4 pictures, {seeds} training seeds, "
        f"{len(plan.noise_seeds)} noise seeds for each of {len(plan.prompts)} prompts, {plan.sampling_steps} sampling steps. "
        "Mean ± standard deviation over training seeds. What the columns mean is said in [padding_study.md](padding_study.md).",
        "## The study's claims\n\n" + claims_table(found),
        f"## Trained with, sampled with: strength 1, step {plan.steps}\n\n" + cell_table(found, plan.steps, 1.0),
        f"## The same at strength {plan.weak:g}\n\n" + cell_table(found, plan.steps, plan.weak),
        *(f"## The same at step {step}\n\n" + cell_table(found, step, 1.0) for step in plan.checkpoints if step != plan.steps),
        "## Convergence: error inside the masks of held-out pictures\n\n" + curve_table(found),
        "## Masked and unmasked loss, with and without prior\n\n" + loss_table(found),
        "## How well the classifier reads\n\n" + table(["held-out pictures", *found.classifier["drawn"]], []) + "\n" + "\n".join(accuracy),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def cell_table(found: Findings, step: int, strength: float) -> str:
    rows = []
    for sampled in REGIMES:
        base = found.cells[Cell("", 0, 0, 1.0, sampled)]
        rows.append(["no LoRA", sampled, *(f"{base[name]:.3f}" for name in CELL_COLUMNS)])
    for arm in PADDING_ARMS:
        for sampled in REGIMES:
            values = spreads(found.of(arm.name, sampled, step, strength))
            matched = "**" if sampled == arm.padding else ""
            rows.append([f"{matched}{arm.name}{matched}", f"{matched}{sampled}{matched}", *(values[name].words() for name in CELL_COLUMNS)])
    return table(["trained", "sampled", *CELL_COLUMNS.values()], rows)


def curve_table(found: Findings) -> str:
    steps = sorted(found.curve("none", found.plan.seeds[0]))
    rows = []
    for arm in PADDING_ARMS:
        curves = [found.curve(arm.name, seed) for seed in found.plan.seeds]
        early = [reaches_none(found, arm.name, seed) for seed in found.plan.seeds]
        when = Spread.of(early).words(0) if all(math.isfinite(step) for step in early) else "not always"
        rows.append([arm.name, *(Spread.of([curve[step] for curve in curves]).words(4) for step in steps), when])
    return table(["trained", *(f"step {step}" for step in steps), "as good as none at its best, at step"], rows)


def loss_table(found: Findings) -> str:
    columns = {"inside_after": "error inside, held out", "outside_after": "error outside, held out", "drift_inside": "drift inside",
               "drift_outside": "drift outside", "drift_predictions": "drift, unrelated predictions"}
    pictures = {name: CELL_COLUMNS[name] for name in ("subject", "clutter", "followed_rich", "followed_unrelated", "drift_unrelated")}
    rows = []
    for arm in LOSS_ARMS:
        values, seen = arm_values(found, arm), spreads(found.of(arm.name, arm.padding))
        rows.append([LOSS_NAMES[arm.name], *(values[name].words(4) for name in columns), *(seen[name].words() for name in pictures)])
    rows.append(["unmasked, prior 0.5", "the same LoRA as unmasked: nothing is outside", *[""] * (len(columns) + len(pictures) - 1)])
    return table(["loss", *columns.values(), *pictures.values()], rows)


def claims_table(found: Findings) -> str:
    rows = [[claim, f"{answer['difference'][0]:+.3f} ± {answer['difference'][1] if answer['difference'][1] is not None else math.nan:.3f}",
             answer["verdict"]] for claim, answer in claims(found).items()]
    return table(["claim", "difference", "found here"], rows)


def last_line(found: Findings) -> str:
    """Matched and mismatched share of pictures with the subject, and the verdicts."""
    subject = {f"{arm.name} sampled {sampled}": round(spreads(found.of(arm.name, sampled))["subject"].mean, 3)
               for arm in PADDING_ARMS for sampled in REGIMES}
    return json.dumps({"subject": subject, "claims": {claim: answer["verdict"] for claim, answer in claims(found).items()}})
