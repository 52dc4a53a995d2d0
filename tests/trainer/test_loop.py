"""The training loop: batches, seeds, masks, reports, and what happens when a step cannot be taken."""
from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from pack.trainer import loop
from pack.trainer.config import Normalization, TrainConfig
from pack.trainer.draws import Batch, draw
from pack.trainer.epoch import Epoch, draw_order
from pack.trainer.example import Example, StepReport
from pack.trainer.loop import micro_batches, train
from pack.trainer.objective import noise_generator
from pack.trainer.optimizer import OptimizerSpec
from torch import Tensor

from .tiny import CHANNELS, Cond, ConvDenoiser, error_of, make_example, picks, reference_loss, run

SIZES = [(5, 4), (3, 6), (5, 4), (4, 4), (5, 4), (5, 4)]
MIXED = [make_example(f"p{i}", size, group=group) for i, (size, group) in enumerate(zip(SIZES, "aaaaba", strict=True))]
EQUAL = [make_example(f"q{i}") for i in range(5)]
SETTINGS: dict[str, Any] = {"steps": 7, "batch_size": 4, "learning_rate": 1e-2, "seed": 3}


def gradient(examples: list[Example], **settings: Any) -> tuple[Tensor, StepReport]:
    """The gradient of a run's first step, and its report: plain descent at a rate of 1 moves parameters by their gradient."""
    descent = {"optimizer": OptimizerSpec(name="sgd", momentum=0.0), "learning_rate": 1.0, "max_grad_norm": 0.0}
    after, (report,) = run(examples, **{"steps": 1, **descent, **settings})
    return ConvDenoiser().snapshot() - after, report


def reference_gradient(examples: list[tuple[int, Example]], normalization: Normalization, seed: int = 0,
                       model: ConvDenoiser | None = None) -> Tensor:
    """The same by autograd from one example after another, in float64 and without the trainer."""
    model = model or ConvDenoiser()
    errors = [error_of(model, e, seed, index) for index, e in examples]
    weights = [e.weight_1HW.expand_as(error) for (_, e), error in zip(examples, errors, strict=True)]
    sums = [((error * w).sum(), w.sum(), w.numel()) for error, w in zip(errors, weights, strict=True)]
    if normalization is Normalization.STEP:
        loss = sum(e for e, _, _ in sums) / sum(w for _, w, _ in sums)
    else:
        terms = [e / (w if normalization is Normalization.IMAGE else size) for e, w, size in sums]
        loss = sum(terms) / len(terms)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters)])


def relative(a: Tensor, b: Tensor) -> float:
    return (torch.linalg.norm(a - b) / torch.linalg.norm(b)).item()


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("examples", [EQUAL, MIXED], ids=["equal shapes", "mixed shapes and groups"])
def test_micro_batches_change_nothing(examples: list[Example], micro_batch: int, normalization: Normalization) -> None:
    whole, whole_reports = run(examples, normalization=normalization, **SETTINGS)
    split, split_reports = run(examples, normalization=normalization, micro_batch=micro_batch, **SETTINGS)
    assert (whole - split).abs().max() <= 1e-12
    assert [r.loss for r in split_reports] == pytest.approx([r.loss for r in whole_reports], rel=1e-6)


def test_micro_batches_do_split() -> None:
    """The test above would pass on its own if the limit did nothing."""
    for limit, largest in ((0, 4), (1, 1), (2, 2), (3, 3)):
        model = ConvDenoiser()
        run(EQUAL, model=model, micro_batch=limit, **SETTINGS)
        assert max(map(len, model.calls)) == largest
        assert sum(map(len, model.calls)) == 7 * 4


def test_forward_passes_hold_equal_shapes_and_groups_only() -> None:
    draws = [draw(e, TrainConfig(steps=1, batch_size=6), 1, i) for i, e in enumerate(MIXED)]
    members = list(micro_batches(draws, 0))
    assert sorted(i for group in members for i in group) == list(range(len(MIXED)))
    assert members == [[0, 2, 5], [1], [3], [4]]  # 4 has their size and another group
    assert list(micro_batches(draws, 2)) == [[0, 2], [5], [1], [3], [4]]


def test_groups_change_nothing_but_the_forward_passes() -> None:
    split = [Example(e.name, e.latent_CHW, e.weight_1HW, e.cond, group=i) for i, e in enumerate(EQUAL)]
    assert (run(EQUAL, **SETTINGS)[0] - run(split, **SETTINGS)[0]).abs().max() <= 1e-12


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("examples", [EQUAL, MIXED], ids=["equal shapes", "mixed shapes and groups"])
def test_the_gradient_is_that_of_the_formula(examples: list[Example], normalization: Normalization) -> None:
    settings = {"batch_size": 4, "seed": 3, "normalization": normalization}
    chosen = picks(examples, TrainConfig(steps=1, **settings), 1)
    got, report = gradient(examples, **settings)
    assert relative(got, reference_gradient(chosen, normalization, seed=3)) < 1e-6
    errors = [error_of(ConvDenoiser(), e, 3, index).detach().numpy() for index, e in chosen]
    assert report.loss == pytest.approx(reference_loss(errors, [e.weight_1HW.numpy() for _, e in chosen], normalization), rel=1e-6)
    assert report.grad_norm == pytest.approx(torch.linalg.norm(got).item(), rel=1e-6)


def test_many_steps_are_those_of_adamw() -> None:
    """Written out from the paper (arXiv 1711.05101): every step has draws of its own, and no gradient outlives its step."""
    config = TrainConfig(**SETTINGS, optimizer=OptimizerSpec(weight_decay=0.1), max_grad_norm=1e9)
    model = ConvDenoiser()
    weight = model.snapshot()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, config.steps + 1):
        torch.nn.utils.vector_to_parameters(weight, model.parameters)
        grad = reference_gradient(picks(MIXED, config, step), config.normalization, config.seed, model)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad.square()
        move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        weight = weight * (1 - config.learning_rate * config.optimizer.weight_decay) - config.learning_rate * move
    assert (run(MIXED, **SETTINGS, optimizer=OptimizerSpec(weight_decay=0.1), max_grad_norm=1e9)[0] - weight).abs().max() < 1e-6


def test_without_normalization_a_batch_has_the_mean_gradient_of_its_members() -> None:
    settings = {"batch_size": 4, "seed": 3, "normalization": Normalization.NONE}
    chosen = picks(MIXED, TrainConfig(steps=1, **settings), 1)
    members = torch.stack([reference_gradient([pick], Normalization.NONE, seed=3) for pick in chosen])
    assert relative(gradient(MIXED, **settings)[0], members.mean(0)) < 1e-6


def test_per_step_every_learned_pixel_counts_the_same() -> None:
    """The gradient is not the mean over pictures where masks differ in area."""
    small, large = make_example("small", (8, 8), weight=0.0), make_example("large", (8, 8), weight=1.0)
    small.weight_1HW[..., :1, :2] = 1
    chosen = picks([small, large], TrainConfig(steps=1, batch_size=2, seed=3), 1)
    each = {e.name: reference_gradient([(index, e)], Normalization.STEP, seed=3) for index, e in chosen}
    got = gradient([small, large], batch_size=2, seed=3)[0]
    assert relative(got, (2 * each["small"] + 64 * each["large"]) / 66) < 1e-6


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_the_same_seed_gives_the_same_bits(micro_batch: int) -> None:
    first, reports = run(MIXED, micro_batch=micro_batch, **SETTINGS)
    torch.manual_seed(99)  # the global numbers have no say
    again, repeated = run(MIXED, micro_batch=micro_batch, **SETTINGS)
    assert torch.equal(first, again)
    assert reports == repeated
    assert not torch.equal(first, run(MIXED, micro_batch=micro_batch, **{**SETTINGS, "seed": 4})[0])


def test_training_leaves_the_global_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    run(EQUAL, **SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("other", [1, 2**20, 2**32, 2**40, 2**53 - 1])
def test_every_seed_that_the_node_offers_is_a_run_of_its_own(other: int) -> None:
    """torch's CPU generator reads the low 32 bits of a seed and drops the rest. One example has no order: this is the noise."""
    assert not torch.equal(run(EQUAL[:1], **{**SETTINGS, "seed": other})[0], run(EQUAL[:1], **{**SETTINGS, "seed": 0})[0])


def test_noise_far_from_the_runs_indices_is_other_noise() -> None:
    """Drift is measured on draws from 2**40 on, which training never reaches."""
    def noise(index: int) -> Tensor:
        return torch.randn(64, generator=noise_generator(5, index))

    assert not torch.equal(noise(0), noise(1))
    assert not torch.equal(noise(0), noise(2**40))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7])
def test_every_example_is_seen_once_before_any_is_seen_twice(batch_size: int) -> None:
    model = ConvDenoiser()
    run(EQUAL, model=model, steps=10, batch_size=batch_size, micro_batch=1, seed=2)
    seen = [name for call in model.calls for name in call]
    assert len(seen) == 10 * batch_size
    rounds = [seen[i:i + 5] for i in range(0, len(seen), 5)]
    assert all(max(Counter(part).values()) == 1 for part in rounds)
    assert len({tuple(part) for part in rounds[:2]}) == 2 or len(rounds) < 2  # and the order is drawn anew


def test_order_depends_on_the_seed() -> None:
    orders = {tuple(next(draw_order(Epoch(tuple(range(6))), TrainConfig(steps=1, batch_size=6, seed=seed)))) for seed in range(8)}
    assert len(orders) > 4


def test_no_examples_are_refused_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    original = torch.randperm

    def counted(count: int, **options: Any) -> Tensor:
        draws.append(count)
        assert len(draws) < 10, "the order of nothing is drawn for ever"
        return original(count, **options)

    monkeypatch.setattr(loop.torch, "randperm", counted)
    with pytest.raises(ValueError, match="example"):
        run([], steps=1)


@pytest.mark.parametrize("normalization", Normalization)
def test_black_cells_change_neither_loss_nor_gradient(normalization: Normalization) -> None:
    masks = [(e.weight_1HW > 0.3) for e in EQUAL]
    results = []
    for garbage in (0.0, 1e6):
        examples = [Example(e.name, e.latent_CHW, m.double(), Cond(e.name, garbage * (~m).double()), e.group)
                    for e, m in zip(EQUAL, masks, strict=True)]
        results.append(run(examples, normalization=normalization, **SETTINGS))
    (clean, clean_reports), (spoilt, spoilt_reports) = results
    assert torch.equal(clean, spoilt)
    assert [(r.loss, r.loss_inside, r.grad_norm) for r in clean_reports] == [(r.loss, r.loss_inside, r.grad_norm) for r in spoilt_reports]
    assert all(b.loss_outside > 1e9 * a.loss_outside for a, b in zip(clean_reports, spoilt_reports, strict=True))


class WatchedAdamW(torch.optim.AdamW):
    """Keeps a way to its last instance, and counts its steps."""

    last: WatchedAdamW
    steps = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        WatchedAdamW.last = self

    def step(self, *args: Any, **options: Any) -> Any:
        self.steps += 1
        return super().step(*args, **options)


def test_an_all_black_step_leaves_parameters_and_optimizer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "AdamW", WatchedAdamW)
    model, trail = ConvDenoiser(), []
    examples = [make_example("white", weight=1.0), make_example("black", weight=0.0)]

    def on_step(report: StepReport) -> None:
        trail.append((report, model.snapshot(), copy.deepcopy(WatchedAdamW.last.state_dict()["state"]), WatchedAdamW.last.steps))

    config = TrainConfig(steps=6, learning_rate=1e-2, optimizer=OptimizerSpec(weight_decay=0.5), seed=1)
    train(model, model.parameters, examples, config, on_step=on_step)
    black = [i for i, (report, *_) in enumerate(trail) if report.mean_weight == 0]
    assert len(black) == 3
    assert {name for call in model.calls for name in call} == {"white"}  # nothing is computed for nothing
    for (before, *_, steps), (after, *_, more) in pairwise(trail):
        assert after.step == before.step + 1
        assert more - steps == (after.mean_weight > 0)
    for i in (i for i in black if i > 0):
        assert torch.equal(trail[i][1], trail[i - 1][1])
        assert str(trail[i][2]) == str(trail[i - 1][2])
        assert (trail[i][0].loss, trail[i][0].grad_norm) == (0.0, 0.0)
    white = [make_example("white", weight=1.0)]
    assert not torch.equal(trail[-1][1], run(white, steps=1, learning_rate=1e-2)[0])


def test_one_black_mask_in_a_step_does_not_stop_the_others() -> None:
    after, (report,) = run([make_example("white", weight=1.0), make_example("black", weight=0.0)], steps=1, batch_size=2)
    assert not torch.equal(after, ConvDenoiser().snapshot())
    assert report.mean_weight == pytest.approx(0.5)
    assert report.loss > 0


@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_names_the_example_and_moves_nothing(bad: float, micro_batch: int) -> None:
    model = ConvDenoiser()
    examples = [*EQUAL[:3], make_example("spoilt picture", plus=bad)]
    before = model.snapshot()
    with pytest.raises(FloatingPointError, match=r"step 1: the loss of spoilt picture is not finite") as caught:
        run(examples, model=model, steps=3, batch_size=4, micro_batch=micro_batch)
    assert not any(e.name in str(caught.value) for e in EQUAL)
    assert torch.equal(model.snapshot(), before)


def test_a_failed_run_leaves_no_gradients_behind_for_the_next() -> None:
    model = ConvDenoiser()
    with pytest.raises(FloatingPointError):
        run([*EQUAL[:3], make_example("spoilt picture", plus=math.nan)], model=model, steps=1, batch_size=4, micro_batch=1)
    assert torch.equal(run(EQUAL, model=model, **SETTINGS)[0], run(EQUAL, **SETTINGS)[0])


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    class Kinked(ConvDenoiser):
        def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: Any) -> Tensor:
            return super().__call__(noisy_BCHW, sigma_B, conds) + (0 * self.conv.weight.sum()).sqrt()  # finite, its slope is not

    model = Kinked()
    before = model.snapshot()
    with pytest.raises(FloatingPointError, match="step 1: the gradient of q., q., q., q. is not finite; .*rate 0.01"):
        run(EQUAL, model=model, **SETTINGS)
    assert torch.equal(model.snapshot(), before)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_each_forward_pass_and_its_backward_are_in_around(micro_batch: int) -> None:
    model, told, drawn = ConvDenoiser(), list[str](), list[tuple[int, str]]()
    model.conv.bias.register_hook(lambda grad: told.append("backward"))

    @contextmanager
    def around(batch: Batch) -> Iterator[None]:
        drawn.extend((d.index, d.example.name) for d in batch.draws)
        before = len(model.calls)
        told.append("in")
        yield
        told.append("out")
        assert len(model.calls) == before + 1

    config = TrainConfig(**{**SETTINGS, "steps": 2}, micro_batch=micro_batch)
    train(model, model.parameters, EQUAL, config, around=around)
    assert told == ["in", "backward", "out"] * (8 if micro_batch else 2)
    assert sorted(drawn) == [(index, e.name) for step in (1, 2) for index, e in picks(EQUAL, config, step)]


def test_on_step_stops_at_once() -> None:
    class Stop(Exception):
        pass

    model, reports = ConvDenoiser(), []

    def on_step(report: StepReport) -> None:
        reports.append(report)
        if report.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(model, model.parameters, EQUAL, TrainConfig(**SETTINGS), on_step=on_step)
    assert [r.step for r in reports] == [1, 2, 3]
    assert torch.equal(model.snapshot(), run(EQUAL, **{**SETTINGS, "steps": 3})[0])


def test_clipping_bounds_the_update() -> None:
    free, report = gradient(EQUAL, batch_size=4)
    bound = 0.1 * report.grad_norm
    clipped, clipped_report = gradient(EQUAL, batch_size=4, max_grad_norm=bound)
    assert torch.linalg.norm(clipped).item() == pytest.approx(bound, rel=1e-4)
    assert relative(clipped / torch.linalg.norm(clipped), free / torch.linalg.norm(free)) < 1e-6
    assert clipped_report.grad_norm == pytest.approx(report.grad_norm)  # the report tells the norm before clipping
    loose, _ = gradient(EQUAL, batch_size=4, max_grad_norm=10 * report.grad_norm)
    assert torch.equal(loose, free)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_report_tells_the_errors_inside_and_outside_the_mask(micro_batch: int) -> None:
    settings = {"steps": 1, "batch_size": 6, "seed": 3}
    _, (report,) = run(MIXED, micro_batch=micro_batch, **settings)
    chosen = picks(MIXED, TrainConfig(**settings), 1)
    errors = [error_of(ConvDenoiser(), e, 3, index).detach() for index, e in chosen]
    weights = [e.weight_1HW.expand_as(error) for (_, e), error in zip(chosen, errors, strict=True)]
    error, weight = torch.cat([e.flatten() for e in errors]), torch.cat([w.flatten() for w in weights])
    assert report.loss_inside == pytest.approx(((error * weight).sum() / weight.sum()).item(), rel=1e-6)
    assert report.loss_outside == pytest.approx(((error * (1 - weight)).sum() / (1 - weight).sum()).item(), rel=1e-6)
    assert report.mean_weight == pytest.approx(weight.mean().item(), rel=1e-6)
    assert report.loss == pytest.approx(report.loss_inside, rel=1e-6)  # per step they are one number
    assert (report.step, report.learning_rate) == (1, 1e-4)


def test_report_says_nan_where_a_mask_has_no_outside() -> None:
    _, (report,) = run([make_example("white", weight=1.0)], steps=1)
    assert math.isnan(report.loss_outside)
    assert report.loss_inside == pytest.approx(report.loss)
    assert report.mean_weight == 1


def test_the_masked_part_is_learned_and_the_rest_is_not() -> None:
    """A bias is all there is to learn; the left half wants +2 and the right half -2, and the mask is the left half."""
    left = torch.zeros(CHANNELS, 16, 16)
    left[..., :8] = 1
    example = make_example("left", (16, 16))
    example = Example("left", torch.zeros_like(example.latent_CHW), left[:1].double(), Cond("left", 2 - 4 * left), "")
    model = ConvDenoiser(kernel=1)
    _, reports = run([example], model=model, steps=300, batch_size=4, learning_rate=3e-2, optimizer=OptimizerSpec(weight_decay=0.0))
    first, last = reports[0], reports[-1]
    assert last.loss_inside < 0.5 * first.loss_inside
    assert last.loss_outside > 5 * last.loss_inside
