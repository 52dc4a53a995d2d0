"""Optimizers: first steps against numpy and other libraries, what each can be told, and libraries that are missing."""
from __future__ import annotations

import importlib
import math
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from pack.trainer.checkpoint import load_checkpoint, save_checkpoint
from pack.trainer.config import TrainConfig
from pack.trainer.ema import EmaSpec
from pack.trainer.optimizer import OPTIMIZERS, OptimizerSpec, check_library, make_optimizer
from pack.trainer.schedule import ScheduleSpec
from pack.trainer.state import TrainingState
from torch import Tensor, nn

from .tiny import make_example, run

SHAPES = [(3, 5), (4,), (2, 3, 2)]
STEPS = 6
Arrays = list[NDArray[np.float64]]


def beginning(seed: int = 0, dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def gradients(step: int, **options: Any) -> list[Tensor]:
    return [3 * g for g in beginning(100 + step, **options)]


def descend(state: TrainingState, steps: range, **options: Any) -> None:
    for step in steps:
        state.start(step)
        for parameter, gradient in zip(state.parameters, gradients(step, **options), strict=True):
            parameter.grad = gradient
        state.move()
        state.step = step


def after(spec: OptimizerSpec, rate: float = 0.02) -> Arrays:
    state = TrainingState([nn.Parameter(p) for p in beginning()], TrainConfig(steps=STEPS, optimizer=spec, learning_rate=rate))
    descend(state, range(1, STEPS + 1))
    return [p.detach().numpy() for p in state.parameters]


def adam(decoupled: bool, rate: float, weight_decay: float, beta1: float, beta2: float, eps: float) -> Arrays:
    """arXiv 1412.6980, algorithm 1, with weight decay in the gradient or (arXiv 1711.05101, algorithm 2) beside it."""
    weights = [p.numpy() for p in beginning()]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step in range(1, STEPS + 1):
        for i, g in enumerate(gradients(step)):
            grad = g.numpy() + (0 if decoupled else weight_decay * weights[i])
            first[i] = beta1 * first[i] + (1 - beta1) * grad
            second[i] = beta2 * second[i] + (1 - beta2) * grad**2
            move = first[i] / (1 - beta1**step) / (np.sqrt(second[i] / (1 - beta2**step)) + eps)
            weights[i] = weights[i] - rate * (move + (weight_decay * weights[i] if decoupled else 0))
    return weights


def sgd(rate: float, weight_decay: float, momentum: float) -> Arrays:
    weights = [p.numpy() for p in beginning()]
    speed = [np.zeros_like(w) for w in weights]
    for step in range(1, STEPS + 1):
        for i, g in enumerate(gradients(step)):
            speed[i] = momentum * speed[i] + g.numpy() + weight_decay * weights[i]
            weights[i] = weights[i] - rate * speed[i]
    return weights


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (OptimizerSpec(), lambda rate: adam(True, rate, 0.01, 0.9, 0.999, 1e-8)),
        (OptimizerSpec(weight_decay=0.3, beta1=0.5, beta2=0.8, eps=0.1), lambda rate: adam(True, rate, 0.3, 0.5, 0.8, 0.1)),
        (OptimizerSpec(name="adam"), lambda rate: adam(False, rate, 0.0, 0.9, 0.999, 1e-8)),
        (OptimizerSpec(name="adam", weight_decay=0.3, beta1=0.0, beta2=0.8, eps=0.1),
         lambda rate: adam(False, rate, 0.3, 0.0, 0.8, 0.1)),
        (OptimizerSpec(name="sgd"), lambda rate: sgd(rate, 0.0, 0.9)),
        (OptimizerSpec(name="sgd", weight_decay=0.3, momentum=0.5), lambda rate: sgd(rate, 0.3, 0.5)),
        (OptimizerSpec(name="sgd", momentum=0.0), lambda rate: sgd(rate, 0.0, 0.0)),
    ],
)
def test_steps_are_those_of_the_formulas(spec: OptimizerSpec, expected: Callable[[float], Arrays]) -> None:
    for got, wanted in zip(after(spec), expected(0.02), strict=True):
        assert np.abs(got - wanted).max() < 1e-12


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adafactor_is_that_of_transformers_at_an_absolute_rate(weight_decay: float) -> None:
    small = 0.02  # of RMS below 1, as the matrices of a LoRA are; torch scales by it where it is larger
    parameters = [nn.Parameter(small * p) for p in beginning()[:2]]
    theirs = [nn.Parameter(small * p) for p in beginning()[:2]]
    ours = make_optimizer(parameters, OptimizerSpec(name="adafactor", weight_decay=weight_decay), 1e-3)
    peer = transformers.Adafactor(theirs, lr=1e-3, scale_parameter=False, relative_step=False, warmup_init=False)
    for step in range(1, STEPS + 1):
        for mine, other, gradient in zip(parameters, theirs, gradients(step), strict=False):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
            other.data.mul_(1 - 1e-3 * weight_decay)
        ours.step()
        peer.step()
    for mine, other in zip(parameters, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-9


# Stand-ins for packages that a machine may not have. Where it has them, the tests below run with them as well.


class Noted(torch.optim.SGD):
    """Plain descent that remembers what it was made with."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, lr=settings["lr"])
        self.settings = settings


class Estimating(Noted):
    """With an estimate of the rate that doubles in every step, as Prodigy has one."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.param_groups[0]["d"] = 0.25

    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["d"] *= 2
        return super().step(closure)


class ScheduleFree(Noted):
    """arXiv 2405.15682, equations 3 to 5, on plain descent: parameters are y in training and x in evaluation."""

    beta = 0.9

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.param_groups[0].update(train_mode=False, k=0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        group = self.param_groups[0]
        assert group["train_mode"]
        group["k"] += 1
        for p in group["params"]:
            z = self.state[p].setdefault("z", p.detach().clone())
            x = (p - (1 - self.beta) * z) / self.beta
            z -= group["lr"] * p.grad
            x = x + (z - x) / group["k"]
            p.copy_((1 - self.beta) * z + self.beta * x)

    @torch.no_grad()
    def eval(self) -> None:
        for p in self.param_groups[0]["params"]:
            if self.param_groups[0]["train_mode"] and "z" in self.state[p]:
                p.lerp_(self.state[p]["z"], 1 - 1 / self.beta)
        self.param_groups[0]["train_mode"] = False

    @torch.no_grad()
    def train(self) -> None:
        for p in self.param_groups[0]["params"]:
            if not self.param_groups[0]["train_mode"] and "z" in self.state[p]:
                p.lerp_(self.state[p]["z"], 1 - self.beta)
        self.param_groups[0]["train_mode"] = True


def module(name: str, **contents: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


STAND_INS = {
    "prodigyopt": module("prodigyopt", Prodigy=Estimating),
    "schedulefree": module("schedulefree", AdamWScheduleFree=ScheduleFree),
    "bitsandbytes": module("bitsandbytes"),
    "bitsandbytes.optim": module("bitsandbytes.optim", AdamW8bit=Noted),
}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in STAND_INS.items():
        monkeypatch.setitem(sys.modules, name, stand_in)


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


NAMES = [*OPTIMIZERS, *(f"{name}, real" for name, kind in OPTIMIZERS.items() if kind.packages)]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Every optimizer; "real" ones with their packages, where they are installed."""
    name, _, real = str(request.param).partition(", ")
    if real:
        pytest.importorskip(OPTIMIZERS[name].packages[0])
    else:
        request.getfixturevalue("stand_ins")
    return name


def rate_for(name: str) -> float:
    return 1.0 if name == "prodigy" else 1e-2


LARGE: dict[str, Any] = {"dtype": torch.float32, "shapes": [(64, 128), (8, 8)]}  # 8-bit optimizers keep small ones in 32 bits


def large_state(name: str, average: bool) -> TrainingState:
    ema = EmaSpec(decay=0.7, every=2) if average and not OPTIMIZERS[name].averages else None
    config = TrainConfig(steps=9, optimizer=OptimizerSpec(name=name), learning_rate=rate_for(name), ema=ema,
                         schedule=ScheduleSpec(name="cosine", warmup=2))
    return TrainingState([nn.Parameter(p) for p in beginning(**LARGE)], config)


@pytest.mark.parametrize("average", [False, True])
def test_a_checkpoint_holds_all_that_the_next_step_needs(name: str, average: bool, tmp_path: Path) -> None:
    whole = large_state(name, average)
    descend(whole, range(1, 6), **LARGE)
    save_checkpoint(tmp_path / "checkpoint", whole, [], {})
    descend(whole, range(6, 10), **LARGE)
    resumed = large_state(name, average)
    load_checkpoint(tmp_path / "checkpoint", resumed, {})
    assert resumed.step == 5
    assert not torch.equal(resumed.parameters[0], whole.parameters[0])
    descend(resumed, range(6, 10), **LARGE)
    for a, b in zip(resumed.parameters, whole.parameters, strict=True):
        assert torch.equal(a, b)
    with resumed.final_weights(), whole.final_weights():
        for a, b in zip(resumed.parameters, whole.parameters, strict=True):
            assert torch.equal(a, b)


def test_micro_batches_change_nothing_under_any_optimizer(name: str) -> None:
    if name == "adamw8bit" and sys.modules["bitsandbytes"] is not STAND_INS["bitsandbytes"]:
        pytest.skip("it has no float64, in which this is measured")
    pictures = [make_example(f"p{i}", size) for i, size in enumerate([(5, 4), (3, 6), (5, 4), (4, 4)])]
    settings = {"steps": 6, "batch_size": 4, "seed": 3, "learning_rate": rate_for(name), "optimizer": OptimizerSpec(name=name),
                "schedule": ScheduleSpec(name="rex", warmup=1)}
    whole, reports = run(pictures, **settings)
    split, split_reports = run(pictures, micro_batch=1, **settings)
    assert (whole - split).abs().max() <= 1e-12
    assert [r.loss for r in reports] == pytest.approx([r.loss for r in split_reports], rel=1e-9)
    assert not torch.equal(whole, run(pictures, **{**settings, "steps": 2})[0])


def test_final_weights_of_the_schedule_free_optimizer_are_its_average(stand_ins: None) -> None:
    """x of the paper: the plain mean of z over the steps, at a constant rate. Live weights come back bit for bit."""
    spec, rate = OptimizerSpec(name="adamw schedule-free"), 0.02
    state = TrainingState([nn.Parameter(p) for p in beginning()], TrainConfig(steps=STEPS, optimizer=spec, learning_rate=rate))
    z = [p.numpy() for p in beginning()]
    mean: Arrays = [np.zeros_like(w) for w in z]
    for step in range(1, STEPS + 1):
        descend(state, range(step, step + 1))
        z = [w - rate * g.numpy() for w, g in zip(z, gradients(step), strict=True)]
        mean = [m + (w - m) / step for m, w in zip(mean, z, strict=True)]
        live = [p.detach().clone() for p in state.parameters]
        with state.final_weights():
            for p, m in zip(state.parameters, mean, strict=True):
                assert np.abs(p.detach().numpy() - m).max() < 1e-12
        assert all(torch.equal(p, before) for p, before in zip(state.parameters, live, strict=True))
        assert step == 1 or not np.allclose(live[0].numpy(), mean[0])


def test_real_schedule_free_trains_on_after_a_look(tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    plain, watched = large_state("adamw schedule-free", False), large_state("adamw schedule-free", False)
    for step in range(1, 8):
        descend(plain, range(step, step + 1), **LARGE)
        descend(watched, range(step, step + 1), **LARGE)
        with watched.final_weights():
            assert step < 4 or not torch.equal(watched.parameters[0], plain.parameters[0])
        assert torch.equal(watched.parameters[0], plain.parameters[0])


def test_the_reported_rate_has_the_estimate_of_prodigy_in_it(stand_ins: None) -> None:
    _, reports = run([make_example("p")], steps=4, learning_rate=0.5, optimizer=OptimizerSpec(name="prodigy"))
    assert [r.learning_rate for r in reports] == [0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("prodigy", {"use_bias_correction": True, "safeguard_warmup": True}),
        ("adamw schedule-free", {}),
        ("adamw8bit", {}),
    ],
)
def test_libraries_are_told_every_setting(name: str, settings: dict[str, Any], stand_ins: None) -> None:
    spec = OptimizerSpec(name=name, weight_decay=0.2, beta1=0.7, beta2=0.8, eps=1e-6)
    made = make_optimizer([nn.Parameter(p) for p in beginning()], spec, 0.5)
    assert isinstance(made, Noted)
    assert made.settings == {"lr": 0.5, "betas": (0.7, 0.8), "eps": 1e-6, "weight_decay": 0.2, **settings}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("prodigy", "prodigy needs the Python package prodigyopt (prodigyopt: "),
        ("prodigy", "run `pip install prodigyopt` in ComfyUI's Python and start it again, or choose another optimizer"),
        ("adamw schedule-free", "run `pip install schedulefree`"),
        ("adamw8bit", "adamw8bit needs the Python package bitsandbytes or torchao (bitsandbytes: "),
        ("adamw8bit", "; torchao: "),
        ("adamw8bit", "run `pip install bitsandbytes`"),
    ],
)
def test_a_missing_library_is_named_before_training(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, *OPTIMIZERS[name].packages)
    spec = OptimizerSpec(name=name)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_library(spec)
    parameters = [nn.Parameter(p) for p in beginning()]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TrainingState(parameters, TrainConfig(steps=1, optimizer=spec, learning_rate=1.0))


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_library_that_does_not_load_is_told_with_its_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, stand_ins: None
) -> None:
    def load(name: str) -> Any:
        raise error("libcudart.so.11.0 is not there")

    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(ValueError, match="schedulefree: libcudart.so.11.0 is not there"):
        check_library(OptimizerSpec(name="adamw schedule-free"))


def test_torchao_stands_in_for_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "bitsandbytes")
    monkeypatch.setitem(sys.modules, "torchao", module("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.optim", module("torchao.optim", AdamW8bit=Noted))
    made = make_optimizer([nn.Parameter(p) for p in beginning()], OptimizerSpec(name="adamw8bit"), 0.5)
    assert isinstance(made, Noted)


def test_kernels_that_do_not_fit_the_device_are_told_before_training(monkeypatch: pytest.MonkeyPatch, stand_ins: None) -> None:
    class Broken(Noted):
        def step(self, closure: Any = None) -> Any:
            raise RuntimeError("no kernel image")

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module("bitsandbytes.optim", AdamW8bit=Broken))
    with pytest.raises(ValueError, match=r"adamw8bit of bitsandbytes does not run on cpu \(no kernel image\); choose another"):
        make_optimizer([nn.Parameter(p) for p in beginning()], OptimizerSpec(name="adamw8bit"), 0.5)


def test_nothing_is_imported_for_optimizers_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "prodigyopt", "schedulefree", "bitsandbytes", "torchao")
    for name in ("adamw", "adam", "sgd", "adafactor"):
        check_library(OptimizerSpec(name=name))
        make_optimizer([nn.Parameter(p) for p in beginning()], OptimizerSpec(name=name), 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lion"}, "optimizer is 'lion'; choose one of adamw, adam, sgd, adafactor, adamw8bit, prodigy, adamw schedule-free"),
        ({"name": "sgd", "beta1": 0.9}, "sgd has no beta1, got 0.9; leave it out. It has weight_decay, momentum"),
        ({"name": "adafactor", "eps": 1e-8}, "adafactor has no eps, got 1e-08"),
        ({"momentum": 0.0}, "adamw has no momentum, got 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must not be negative, got nan"),
        ({"beta1": 1.0}, "beta1 is 1.0; use a number from 0 to below 1"),
        ({"beta2": 1.5}, "beta2 is 1.5"),
        ({"name": "sgd", "momentum": 1.0}, "momentum is 1.0"),
        ({"eps": 0.0}, "eps is 0; use a small number above 0"),
        ({"name": "adamw schedule-free", "beta1": 0.0}, "beta1 is 0, and adamw schedule-free averages by it"),
    ],
)
def test_what_an_optimizer_cannot_be_told_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        OptimizerSpec(**settings)


def test_prodigy_at_the_rate_of_adamw_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_rate is 0.0001, by which prodigy learns next to nothing; it wants 1.0"):
        TrainConfig(steps=1, optimizer=OptimizerSpec(name="prodigy"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (TrainConfig(steps=9), "adamw, learning rate constant"),
        (TrainConfig(steps=9, optimizer=OptimizerSpec(weight_decay=0.01)), "adamw, learning rate constant"),
        (TrainConfig(steps=9, optimizer=OptimizerSpec(name="sgd", momentum=0.5), schedule=ScheduleSpec(name="rex", warmup=3),
                     ema=EmaSpec(decay=0.99)),
         "sgd, momentum 0.5, learning rate rex behind a warm-up of 3 steps, weights averaged with a decay of 0.99"),
    ],
)
def test_a_run_says_how_it_moves(config: TrainConfig, words: str) -> None:
    assert config.optimization().describe() == words


def test_no_clipping_is_clipping_at_no_length() -> None:
    pictures = [make_example("p")]
    descent = {"steps": 1, "learning_rate": 1.0, "optimizer": OptimizerSpec(name="sgd", momentum=0.0)}
    free, reports = run(pictures, max_grad_norm=0.0, **descent)
    loose, _ = run(pictures, max_grad_norm=1e30, **descent)
    tight, _ = run(pictures, max_grad_norm=0.5 * reports[0].grad_norm, **descent)
    assert torch.equal(free, loose)
    assert not torch.equal(free, tight)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fused kernels need a GPU")
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_gpu_takes_one_fused_kernel(name: str) -> None:
    parameters = [nn.Parameter(p.float().cuda()) for p in beginning()]
    assert make_optimizer(parameters, OptimizerSpec(name=name), 0.1).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_cpu_is_left_to_torch(name: str) -> None:
    assert make_optimizer([nn.Parameter(p) for p in beginning()], OptimizerSpec(name=name), 0.1).param_groups[0]["fused"] is None
