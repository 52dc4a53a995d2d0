"""One training run inside ComfyUI, from a training set to LoRA weights."""
from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError

from ..dataset.cache import ExampleRef, TrainingSet
from ..masks.recipe import MaskRecipe
from ..trainer.adapter import LoraAdapter
from ..trainer.config import LoraSpec, LossSpec, MaskUse, PriorSpec, TrainConfig
from ..trainer.example import StepReport
from ..trainer.loop import train
from .denoiser import prediction_name
from .examples import Examples
from .fingerprints import weights_fingerprint
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

    largest = max(training_set.latent_shapes(), key=math.prod)
    together = min(run.train.micro_batch or run.train.batch_size, run.train.batch_size)
    with borrow_for_training(patcher, run.lora, seed=run.train.seed, checkpointing=run.checkpointing,
                             memory_required=patcher.memory_required([together, *largest])) as (model, adapter):
        examples = Examples(patcher, training_set, run.recipe)
        seen = look_at_weights(examples, run.recipe)
        record = training_record(patcher, training_set, seen, run)
        logger.info("Masked LoRA: %s", summary(seen, adapter, record, run))
        finished = False
        try:
            train(model, adapter.parameters, examples, run.train, epoch=examples.epoch(), without_adapter=adapter.disabled,
                  on_step=on_step)
            finished = True
        finally:
            if reports and not finished:
                rescue(adapter, record, run, len(reports))
        lora = LoraWeights.from_adapter(adapter.state_dict(), record.metadata())
    return RunResult(lora, [r.loss for r in reports], report_of(reports, training_set, time.monotonic() - started))


@dataclass(frozen=True, slots=True)
class Weights:
    """What the masks of a set, after the recipe, leave to learn. coverage: mean weight of all latent cells, each picture alike."""

    pictures: int
    with_mask: int
    black: int
    coverage: float
    regularisation: int


def look_at_weights(examples: Examples, recipe: MaskRecipe) -> Weights:
    """Raises ValueError where nothing would be learned."""
    means = [weight_1HW.double().mean().item() for weight_1HW in examples.weights()]
    black = means.count(0.0)
    if black == len(means):
        raise ValueError(f"every mask is black after the recipe ({recipe.describe()}), so nothing would be learned; white = learn: "
                         "switch 'invert' in the mask recipe, or raise its floor")
    masked = sum((e.mask_key if isinstance(e, ExampleRef) else e.mask_THW) is not None for e in examples.outline)
    return Weights(len(means), masked, black, sum(means) / len(means), sum(e.regularisation for e in examples.outline))


def rescue(adapter: LoraAdapter, record: TrainingRecord, run: RunConfig, steps: int) -> None:
    metadata = record.metadata() | {"ss_steps": str(steps)}
    file = unused(run.rescue_folder / f"{run.name}_stopped_at_step_{steps:06d}.safetensors")
    try:
        save_lora(LoraWeights.from_adapter(adapter.state_dict(), metadata), file)
    except (OSError, SafetensorError):  # the error or Cancel that led here must reach the user, not this one
        logger.exception("Masked LoRA: what was learned could not be saved to %s", file)
        return
    logger.warning("Masked LoRA: stopped after %d of %d steps; what was learned so far is saved in %s", steps, run.train.steps, file)


def training_record(patcher: ModelPatcher, training_set: TrainingSet, seen: Weights, run: RunConfig) -> TrainingRecord:
    sampling = patcher.get_model_object("model_sampling")
    return TrainingRecord(
        architecture=type(patcher.model).__name__, weight_dtype=str(patcher.model.get_dtype()).removeprefix("torch."),
        base_hash=weights_fingerprint(patcher.model.diffusion_model), padding=TextPadding.from_json(training_set.text_padding),
        objective={"prediction": prediction_name(sampling), "noise_levels": run.train.noise.to_dict(), "loss": changed(run.train.loss),
                   "sampling_shift": float(getattr(sampling, "shift", math.nan))},
        mask={"recipe": run.recipe.to_json(), "normalization": run.train.normalization.value, "with_mask": seen.with_mask,
              "without_mask": seen.pictures - seen.with_mask, "mean_coverage": round(seen.coverage, 6), "polarity": "white = learn",
              **changed(run.train.mask), "prior": changed(run.train.prior)},
        rank=run.lora.rank, alpha=run.lora.alpha, steps=run.train.steps, batch_size=run.train.batch_size,
        learning_rate=run.train.learning_rate, seed=run.train.seed, pictures=seen.pictures,
        resolution=resolution(patcher, training_set), title=run.name)


def changed(spec: LossSpec | MaskUse | PriorSpec) -> dict[str, object]:
    """The settings that are not the usual ones, for metadata."""
    usual = asdict(type(spec)())
    return {k: v.value if isinstance(v, Enum) else v for k, v in asdict(spec).items() if v != usual[k]}


def resolution(patcher: ModelPatcher, training_set: TrainingSet) -> str:
    """Width x height in pixels of the size that most examples have."""
    (height, width), _ = Counter(shape[-2:] for shape in training_set.latent_shapes()).most_common(1)[0]
    cell = patcher.model.latent_format.spacial_downscale_ratio
    return f"{width * cell}x{height * cell}"


def summary(seen: Weights, adapter: LoraAdapter, record: TrainingRecord, run: RunConfig) -> str:
    parameters = sum(p.numel() for p in adapter.parameters)
    return (
        f"training {seen.pictures} pictures, {seen.with_mask} with a mask and {seen.pictures - seen.with_mask} without "
        f"(white = learn), mean weight {100 * seen.coverage:.1f} %"
        + (f", {seen.black} all black and therefore not learned" if seen.black else "")
        + (f", {seen.regularisation} of them for regularisation" if seen.regularisation else "")
        + f"; mask recipe: {run.recipe.describe()}; loss per {run.train.normalization.value}"
        + (f", {run.train.prior.weight:g} times the change outside the masks" if run.train.prior.weight else "")
        + f"; noise {run.train.noise.describe()}; text padding {record.padding.describe()}; "
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

