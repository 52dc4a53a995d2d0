"""Both trainers as their nodes run them: seconds of a step by ComfyUI's progress bar, and what a run adds to the process' memory."""
from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _train_setup import RANK, Setup, make_data  # first: it makes `pack` and ComfyUI known

import comfy.model_management  # isort: skip
import comfy.utils  # isort: skip
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_train import TrainLoraNode
from pack.dataset.cache import TrainingSet
from pack.host.progress import Progress
from pack.host.run import RunConfig, run_training
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig

RATE = 1e-4
STATUS, CLEAR_REFS, RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs"), "5"


@dataclass(frozen=True)
class Case:
    """`side`: ours or core. `text`: short or long; core reads all tokens of both. `everywhere`: a LoRA on every linear layer."""

    side: str
    batch: int
    text: str = "long"
    checkpointing: bool = False
    everywhere: bool = False

    @property
    def title(self) -> str:
        if self.side == "core":
            return f"core_b{self.batch}"
        extra = ("_checkpointed" if self.checkpointing else "") + ("_everywhere" if self.everywhere else "")
        return f"ours_{self.text}_b{self.batch}{extra}"


def runner(case: Case, setup: Setup, model: ModelPatcher, folder: Path) -> Callable[[int], object]:
    """Runs so many steps."""
    return (core if case.side == "core" else ours)(case, setup, model, folder)


def ours(case: Case, setup: Setup, model: ModelPatcher, folder: Path) -> Callable[[int], object]:
    lora = LoraSpec(rank=RANK, alpha=1.0, targets=".*") if case.everywhere else LoraSpec(rank=RANK, alpha=1.0)
    return our_trainer(model, make_data(setup, case.text), folder, lora, case.batch, case.checkpointing)


def our_trainer(model: ModelPatcher, training_set: TrainingSet, folder: Path, lora: LoraSpec, batch: int,
                checkpointing: bool) -> Callable[[int], object]:
    def run(steps: int) -> object:
        train = TrainConfig(steps=steps, batch_size=batch, learning_rate=RATE)
        config = RunConfig(train=train, lora=lora, recipe=MaskRecipe(), checkpointing=checkpointing, name="benchmark",
                           rescue_folder=folder)
        return run_training(model, training_set, config, Progress(None))

    return run


def core(case: Case, setup: Setup, model: ModelPatcher, folder: Path) -> Callable[[int], object]:
    """TrainLoraNode with its defaults, but for rank, batch, dtype and rate."""
    examples = make_data(setup, "long").examples
    latents = {"samples": torch.stack([e.latent_CHW for e in examples])}
    positive = [[e.cond["cross_attn"], {"pooled_output": e.cond["pooled_output"]}] for e in examples]

    def run(steps: int) -> object:
        settings: dict[str, Any] = {
            "model": model, "latents": latents, "positive": positive, "batch_size": case.batch, "steps": steps, "rank": RANK,
            "grad_accumulation_steps": 1, "learning_rate": RATE, "optimizer": "AdamW", "loss_function": "MSE", "seed": 0,
            "training_dtype": setup.dtype, "lora_dtype": setup.dtype, "quantized_backward": False, "algorithm": "LoRA",
            "checkpoint_depth": 1, "gradient_checkpointing": case.checkpointing, "offloading": False, "existing_lora": "[None]",
            "bucket_mode": False, "bypass_mode": False}
        return TrainLoraNode.execute(**{name: [value] for name, value in settings.items()})

    return run


@contextmanager
def progress_times() -> Iterator[list[float]]:
    """When ComfyUI's progress bar moved, which both trainers do once a step. Its throttle, which would drop quick steps, is off."""
    before, times = comfy.utils.PROGRESS_BAR_HOOK, list[float]()
    throttle = comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL, comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT

    def moved(*args: object, **kwargs: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    comfy.utils.set_progress_bar_global_hook(moved)
    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = 0
    try:
        yield times
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL, comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = throttle


def step_seconds(run: Callable[[int], object], steps: int) -> list[float]:
    """Seconds of each step but the first, which warms up."""
    comfy.model_management.unload_all_models()
    with progress_times() as times, torch.inference_mode():
        run(steps + 1)
    if len(times) != steps + 1:
        raise RuntimeError(f"expected {steps + 1} steps from the progress bar, saw {len(times)}")
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def extra_memory(run: Callable[[int], object], model: ModelPatcher, steps: int) -> int | None:
    """Bytes that a run's peak lies above the process with the model loaded: of the GPU, else resident (Linux; elsewhere None)."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            run(steps)
            return torch.cuda.max_memory_allocated() - before
        if sys.platform != "linux":
            return None
        for value in (*model.model.parameters(), *model.model.buffers()):
            value.sum()  # weights are mapped from their file, and resident once they were read
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR_REFS.write_text(RESET_PEAK)
        before = resident("VmRSS")
        run(steps)
        return resident("VmHWM") - before


def resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def quiet() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    comfy.utils.set_progress_bar_enabled(False)
