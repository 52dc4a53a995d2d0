"""One training step of this pack beside ComfyUI's own TrainLoraNode: the same random model, pictures, captions, rank and dtype.

Time: in one process, each trainer run as its node runs it, rounds alternate, medians of steps without the first. Memory: a process for
each measurement. The main comparison is of the nodes as they come: core checkpoints, which it needs on Flux, ours does not. Ours with
checkpointing ("checkpointed"), and with a LoRA on every linear layer ("everywhere", at the smallest batch), stand beside it: core adapts
every layer, biases and norms too.

Captions: "long" has 256 tokens on both sides. "short" has about 20, of which ours drops the padding (the padding spec that masks it;
lengths differ, so that each picture is a forward pass of its own), and core, which has no such mode, reads ComfyUI's 256. With B
pictures core evaluates every caption on every picture, B * B forward passes: "accumulated" is what B steps of one picture would take.

floor_fraction: the least matrix work of a step (_train_setup.flop_of_step) at the matmul rate of this run, over our time; the number at
the end is the lowest of the main comparison. With checkpointing, which computes every block twice, it cannot pass two thirds.
extra_memory_ratio is the highest of ours to core's at equal batch; both are null where they cannot be measured.

Ends with one JSON line {"ratios", "extra_memory_ratio", "seconds_per_step", "floor_fraction"}; ratios are core's time over ours.
--size full is a Flux of 12 billion random weights for GPUs of 40 GB and more, on which core's trainer is left out.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import _train_setup
from _train_setup import DTYPES, FLUX, RANK, Setup

import _train_sides  # isort: skip
import torch
from _train_sides import Case

BATCHES = (1, 2, 4)
# Per batch size: rounds, and steps that are measured in each. Core's step takes 16 times as long at a batch of 4.
ROUNDS = {1: (3, 2), 2: (2, 1), 4: (1, 1)}


def cases_of(setup: Setup, batch: int) -> list[Case]:
    main = [Case("ours", batch, text) for text in setup.texts]
    if setup.size == "full":
        return main
    beside = [Case("ours", batch, text, checkpointing=True) for text in setup.texts]
    beside += [Case("ours", batch, text, everywhere=True) for text in setup.texts if batch == min(BATCHES)]
    return [*main, Case("core", batch, checkpointing=True), *beside]


def measure_time(setup: Setup, file: Path, batches: list[int], rounds: int | None) -> tuple[dict[str, float], float]:
    """Median seconds of a step by case, and the rate of matrix products in FLOP/s."""
    model = _train_setup.load_model(setup, file)
    rates, medians = [_train_setup.matmul_rate(setup)], {}
    for batch in batches:
        cases = cases_of(setup, batch)
        runs = {case.title: _train_sides.runner(case, setup, model, file.parent) for case in cases}
        seconds: dict[str, list[float]] = {title: [] for title in runs}
        times, steps = ROUNDS[batch]
        for _ in range(rounds or times):
            for title, run in runs.items():
                seconds[title] += _train_sides.step_seconds(run, steps)
            rates.append(_train_setup.matmul_rate(setup))
        medians |= {title: statistics.median(values) for title, values in seconds.items()}
        say(f"batch {batch}: " + ", ".join(f"{title} {medians[title]:.3f}" for title in runs))
    return medians, statistics.median(rates)


def measure_memory(setup: Setup, file: Path, batches: list[int]) -> dict[str, int | None]:
    """Extra bytes at the peak, by case, each in a process of its own."""
    found: dict[str, int | None] = {}
    for case in (case for batch in batches for case in cases_of(setup, batch) if not case.everywhere):
        order = json.dumps({"setup": asdict(setup), "case": asdict(case), "file": str(file)})
        done = subprocess.run([sys.executable, __file__, "--child", order], stdout=subprocess.PIPE, text=True, check=True)
        found[case.title] = json.loads(done.stdout.splitlines()[-1])
        say(f"memory: {case.title} {megabytes(found[case.title])}")
    return found


def child(order: dict[str, dict[str, object]]) -> None:
    setup, case, file = Setup(**order["setup"]), Case(**order["case"]), Path(str(order["file"]))  # type: ignore[arg-type]
    model = _train_setup.load_model(setup, file)
    run = _train_sides.runner(case, setup, model, file.parent)
    print(json.dumps(_train_sides.extra_memory(run, model, steps=2)))  # the optimizer's state is there from the second step on


def results(setup: Setup, seconds: dict[str, float], memory: dict[str, int | None], rate: float) -> dict[str, object]:
    ratios, floors, fractions = {}, [], []
    for text in setup.texts:
        for batch in (batch for batch in BATCHES if f"ours_{text}_b{batch}" in seconds):
            own = seconds[f"ours_{text}_b{batch}"]
            if core := seconds.get(f"core_b{batch}"):
                ratios[f"{text}_b{batch}"] = round(core / own, 3)
            if flop := _train_setup.flop_of_step(setup, text, batch):
                floors.append(flop / rate / own)
    for title, size in memory.items():
        core_size = memory.get(f"core_b{title.rpartition('_b')[2]}")
        if title.startswith("ours") and "checkpointed" not in title and size is not None and core_size:
            fractions.append(size / core_size)
    return {"ratios": ratios, "extra_memory_ratio": round(max(fractions), 3) if fractions else None,
            "seconds_per_step": {title: round(value, 4) for title, value in seconds.items()},
            "floor_fraction": round(min(floors), 3) if floors else None}


def print_table(setup: Setup, seconds: dict[str, float], memory: dict[str, int | None], rate: float) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    say(f"{setup.arch} {setup.size}, {setup.pixels} px, rank {RANK}, {setup.dtype}, {device}, matmul {rate / 1e9:.0f} GFLOP/s")
    for title, value in seconds.items():
        line, batch = f"  {title:26s} {value:8.3f} s  {megabytes(memory.get(title)):>9s}", int(title.partition("_b")[2][0])
        if title.startswith("ours"):
            if core := seconds.get(f"core_b{batch}"):
                line += f"  core {core / value:5.2f}"
            if alone := seconds.get("core_b1"):
                line += f", accumulated {batch * alone / value:5.2f}"
            if flop := _train_setup.flop_of_step(setup, title.split("_")[1], batch):
                line += f"  floor {flop / 1e9:7.1f} GFLOP, {flop / rate / value:5.2f} of our time"
        say(line)


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f} MB"


def say(line: str) -> None:
    print(line, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One training step beside ComfyUI's TrainLoraNode.")
    parser.add_argument("--arch", choices=("flux", "sdxl"), default="flux", help="sdxl is always tiny")
    parser.add_argument("--size", choices=tuple(FLUX), default="mid")
    parser.add_argument("--pixels", type=int, choices=(64, 512, 1024), default=512)
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="default: fp32, bf16 for --size full")
    parser.add_argument("--batches", type=int, nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, help="of each case; default: 3, at a batch of 2 two and of 4 one")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    _train_sides.quiet()
    if options.child:
        return child(options.child)
    size = "tiny" if options.arch == "sdxl" else options.size
    setup = Setup(options.arch, size, options.pixels, options.dtype or ("bf16" if size == "full" else "fp32"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        _train_setup.write_weights(setup, file)
        memory = measure_memory(setup, file, sorted({min(options.batches), max(options.batches)}))
        seconds, rate = measure_time(setup, file, options.batches, options.rounds)
        print_table(setup, seconds, memory, rate)
        say(json.dumps(results(setup, seconds, memory, rate)))
    return None


if __name__ == "__main__":
    main()
