"""What a run leaves on disk: the table, TensorBoard's files and the plot, also after a kill and a resume."""
from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import pytest
from pack.dataset.cache import TrainingSet
from pack.host.checkpoints import Checkpoints
from pack.host.logs import LogSpec
from pack.host.loss_plot import CURVES, loss_plot, smoothed, thinned, ticks
from pack.host.observing import Mark
from pack.host.previews import PreviewSpec
from pack.host.progress import Progress
from pack.host.run import FinishEarly
from pack.host.step_table import StepTable
from pack.host.validation import ValidationPlan
from pack.trainer.example import StepReport
from pack.trainer.validation import ValidationSpec
from PIL import Image

from .test_event_file import scalars
from .watched import Told, demo_models, demo_set, run_observed, run_watched, same


@pytest.fixture(scope="module")
def models() -> Any:
    return demo_models()


@pytest.fixture(scope="module")
def data(models: Any) -> TrainingSet:
    return demo_set(models[1])


def held_out(models: Any, **changes: Any) -> ValidationPlan:
    return ValidationPlan(every=2, training_set=demo_set(models[1], seed=8), spec=ValidationSpec(levels=(0.3, 0.8)), **changes)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "test_logs" / "steps.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def logged(folder: Path) -> list[tuple[int, str, float]]:
    return [entry for file in sorted((folder / "test_logs").glob("*tfevents*")) for entry in scalars(file)]


def report(step: int, **changes: float) -> StepReport:
    return replace(StepReport(step, 0.5, 0.4, 0.6, 0.25, 1.0, 2.0, 1e-3), **changes)


def test_every_step_is_logged_and_the_run_learns_bit_for_bit_the_same(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    plain = run_watched(models[0], data, tmp_path, steps=5)
    seen: list[StepReport] = []
    observers = (held_out(models).observer(tmp_path), LogSpec().observer(tmp_path), Told(after_step=lambda run, r: seen.append(r)))
    watched = run_observed(models[0], data, tmp_path, observers, steps=5)
    assert same(plain.lora, watched.lora)
    assert plain.losses == watched.losses
    table = rows(tmp_path)
    assert [row["step"] for row in table] == ["0", "1", "2", "3", "4", "5"]
    assert [row["events"] for row in table] == ["base validation", "", "validation", "", "validation", "validation"]
    for row, told in zip(table[1:], seen, strict=True):
        assert {name: float(row[name]) for name in asdict(told)} == asdict(told), "numbers are written in full"
    marks = observers[0].marks
    assert [float(row["validation_inside"]) for row in table if row["events"]] == [m.values["inside"] for m in marks]
    events = logged(tmp_path)
    for tag, values in (("loss/trained", watched.losses), ("mask/share of masked pictures", [1.0] * 5)):
        assert [(step, value) for step, name, value in events if name == tag] == [(i, pytest.approx(v)) for i, v in enumerate(values, 1)]
    assert [step for step, name, _ in events if name == "validation/inside at 0.3"] == [2, 4, 5]
    assert [step for step, name, _ in events if name == "base validation/outside"] == [0]
    with Image.open(tmp_path / "test_logs" / "plot.png") as picture:
        assert picture.size == (1200, 720)


def test_validation_can_be_compared_between_runs(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    """Another training seed, another batch size: the model without the LoRA has the same numbers, the trained one its own."""
    observers = [held_out(models).observer(tmp_path) for _ in range(2)]
    for observer, changes in zip(observers, ({"seed": 1}, {"seed": 2, "batch_size": 1}), strict=True):
        run_observed(models[0], data, tmp_path, (observer,), steps=2, **changes)
    (base, trained), (other_base, other_trained) = (observer.marks for observer in observers)
    assert base == other_base
    assert trained.values["inside"] != other_trained.values["inside"]
    assert trained.values["inside"] != base.values["inside"]


def test_the_first_validation_is_of_the_model_without_the_lora(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    """Also where the run starts from a LoRA that does something."""
    def warm(run: Any) -> None:
        for parameter in run.adapter.parameters:
            parameter.data.fill_(0.05)

    fresh, warmed = (held_out(models).observer(tmp_path) for _ in range(2))
    run_observed(models[0], data, tmp_path, (fresh,), steps=1)
    run_observed(models[0], data, tmp_path, (Told(started=warm), warmed), steps=1)
    assert fresh.marks[0] == warmed.marks[0]
    assert fresh.marks[1].values["inside"] != pytest.approx(warmed.marks[1].values["inside"], rel=1e-3)


def test_validation_needs_the_padding_of_training(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    plan = held_out(models)
    other = TrainingSet(tuple(replace(e, text_padding="{}") for e in plan.training_set.examples), "{}", "")
    with pytest.raises(ValueError, match="encode both with the same one"):
        run_watched(models[0], data, tmp_path, ValidationPlan(every=1, training_set=other))


def test_cancel_and_finish_lose_no_line(models: Any, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(None)
    monkeypatch.setattr(progress.bar, "update_absolute",
                        lambda done, total, preview=None: comfy.model_management.interrupt_current_processing(done == 2))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_watched(models[0], data, tmp_path, LogSpec(plot_every=0), steps=9, progress=progress)
    assert len(rows(tmp_path)) >= 2

    def finish(run: Any, told: StepReport) -> None:
        if told.step == 3:
            raise FinishEarly

    observers = (Told(after_step=finish), LogSpec().observer(tmp_path))
    run_observed(models[0], data, tmp_path, observers, steps=9)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"], "the cancelled run's log was set aside"
    assert (tmp_path / "test_logs" / "earlier_1" / "steps.csv").exists()


def test_a_table_goes_on_after_a_kill_without_a_step_twice(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    table = StepTable(file, 0)
    table.write(0, None, [Mark(step=0, kind="base validation", values={"everywhere": 1.0, "inside": 2.0, "outside": math.nan})])
    for step in range(1, 6):
        table.write(step, report(step, loss_outside=math.nan), [Mark(step=step, kind="checkpoint")] if step == 3 else [])
    whole = file.read_text()  # not closed: nothing waits in memory
    assert whole.splitlines()[0] == ("step,loss,loss_inside,loss_outside,mean_weight,masked,grad_norm,learning_rate,validation_everywhere,"
                                     "validation_inside,validation_outside,events")
    assert whole.splitlines()[1:3] == ["0,,,,,,,,1.0,2.0,,base validation", "1,0.5,0.4,,0.25,1.0,2.0,0.001,,,,"]
    for cut in range(len("step"), len(whole) + 1):  # killed while any byte was written
        file.write_text(whole[:cut])
        resumed = StepTable(file, 4)
        for step in range(1, 8):
            resumed.write(step, report(step, loss=0.25), [])
        resumed.close()
        lines = [line.split(",") for line in file.read_text().splitlines()]
        assert [line[1] for line in lines[-3:]] == ["0.25"] * 3, "steps behind the checkpoint are done again"
        steps = [line[0] for line in lines]
        assert steps in (["step", *"01234567"], ["step", *"1234567"])
        if "checkpoint\n" in whole[:cut]:
            assert [(m.step, m.kind) for m in resumed.marks] == [(0, "base validation"), (3, "checkpoint")]
            assert resumed.marks[0].values["inside"] == 2.0
            assert math.isnan(resumed.marks[0].values["outside"])


def test_a_resumed_log_continues_the_old_one(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    """As if a run of 4 steps had been killed after its checkpoint at 2."""
    run_watched(models[0], data, tmp_path, held_out(models), LogSpec(), steps=4)
    first = rows(tmp_path)

    def resume(run: Any) -> None:
        run.state.step = 2
        run.reports[:] = [report(1), report(2)]

    observers = (Told(started=resume), held_out(models).observer(tmp_path), LogSpec().observer(tmp_path))
    run_observed(models[0], data, tmp_path, observers, steps=6)
    again = rows(tmp_path)
    assert [row["step"] for row in again] == list("0123456")
    assert again[:3] == first[:3]
    assert not list((tmp_path / "test_logs").glob("earlier_*"))
    steps = [step for step, name, _ in logged(tmp_path) if name == "loss/trained"]
    assert steps == [1, 2, 3, 4, 3, 4, 5, 6], "TensorBoard drops the first 3 and 4"


def test_a_cancelled_run_that_is_resumed_ends_as_if_it_had_not_been(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    """With checkpoints, previews, validation and logs at once: weights, table and pictures."""
    previews = PreviewSpec(clip=models[1], vae=models[2], prompts="a red ball", every=2, width=64, height=64, steps=1)

    def watchers(folder: Path) -> list[Any]:
        return [spec.observer(folder) for spec in (Checkpoints(every=2), previews, held_out(models), LogSpec(plot_every=0))]

    def cancel(run: Any, told: StepReport) -> None:
        if told.step == 3:
            raise comfy.model_management.InterruptProcessingException

    straight = run_observed(models[0], data, tmp_path / "straight", tuple(watchers(tmp_path / "straight")), steps=6)
    folder = tmp_path / "resumed"
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_observed(models[0], data, folder, (*watchers(folder), Told(after_step=cancel)), steps=6)
    resumed = run_observed(models[0], data, folder, tuple(watchers(folder)), steps=6)
    assert same(straight.lora, resumed.lora)
    tables = [[{**row, "events": row["events"].replace("resumed; ", "").replace("resumed", "")} for row in rows(f)]
              for f in (tmp_path / "straight", folder)]
    assert tables[0] == tables[1]
    pictures = [{f.name: f.read_bytes() for f in (parent / "test_previews").iterdir()} for parent in (tmp_path / "straight", folder)]
    assert pictures[0] == pictures[1]


def test_without_table_and_tensorboard_there_is_a_plot(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    run_watched(models[0], data, tmp_path, LogSpec(table=False, tensorboard=False, plot_every=0), steps=2)
    assert [f.name for f in (tmp_path / "test_logs").iterdir()] == ["plot.png"]
    with pytest.raises(ValueError, match="every -1 steps"):
        LogSpec(plot_every=-1)


def test_a_full_disk_ends_the_log_and_not_the_training(models: Any, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       caplog: pytest.LogCaptureFixture) -> None:
    def failing(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    plain = run_watched(models[0], data, tmp_path, steps=3)
    monkeypatch.setattr(StepTable, "write", failing)
    assert same(plain.lora, run_watched(models[0], data, tmp_path, LogSpec(), steps=3).lora)
    assert caplog.text.count("training goes on without it") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_to_the_end_ends_the_log_and_not_the_training(models: Any, data: TrainingSet, tmp_path: Path) -> None:
    """What could not be written is tried once more as the file is closed."""
    def fill(run: Any) -> None:
        logs.table.file = open("/dev/full", "a", encoding="utf-8", newline="")  # noqa: SIM115 - the log closes it
        logs.table.writer = csv.writer(logs.table.file)

    logs = LogSpec().observer(tmp_path)
    plain = run_watched(models[0], data, tmp_path, steps=3)
    assert same(plain.lora, run_observed(models[0], data, tmp_path, (logs, Told(started=fill)), steps=3).lora)
    assert logs.broken


def test_smoothing_starts_right_and_passes_over_gaps() -> None:
    assert np.allclose(smoothed(np.full(40, 0.7)), 0.7), "no pull towards zero at the start"
    values = np.array([math.nan, 1.0, math.nan, 3.0] * 75)
    smooth = smoothed(values)  # 300 steps: a fifteenth is 20, so each value counts 2 / (20 + 1) anew
    assert math.isnan(smooth[0])
    assert smooth[1] == smooth[2] == 1.0
    assert smooth[3] == pytest.approx((19 * 1 + 21 * 3) / 40)


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.31, 0.52, [0.35, 0.4, 0.45, 0.5]), (0, 900, [0, 200, 400, 600, 800])])
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 6) == pytest.approx(expected)


def test_a_long_run_keeps_its_peaks() -> None:
    y = np.random.default_rng(0).random(100_000)
    y[54_321], y[77_777], y[5] = 9.0, -3.0, math.nan
    x, thin = thinned(np.arange(len(y), dtype=float), y)
    assert len(x) <= 2 * 1200
    assert (np.diff(x) > 0).all()
    assert x[thin.argmax()] == 54_321
    assert x[thin.argmin()] == 77_777


def column_of(picture: Any, colour: tuple[int, int, int], x: int) -> float | None:
    """Mean row of the pixels of a colour in a column of the upper panel."""
    found = np.flatnonzero((np.abs(picture[92:540, x].astype(int) - colour) < 40).all(1))
    return float(found.mean()) if len(found) else None


def test_curves_lie_where_their_numbers_are() -> None:
    reports = [report(step, loss=0.9, loss_inside=0.8 - 0.006 * step, loss_outside=0.5) for step in range(1, 101)]
    picture = loss_plot(reports, [])
    inside = [column_of(picture, CURVES["loss_inside"][1], x) for x in (200, 1000)]
    outside = [column_of(picture, CURVES["loss_outside"][1], x) for x in (200, 1000)]
    assert inside[0] < outside[0], "above at first"
    assert inside[1] > outside[1], "below at the end"
    assert outside[0] == pytest.approx(outside[1], abs=1)
    black = loss_plot([report(1), report(2, mean_weight=0.0, loss=50.0), report(3)], [])
    assert np.array_equal(black, loss_plot([report(1), report(2, mean_weight=0.0, loss=0.0), report(3)], [])), "black steps are no losses"


def test_odd_runs_are_drawn() -> None:
    nothing = {name: math.nan for name in CURVES}
    marks = [Mark(step=1, kind="validation", values={"inside": math.nan}), Mark(step=99, kind="checkpoint"), Mark(step=1, kind="resumed")]
    for reports in ([report(1)], [report(1, learning_rate=0.0)], [report(1, **nothing), report(2, **nothing)], [report(7, loss=0.0)]):
        assert loss_plot(reports, marks).shape == (720, 1200, 3)
    with pytest.raises(ValueError, match="no step"):
        loss_plot([], [])
