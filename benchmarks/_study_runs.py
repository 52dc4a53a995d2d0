"""Trains and samples what the study asks for, by the functions behind the nodes. `_pack.load()` comes first.

Every finished LoRA and sheet of samples is a file, so that a run that was stopped goes on behind it.
"""
from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import comfy.sample
import comfy.sd
import numpy as np
import torch
from _study_plan import REGIMES, Arm, Cell, Plan, Prompt
from demo_model.scenes import SIZE, draw, split_scenes
from demo_model.subject import write_dataset
from pack.dataset.buckets import Arrangement, arrange
from pack.dataset.cache import CachedExample, TrainingSet
from pack.dataset.load import load_mask
from pack.dataset.scan import FolderSpec, scan_folder
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
from pack.host.drift import measure_drift, squared_drift
from pack.host.encode import encode_caption, encode_data_set
from pack.host.examples import Examples
from pack.host.folders import DEMO_MODEL, PACK_ROOT
from pack.host.lora_format import load_lora, save_lora
from pack.host.progress import Progress
from pack.host.run import ActiveRun, Observer, RunConfig, RunResult, run_training
from pack.host.text import Conditioning, encode_text
from pack.host.text_padding import PRESETS
from pack.host.validation import ValidationPlan
from pack.masks.canvas import to_picture
from pack.masks.recipe import MaskRecipe, simple_recipe
from pack.trainer.config import LoraSpec, PriorSpec, TrainConfig
from pack.trainer.example import StepReport
from pack.trainer.noise import NoiseLevels
from pack.trainer.validation import ValidationSpec
from PIL import Image
from torch import Tensor

RECIPE = simple_recipe(blur=0.01)
BATCH, RATE, SHIFT, RANK = 4, 2e-3, 2.0, 8  # of the shipped quickstart
HELD_OUT_PICTURES, HELD_OUT_SEED = 6, 31
LEVELS = (0.2, 0.4, 0.6, 0.8)
CELLS = SIZE // 8


@dataclass(slots=True)
class LoraKeeper:
    """Writes the LoRA at the steps of the plan, as Checkpoints and Resume would, without the state for going on."""

    folder: Path
    steps: tuple[int, ...]

    def started(self, run: ActiveRun) -> None:
        pass

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if report.step in self.steps:
            save_lora(run.lora(), self.folder / f"{run.config.name}_step_{report.step:04d}.safetensors")

    def ended(self, run: ActiveRun, finished: bool) -> None:
        pass


@dataclass
class Studio:
    """The demo model with everything that is encoded once; all files lie below `folder`."""

    plan: Plan
    folder: Path
    sets: dict[tuple[str, str], TrainingSet] = field(default_factory=dict)
    conds: dict[tuple[str, str], Conditioning] = field(default_factory=dict)

    @cached_property
    def model(self) -> comfy.model_patcher.ModelPatcher:
        return load_diffusion_model(DEMO_MODEL)

    @cached_property
    def clip(self) -> comfy.sd.CLIP:
        return load_text_encoders(DEMO_MODEL)

    @cached_property
    def vae(self) -> comfy.sd.VAE:
        return load_autoencoder(DEMO_MODEL)

    def training_set(self, regime: str, which: str = "pibo") -> TrainingSet:
        """`which`: pibo, the twelve bundled pictures, or held_out, others that were drawn like them."""
        if (regime, which) not in self.sets:
            source = PACK_ROOT / "assets" / "pibo"
            if which == "held_out":
                source = self.folder / "held_out"
                write_dataset(source, HELD_OUT_PICTURES, HELD_OUT_SEED)
            data_set = arrange(scan_folder(FolderSpec(folder=source, mask_source="folder")),
                               Arrangement(side=SIZE, shape="square", step=16), load_mask)
            self.sets[regime, which] = encode_data_set(data_set, self.clip, self.vae, PRESETS[REGIMES[regime]], self.folder / "cache",
                                                       Progress(None))
        return self.sets[regime, which]

    def unrelated_set(self, regime: str) -> TrainingSet:
        """Drawn scenes for the unrelated prompts, to compare predictions on."""
        scenes = {scene.caption(): scene for scene in split_scenes()[1]}
        padding, examples = PRESETS[REGIMES[regime]], []
        for prompt in self.plan.prompts:
            if prompt.kind == "unrelated":
                picture = torch.from_numpy(draw(scenes[prompt.text], random.Random(prompt.text))[0])
                latent = self.vae.encode(picture[None])[0].float().cpu()
                examples.append(CachedExample(prompt.text, prompt.text, latent, None, encode_caption(self.clip, prompt.text, padding),
                                              padding.to_json()))
        return TrainingSet(tuple(examples), padding.to_json(), "")

    def finished(self, arm: Arm, seed: int) -> bool:
        return self.record_file(arm, seed).exists()

    def record_file(self, arm: Arm, seed: int) -> Path:
        return self.folder / "loras" / f"{arm.name}_{seed}.json"

    def train(self, arm: Arm, seed: int) -> None:
        """Leaves LoRAs at the checkpoints, and last, as the sign that it is finished, a record with losses and drift."""
        validation = ValidationPlan(every=self.plan.validate_every, training_set=self.training_set(arm.padding, "held_out"),
                                    spec=ValidationSpec(levels=LEVELS)).observer(self.folder)
        result = self.run(arm, seed, (validation, LoraKeeper(self.folder / "loras", self.plan.checkpoints)))
        drift = measure_drift(self.model, result.lora, self.training_set(arm.padding), RECIPE, seed=0)
        marks = {mark.step: dict(mark.values) for mark in validation.marks}
        record = {"losses": result.losses, "validation": marks, "drift_inside": drift.inside, "drift_outside": drift.outside,
                  "seconds_per_step": result.report["seconds_per_step"], "sample_drift": self.prediction_drift(result.lora, arm)}
        write_json(self.record_file(arm, seed), record)

    def run(self, arm: Arm, seed: int, observers: tuple[Observer, ...] = ()) -> RunResult:
        config = RunConfig(train=train_config(self.plan, arm, seed), lora=LoraSpec(rank=RANK, alpha=RANK), recipe=RECIPE,
                           checkpointing=False, name=f"{arm.name}_{seed}", rescue_folder=self.folder / "stopped", observers=observers)
        training_set = self.training_set(arm.padding)
        return run_training(self.model, training_set if arm.masked else without_masks(training_set), config, Progress(None))

    def prediction_drift(self, lora: Mapping[str, Tensor], arm: Arm) -> dict[str, float]:
        """Root mean square of adapted minus base prediction for unrelated prompts, by the regime of sampling."""
        found = {}
        for regime in REGIMES:
            examples = Examples(self.model, self.unrelated_set(regime), MaskRecipe())
            squares = squared_drift(self.model, lora, examples, 0, range(len(examples)))
            found[regime] = torch.stack([square.mean() for square in squares]).mean().sqrt().item()
        return found

    def sheet_file(self, cell: Cell) -> Path:
        return self.folder / "sheets" / f"{cell.name}.png"

    def sample(self, cell: Cell) -> None:
        """A sheet: a row for each prompt, a column for each noise seed."""
        model = self.model
        if cell.arm:
            lora = load_lora(self.folder / "loras" / f"{cell.arm}_{cell.seed}_step_{cell.step:04d}.safetensors")
            model, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), cell.strength, 0.0)
        rows = [np.concatenate(list(self.pictures(model, prompt, cell.sampled)), axis=1) for prompt in self.plan.prompts]
        file = self.sheet_file(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        Image.fromarray(np.concatenate(rows)).save(partial, "PNG")
        partial.replace(file)

    def pictures(self, model: comfy.model_patcher.ModelPatcher, prompt: Prompt, regime: str) -> Sequence[np.ndarray]:
        """One of each noise seed, uint8; the seed draws the same noise for every prompt and model."""
        empty = torch.zeros(len(self.plan.noise_seeds), 16, CELLS, CELLS)
        noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in self.plan.noise_seeds])
        latent = comfy.sample.sample(model, noise, self.plan.sampling_steps, 1.0, "euler", "simple", self.cond(prompt.text, regime),
                                     self.cond("", regime), empty, disable_pbar=True, seed=self.plan.noise_seeds[0])
        return [np.asarray(to_picture(picture)) for picture in self.vae.decode(latent)]

    def cond(self, text: str, regime: str) -> Conditioning:
        if (text, regime) not in self.conds:
            self.conds[text, regime] = encode_text(self.clip, text, PRESETS[REGIMES[regime]])
        return self.conds[text, regime]


def train_config(plan: Plan, arm: Arm, seed: int) -> TrainConfig:
    return TrainConfig(steps=plan.steps, batch_size=BATCH, learning_rate=RATE, noise=NoiseLevels(shift=SHIFT),
                       prior=PriorSpec(weight=arm.prior), seed=seed)


def without_masks(training_set: TrainingSet) -> TrainingSet:
    """Every pixel is learned."""
    return replace(training_set, examples=tuple(replace(example, mask_THW=None) for example in training_set.examples))


def write_json(file: Path, value: object) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def require_same_plan(plan: Plan, folder: Path) -> None:
    """Raises ValueError where the folder holds the results of other settings."""
    file, now = folder / "plan.json", json.loads(json.dumps(asdict(plan)))
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != now:
        raise ValueError(f"{file} is of a study with other settings; name another folder with --out, or remove this one")
    write_json(file, now)
