"""One training run inside ComfyUI, from a training set to LoRA weights."""
from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError

from ..dataset.cache import TrainingSet
from ..masks.recipe import MaskRecipe
from ..trainer.adapter import LoraAdapter
from ..trainer.adapter_spec import AdapterSpec
from ..trainer.config import LoraSpec, TrainConfig
from ..trainer.draws import Batch
from ..trainer.example import StepReport
from ..trainer.loop import train
from ..trainer.state import TrainingState
from .architectures import unproven
from .captions import require_dropped
from .denoiser import ComfyDenoiser
from .examples import Examples, outline
from .finish import FinishEarly
from .live_text import LiveText, TextEncoderSpec, borrow_text_encoder
from .lora_format import LoraWeights, TrainingRecord, save_lora, unused
from .progress import Progress, TrainingProgress
from .record import training_record
from .report import report_of
from .summary import look_at_weights, summary
from .training import borrow_for_training, resident, training_memory

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ActiveRun:
    """What an observer may look at while a run goes on. reports: of all steps so far, also of those before a resume, which was
    after step `resumed` (0: a fresh run).
    """

    patcher: ModelPatcher
    model: ComfyDenoiser
    adapter: LoraAdapter
    state: TrainingState
    examples: Examples
    training_set: TrainingSet
    config: RunConfig
    record: TrainingRecord
    reports: list[StepReport]
    progress: Progress
    text: LiveText | None = None
    resumed: int = 0
    finished: bool = False
    early: bool = False

    def outcome(self) -> str:
        """What was out of the ordinary, in words; empty if nothing."""
        steps, said = self.config.train.steps, []
        if self.resumed == steps:
            said.append(f"already complete: {steps} of {steps} steps are done, nothing was trained")
        elif self.resumed:
            said.append(f"resumed at step {self.resumed} of {steps}")
        if self.early:
            said.append(f"finished early at step {self.state.step} of {steps}")
        return "; ".join(said)

    def lora(self) -> LoraWeights:
        """The LoRA of this moment, as a file would hold it."""
        metadata = self.record.metadata() | {"ss_steps": str(self.state.step)}
        with self.state.final_weights():
            return LoraWeights.from_adapter(self.adapter.state_dict(), metadata, self.text.adapter.state_dict() if self.text else None)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The model and its text encoders predict as if nothing had been learned."""
        with self.adapter.disabled(), self.text.disabled() if self.text else nullcontext():
            yield


class Observer(Protocol):
    """Looks on while a run goes on. Whatever it raises ends the run: FinishEarly well, anything else as an error does."""

    def started(self, run: ActiveRun) -> None:
        """Before the first step; `run.state.step` is above 0 where a run is resumed."""

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        """After every optimizer step."""

    def ended(self, run: ActiveRun, finished: bool) -> None:
        """On every exit, also after an error; not called where `started` has raised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of one run: what is trained, on what, how, and who looks on."""

    train: TrainConfig
    lora: LoraSpec
    recipe: MaskRecipe
    checkpointing: bool
    name: str
    rescue_folder: Path
    text_encoder: TextEncoderSpec | None = None
    observers: tuple[Observer, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class RunResult:
    lora: LoraWeights
    losses: list[float]
    report: dict[str, object]


def run_training(patcher: ModelPatcher, training_set: TrainingSet, run: RunConfig, progress: Progress) -> RunResult:
    """Train and return the LoRA. On Cancel and on any error what was trained is saved to `run.rescue_folder` first."""
    require_dropped(outline(training_set), run.train.caption_dropout)
    patcher, started = resident(patcher), time.monotonic()
    if warning := unproven(patcher):
        logger.warning("Masked LoRA: %s", warning)
    needed = training_memory(patcher, training_set, run.train)
    with ExitStack() as stack:
        model, adapter = stack.enter_context(borrow_for_training(
            patcher, run.lora, seed=run.train.seed, checkpointing=run.checkpointing, memory_required=needed))
        text = stack.enter_context(borrow_text_encoder(
            run.text_encoder, patcher, model, run.train.seed, needed, AdapterSpec.of(run.lora).start)) if run.text_encoder else None
        examples = Examples(patcher, training_set, run.recipe, text=text)
        seen = look_at_weights(examples, run.recipe)
        with adapter.disabled():
            record = training_record(patcher, training_set, seen, run)
        state = TrainingState(adapter.parameters, run.train) if text is None else TrainingState(
            adapter.parameters, run.train, text.adapter.parameters, text.spec.rate)
        active = ActiveRun(patcher, model, adapter, state, examples, training_set, run, record, [], progress, text)
        if text:
            text.check(training_set.examples[0])
        logger.info("Masked LoRA: %s", summary(active, seen))
        train_watched(active, (TrainingProgress(progress, run.train.steps), *run.observers))
        lora = active.lora()
        report = report_of(active, time.monotonic() - started)
    return RunResult(lora, [r.loss for r in active.reports], report)


def train_watched(run: ActiveRun, observers: tuple[Observer, ...]) -> None:
    """Train under the eyes of `observers`, which are told in order, and of the end in reverse order."""
    def on_step(report: StepReport) -> None:
        run.reports.append(report)
        for observer in observers:
            observer.after_step(run, report)

    def dropped(batch: Batch) -> AbstractContextManager[None]:
        return run.adapter.dropout([d.index for d in batch.draws])

    with ExitStack() as stack:
        stack.callback(rescue, run)
        for observer in observers:
            observer.started(run)
            stack.callback(lambda watcher=observer: watcher.ended(run, run.finished))
        try:
            train(run.model, run.state.parameters, run.examples, run.config.train, epoch=run.examples.epoch(), state=run.state,
                  without_adapter=run.without_adapter, around=dropped, on_step=on_step)
        except FinishEarly:
            run.early = run.state.step < run.config.train.steps
            logger.info("Masked LoRA: %s", run.outcome())
        run.finished = True


def rescue(run: ActiveRun) -> None:
    """Saves what an unfinished run has learned."""
    if run.finished or run.state.step == run.resumed:
        return
    file = unused(run.config.rescue_folder / f"{run.config.name}_stopped_at_step_{run.state.step:06d}.safetensors")
    try:
        save_lora(run.lora(), file)
    except (OSError, SafetensorError):  # the error or Cancel that led here must reach the user, not this one
        logger.exception("Masked LoRA: what was learned could not be saved to %s", file)
        return
    logger.warning("Masked LoRA: stopped after %d of %d steps; what was learned so far is saved in %s", run.state.step,
                   run.config.train.steps, file)
