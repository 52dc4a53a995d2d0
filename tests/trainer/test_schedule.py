"""Learning rates over a run, against transformers and against the paper of REX."""
from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import transformers
from pack.trainer.config import TrainConfig
from pack.trainer.example import StepReport
from pack.trainer.loop import train
from pack.trainer.optimizer import OptimizerSpec
from pack.trainer.schedule import SCHEDULES, ScheduleSpec

from .tiny import ConvDenoiser, make_example

STEPS = 40


def rates_of_transformers(name: str, warmup: int, **settings: Any) -> list[float]:
    """The factor that each step of a run is taken with."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS,
                                           scheduler_specific_kwargs=settings)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        ({"name": "constant"}, "constant_with_warmup", {}),
        ({"name": "linear"}, "linear", {}),
        ({"name": "cosine"}, "cosine", {}),
        ({"name": "cosine", "minimum": 0.1}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ({"name": "cosine with restarts"}, "cosine_with_restarts", {}),
        ({"name": "cosine with restarts", "cycles": 3}, "cosine_with_restarts", {"num_cycles": 3}),
        ({"name": "polynomial"}, "polynomial", {"lr_end": 0.0}),
        ({"name": "polynomial", "power": 2.5, "minimum": 0.2}, "polynomial", {"lr_end": 0.2, "power": 2.5}),
        ({"name": "polynomial", "power": 0.5}, "polynomial", {"lr_end": 0.0, "power": 0.5}),
    ],
)
def test_schedules_are_those_of_transformers(ours: dict[str, Any], theirs: str, settings: dict[str, Any], warmup: int) -> None:
    spec = ScheduleSpec(warmup=warmup, **ours)
    got = [spec.factor(step, STEPS) for step in range(1, STEPS + 1)]
    assert got == pytest.approx(rates_of_transformers(theirs, warmup, **settings), abs=1e-12)


def test_rex_is_the_formula_of_its_paper() -> None:
    """arXiv 2107.04197, equation 2, with T for the steps behind the warm-up: (1 - t/T) / (1/2 + 1/2 (1 - t/T))."""
    spec = ScheduleSpec(name="rex", warmup=8)
    expected = [(1 - t / 32) / (0.5 + 0.5 * (1 - t / 32)) for t in range(32)]
    assert [spec.factor(step, STEPS) for step in range(9, 41)] == pytest.approx(expected, abs=1e-12)
    assert [spec.factor(step, STEPS) for step in range(1, 9)] == [t / 8 for t in range(8)]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_every_schedule_goes_from_the_full_rate_to_its_minimum(name: str) -> None:
    spec = ScheduleSpec(name=name, minimum=0.25)
    assert spec.factor(1, STEPS) == 1
    assert spec.factor(STEPS + 1, STEPS) == pytest.approx(0.25)
    assert spec.factor(STEPS + 5, STEPS) == pytest.approx(0.25)
    assert all(0.25 <= spec.factor(step, STEPS) <= 1 for step in range(1, STEPS))


def trail(**settings: Any) -> tuple[list[torch.Tensor], list[float]]:
    """Parameters before the run and after each of its steps of plain descent, and the reported rates."""
    model, reports = ConvDenoiser(), list[StepReport]()
    weights = [model.snapshot()]

    def on_step(report: StepReport) -> None:
        reports.append(report)
        weights.append(model.snapshot())

    config = TrainConfig(optimizer=OptimizerSpec(name="sgd", momentum=0.0), max_grad_norm=0.0, **settings)
    train(model, model.parameters, [make_example("p")], config, on_step=on_step)
    return weights, [r.learning_rate for r in reports]


def test_steps_are_as_long_as_the_schedule_says() -> None:
    """Step 1 starts from the same weights with the same noise under every schedule, so what it moves is the rate's share."""
    spec = ScheduleSpec(name="cosine", warmup=3)
    weights, rates = trail(steps=9, learning_rate=0.5, schedule=spec)
    assert rates == [0.5 * spec.factor(step, 9) for step in range(1, 10)]
    assert torch.equal(weights[1], weights[0])  # a warm-up begins at a rate of 0
    plain, _ = trail(steps=9, learning_rate=0.5)
    assert not torch.equal(plain[1], plain[0])
    # Step 2 starts from the first weights in both runs below, at a third of the rate in the first.
    whole, _ = trail(steps=9, learning_rate=0.5, schedule=ScheduleSpec(warmup=1))
    assert (weights[2] - weights[1]).numpy() == pytest.approx(((whole[2] - whole[1]) / 3).numpy(), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cosin"}, "schedule is 'cosin'; choose one of constant, linear, cosine"),
        ({"warmup": -1}, "warm-up is -1 steps"),
        ({"name": "linear", "minimum": 1.0}, "minimum is 1.0"),
        ({"name": "linear", "minimum": math.nan}, "minimum is nan"),
        ({"name": "polynomial", "power": 0.0}, "power is 0.0"),
        ({"name": "polynomial", "power": math.inf}, "power is inf"),
        ({"name": "cosine with restarts", "cycles": 0}, "cycles is 0"),
        ({"minimum": 0.1}, "schedule constant has no minimum, got 0.1; leave it at 0.0 or choose linear or cosine"),
        ({"name": "cosine", "cycles": 2}, "schedule cosine has no cycles, got 2; leave it at 1 or choose cosine with restarts"),
        ({"name": "rex", "power": 2.0}, "schedule rex has no power, got 2.0; leave it at 1.0 or choose polynomial"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ScheduleSpec(**settings)


def test_a_warm_up_that_fills_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="the warm-up takes 20 of 20 steps"):
        TrainConfig(steps=20, schedule=ScheduleSpec(warmup=20))
    TrainConfig(steps=21, schedule=ScheduleSpec(warmup=20))
