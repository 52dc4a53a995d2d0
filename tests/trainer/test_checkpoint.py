"""A run that goes on from a file ends, bit for bit, as if it had not been stopped; what is no such file is refused."""
from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pack.trainer import checkpoint
from pack.trainer.checkpoint import DamagedCheckpoint, fixed_settings, load_checkpoint, save_checkpoint
from pack.trainer.config import TrainConfig
from pack.trainer.ema import EmaSpec
from pack.trainer.example import StepReport
from pack.trainer.loop import train
from pack.trainer.optimizer import OptimizerSpec
from pack.trainer.schedule import ScheduleSpec
from pack.trainer.state import TrainingState
from safetensors import safe_open
from torch import Tensor, nn

from .tiny import ConvDenoiser, make_example

EXAMPLES = [make_example(f"p{i}", size) for i, size in enumerate([(5, 4), (4, 4), (5, 4)])]
STEPS, STOP = 9, 4
CONFIG = TrainConfig(steps=STEPS, batch_size=2, learning_rate=1e-2, seed=3, schedule=ScheduleSpec(name="cosine", warmup=2))


class Stop(Exception):
    """Ends a run between two steps."""


def trained(config: TrainConfig, *, resume: Path | None = None, save: Path | None = None,
            facts: Any = None) -> tuple[Any, list[StepReport]]:
    """Parameters and average at the end of a run, or after STOP steps, which are then saved."""
    model, reports = ConvDenoiser(), list[StepReport]()
    state = TrainingState(model.parameters, config)
    if resume:
        reports += load_checkpoint(resume, state, facts or {})

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if save and report.step == STOP:
            save_checkpoint(save, state, reports, facts or {})
            raise Stop

    with suppress(Stop):
        train(model, model.parameters, EXAMPLES, config, state=state, without_adapter=model.base, on_step=on_step)
    with state.final_weights():
        final = model.snapshot()
    return (model.snapshot(), final), reports


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit; nan equals nan."""
    (weights, reports), (others, other_reports) = a, b
    table, other = (torch.tensor([[float(getattr(r, name)) for name in StepReport.__slots__] for r in rows], dtype=torch.float64)
                    for rows in (reports, other_reports))
    return all(torch.equal(x, y) for x, y in zip(weights, others, strict=True)) and torch.equal(table.nan_to_num(-7), other.nan_to_num(-7))


@pytest.mark.parametrize("ema", [None, EmaSpec(decay=0.9, every=2)], ids=["no ema", "ema"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "adafactor"])
def test_resumed_run_ends_as_the_uninterrupted_one(optimizer: str, ema: EmaSpec | None, tmp_path: Path) -> None:
    config = replace(CONFIG, optimizer=OptimizerSpec(name=optimizer), ema=ema)
    whole = trained(config)
    file = tmp_path / "deep" / "step_000004.safetensors"
    stopped = trained(config, save=file)
    assert len(stopped[1]) == STOP
    resumed = trained(config, resume=file)
    assert same(resumed, whole)
    assert [r.step for r in resumed[1]] == list(range(1, STEPS + 1))
    assert [type(r.step) for r in resumed[1]] == [int] * STEPS


def test_what_a_resume_without_the_optimizer_would_give_is_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above can fail."""
    file = tmp_path / "step.safetensors"
    trained(CONFIG, save=file)
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    monkeypatch.setattr(checkpoint, "keep_types", lambda *_: None)
    assert not same(trained(CONFIG, resume=file), trained(CONFIG))


class OddOptimizer(torch.optim.Optimizer):
    """State of every kind that a checkpoint must hold: 8-bit codes, bfloat16, scalars, nested lists, and numbers in its group."""

    def __init__(self, parameters: list[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.99), "d": 1e-6, "limit": math.inf, "name": "odd", "k": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["d"] *= 1.1
            for p in group["params"]:
                own = self.state[p]
                if not own:
                    own |= {"codes": torch.zeros(p.numel(), dtype=torch.uint8), "signed": torch.zeros(p.numel(), dtype=torch.int8),
                            "half": torch.zeros_like(p, dtype=torch.bfloat16), "step": torch.tensor(0.0), "count": 0,
                            "list": [torch.zeros(3), "words", None, True], "flag": torch.tensor([True])}
                own["codes"] = ((own["codes"].int() * 3 + (1e6 * p.grad.flatten()).int()) % 256).to(torch.uint8)
                own["signed"] = (own["codes"].int() - 128).to(torch.int8)
                own["half"] = (0.5 * own["half"] + p.grad).to(torch.bfloat16)
                own["step"] += 1
                own["count"] += 1
                own["list"][0] += own["count"]
                moved = own["half"].to(p) + own["codes"].view_as(p) / 255 + own["list"][0].sum() * group["d"]
                p.sub_(group["lr"] * moved / own["step"])


def test_states_of_8_bits_and_of_bfloat16_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pack.trainer.state.make_optimizer", lambda parameters, spec, rate: OddOptimizer(parameters, rate))
    file, whole = tmp_path / "step.safetensors", trained(CONFIG)
    trained(CONFIG, save=file)
    assert same(trained(CONFIG, resume=file), whole)
    state = TrainingState(ConvDenoiser().parameters, CONFIG)
    load_checkpoint(file, state, {})
    own = state.optimizer.state[state.parameters[0]]
    kinds = {k: v.dtype for k, v in own.items() if isinstance(v, Tensor)}
    assert kinds == {"codes": torch.uint8, "signed": torch.int8, "half": torch.bfloat16, "step": torch.float32, "flag": torch.bool}
    group = state.optimizer.param_groups[0]
    assert (group["betas"], group["limit"], group["name"], group["k"]) == ((0.9, 0.99), math.inf, "odd", None)
    assert group["d"] == math.prod([1e-6] + [1.1] * STOP)


def test_state_that_an_optimizer_wraps_to_save_it_is_its_own_to_unwrap() -> None:
    """As bitsandbytes does with its 8-bit codes."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([parameter])
    optimizer.state[parameter] = {"codes": torch.ones(2)}
    checkpoint.keep_types(optimizer, {0: {"wrapped": {"codes": torch.tensor([1, 2], dtype=torch.uint8)}, "codes": torch.tensor([3, 4])}})
    assert optimizer.state[parameter].keys() == {"codes"}
    assert optimizer.state[parameter]["codes"].tolist() == [3, 4]


def test_what_a_file_cannot_hold_is_told_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"optimizer\.state\.0\.hook is a function"):
        checkpoint.pack({"optimizer": {"state": {0: {"hook": lambda: None}}}}, "", {})


def test_file_is_safetensors_with_json(tmp_path: Path) -> None:
    file = tmp_path / "step.safetensors"
    trained(CONFIG, save=file, facts={"batch_size": 2})
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        assert opened.get_tensor("reports").shape == (STOP, 8)
    assert (metadata["masked_lora.checkpoint"], metadata["step"]) == ("1", "4")
    assert json.loads(metadata["facts"]) == {"batch_size": 2}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "step_000004.safetensors"
    trained(CONFIG, save=file, facts=fixed_settings(CONFIG))
    return file


def fresh() -> TrainingState:
    return TrainingState(ConvDenoiser().parameters, CONFIG)


def test_other_settings_are_refused_with_both_values(saved: Path) -> None:
    other = replace(CONFIG, batch_size=5, loss=replace(CONFIG.loss, error="huber"))
    state = fresh()
    before = ConvDenoiser().snapshot()
    with pytest.raises(ValueError, match="batch_size was 2 and is 5 now; loss error was mse and is huber now. Give the run another name"):
        load_checkpoint(saved, state, fixed_settings(other))
    assert state.step == 0
    assert torch.equal(torch.cat([p.detach().flatten() for p in state.parameters]), before)


def test_length_rate_and_schedule_may_change(saved: Path) -> None:
    other = replace(CONFIG, steps=50, learning_rate=3e-2, schedule=ScheduleSpec(name="linear"), micro_batch=1)
    state = TrainingState(ConvDenoiser().parameters, other)
    assert len(load_checkpoint(saved, state, fixed_settings(other))) == STOP
    assert state.start(5) == pytest.approx(3e-2 * (1 - 4 / 50))


def test_every_setting_of_a_run_counts_unless_it_may_change() -> None:
    names = {name.partition(" ")[0] for name in fixed_settings(CONFIG)}
    assert names == set(TrainConfig.__dataclass_fields__) - {"steps", "learning_rate", "schedule", "micro_batch"}


@pytest.mark.parametrize("cut", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_cut_file_is_damaged(saved: Path, cut: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:int(cut * len(content))])
    with pytest.raises(DamagedCheckpoint, match="step_000004.safetensors is damaged"):
        load_checkpoint(saved, fresh(), fixed_settings(CONFIG))


def test_flipped_bits_are_found_wherever_they_are(saved: Path) -> None:
    content = saved.read_bytes()
    for place in range(8, len(content), len(content) // 60):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1:])
        state = fresh()
        with pytest.raises(ValueError, match="damaged|is of format"):
            load_checkpoint(saved, state, fixed_settings(CONFIG))
        assert state.step == 0


def test_other_format_is_told_apart_from_damage(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", "2")
    with pytest.raises(ValueError, match="is of format 1, this version of the pack reads 2") as caught:
        load_checkpoint(saved, fresh(), fixed_settings(CONFIG))
    assert not isinstance(caught.value, DamagedCheckpoint)


def test_old_file_stays_whole_until_the_new_one_is(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "flush", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, fresh(), [], {})
    assert saved.read_bytes() == before


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    replace_file, sync = Path.replace, checkpoint.flush

    def renamed(self: Path, target: Path) -> Path:
        done.append(("rename", self.name))
        return replace_file(self, target)

    def flushed(path: Path) -> None:
        done.append(("flush", path.name))
        sync(path)

    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(checkpoint, "flush", flushed)
    save_checkpoint(tmp_path / "a.safetensors", fresh(), [], {})
    assert done[:2] == [("flush", "a.safetensors.partial"), ("rename", "a.safetensors.partial")]
    assert len(done) == (3 if os.name == "posix" else 2)
