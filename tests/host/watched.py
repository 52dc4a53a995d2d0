"""Short runs on the demo model, for tests of what looks on while a run goes on."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import CachedExample, TrainingSet
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
from pack.host.folders import DEMO_MODEL
from pack.host.progress import Progress
from pack.host.run import RunConfig, RunResult, run_training
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig
from torch import Tensor

PADDING = PRESETS["comfyui-mask"]


def demo_models() -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    with torch.inference_mode():
        return load_diffusion_model(DEMO_MODEL), load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)


def demo_set(clip: comfy.sd.CLIP, seed: int = 5, captions: tuple[str, ...] = ("a red ball", "a blue ball on grass")) -> TrainingSet:
    """Random latents of 8 x 8 cells with the captions' true embeddings; half of each picture is masked out."""
    generator, examples = torch.Generator().manual_seed(seed), []
    for caption in captions:
        with torch.inference_mode():
            ((cond, extra),) = encode_text(clip, caption, PADDING)
        mask = torch.zeros(1, 64, 64)
        mask[:, :32] = 1
        embeddings = {"cross_attn": cond.clone(), "pooled_output": extra["pooled_output"].clone()}
        examples.append(CachedExample(caption, caption, torch.randn(16, 8, 8, generator=generator), mask, embeddings, PADDING.to_json()))
    return TrainingSet(tuple(examples), PADDING.to_json(), "")


def run_watched(patcher: ModelPatcher, data: TrainingSet, folder: Path, *watchers: Any, steps: int = 4, progress: Progress | None = None,
                **changes: Any) -> RunResult:
    """`watchers`: specs with a method `observer`."""
    observers = tuple(watcher.observer(folder) for watcher in watchers)
    return run_observed(patcher, data, folder, observers, steps=steps, progress=progress, **changes)


def run_observed(patcher: ModelPatcher, data: TrainingSet, folder: Path, observers: tuple[Any, ...], *, steps: int = 4,
                 progress: Progress | None = None, name: str = "test", **changes: Any) -> RunResult:
    settings: dict[str, Any] = {"batch_size": 2, "learning_rate": 1e-2, "seed": 3}
    config = RunConfig(train=TrainConfig(steps=steps, **settings | changes), lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(),
                       checkpointing=False, name=name, rescue_folder=folder, observers=observers)
    with torch.inference_mode():
        return run_training(patcher, data, config, progress or Progress(None))


class Told:
    """An observer that calls back."""

    marks: tuple[()] = ()

    def __init__(self, started: Callable[[Any], None] = lambda run: None, after_step: Callable[[Any, Any], None] = lambda run, report: None,
                 ended: Callable[[Any, bool], None] = lambda run, finished: None) -> None:
        self.started, self.after_step, self.ended = started, after_step, ended


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())
