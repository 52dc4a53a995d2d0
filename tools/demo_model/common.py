"""What every stage of the demo model's making shares: seeds, resumable checkpoints, a moving average of weights."""
from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ASSETS = Path(__file__).resolve().parents[2] / "assets"
CONFIG = json.loads((ASSETS / "pico_flux" / "config.json").read_text(encoding="utf-8"))
logger = logging.getLogger("demo_model")


def generator(seed: int, *index: int) -> torch.Generator:
    """A CPU generator for one draw, so that a resumed run continues with the very numbers of an unbroken one."""
    value = seed
    for i in index:
        value = (value * 1_000_003 + i + 1) % (2**62)
    return torch.Generator().manual_seed(value)


class Trainer:
    """AdamW with warm-up, cosine decay, a moving average of the weights and checkpoints that resume exactly."""

    def __init__(self, name: str, module: nn.Module, folder: Path, *, steps: int, lr: float, warmup: int = 100,
                 final_lr: float = 0.05, decay: float = 0.999, weight_decay: float = 0.01):
        self.name, self.module, self.steps, self.decay = name, module, steps, decay
        self.file = folder / f"{name}.checkpoint.safetensors"
        self.params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay)
        cosine = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda k: min(1, (k + 1) / warmup) * (
            final_lr + (1 - final_lr) * 0.5 * (1 + torch.cos(torch.tensor(min(1.0, k / steps) * torch.pi)).item())))
        self.schedule, self.step = cosine, 0
        self.average = {n: p.detach().clone() for n, p in self.params.items()}
        self.resume()

    def run(self, loss_of: Callable[[int], Tensor], *, stop: int | None = None, save_every: int = 250, log_every: int = 50) -> None:
        """Minimise `loss_of(step)` from wherever the last checkpoint stopped, for `stop` of the schedule's steps."""
        last = self.steps if stop is None else stop
        started, done, mean = time.monotonic(), 0, None
        while self.step < last:
            with torch.autograd.graph.allow_mutation_on_saved_tensors():
                loss = loss_of(self.step)
                loss.backward()
            nn.utils.clip_grad_norm_(self.params.values(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            self.step, done = self.step + 1, done + 1
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for n, p in self.params.items():
                    self.average[n].lerp_(p, 1 - decay)
            mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
            if self.step % log_every == 0:
                rate = (time.monotonic() - started) / done
                logger.info("%s step %d/%d loss %.4f, %.2f s/step, %.0f min left", self.name, self.step, last, mean, rate,
                            rate * (last - self.step) / 60)
            if self.step % save_every == 0 or self.step == last:
                self.save()

    def use_average(self) -> None:
        with torch.no_grad():
            for n, p in self.params.items():
                p.copy_(self.average[n])

    def save(self) -> None:
        state = self.optimizer.state_dict()["state"]
        tensors = {f"weight.{n}": p.detach() for n, p in self.params.items()} | {f"average.{n}": v for n, v in self.average.items()}
        for i, (n, p) in enumerate(self.params.items()):  # a weight that the loss does not reach has no state
            tensors |= {f"{key}.{n}": state[i][key] if i in state else torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
        partial = self.file.with_suffix(".partial")
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, partial, {"step": str(self.step)})
        partial.replace(self.file)

    def resume(self) -> None:
        if not self.file.exists():
            return
        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
            saved = self.optimizer.state_dict()
            with torch.no_grad():
                for i, (n, p) in enumerate(self.params.items()):
                    p.copy_(file.get_tensor(f"weight.{n}"))
                    self.average[n].copy_(file.get_tensor(f"average.{n}"))
                    saved["state"][i] = {"step": torch.tensor(float(self.step)),
                                         **{key: file.get_tensor(f"{key}.{n}") for key in ("exp_avg", "exp_avg_sq")}}
        self.optimizer.load_state_dict(saved)
        self.schedule.last_epoch = self.step
        for group, base, factor in zip(self.optimizer.param_groups, self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.step)
        logger.info("%s resumes at step %d of %d", self.name, self.step, self.steps)


def batches(count: int, size: int) -> Iterator[range]:
    return (range(i, min(i + size, count)) for i in range(0, count, size))
