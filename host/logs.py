"""A run on disk while it goes on: a table of its steps, TensorBoard event files, and a picture of both."""
from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..trainer.example import StepReport
from .event_file import EventFile
from .loss_plot import loss_plot
from .observing import Mark, marks_of, own_folder, show
from .step_table import StepTable

if TYPE_CHECKING:
    from .run import ActiveRun

logger = logging.getLogger(__name__)
TABLE, PLOT = "steps.csv", "plot.png"
TAGS = {"loss": "loss/trained", "loss_inside": "loss/inside the mask", "loss_outside": "loss/outside the mask",
        "mean_weight": "mask/mean weight", "masked": "mask/share of masked pictures", "grad_norm": "step/gradient norm",
        "learning_rate": "step/learning rate"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSpec:
    """`plot_every`: steps between pictures of the losses; 0 = one at the end. They go to the node as well if no previews do."""

    table: bool = True
    tensorboard: bool = True
    plot_every: int = 50

    def __post_init__(self) -> None:
        if self.plot_every < 0:
            raise ValueError(f"the plot comes every {self.plot_every} steps; use 0 (at the end) or more")

    def observer(self, run_folder: Path) -> LogObserver:
        return LogObserver(self, run_folder)


@dataclass(slots=True, eq=False)
class LogObserver:
    """Writes into `<name>_logs`. It comes last among the observers, so that a step's line has what the others have marked."""

    spec: LogSpec
    run_folder: Path
    marks: list[Mark] = field(default_factory=list)
    folder: Path = field(init=False)
    table: StepTable | None = None
    events: EventFile | None = None
    told_steps: int = 0
    told_marks: set[int] = field(default_factory=set)
    broken: bool = False

    def started(self, run: ActiveRun) -> None:
        self.folder = own_folder(run, self.run_folder, "logs")
        resumed_at = run.state.step
        if self.spec.table:
            self.table = StepTable(self.folder / TABLE, resumed_at)
            self.marks += self.table.marks
            for report in run.reports:
                self.table.write(report.step, report, [])
        if self.spec.tensorboard:
            self.events = EventFile(self.folder, resumed_at + 1 if resumed_at else 0)
        self.told_steps, self.told_marks = len(run.reports), {id(mark) for mark in self.marks}
        if not resumed_at and (marks := self.new_marks(run)):
            self.tell(marks)
            if self.table:
                self.table.write(0, None, marks)

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        with self.spared():
            self.catch_up(run)
            if self.spec.plot_every and report.step % self.spec.plot_every == 0:
                picture = self.plot(run)
                if not any(mark.pictures for mark in marks_of(run)):
                    show(run, picture)

    def ended(self, run: ActiveRun, finished: bool) -> None:
        """Also tells a step whose end was kept from here, by an observer that ended the run."""
        with self.spared():
            self.catch_up(run)
            if run.reports:
                self.plot(run)
            logger.info("Masked LoRA: the log of the run is in %s", self.folder)
        for file in (self.table, self.events):
            if file is not None:
                with self.spared():  # closing writes what a full disk has not taken
                    file.close()

    @contextmanager
    def spared(self) -> Iterator[None]:
        """A full disk ends the log and not the training."""
        try:
            yield
        except OSError:
            if not self.broken:
                logger.exception("Masked LoRA: the log in %s cannot be written; training goes on without it", self.folder)
            self.broken = True

    def catch_up(self, run: ActiveRun) -> None:
        for report in run.reports[self.told_steps:]:
            marks = self.new_marks(run)
            if self.table:
                self.table.write(report.step, report, marks)
            if self.events:
                values = {tag: getattr(report, name) for name, tag in TAGS.items()}
                self.events.scalars(report.step, {tag: value for tag, value in values.items() if math.isfinite(value)})
            self.tell(marks)
        self.told_steps = len(run.reports)

    def new_marks(self, run: ActiveRun) -> list[Mark]:
        new = [mark for mark in marks_of(run) if id(mark) not in self.told_marks]
        self.told_marks |= {id(mark) for mark in new}
        return new

    def tell(self, marks: list[Mark]) -> None:
        """Marks in TensorBoard."""
        for mark in marks if self.events else ():
            assert self.events is not None
            self.events.scalars(mark.step, {f"{mark.kind}/{name}": v for name, v in mark.values.items() if math.isfinite(v)})
            for number, file in enumerate(mark.pictures):
                with Image.open(file) as picture:
                    self.events.picture(mark.step, f"{mark.kind}/{number}", file.read_bytes(), *picture.size)

    def plot(self, run: ActiveRun) -> Image.Image:
        picture = Image.fromarray(loss_plot(run.reports, marks_of(run)))
        picture.save(self.folder / PLOT)
        return picture
