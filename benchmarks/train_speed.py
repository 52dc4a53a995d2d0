"""One training step of this pack beside ComfyUI's own TrainLoraNode: same Flux, data, rank, dtype, process and threads.

The Flux is random and small (hidden 256, one double and four single blocks, 320 tokens). Both trainers run as their nodes do and
are timed by ComfyUI's progress bar, which both move once a step; runs alternate, and medians are compared. Core's trainer needs
gradient checkpointing on Flux; ours is timed with and without. With a batch of 4 core evaluates every caption on every picture, 16
forward passes; for equal work it is also timed with four accumulated batches of 1. Ranks are equal, reaches are not: core adapts every
layer of the model with its biases and norms, ours the linear layers of the blocks; core's bypass mode builds no adapted weights.

Ends with one JSON line {"step_ratio": {...}}: core's seconds by ours, so 2 means that our step takes half the time.
"""
from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _pack

_pack.load()

import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.flux.model import Flux  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy_extras.nodes_train import TrainLoraNode  # noqa: E402
from pack.dataset.cache import CachedExample, TrainingSet  # noqa: E402
from pack.host.progress import Progress  # noqa: E402
from pack.host.run import RunConfig, run_training  # noqa: E402
from pack.host.text_padding import TextPadding  # noqa: E402
from pack.masks.recipe import MaskRecipe  # noqa: E402
from pack.trainer.config import LoraSpec, TrainConfig  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

HIDDEN, TEXT_WIDTH, POOLED = 256, 256, 32
PICTURES, LATENT, IMAGE_TOKENS, TEXT_TOKENS = 4, (16, 16, 16), 64, 256
RANK, RATE, ROUNDS = 16, 1e-4, 3
CONFIG = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT_WIDTH,
          "hidden_size": HIDDEN, "mlp_ratio": 4.0, "num_heads": HIDDEN // 128, "depth": 1, "depth_single_blocks": 4,
          "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
Runner = Callable[[int], object]


def random_flux(file: Path) -> ModelPatcher:
    """Loaded from a file: core's trainer reads its own second copy of the model from there."""
    generator = torch.Generator().manual_seed(0)
    network = Flux(**CONFIG, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    weights = {name: torch.randn(value.shape, generator=generator) * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.02)
               for name, value in network.state_dict().items()}
    save_file(weights | {name: value + 1 for name, value in weights.items() if name.endswith("norm.scale")}, file)
    return comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})


def random_data() -> list[CachedExample]:
    generator, padding = torch.Generator().manual_seed(1), TextPadding().to_json()

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return [CachedExample(f"picture {i}", "", draw(*LATENT), torch.ones(1, 128, 128),
                          {"cross_attn": draw(1, TEXT_TOKENS, TEXT_WIDTH), "pooled_output": draw(1, POOLED)}, padding)
            for i in range(PICTURES)]


def ours(model: ModelPatcher, data: list[CachedExample], batch: int, checkpointing: bool, folder: Path) -> Runner:
    training_set = TrainingSet(tuple(data), TextPadding().to_json(), "")

    def run(steps: int) -> object:
        train = TrainConfig(steps=steps, batch_size=batch, learning_rate=RATE)
        config = RunConfig(train=train, lora=LoraSpec(rank=RANK, alpha=1.0), recipe=MaskRecipe(), checkpointing=checkpointing,
                           name="benchmark", rescue_folder=folder)
        return run_training(model, training_set, config, Progress(None))

    return run


def core(model: ModelPatcher, data: list[CachedExample], batch: int, accumulate: int = 1, bypass: bool = False) -> Runner:
    latents = {"samples": torch.stack([e.latent_CHW for e in data])}
    positive = [[e.cond["cross_attn"], {"pooled_output": e.cond["pooled_output"], "guidance": 3.5}] for e in data]

    def run(steps: int) -> object:
        settings: dict[str, Any] = {
            "model": model, "latents": latents, "positive": positive, "batch_size": batch, "steps": steps, "rank": RANK,
            "grad_accumulation_steps": accumulate, "learning_rate": RATE, "optimizer": "AdamW", "loss_function": "MSE", "seed": 0,
            "training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA", "checkpoint_depth": 1,
            "gradient_checkpointing": True, "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": bypass}
        return TrainLoraNode.execute(**{name: [value] for name, value in settings.items()})

    return run


@contextmanager
def progress_times() -> Iterator[list[float]]:
    """When ComfyUI's progress bar moved; given back as it was. Its throttle, which would drop quick steps, is off meanwhile."""
    before, times = comfy.utils.PROGRESS_BAR_HOOK, list[float]()
    throttle = comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL, comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT
    comfy.utils.set_progress_bar_global_hook(lambda *args, **kwargs: times.append(time.perf_counter()))
    comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL = comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = 0
    try:
        yield times
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL, comfy.utils.PROGRESS_THROTTLE_MIN_PERCENT = throttle


def step_seconds(run: Runner, steps: int, moves: int) -> list[float]:
    """Seconds of each step but the first, which warms up; the bar moves `moves` times a step."""
    comfy.model_management.unload_all_models()
    with progress_times() as times, torch.inference_mode():
        run(steps + 1)
    marks = times[moves - 1::moves]
    if len(marks) != steps + 1:
        raise RuntimeError(f"expected {steps + 1} steps from the progress bar, saw {len(marks)}")
    return [after - before for before, after in zip(marks, marks[1:], strict=False)]


def flop_of_step(model: ModelPatcher, batch: int, checkpointing: bool) -> float:
    """Of matrix products, by parameters P and the tokens that pass each matrix.

    Full training would be 6 P tokens batch: 2 forward, 2 backward to activations, 2 to weights. A LoRA's frozen weights need no
    gradient: 4 P tokens batch, and 2 more where checkpointing repeats the forward pass; the LoRA's own small matrices take 6 or 8.
    """
    base = lora = 0
    for name, parameter in model.model.diffusion_model.named_parameters():
        if "_blocks." in name and parameter.ndim == 2 and "mod" not in name:
            tokens = IMAGE_TOKENS if ".img_" in name else TEXT_TOKENS if ".txt_" in name else IMAGE_TOKENS + TEXT_TOKENS
            base += parameter.numel() * tokens
            lora += RANK * sum(parameter.shape) * tokens
    again = 2 if checkpointing else 0
    return float(batch * ((4 + again) * base + (6 + again) * lora))


def main() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    comfy.utils.set_progress_bar_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        with torch.inference_mode():
            model = random_flux(Path(folder) / "flux.safetensors")
        data = random_data()
        # title: (run, steps in a round, moves of the progress bar in a step)
        cases: dict[str, tuple[Runner, int, int]] = {}
        for batch in (1, 4):
            steps = 4 // batch
            cases[f"ours {batch}"] = (ours(model, data, batch, False, Path(folder)), steps, 1)
            cases[f"ours {batch} checkpointed"] = (ours(model, data, batch, True, Path(folder)), steps, 1)
        cases["core 1"] = (core(model, data, 1), 4, 1)
        cases["core 1 bypass"] = (core(model, data, 1, bypass=True), 4, 1)
        cases["core 4"] = (core(model, data, 4), 1, 1)
        cases["core 4 accumulated"] = (core(model, data, 1, accumulate=4), 1, 4)
        seconds: dict[str, list[float]] = {title: [] for title in cases}
        for _ in range(ROUNDS):
            for title, (run, steps, moves) in cases.items():
                seconds[title] += step_seconds(run, steps, moves)
        print_results(model, {title: statistics.median(values) for title, values in seconds.items()})


def print_results(model: ModelPatcher, median: dict[str, float]) -> None:
    parameters = sum(p.numel() for p in model.model.diffusion_model.parameters())
    print(f"Flux of {parameters / 1e6:.1f} M parameters, {IMAGE_TOKENS + TEXT_TOKENS} tokens, rank {RANK}, float32, "
          f"{torch.get_num_threads()} threads on {model.load_device}; medians of {ROUNDS} alternating rounds")
    for title, value in median.items():
        line = f"  {title:24s} {value:8.3f} s/step"
        if title.startswith("ours"):
            flop = flop_of_step(model, int(title.split()[1]), "checkpointed" in title)
            line += f"  about {flop / 1e9:6.1f} GFLOP a step, {flop / value / 1e9:6.1f} GFLOP/s"
        print(line)
    ratio = {f"{other} / {own}": median[other] / median[own]
             for other in median if other.startswith("core") for own in median if own.startswith(f"ours {other.split()[1]}")}
    for title, value in ratio.items():
        print(f"  {title:48s} {value:6.2f}")
    print(json.dumps({"step_ratio": {title: round(value, 3) for title, value in ratio.items()}}))


if __name__ == "__main__":
    main()
