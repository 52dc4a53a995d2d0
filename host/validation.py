"""Validation in the middle of training: held-out pictures, noise that never changes."""
from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..dataset.cache import TrainingSet
from ..dataset.words import counted
from ..trainer.example import StepReport
from ..trainer.validation import ErrorMeans, Validation, ValidationSpec, validate
from .examples import Examples
from .observing import Mark, undisturbed

if TYPE_CHECKING:
    from .run import ActiveRun

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationPlan:
    """Every `every` steps, before the first and after the last. Masks pass the run's own recipe."""

    every: int
    training_set: TrainingSet
    spec: ValidationSpec = field(default_factory=ValidationSpec)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"validation comes every {self.every} steps; use 1 or more")

    def observer(self, run_folder: Path) -> ValidationObserver:
        return ValidationObserver(self)


@dataclass(slots=True, eq=False)
class ValidationObserver:
    plan: ValidationPlan
    marks: list[Mark] = field(default_factory=list)
    base: Validation | None = None
    examples: Examples | None = None

    def started(self, run: ActiveRun) -> None:
        """The model without the LoRA comes first: what every later number is compared with."""
        if self.plan.training_set.text_padding != run.training_set.text_padding:
            raise ValueError(f"the validation set was encoded with text padding {self.plan.training_set.text_padding} and the training set "
                             f"with {run.training_set.text_padding}; encode both with the same one")
        self.examples = Examples(run.patcher, self.plan.training_set, run.config.recipe, text=run.text)
        with run.without_adapter():
            self.base = self.measure(run, "without the LoRA")
        if not run.state.step:  # a resumed run has marked it
            self.mark(0, self.base, "base validation")

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if report.step % self.plan.every and report.step != run.config.train.steps:
            return
        result = self.measure(run, f"step {report.step}")
        self.mark(report.step, result, "validation")
        assert self.base is not None
        logger.info("Masked LoRA: validation after step %d on %s: %s", report.step,
                    counted(len(self.plan.training_set.examples), "picture"), compared(result.total, self.base.total))

    def ended(self, run: ActiveRun, finished: bool) -> None:
        self.examples = None

    def measure(self, run: ActiveRun, when: str) -> Validation:
        assert self.examples is not None
        run.progress.update(run.state.step, run.config.train.steps, f"validation, {when}")
        with undisturbed(run):
            return validate(run.model, self.examples, self.plan.spec, run.state.parameters[0].device)

    def mark(self, step: int, result: Validation, kind: str) -> None:
        values = asdict(result.total)
        for level, means in result.levels:
            values |= {f"{where} at {level:g}": error for where, error in asdict(means).items()}
        self.marks.append(Mark(step=step, kind=kind, values=values))


def compared(now: ErrorMeans, base: ErrorMeans) -> str:
    return ", ".join(f"{name} {getattr(now, name):.4f} (without the LoRA {getattr(base, name):.4f})"
                     for name in ("inside", "outside", "everywhere"))
