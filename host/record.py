"""What a LoRA file is to say about a run."""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from comfy.model_patcher import ModelPatcher

from ..dataset.cache import TrainingSet
from ..trainer.adapter_spec import AdapterSpec
from ..trainer.config import LossSpec, MaskUse, PriorSpec
from .captions import caption_facts
from .denoiser import prediction_name
from .examples import outline
from .fingerprints import weights_fingerprint
from .lora_format import TrainingRecord
from .references import counts_of
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
        data=data_of(training_set, run.train.caption_dropout), adapter=adapter_of(run), optimization=run.train.optimization(),
        steps=run.train.steps, batch_size=run.train.batch_size, learning_rate=run.train.learning_rate, seed=run.train.seed,
        pictures=seen.pictures, resolution=resolution(patcher, training_set), title=run.name)


def data_of(training_set: TrainingSet, caption_dropout: float) -> dict[str, object]:
    """How many examples there are for regularisation, and how many of each number of repeats, of each weight, of reference pictures
    and of texts.
    """
    examples, shown = outline(training_set), counts_of(training_set)
    references = {"references": {str(count): pictures for count, pictures in shown.items()}} if shown else {}
    captions = caption_facts(examples, caption_dropout)
    return {**references, "regularisation": sum(e.regularisation for e in examples),
            "repeats": {str(value): count for value, count in sorted(Counter(e.repeats for e in examples).items())},
            "weights": {f"{value:g}": count for value, count in sorted(Counter(e.weight for e in examples).items())},
            **({"captions": captions} if captions else {})}


def adapter_of(run: RunConfig) -> dict[str, object]:
    """Of a LoRA that it started from the name alone: where its trainer keeps files is nobody's matter who gets this one."""
    adapter, text = AdapterSpec.of(run.lora), run.text_encoder
    data = adapter.to_dict() | ({"start": Path(adapter.start).name} if adapter.start else {})
    if text:
        data["text_encoder"] = {"encoders": text.encoders.value, "rank": text.rank, "alpha": text.alpha, "rate": text.rate}
    return data


def changed(spec: LossSpec | MaskUse | PriorSpec) -> dict[str, object]:
    """The settings that are not the usual ones, for metadata."""
    usual = asdict(type(spec)())
    return {k: v.value if isinstance(v, Enum) else v for k, v in asdict(spec).items() if v != usual[k]}


def resolution(patcher: ModelPatcher, training_set: TrainingSet) -> str:
    """Width x height in pixels of the size that most examples have."""
    (height, width), _ = Counter(shape[-2:] for shape in training_set.latent_shapes()).most_common(1)[0]
    cell = patcher.model.latent_format.spacial_downscale_ratio
    return f"{width * cell}x{height * cell}"
