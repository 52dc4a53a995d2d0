"""One training run inside ComfyUI, from a training set to LoRA weights."""
from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError

from ..dataset.cache import TrainingSet
from ..masks.recipe import MaskRecipe
from ..trainer.adapter import LoraAdapter
from ..trainer.config import LoraSpec, TrainConfig
from ..trainer.example import Example, StepReport
from ..trainer.loop import train
from .encode import weights_fingerprint
from .examples import make_examples
from .lora_format import LoraWeights, TrainingRecord, save_lora, unused
from .progress import Progress, TrainingProgress
from .text_padding import TextPadding
from .training import borrow_for_training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """All settings of one run: what is trained, on what, how."""

    train: TrainConfig
    lora: LoraSpec
    recipe: MaskRecipe
    checkpointing: bool
    shift: float
    name: str
    rescue_folder: Path


@dataclass(frozen=True, slots=True)
class RunResult:
    lora: LoraWeights
    losses: list[float]
    report: dict[str, object]


def run_training(patcher: ModelPatcher, training_set: TrainingSet, run: RunConfig, progress: Progress) -> RunResult:
    """Train and return the LoRA. On Cancel and on any error what was trained is saved to `run.rescue_folder` first."""
    started = time.monotonic()
    watch, reports = TrainingProgress(progress, run.train.steps), list[StepReport]()

    def on_step(report: StepReport) -> None:
        reports.append(report)
        watch(report)

    largest = max((e.latent_CHW for e in training_set.examples), key=lambda latent: latent.numel())
    together = min(run.train.micro_batch or run.train.batch_size, run.train.batch_size)
    with borrow_for_training(patcher, run.lora, seed=run.train.seed, checkpointing=run.checkpointing, shift=run.shift,
                             memory_required=patcher.memory_required([together, *largest.shape])) as (model, adapter):
        examples = make_examples(patcher, training_set, run.recipe)
        require_something_to_learn(examples, run.recipe)
        record = training_record(patcher, training_set, examples, run)
        logger.info("Masked LoRA: %s", summary(examples, adapter, record, run))
        finished = False
        try:
            train(model, adapter.parameters, examples, run.train, on_step=on_step)
            finished = True
        finally:
            if reports and not finished:
                rescue(adapter, record, run, len(reports))
        lora = LoraWeights.from_adapter(adapter.state_dict(), record.metadata())
    return RunResult(lora, [r.loss for r in reports], report_of(reports, training_set, time.monotonic() - started))


def require_something_to_learn(examples: list[Example], recipe: MaskRecipe) -> None:
    if not any(e.weight_1HW.any() for e in examples):
        raise ValueError(f"every mask is black after the recipe ({recipe.describe()}), so nothing would be learned; white = learn: "
                         "switch 'invert' in the mask recipe, or raise its floor")


def rescue(adapter: LoraAdapter, record: TrainingRecord, run: RunConfig, steps: int) -> None:
    metadata = record.metadata() | {"ss_steps": str(steps)}
    file = unused(run.rescue_folder / f"{run.name}_stopped_at_step_{steps:06d}.safetensors")
    try:
        save_lora(LoraWeights.from_adapter(adapter.state_dict(), metadata), file)
    except (OSError, SafetensorError):  # the error or Cancel that led here must reach the user, not this one
        logger.exception("Masked LoRA: what was learned could not be saved to %s", file)
        return
    logger.warning("Masked LoRA: stopped after %d of %d steps; what was learned so far is saved in %s", steps, run.train.steps, file)


def training_record(patcher: ModelPatcher, training_set: TrainingSet, examples: list[Example], run: RunConfig) -> TrainingRecord:
    masked = sum(bool((e.mask_HW < 1).any()) for e in training_set.examples)
    coverage = sum(e.weight_1HW.mean().item() for e in examples) / len(examples)
    height, width = training_set.examples[0].mask_HW.shape
    sampling = patcher.get_model_object("model_sampling")
    return TrainingRecord(
        architecture=type(patcher.model).__name__, weight_dtype=str(patcher.model.get_dtype()).removeprefix("torch."),
        base_hash=weights_fingerprint(patcher.model.diffusion_model), padding=TextPadding.from_json(training_set.text_padding),
        objective={"prediction": patcher.model.model_type.name.lower(), "sigma": "logit-normal", "shift": run.shift,
                   "sampling_shift": float(getattr(sampling, "shift", math.nan))},
        mask={"recipe": run.recipe.to_json(), "normalization": run.train.normalization.value, "with_mask": masked,
              "without_mask": len(examples) - masked, "mean_coverage": round(coverage, 6), "polarity": "white = learn"},
        rank=run.lora.rank, alpha=run.lora.alpha, steps=run.train.steps, batch_size=run.train.batch_size,
        learning_rate=run.train.learning_rate, seed=run.train.seed, pictures=len(examples), resolution=f"{width}x{height}", title=run.name)


def summary(examples: list[Example], adapter: LoraAdapter, record: TrainingRecord, run: RunConfig) -> str:
    parameters = sum(p.numel() for p in adapter.parameters)
    black = sum(not e.weight_1HW.any() for e in examples)
    return (
        f"training {len(examples)} pictures, {record.mask['with_mask']} with a mask and {record.mask['without_mask']} without "
        f"(white = learn), mean weight {100 * float(record.mask['mean_coverage']):.1f} %"
        + (f", {black} all black and therefore not learned" if black else "")
        + f"; mask recipe: {run.recipe.describe()}; loss per {run.train.normalization.value}; text padding {record.padding.describe()}; "
        f"LoRA rank {run.lora.rank} on {len(adapter.layers)} layers, {parameters:,} parameters; {run.train.steps} steps of "
        f"{run.train.batch_size} at {run.train.learning_rate:g}")


def report_of(reports: list[StepReport], training_set: TrainingSet, seconds: float) -> dict[str, object]:
    """What the node shows and the demo's report carries; first and last are means over a tenth of the steps."""
    tenth = max(1, len(reports) // 10)

    def mean(values: list[float]) -> float | None:
        finite = [v for v in values if math.isfinite(v)]
        return sum(finite) / len(finite) if finite else None

    parts = {"first": reports[:tenth], "last": reports[-tenth:]}
    return {
        "steps": len(reports), "seconds_per_step": seconds / len(reports), "total_seconds": seconds, "peak_rss_mb": peak_rss_mb(),
        **{f"loss_{where}_{name}": mean([getattr(r, f"loss_{where}") for r in part])
           for where in ("inside", "outside") for name, part in parts.items()},
        "mean_weight": mean([r.mean_weight for r in reports]),
        "text_padding": asdict(TextPadding.from_json(training_set.text_padding)),
        "says": TextPadding.from_json(training_set.text_padding).describe(),
    }


def peak_rss_mb() -> float | None:
    """The process's peak resident memory in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

