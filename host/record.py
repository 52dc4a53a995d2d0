"""What a LoRA file is to say about a run."""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING

from comfy.model_patcher import ModelPatcher

from ..dataset.cache import TrainingSet
from ..trainer.config import LossSpec, MaskUse, PriorSpec
from .denoiser import prediction_name
from .fingerprints import weights_fingerprint
from .lora_format import TrainingRecord
from .text_padding import TextPadding

if TYPE_CHECKING:
    from .run import RunConfig
    from .summary import Weights


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
