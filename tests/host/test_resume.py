"""Runs that are stopped, in whatever way, and go on: exactly, and with files that a person can use."""
from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from pack.dataset.cache import TrainingSet
from pack.host.checkpoints import Checkpoints, states, step_of
from pack.host.denoiser import ComfyDenoiser
from pack.host.finish import FinishEarly
from pack.host.lora_format import load_lora, save_lora
from pack.host.progress import Progress
from pack.host.run import ActiveRun, RunConfig, RunResult, run_training
from pack.masks.recipe import MaskRecipe
from pack.trainer.adapter_spec import AdapterSpec
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.ema import EmaSpec
from pack.trainer.example import StepReport
from torch import Tensor

from .server import ROOT
from .test_training import Fingerprint, loaded_in_prompt, training_set

PROGRAM = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("conftest", Path(sys.argv[1]) / "tests" / "conftest.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import pack.tests.host.conftest
from pack.tests.host.resumable_run import main
main(Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_killed_at_any_moment_and_resumed_gives_the_same_lora(tmp_path: Path) -> None:
    # One thread: a process that forks must have no OpenMP threads, which the child would wait for.
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT), str(tmp_path), "5"], capture_output=True, text=True, check=False,
                         env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["equal"], told
    assert told["losses equal"], told
    assert told["losses"] == 20
    assert told["moved"] > 1e-3
    assert len(told["deaths"]) == 6
    assert any(name.endswith(".partial") for name in told["deaths"][0][1]), "no death came while a file was half written"
    assert told["outcome"].startswith("resumed at step"), told


class Ending:
    """An observer that ends a run after a step: by an error, or well."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def started(self, run: ActiveRun) -> None:
        pass

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if report.step == self.step:
            raise self.error

    def ended(self, run: ActiveRun, finished: bool) -> None:
        pass


class Case:
    """A tiny model with its set, and runs of one name in one folder."""

    def __init__(self, folder: Path) -> None:
        self.patcher, self.arch = loaded_in_prompt("sd3")
        self.data, self.folder = training_set(self.arch), folder

    def config(self, *, spec: Checkpoints | None = None, end: Ending | None = None, **changes: Any) -> RunConfig:
        spec = spec or Checkpoints(every=2, keep=2)
        settings = {"steps": 8, "batch_size": 2, "learning_rate": 1e-2, "seed": 3, **changes}
        watching = (spec.observer(self.folder / "runs"), *([end] if end else []))
        return RunConfig(train=TrainConfig(**settings), lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(), checkpointing=False,
                         name="run", rescue_folder=self.folder / "loras", observers=watching)

    def run(self, config: RunConfig | None = None, progress: Progress | None = None, **changes: Any) -> RunResult:
        with torch.inference_mode():
            return run_training(self.patcher, self.data, config or self.config(**changes), progress or Progress(None))

    def stop_at(self, step: int, **changes: Any) -> None:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            self.run(end=Ending(step, comfy.model_management.InterruptProcessingException()), **changes)

    def steps(self) -> list[int]:
        return [step_of(file) for file in states(self.folder / "runs" / "run_checkpoints")]

    def loras(self) -> list[str]:
        return sorted(file.name for file in (self.folder / "loras").iterdir())


@pytest.fixture
def case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Case:
    caplog.set_level(logging.INFO)
    return Case(tmp_path)


@pytest.fixture
def whole(tmp_path: Path) -> RunResult:
    return Case(tmp_path / "whole").run()


def assert_same(a: RunResult, b: RunResult) -> None:
    assert a.lora.keys() == b.lora.keys()
    assert all(torch.equal(v, b.lora[k]) for k, v in a.lora.items())
    assert a.losses == b.losses


def test_cancel_saves_the_step_it_came_at_and_the_next_run_goes_on(case: Case, whole: RunResult, caplog: pytest.LogCaptureFixture) -> None:
    case.stop_at(5)
    assert case.steps() == [5, 4]
    assert case.loras() == ["run_step_000002.safetensors", "run_step_000004.safetensors", "run_stopped_at_step_000005.safetensors"][1:]
    result = case.run()
    assert_same(result, whole)
    assert result.report["outcome"] == "resumed at step 5 of 8"
    assert "resumed at step 5 of 8" in caplog.text
    assert (result.report["steps"], len(result.losses)) == (8, 8)


def test_progress_starts_where_the_run_goes_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.stop_at(5)
    progress, told = Progress(None), list[tuple[int, int, str]]()
    monkeypatch.setattr(progress, "update", lambda done, total, text="": told.append((done, total, text)))
    case.run(progress=progress)
    assert told[0] == (5, 8, "resumed at step 5 of 8")
    assert [done for done, _, _ in told[1:]] == [6, 7, 8]


def test_only_so_many_are_kept_with_their_loras(case: Case) -> None:
    case.run(spec=Checkpoints(every=1, keep=3))
    assert case.steps() == [8, 7, 6]
    assert case.loras() == ["run_step_000006.safetensors", "run_step_000007.safetensors"]  # the last step's is the node's to give
    lora = load_lora(case.folder / "loras" / "run_step_000006.safetensors")
    assert lora.metadata["ss_steps"] == "6"
    assert lora.metadata["masked_lora.text_padding"]


def test_loras_beside_checkpoints_hold_the_average(case: Case) -> None:
    case.stop_at(4, ema=EmaSpec(decay=0.99))
    lora = load_lora(case.folder / "loras" / "run_step_000004.safetensors")
    other = Case(case.folder / "plain")
    other.stop_at(4)
    plain = load_lora(other.folder / "loras" / "run_step_000004.safetensors")
    up = next(k for k in lora if "lora_B" in k or "lora_up" in k)
    assert 0 < lora[up].abs().max() < plain[up].abs().max()


def test_complete_run_gives_its_lora_without_training(case: Case, whole: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    case.run()
    monkeypatch.setattr(ComfyDenoiser, "__call__", lambda *_: pytest.fail("the model was asked"))
    again = case.run()
    assert_same(again, whole)
    assert again.report["outcome"] == "already complete: 8 of 8 steps are done, nothing was trained"
    assert again.report["seconds_per_step"] is None


def test_complete_run_that_is_asked_for_more_goes_on(case: Case) -> None:
    case.run()
    longer = case.run(steps=11)
    assert_same(longer, Case(case.folder / "other").run(steps=11))
    assert longer.report["outcome"] == "resumed at step 8 of 11"
    with pytest.raises(ValueError, match="'run' has done 11 steps already and is asked for 8"):
        case.run()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_damaged_checkpoint_is_passed_over_for_the_one_before(case: Case, whole: RunResult, caplog: pytest.LogCaptureFixture) -> None:
    case.stop_at(5)
    cut(states(case.folder / "runs" / "run_checkpoints")[0])
    result = case.run()
    assert_same(result, whole)
    assert result.report["outcome"] == "resumed at step 4 of 8"
    assert "step_000005.safetensors is damaged" in caplog.text
    assert "the checkpoint before it is used" in caplog.text
    assert (case.folder / "runs" / "run_checkpoints" / "step_000005.damaged").exists()


def test_never_moves_what_is_there_aside(case: Case, whole: RunResult) -> None:
    case.stop_at(5)
    result = case.run(spec=Checkpoints(every=2, keep=2, resume="never"))
    assert_same(result, whole)
    assert result.report["outcome"] == ""
    folder = case.folder / "runs" / "run_checkpoints"
    assert [step_of(file) for file in states(folder / "earlier_1")] == [5, 4]
    assert case.steps() == [8, 6]


def test_loras_of_an_earlier_run_are_kept_under_other_names(case: Case) -> None:
    case.stop_at(5)
    old = load_lora(case.folder / "loras" / "run_step_000004.safetensors")
    case.run(spec=Checkpoints(every=3, keep=2, resume="never"))
    assert case.loras() == ["run_step_000004_2.safetensors", "run_step_000006.safetensors", "run_stopped_at_step_000005.safetensors"]
    kept = load_lora(case.folder / "loras" / "run_step_000004_2.safetensors")
    assert all(torch.equal(old[key], kept[key]) for key in old)


def test_must_refuses_to_start_from_the_beginning(case: Case) -> None:
    with pytest.raises(ValueError, match="resume is 'must' and .*run_checkpoints holds no checkpoint"):
        case.run(spec=Checkpoints(resume="must"))
    case.stop_at(3)
    assert case.run(spec=Checkpoints(resume="must")).report["outcome"] == "resumed at step 3 of 8"


CHANGES: dict[str, tuple[Callable[[Case, RunConfig], RunConfig], str]] = {
    "batch size": (lambda c, r: replace(r, train=replace(r.train, batch_size=3)), "batch_size was 2 and is 3 now"),
    "seed": (lambda c, r: replace(r, train=replace(r.train, seed=4)), "seed was 3 and is 4 now"),
    "rank": (lambda c, r: replace(r, lora=LoraSpec(rank=4, alpha=4.0)), "LoRA rank was 2 and is 4 now"),
    "optimizer": (lambda c, r: replace(r, train=replace(r.train, optimizer=replace(r.train.optimizer, beta1=0.5))),
                  "optimizer beta1 was None and is 0.5 now"),
    "picture": (lambda c, r: with_other_picture(c, r), "training set was 3 examples, .* and is 3 examples, .* now"),
    "model": (lambda c, r: with_other_model(c, r), "base model was SD3, weights .* and is SD3, weights .* now"),
}


def with_other_picture(case: Case, run: RunConfig) -> RunConfig:
    first, *rest = case.data.examples
    case.data = TrainingSet((replace(first, latent_CHW=first.latent_CHW + 1e-3), *rest), case.data.text_padding, "")
    return run


def with_other_model(case: Case, run: RunConfig) -> RunConfig:
    weight = next(p for n, p in case.patcher.model.diffusion_model.named_parameters() if n.endswith("weight"))
    with torch.inference_mode():
        weight.data.mul_(2)
    return run


@pytest.mark.parametrize("what", CHANGES)
def test_what_would_be_another_run_is_refused(case: Case, what: str) -> None:
    case.stop_at(3)
    before = case.steps()
    change, message = CHANGES[what]
    other = change(case, case.config())
    with pytest.raises(ValueError, match=f"{message}.*Give the run another name"):
        case.run(other)
    assert case.steps() == before


@pytest.mark.parametrize("rank", [2, 3])
def test_run_that_started_from_a_lora_goes_on_with_its_ranks_and_not_from_another_file(case: Case, rank: int) -> None:
    """The file's rank is not that of the settings; a file of the same name and other contents is another start."""
    start = case.folder / "start.safetensors"
    save_lora(case.run(replace(case.config(steps=2), lora=LoraSpec(rank=3, alpha=1.0), name="first")).lora, start)

    def config(folder: str, end: Ending | None = None) -> RunConfig:
        case.folder = start.parent / folder
        return replace(case.config(end=end), lora=AdapterSpec(rank=2, alpha=4.0, start=str(start)))

    whole = case.run(config("whole"))
    assert whole.lora.metadata["ss_network_dim"] == "3"
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        case.run(config("stopped", Ending(5, comfy.model_management.InterruptProcessingException())))
    assert_same(case.run(config("stopped")), whole)
    save_lora(case.run(replace(config("other"), lora=LoraSpec(rank=rank, alpha=2.0))).lora, start)
    with pytest.raises(ValueError, match="LoRA to start from was start.safetensors, .* and is start.safetensors, .* now"):
        case.run(config("stopped"))


def test_rate_length_and_memory_settings_may_change(case: Case) -> None:
    case.stop_at(3)
    result = case.run(replace(case.config(steps=6, learning_rate=1e-3, micro_batch=1), checkpointing=True))
    assert result.report["outcome"] == "resumed at step 3 of 6"


def test_finishing_early_goes_on_with_the_lora_of_that_moment(case: Case, whole: RunResult) -> None:
    early = case.run(end=Ending(5, FinishEarly()))
    assert early.report["outcome"] == "finished early at step 5 of 8"
    assert early.lora.metadata["ss_steps"] == "5"
    assert early.losses == whole.losses[:5]
    assert not [name for name in case.loras() if "stopped" in name]
    assert case.steps() == [5, 4]
    assert_same(case.run(), whole)  # and can be taken up again


def test_finishing_at_the_last_step_is_not_early(case: Case) -> None:
    assert case.run(end=Ending(8, FinishEarly())).report["outcome"] == ""


def test_loss_that_is_not_finite_saves_the_last_good_state(case: Case, whole: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = ComfyDenoiser.__call__, list[int]()

    def broken(self: ComfyDenoiser, noisy: Tensor, *rest: Any) -> Tensor:
        calls.append(1)
        out = original(self, noisy, *rest)
        return out * torch.nan if len(calls) > 8 else out

    monkeypatch.setattr(ComfyDenoiser, "__call__", broken)
    before = Fingerprint(case.patcher, case.data)
    with pytest.raises(FloatingPointError, match=r"step \d: the loss of picture \d"):
        case.run()
    monkeypatch.undo()
    before.assert_same(Fingerprint(case.patcher, case.data))
    last = case.steps()[0]
    assert [name for name in case.loras() if "stopped" in name] == [f"run_stopped_at_step_{last:06d}.safetensors"]
    assert_same(case.run(), whole)


def test_optimizer_that_fails_half_way_saves_no_state_of_no_step(case: Case, whole: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = torch.optim.AdamW.step, list[int]()

    def fails(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1)
            raise torch.OutOfMemoryError("no memory left on the device")
        return original(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", torch.optim.Optimizer.profile_hook_step(fails))
    with pytest.raises(torch.OutOfMemoryError):
        case.run()
    monkeypatch.undo()
    assert case.steps() == [4, 2]
    assert_same(case.run(), whole)


def test_full_disk_does_not_end_a_run(case: Case, whole: RunResult, monkeypatch: pytest.MonkeyPatch,
                                      caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pack.host.checkpoints.save_checkpoint", full)
    assert_same(case.run(), whole)
    assert "the checkpoint of step 2 could not be written" in caplog.text


def test_time_left_and_smoothed_loss_of_a_resumed_run_are_its_own(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.stop_at(5)
    clock, told, progress = iter(range(0, 1000, 7)), list[str](), Progress(None)
    monkeypatch.setattr("pack.host.progress.time.monotonic", lambda: next(clock))  # 7 s pass between any two looks
    monkeypatch.setattr(progress, "update", lambda done, total, text="": told.append(text))
    result = case.run(progress=progress)
    smooth = result.losses[0]
    for loss in result.losses[1:6]:
        smooth = 0.95 * smooth + 0.05 * loss
    assert told[1] == f"step 6/8  loss {smooth:.4f}  7.00 s/step  0:14 left"
