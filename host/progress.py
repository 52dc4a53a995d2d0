"""Progress on the node and in the console, and the Cancel button."""
from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
from server import PromptServer

if TYPE_CHECKING:
    from ..trainer.example import StepReport
    from .run import ActiveRun

logger = logging.getLogger(__name__)
CONSOLE_SECONDS = 5.0


class Progress:
    """Reports on one node; `update` raises ComfyUI's InterruptProcessingException once the user has pressed Cancel."""

    def __init__(self, node_id: str | None) -> None:
        self.node_id = node_id
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)

    def update(self, done: int, total: int, text: str = "") -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, total)
        show_text(text, self.node_id)


def show_text(text: str, node_id: str | None) -> None:
    # A prompt server exists only where pages can be watching; a headless run has none.
    server = getattr(PromptServer, "instance", None)
    if text and node_id is not None and server is not None:
        server.send_progress_text(text, node_id)


class TrainingProgress:
    """Step, loss and time left: every step on the node, every few seconds in the console. The first observer of every run."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps
        self.started_at = self.logged = time.monotonic()
        self.smooth = math.nan

    def started(self, run: ActiveRun) -> None:
        self.started_at = self.logged = time.monotonic()

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        new_steps = report.step - run.resumed
        for done in run.reports if new_steps == 1 else [report]:  # the first step of a resumed run brings those before it
            self._smooth(done)
        now = time.monotonic()
        per_step = (now - self.started_at) / new_steps
        text = (f"step {report.step}/{self.steps}  loss {self.smooth:.4f}  {per_step:.2f} s/step  "
                f"{duration(per_step * (self.steps - report.step))} left")
        if now - self.logged >= CONSOLE_SECONDS or new_steps in (1, 5) or report.step == self.steps:
            self.logged = now
            logger.info("Masked LoRA: %s", text)
        self.progress.update(report.step, self.steps, text)

    def ended(self, run: ActiveRun, finished: bool) -> None:
        """The node's progress stands where it is."""

    def _smooth(self, report: StepReport) -> None:
        if report.mean_weight > 0:  # an all-black step taught nothing and says nothing about the loss
            self.smooth = report.loss if math.isnan(self.smooth) else 0.95 * self.smooth + 0.05 * report.loss


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
