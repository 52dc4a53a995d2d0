"""The running average of the adapter, against sums in numpy, and what a LoRA file would hold."""
from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from pack.trainer.config import TrainConfig
from pack.trainer.ema import EmaSpec
from pack.trainer.example import Example, StepReport
from pack.trainer.loop import train
from pack.trainer.optimizer import Optimization, OptimizerSpec
from pack.trainer.state import TrainingState

from .tiny import ConvDenoiser, make_example

PICTURES = [make_example(f"p{i}") for i in range(3)]


def trained(ema: EmaSpec | None, examples: list[Example] = PICTURES, **settings: Any) -> tuple[TrainingState, list[torch.Tensor]]:
    """A finished run, and the weights before it and after each step."""
    model = ConvDenoiser()
    config = TrainConfig(**{"steps": 12, "learning_rate": 1e-2, "ema": ema, **settings})
    state, weights = TrainingState(model.parameters, config), [model.snapshot()]
    train(model, model.parameters, examples, config, state=state, on_step=lambda report: weights.append(model.snapshot()))
    return state, weights


def snapshot(state: TrainingState) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in state.parameters])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_that_of_numpy(warmup: bool, every: int) -> None:
    state, weights = trained(EmaSpec(decay=0.6, every=every, warmup=warmup))
    average = weights[0].numpy().copy()
    for n, w in enumerate(weights[every::every]):
        decay = min(0.6, (1 + n) / (10 + n)) if warmup else 0.6
        average = decay * average + (1 - decay) * w.numpy()
    with state.final_weights():
        assert np.abs(snapshot(state).numpy() - average).max() < 1e-14
    assert np.abs(weights[-1].numpy() - average).max() > 1e-4  # it is another thing than the last weights


def test_the_average_does_not_touch_training() -> None:
    assert torch.equal(trained(EmaSpec())[1][-1], trained(None)[1][-1])


def test_without_an_average_final_weights_are_those_of_training() -> None:
    state, weights = trained(None)
    with state.final_weights():
        assert torch.equal(snapshot(state), weights[-1])


def test_live_weights_come_back_bit_for_bit_also_after_an_error() -> None:
    state, weights = trained(EmaSpec(decay=0.9))
    identities = [p.data_ptr() for p in state.parameters]
    with pytest.raises(RuntimeError, match="preview"), state.final_weights():
        assert not torch.equal(snapshot(state), weights[-1])
        raise RuntimeError("preview")
    assert torch.equal(snapshot(state), weights[-1])
    assert [p.data_ptr() for p in state.parameters] == identities


def test_looking_at_final_weights_changes_no_run() -> None:
    """Also when somebody looks within a look."""
    model = ConvDenoiser()
    config = TrainConfig(steps=12, learning_rate=1e-2, ema=EmaSpec(decay=0.9))
    state = TrainingState(model.parameters, config)

    def look(report: StepReport) -> None:
        with state.final_weights():
            outside = snapshot(state)
            with state.final_weights():
                assert torch.equal(snapshot(state), outside)

    train(model, model.parameters, PICTURES, config, state=state, on_step=look)
    other, weights = trained(config.ema)
    assert torch.equal(model.snapshot(), weights[-1])
    assert all(torch.equal(a, b) for a, b in zip(state.ema.average, other.ema.average, strict=True))


@pytest.mark.parametrize("every", [1, 2])
def test_all_black_steps_do_not_move_the_average(every: int) -> None:
    """They count neither for `every` nor for the warm-up: the average is that of the steps that learned."""
    pictures = [make_example("white", weight=1.0), make_example("black", weight=0.0)]
    state, weights = trained(EmaSpec(decay=0.6, every=every), pictures, steps=8)
    moved = [weights[0]] + [after for before, after in zip(weights, weights[1:], strict=False) if not torch.equal(before, after)]
    assert len(moved) == 1 + 4
    assert state.ema.moves == 4
    average = moved[0]
    for n, w in enumerate(moved[every::every]):
        decay = min(0.6, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * w
    assert (torch.cat([a.flatten() for a in state.ema.average]) - average).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"decay": 1.0}, "EMA decay is 1.0"), ({"decay": 0.0}, "EMA decay is 0.0"), ({"decay": float("nan")}, "EMA decay is nan"),
     ({"every": 0}, "updated every 0 steps")],
)
def test_an_average_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        EmaSpec(**settings)


def test_two_averages_are_refused() -> None:
    schedule_free = OptimizerSpec(name="adamw schedule-free")
    for make in (lambda: Optimization(optimizer=schedule_free, ema=EmaSpec()),
                 lambda: TrainConfig(steps=1, optimizer=schedule_free, ema=EmaSpec())):
        with pytest.raises(ValueError, match="adamw schedule-free averages the weights already; switch the EMA off"):
            make()
