"""A program that trains a tiny Flux with checkpoints in processes that die at any moment, and prints what became of each as JSON.

Run by test_resume.py as `python -c` code, because a process that forks must not have trained itself: autograd has threads.
"""
from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pack.host.checkpoints import Checkpoints
from pack.host.lora_format import load_lora, save_lora
from pack.host.progress import Progress
from pack.host.run import ActiveRun, RunConfig, run_training
from pack.masks.recipe import MaskRecipe
from pack.trainer import checkpoint
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.ema import EmaSpec
from pack.trainer.example import StepReport

from .test_training import loaded_in_prompt, training_set

STEPS, EVERY = 20, 2


class Ticks:
    """Writes one byte after every step, for a parent that waits to kill."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def started(self, run: ActiveRun) -> None:
        pass

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        os.write(self.pipe, b".")

    def ended(self, run: ActiveRun, finished: bool) -> None:
        pass


def train_to_the_end(model: Any, data: Any, folder: Path, pipe: int) -> None:
    settings = TrainConfig(steps=STEPS, batch_size=2, learning_rate=1e-2, seed=3, ema=EmaSpec(decay=0.9))
    # Ticks come first, so that a death may come while the checkpoint of that step is written.
    watching = (Ticks(pipe), Checkpoints(every=EVERY, keep=3).observer(folder / "runs"))
    config = RunConfig(train=settings, lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(), checkpointing=False, name="run",
                       rescue_folder=folder / "loras", observers=watching)
    with torch.inference_mode():
        result = run_training(model, data, config, Progress(None))
    save_lora(result.lora, folder / "end.safetensors")
    (folder / "end.json").write_text(json.dumps([result.losses, result.report["outcome"]]), encoding="utf-8")


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_half_a_file(tensors: Any, file: Path, metadata: Any) -> None:
    checkpoint_writer(tensors, file, metadata)
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2])
    die()


checkpoint_writer = checkpoint.save_file
# Functions of trainer.checkpoint in whose place a process dies, and at which call of them: as it writes its second checkpoint.
MOMENTS: dict[str, tuple[str, Callable[..., None], int]] = {
    "half a file": ("save_file", die_with_half_a_file, 2), "before it is on the disk": ("flush", die, 3),
    "between LoRA and state": ("contents_of", die, 2)}


def die_at(moment: str) -> None:
    name, deadly, when = MOMENTS[moment]
    original, calls = getattr(checkpoint, name), list[int]()

    def survives_at_first(*args: Any) -> Any:
        calls.append(1)
        return (original if len(calls) < when else deadly)(*args)

    setattr(checkpoint, name, survives_at_first)


def child(model: Any, data: Any, folder: Path, moment: str = "") -> tuple[int, int]:
    """Its id, and a pipe that has a byte for each of its steps."""
    steps, pipe = os.pipe()
    pid = os.fork()
    if not pid:
        if moment:
            die_at(moment)
        train_to_the_end(model, data, folder, pipe)
        os._exit(0)
    os.close(pipe)
    return pid, steps


def lives_to_its_end(pid: int, steps: int) -> bool:
    status = os.waitpid(pid, 0)[1]
    os.close(steps)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the process failed of itself"
    return os.WIFEXITED(status)


def files_of(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def main(folder: Path, seed: int) -> None:
    (model, arch), chance = loaded_in_prompt("flux"), random.Random(seed)
    data, killed = training_set(arch), folder / "killed"
    started = time.monotonic()
    assert lives_to_its_end(*child(model, data, folder / "whole"))
    step, deaths = (time.monotonic() - started) / STEPS, list[tuple[str, list[str]]]()
    for moment in MOMENTS:
        assert not lives_to_its_end(*child(model, data, killed, moment)), f"it did not come to {moment}"
        deaths.append((moment, files_of(killed)))
    for _ in range(3):
        pid, steps = child(model, data, killed)
        for _ in range(chance.randint(1, 3)):
            os.read(steps, 1)
        time.sleep(chance.random() * step)
        os.kill(pid, signal.SIGKILL)
        assert not lives_to_its_end(pid, steps), "it was done before it could be killed"
        deaths.append(("killed", files_of(killed)))
    assert lives_to_its_end(*child(model, data, killed))
    whole, resumed = (load_lora(folder / kind / "end.safetensors") for kind in ("whole", "killed"))
    (losses, _), (resumed_losses, outcome) = (json.loads((folder / kind / "end.json").read_text()) for kind in ("whole", "killed"))
    sys.stdout.write(json.dumps({
        "deaths": deaths, "equal": all(torch.equal(v, resumed[k]) for k, v in whole.items()), "outcome": outcome,
        "moved": max(v.abs().max().item() for k, v in whole.items() if "alpha" not in k), "losses": len(resumed_losses),
        "losses equal": losses == resumed_losses}))
