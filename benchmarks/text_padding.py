"""What masked padding saves: a sampling step and a training step in mask mode beside the same in none mode, on a random Flux.

None mode reads the 256 tokens that ComfyUI pads every T5 prompt of Flux to. Mask mode drops the padding, which for Flux equals masking
it, and reads a caption's own 5 to 200. Each time goes through what a graph runs: comfy.sample.sample with Euler at guidance 1, one
forward pass a step, and Train Masked LoRA's trainer at its defaults, one picture a step, without gradient checkpointing.

Rounds go through all captions of a size, each in another order, so that a busy moment meets all of them; the best times are compared,
because whatever disturbs a run makes it slower. The first sampling run of a size and the first step of each training run warm up and are
left out. "guided" is a prompt of 20 tokens and a negative prompt of 5 at
guidance 3.5: none mode joins both in one forward pass, mask mode cannot, because their lengths differ.

Beside each ratio stands that of the matrix work (_train_setup.flop_of_picture). Ends with one JSON line {"step_ratio", "train_ratio",
"guided_ratio", "flop_ratio"}; ratios are mask time over none time, less than 1 is faster.
"""
from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import _train_setup
from _train_setup import PADDED, RANK, Setup

import _train_sides  # isort: skip
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from pack.host.text_padding import PRESETS
from pack.trainer.config import LoraSpec

CAPTIONS, GUIDED, CFG = (5, 20, 77, 200), (20, 5), 3.5
# By size of the model, for each size of picture: rounds of sampling, steps of a sampling run, rounds of training.
PLAN = {"tiny": {64: (1, 1, 1), 128: (1, 1, 0)}, "mid": {256: (5, 2, 3), 512: (5, 1, 2), 1024: (6, 1, 0)}}
Seconds = dict[tuple[int, ...], float]


def prompt(setup: Setup, tokens: int) -> list[list[Any]]:
    generator, (width, pooled) = torch.Generator().manual_seed(tokens), setup.captions()
    text = torch.randn(1, tokens, width, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]


def sampling(setup: Setup, model: ModelPatcher, steps: int, lengths: tuple[int, ...]) -> Callable[[], float]:
    """Seconds of a step. `lengths`: tokens of the prompt, and of the negative prompt where guidance is used."""
    positive, negative = prompt(setup, lengths[0]), prompt(setup, lengths[-1])
    noise = torch.randn(1, *setup.latent, generator=torch.Generator().manual_seed(0))
    cfg = CFG if len(lengths) > 1 else 1.0

    def run() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=0,
                                disable_pbar=True)
        return (time.perf_counter() - start) / steps

    return run


def training(setup: Setup, model: ModelPatcher, tokens: int, folder: Path) -> Callable[[], float]:
    padding = PRESETS["comfyui" if tokens == PADDED else "comfyui-mask"]
    data = _train_setup.training_set(setup, (tokens,) * _train_setup.PICTURES, padding)
    run = _train_sides.our_trainer(model, data, folder, LoraSpec(rank=RANK, alpha=1.0), batch=1, checkpointing=False)
    return lambda: _train_sides.step_seconds(run, 1)[0]


def best(runs: dict[tuple[int, ...], Callable[[], float]], rounds: int) -> Seconds:
    """The quickest of the rounds through all of them, each in another order."""
    found: dict[tuple[int, ...], list[float]] = {key: [] for key in runs}
    order = random.Random(0)
    for _ in range(rounds):
        for key in order.sample(list(runs), len(runs)):
            found[key].append(runs[key]())
    return {key: min(values) for key, values in found.items()}


def measure(size: str, folder: Path) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {"step_ratio": {}, "train_ratio": {}, "guided_ratio": {}, "flop_ratio": {}}
    model: ModelPatcher | None = None
    for pixels, (rounds, steps, training_rounds) in PLAN[size].items():
        setup = Setup("flux", size, pixels, "fp32")
        if model is None:
            _train_setup.write_weights(setup, folder / "weights.safetensors")
            model = _train_setup.load_model(setup, folder / "weights.safetensors")
        every = [(tokens,) for tokens in (PADDED, *CAPTIONS)] + ([(PADDED, PADDED), GUIDED] if training_rounds else [])
        runs = {lengths: sampling(setup, model, steps, lengths) for lengths in every}
        runs[(PADDED,)]()
        seconds = best(runs, rounds)
        trainers = {(n,): training(setup, model, n, folder) for n in (PADDED, *CAPTIONS)}
        learned = best(trainers, training_rounds) if training_rounds else {}
        report(setup, seconds, learned, results)
    return results


def report(setup: Setup, seconds: Seconds, learned: Seconds, results: dict[str, dict[str, float]]) -> None:
    say(f"{setup.pixels} px: none mode {seconds[(PADDED,)]:.3f} s a sampling step"
        + (f", {learned[(PADDED,)]:.3f} s a training step" if learned else ""))
    for tokens in CAPTIONS:
        name, line = f"{setup.pixels}px_{tokens}tok", f"  {tokens:3d} tokens:"
        for key, times, is_training in (("step_ratio", seconds, False), ("train_ratio", learned, True)):
            if times:
                results[key][name] = round(times[(tokens,)] / times[(PADDED,)], 3)
                work = flop_ratio(setup, (tokens,), (PADDED,), is_training)
                results["flop_ratio"][f"{name}_{'train' if is_training else 'step'}"] = round(work, 3)
                line += f"  {'training' if is_training else 'sampling'} {results[key][name]:.3f} (work {work:.3f})"
        say(line)
    if GUIDED in seconds:
        ratio, work = seconds[GUIDED] / seconds[(PADDED, PADDED)], flop_ratio(setup, GUIDED, (PADDED, PADDED), False)
        results["guided_ratio"][f"{setup.pixels}px"] = round(ratio, 3)
        say(f"  guided, {' and '.join(map(str, GUIDED))} tokens:  sampling {ratio:.3f} (work {work:.3f})")


def flop_ratio(setup: Setup, mask: Iterable[int], none: Iterable[int], is_training: bool) -> float:
    """Of the matrix work in mask mode to that in none mode; a forward pass for each length."""
    masked, whole = (sum(_train_setup.flop_of_picture(setup, tokens, is_training) for tokens in lengths) for lengths in (mask, none))
    return masked / whole


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps in mask mode beside steps in none mode, on a random Flux.")
    parser.add_argument("--size", choices=tuple(PLAN), default="mid", help="of the model; tiny shows that it runs")
    options = parser.parse_args()
    _train_sides.quiet()
    with tempfile.TemporaryDirectory() as folder:
        say(json.dumps(measure(options.size, Path(folder))))


if __name__ == "__main__":
    main()
