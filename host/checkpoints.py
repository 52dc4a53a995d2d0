"""Checkpoints of a run: written every so many steps and at its end, thinned out, and gone on from."""
from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor

from ..dataset.cache import CachedExample, ExampleRef
from ..dataset.keys import hash_file
from ..trainer.adapter_spec import AdapterSpec
from ..trainer.checkpoint import DamagedCheckpoint, fixed_settings, flat, load_checkpoint, save_checkpoint
from ..trainer.config import choice
from ..trainer.example import StepReport
from .lora_format import save_lora, unused
from .observing import Mark, own_folder

if TYPE_CHECKING:
    from .run import ActiveRun

logger = logging.getLogger(__name__)


class Resume(str, Enum):
    """What becomes of checkpoints that an earlier run of the same name has left."""

    IF_ANY = "if there is one"
    NEVER = "never"
    MUST = "must"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """Every `every` steps, of which the newest `keep` are kept."""

    every: int = 250
    keep: int = 3
    resume: Resume = Resume.IF_ANY

    def __post_init__(self) -> None:
        object.__setattr__(self, "resume", choice(Resume, "resume", self.resume))
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"checkpoints: {name} is {getattr(self, name)}; use 1 or more")

    def observer(self, run_folder: Path) -> CheckpointKeeper:
        return CheckpointKeeper(self, run_folder)


class CheckpointKeeper:
    """The observer that comes before all others, so that they find a resumed run where it goes on.

    States lie in `<parent>/<name>_checkpoints/step_000123.safetensors`, and beside each a LoRA that the loader lists, in the run's
    LoRA folder as `<name>_step_000123.safetensors`.
    """

    def __init__(self, spec: Checkpoints, parent: Path) -> None:
        self.spec, self.parent = spec, parent
        self.marks: list[Mark] = []
        self.saved, self.moving = 0, -1
        self.facts: dict[str, object] = {}

    def started(self, run: ActiveRun) -> None:
        self.facts = resume_facts(run)
        self.folder = self.parent / f"{run.config.name}_checkpoints"
        if self.spec.resume is not Resume.NEVER:
            self._resume(run)
        if not run.state.step and self.spec.resume is Resume.MUST:
            raise ValueError(f"resume is 'must' and {self.folder} holds no checkpoint; set it to 'if there is one', or look at the name "
                             f"{run.config.name!r}")
        own_folder(run, self.parent, "checkpoints")  # moves aside what is not gone on from
        if not run.state.step:
            rename_loras(run)
        for partial in self.folder.glob("*.partial"):  # of a process that was killed as it wrote
            partial.unlink()
        run.state.optimizer.register_step_pre_hook(lambda *_: self._moving(run))

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if report.step % self.spec.every == 0 and report.step < run.config.train.steps:
            self._save(run, with_lora=True)

    def ended(self, run: ActiveRun, finished: bool) -> None:
        if run.state.step not in (self.saved, self.moving):
            self._save(run, with_lora=False)

    def _moving(self, run: ActiveRun) -> None:
        """An optimizer that fails between two parameters leaves a state that is of no step; the count tells, as it goes up after it."""
        self.moving = run.state.step

    def _resume(self, run: ActiveRun) -> None:
        for file in states(self.folder):
            try:
                run.reports[:] = load_checkpoint(file, run.state, self.facts)
            except DamagedCheckpoint as error:
                logger.warning("Masked LoRA: %s; the checkpoint before it is used", error)
                file.replace(file.with_suffix(".damaged"))
                continue
            self.saved = run.resumed = run.state.step
            self.marks.append(Mark(step=run.state.step, kind="resumed"))
            self._say(run)
            return

    def _say(self, run: ActiveRun) -> None:
        done, steps = run.state.step, run.config.train.steps
        if done > steps:
            raise ValueError(f"{run.config.name!r} has done {done} steps already and is asked for {steps}; ask for more steps, or give the "
                             "run another name")
        logger.info("Masked LoRA: %s", run.outcome())
        run.progress.update(done, steps, run.outcome())

    def _save(self, run: ActiveRun, with_lora: bool) -> None:
        step = run.state.step
        try:
            if with_lora:
                save_lora(run.lora(), self._lora_file(run, step))
            save_checkpoint(self.folder / f"step_{step:06d}.safetensors", run.state, run.reports, self.facts)
        except (OSError, SafetensorError):  # a full disk: what is in memory is worth going on with
            logger.exception("Masked LoRA: the checkpoint of step %d could not be written to %s; training goes on", step, self.folder)
            return
        logger.info("Masked LoRA: the run is saved at step %d in %s", step, self.folder)
        self.saved = step
        self.marks.append(Mark(step=step, kind="checkpoint"))
        for file in states(self.folder)[self.spec.keep:]:
            self._lora_file(run, step_of(file)).unlink(missing_ok=True)
            file.unlink()

    def _lora_file(self, run: ActiveRun, step: int) -> Path:
        return run.config.rescue_folder / f"{run.config.name}_step_{step:06d}.safetensors"


def rename_loras(run: ActiveRun) -> None:
    """Those beside the checkpoints of an earlier run of this name: a new one would overwrite some and be taken to have left the others."""
    for file in run.config.rescue_folder.glob(f"{run.config.name}_step_*.safetensors"):
        if re.fullmatch(r"\d{6,}", file.stem.removeprefix(f"{run.config.name}_step_")):
            file.replace(unused(file))


def states(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    found = [file for file in folder.glob("step_*.safetensors") if re.fullmatch(r"step_\d+", file.stem)]
    return sorted(found, key=step_of, reverse=True)


def step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step_"))


def resume_facts(run: ActiveRun) -> dict[str, object]:
    """What must be the same for a run to go on as if it had not been stopped, in words that its user knows."""
    record, settings = run.record, run.config
    return {
        "base model": f"{record.architecture}, weights {record.base_hash[:12]}", "prediction": record.objective["prediction"],
        "sampling shift": record.objective["sampling_shift"],
        "training set": f"{len(run.examples)} examples, {contents_hash(run)}", "text padding": run.training_set.text_padding,
        "mask recipe": settings.recipe.to_json(),
        **{f"LoRA {name}": value for name, value in flat(asdict(settings.lora)).items() if name != "start"},
        "text encoder LoRA": run.text.spec.describe() if run.text else "none",
        "LoRA to start from": started_from(AdapterSpec.of(settings.lora)),
        **fixed_settings(settings.train),
    }


def started_from(spec: AdapterSpec) -> str:
    """By content, because its ranks and alphas are the run's own, and a checkpoint fits no others."""
    if not spec.start:
        return "none"
    return f"{Path(spec.start).name}, {hash_file(Path(spec.start)).digest[:12]}"


def contents_hash(run: ActiveRun) -> str:
    """Of everything in a training set that decides a step: by the keys of stored examples, which are hashes, else by content."""
    digest = hashlib.sha256()
    for example in run.examples.outline:
        digest.update(json.dumps([example.name, example.repeats, example.weight, example.regularisation]).encode())
        for part in parts(example):
            digest.update(part)
    return digest.hexdigest()[:12]


def parts(example: CachedExample | ExampleRef) -> Iterator[bytes]:
    if isinstance(example, ExampleRef):
        yield f"{example.latent_key} {example.text_key} {example.mask_key}".encode()
        yield from (f" {key}".encode() for key, _ in example.references)
        yield from (f"{kind} {key}".encode() for kind, texts in (("text", example.alternatives), ("dropped", example.dropped))
                    for _, key, _ in texts)
        return
    tensors: list[tuple[str, Tensor | None]] = [("latent", example.latent_CHW), ("mask", example.mask_THW), *sorted(example.cond.items())]
    tensors += [pair for other in (*example.alternatives, *example.dropped) for pair in sorted(other.load().items())]
    for name, tensor in tensors:
        yield name.encode()
        if tensor is not None:
            yield f"{tuple(tensor.shape)}".encode() + tensor.float().cpu().numpy().tobytes()
