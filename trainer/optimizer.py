"""Which optimizer moves the adapter, and what each of them can be told."""
from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer

from .ema import EmaSpec
from .schedule import ScheduleSpec
from .torchao_state import keep_state_plain

Settings = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """`name`: a row of OPTIMIZERS. A setting of None is the optimizer's usual value; one that it would ignore is refused."""

    name: str = "adamw"
    weight_decay: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.name!r}; choose one of {', '.join(OPTIMIZERS)}")
        usual = OPTIMIZERS[self.name].usual
        for setting, value in self.given().items():
            if setting not in usual:
                raise ValueError(f"{self.name} has no {setting}, got {value}; leave it out. It has {', '.join(usual)}")
            if not value >= 0:
                raise ValueError(f"{setting} must not be negative, got {value}")
            if setting == "eps" and value == 0:  # half of a fresh LoRA has no gradient, and 0 / 0 is not a number
                raise ValueError("eps is 0; use a small number above 0, such as 1e-8")
            if setting in ("beta1", "beta2", "momentum") and not value < 1:
                raise ValueError(f"{setting} is {value}; use a number from 0 to below 1")
        if OPTIMIZERS[self.name].averages and self.beta1 == 0:
            raise ValueError(f"beta1 is 0, and {self.name} averages by it; use a number above 0, such as 0.9")

    def given(self) -> dict[str, float]:
        values = {setting: getattr(self, setting) for setting in ("weight_decay", "beta1", "beta2", "eps", "momentum")}
        return {setting: value for setting, value in values.items() if value is not None}

    def settings(self) -> dict[str, float]:
        """Every setting that the optimizer has."""
        return {**OPTIMIZERS[self.name].usual, **self.given()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimization:
    """How the adapter is moved: all that the node Optimizer and Schedule says."""

    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    ema: EmaSpec | None = None

    def __post_init__(self) -> None:
        if self.ema and OPTIMIZERS[self.optimizer.name].averages:
            raise ValueError(f"{self.optimizer.name} averages the weights already; switch the EMA off or choose another optimizer")

    def describe(self) -> str:
        """For the line that says what will be trained."""
        told = "".join(f", {setting} {value:g}" for setting, value in self.optimizer.given().items()
                       if value != OPTIMIZERS[self.optimizer.name].usual[setting])
        warmup = f" behind a warm-up of {self.schedule.warmup} steps" if self.schedule.warmup else ""
        average = f", weights averaged with a decay of {self.ema.decay:g}" if self.ema else ""
        return f"{self.optimizer.name}{told}, learning rate {self.schedule.name}{warmup}{average}"


@runtime_checkable
class Averaging(Protocol):
    """An optimizer that trains other weights than those to keep; `eval` puts in the latter and `train` the former, nearly."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """`usual`: the settings that mean something, with the values that they have unless told otherwise. `rate`: what learning rate it
    wants, and `least_rate` what it cannot learn by. `packages`: each brings it. `averages`: it is an Averaging.
    """

    make: Callable[[Sequence[nn.Parameter], float, Settings], Optimizer]
    usual: Settings
    rate: str
    least_rate: float = 0.0
    packages: tuple[str, ...] = ()
    averages: bool = False


def make_optimizer(parameters: Sequence[nn.Parameter], spec: OptimizerSpec, learning_rate: float) -> Optimizer:
    """Ready for its first step. Its state_dict() holds tensors, numbers, strings, and lists and dicts of them, also in one another.

    Raises ValueError where its library is missing or cannot run on the parameters' device.
    """
    optimizer = OPTIMIZERS[spec.name].make(parameters, learning_rate, spec.settings())
    if isinstance(optimizer, Averaging):
        optimizer.train()
    return optimizer


def check_library(spec: OptimizerSpec) -> None:
    """Raises ValueError, with what to install, where the optimizer's library is missing or does not load."""
    if OPTIMIZERS[spec.name].packages:
        library(spec.name)


def library(name: str) -> ModuleType:
    """The first of the optimizer's packages that can be imported."""
    faults, packages = [], OPTIMIZERS[name].packages
    for package in packages:
        try:
            return importlib.import_module(package)
        except (ImportError, OSError, RuntimeError) as error:  # what a package whose compiled part does not fit raises
            faults.append(f"{package}: {error}")
    raise ValueError(f"{name} needs the Python package {' or '.join(packages)} ({'; '.join(faults)}); run `pip install {packages[0]}` "
                     "in ComfyUI's Python and start it again, or choose another optimizer")


def betas(settings: Settings) -> tuple[float, float]:
    return settings["beta1"], settings["beta2"]


def fused(parameters: Sequence[nn.Parameter]) -> bool | None:
    """One kernel for all parameters where CUDA or ROCm has them; elsewhere what torch thinks best."""
    return all(p.is_cuda for p in parameters) or None


def make_adamw(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=betas(settings), eps=settings["eps"], weight_decay=settings["weight_decay"],
                             fused=fused(parameters))


def make_adam(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    return torch.optim.Adam(parameters, lr=rate, betas=betas(settings), eps=settings["eps"], weight_decay=settings["weight_decay"],
                            fused=fused(parameters))


def make_sgd(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    return torch.optim.SGD(parameters, lr=rate, momentum=settings["momentum"], weight_decay=settings["weight_decay"],
                           fused=fused(parameters))


def make_adafactor(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    """arXiv 1804.04235. torch scales the rate by max(eps2, root mean square of the matrix): with 1 the rate means what it says for
    the small matrices of a LoRA, as with scale_parameter=False in transformers and the trainers that use it.
    """
    return torch.optim.Adafactor(parameters, lr=rate, eps=(None, 1.0), weight_decay=settings["weight_decay"])


def make_adamw_8bit(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    """arXiv 2110.02861."""
    package = library("adamw8bit").__name__
    module: Any = importlib.import_module(f"{package}.optim")

    def make(parameters: Sequence[nn.Parameter]) -> Optimizer:
        optimizer: Optimizer = module.AdamW8bit(parameters, lr=rate, betas=betas(settings), eps=settings["eps"],
                                                weight_decay=settings["weight_decay"])
        return optimizer

    trial = nn.Parameter(torch.zeros(64, 64, device=parameters[0].device))  # 4096 numbers: smaller ones are not kept in 8 bits
    trial.grad = torch.ones_like(trial)
    try:
        make([trial]).step()
    except RuntimeError as error:  # its kernels do not fit the device; training must not be the first to see it
        raise ValueError(f"adamw8bit of {package} does not run on {trial.device} ({error}); choose another optimizer") from error
    return keep_state_plain(make(parameters)) if package == "torchao" else make(parameters)


def make_prodigy(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    """arXiv 2306.06101. Bias correction and the safeguard for warm-ups as its authors advise for diffusion models."""
    package: Any = library("prodigy")
    optimizer: Optimizer = package.Prodigy(
        parameters, lr=rate, betas=betas(settings), eps=settings["eps"], weight_decay=settings["weight_decay"],
        use_bias_correction=True, safeguard_warmup=True)
    return optimizer


def make_schedule_free(parameters: Sequence[nn.Parameter], rate: float, settings: Settings) -> Optimizer:
    """arXiv 2405.15682."""
    package: Any = library("adamw schedule-free")
    optimizer: Optimizer = package.AdamWScheduleFree(parameters, lr=rate, betas=betas(settings), eps=settings["eps"],
                                                     weight_decay=settings["weight_decay"])
    return optimizer


ADAM: Settings = {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
ADAMW: Settings = {**ADAM, "weight_decay": 0.01}
OPTIMIZERS: dict[str, Kind] = {
    "adamw": Kind(make=make_adamw, usual=ADAMW, rate="1e-4 is a good start"),
    "adam": Kind(make=make_adam, usual=ADAM, rate="as AdamW"),
    "sgd": Kind(make=make_sgd, usual={"weight_decay": 0.0, "momentum": 0.9}, rate="100 to 10,000 times AdamW's, from trials"),
    "adafactor": Kind(make=make_adafactor, usual={"weight_decay": 0.0}, rate="1 to 3 times AdamW's"),
    "adamw8bit": Kind(make=make_adamw_8bit, usual=ADAMW, rate="as AdamW", packages=("bitsandbytes", "torchao")),
    "prodigy": Kind(make=make_prodigy, usual=ADAMW, rate="1.0, because it finds the rate itself", least_rate=0.01,
                    packages=("prodigyopt",)),
    "adamw schedule-free": Kind(make=make_schedule_free, usual=ADAM, rate="1 to 10 times AdamW's, with a constant schedule",
                                packages=("schedulefree",), averages=True),
}
