"""Which text a draw shows: how often a dropped one, each alternative alike, and always the same for one seed and draw."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pack.trainer.config import TrainConfig
from pack.trainer.draws import draw
from pack.trainer.epoch import Epoch
from pack.trainer.example import Example, StepReport, Text
from pack.trainer.loop import train
from pack.trainer.state import TrainingState

from .tiny import Cond, ConvDenoiser, make_example


def with_texts(name: str, alternatives: int = 3, dropped: int = 2, group: str = "") -> Example:
    """Each text adds another number to the model's output; texts of odd number have a group of their own."""
    def text(kind: str, number: int) -> Callable[[], Text]:
        return lambda: Text(Cond(f"{name} {kind} {number}", 0.1 * number), group + "odd" * (number % 2))

    own = make_example(name, group=group)
    return replace(own, cond=Cond(f"{name} own", 0.0), alternatives=tuple(text("other", i) for i in range(1, 1 + alternatives)),
                   dropped=tuple(text("dropped", i) for i in range(dropped)))


EXAMPLES = [with_texts(name) for name in "abc"]


def shown(example: Example, count: int, **settings: Any) -> list[str]:
    config = TrainConfig(steps=1, **settings)
    return [draw(example, config, step, 0).example.cond.name.partition(" ")[2] for step in range(1, count + 1)]


def within(successes: int, draws: int, probability: float) -> bool:
    """Whether a binomial count lies within 4 standard deviations of its mean."""
    return abs(successes - draws * probability) <= 4 * math.sqrt(draws * probability * (1 - probability))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 7])
def test_dropout_comes_as_often_as_it_is_asked_for(rate: float, seed: int) -> None:
    draws = 4000
    counts = Counter(shown(EXAMPLES[0], draws, caption_dropout=rate, seed=seed))
    dropped = {name: count for name, count in counts.items() if name.startswith("dropped")}
    assert within(sum(dropped.values()), draws, rate)
    assert set(dropped) == {"dropped 0", "dropped 1"}
    assert all(within(count, draws, rate / 2) for count in dropped.values())
    others = {name: count for name, count in counts.items() if name not in dropped}
    assert set(others) == {"own", "other 1", "other 2", "other 3"}
    assert all(within(count, draws, (1 - rate) / 4) for count in others.values())


def test_runs_of_drops_come_as_of_independent_draws() -> None:
    names = shown(EXAMPLES[0], 4000, caption_dropout=0.5)
    both = sum(a.startswith("dropped") and b.startswith("dropped") for a, b in zip(names, names[1:], strict=False))
    assert within(both, 3999, 0.25)


def test_never_and_always() -> None:
    assert not any(name.startswith("dropped") for name in shown(EXAMPLES[0], 500))
    assert all(name.startswith("dropped") for name in shown(EXAMPLES[0], 500, caption_dropout=1.0))


def test_a_rate_changes_no_other_draw() -> None:
    """What is not dropped shows what it showed, and what a lower rate drops a higher one drops too."""
    never, some, more = (shown(EXAMPLES[0], 400, caption_dropout=rate) for rate in (0.0, 0.2, 0.4))
    for plain, few, many in zip(never, some, more, strict=True):
        assert few == plain or few.startswith("dropped")
        assert many == few or (few == plain and many.startswith("dropped"))


def test_other_choices_are_those_of_a_set_without_texts() -> None:
    plain, config = make_example("a"), TrainConfig(steps=1, caption_dropout=0.5)
    for step in range(1, 50):
        with_text, without = draw(EXAMPLES[0], config, step, 0), draw(plain, TrainConfig(steps=1), step, 0)
        assert with_text.level == without.level
        assert torch.equal(torch.randn(3, generator=with_text.generator), torch.randn(3, generator=without.generator))


def test_without_other_texts_the_example_is_itself() -> None:
    plain = make_example("a")
    assert all(draw(plain, TrainConfig(steps=1), step, 0).example is plain for step in range(1, 20))


def test_dropout_without_a_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="caption dropout is 1 and a has no text for a dropped caption"):
        draw(make_example("a"), TrainConfig(steps=1, caption_dropout=1.0), 1, 0)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_out_of_range_is_told(rate: float) -> None:
    with pytest.raises(ValueError, match=f"caption_dropout is {rate}"):
        TrainConfig(steps=1, caption_dropout=rate)


def trained(state: TrainingState | None = None, model: ConvDenoiser | None = None, stop: int = 0, **changes: Any) -> tuple[
        ConvDenoiser, TrainingState, list[float], list[str]]:
    """The model, its state, the losses, and the names of all texts that were shown, in the order of passes."""
    model, losses = model or ConvDenoiser(), list[float]()
    config = TrainConfig(**{"steps": 12, "batch_size": 4, "learning_rate": 1e-2, "seed": 3, "caption_dropout": 0.3} | changes)
    state = state or TrainingState(model.parameters, config)

    def on_step(report: StepReport) -> None:
        losses.append(report.loss)
        if report.step == stop:
            raise InterruptedError

    try:
        train(model, model.parameters, EXAMPLES, config, state=state, on_step=on_step)
    except InterruptedError:
        assert stop
    return model, state, losses, [name for names in model.calls for name in names]


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_any_split_into_forward_passes_shows_the_same_texts(micro_batch: int) -> None:
    whole, _, losses, names = trained()
    split, _, split_losses, split_names = trained(micro_batch=micro_batch)
    assert len(split.calls) > len(whole.calls)
    assert Counter(split_names) == Counter(names)
    assert split_losses == pytest.approx(losses, rel=1e-9)
    assert torch.allclose(whole.snapshot(), split.snapshot(), rtol=1e-9, atol=0)
    assert {kind for name in names if (kind := name.split()[1])} == {"own", "other", "dropped"}


def test_passes_hold_texts_of_one_group() -> None:
    model, _, _, _ = trained()
    for names in model.calls:
        assert len({name[-1] in "13" for name in names}) == 1, f"{names} cannot be stacked"
    assert any(len(names) > 1 for names in model.calls)


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_run_that_goes_on_shows_what_it_would_have_shown(stop: int) -> None:
    whole, _, losses, names = trained()
    model, state, first, _ = trained(stop=stop)
    resumed, _, rest, all_names = trained(state=state, model=model)
    assert first + rest == losses
    assert all_names == names
    assert torch.equal(resumed.snapshot(), whole.snapshot())


def test_regularisation_is_dropped_alike() -> None:
    model = ConvDenoiser()
    epoch = Epoch.of([1] * 3, [False, True, True])
    config = TrainConfig(steps=600, batch_size=2, learning_rate=1e-6, caption_dropout=0.4)
    train(model, model.parameters, EXAMPLES, config, epoch=epoch)
    names = [name for call in model.calls for name in call]
    regular = [name for name in names if name[0] != "a"]
    assert len(regular) == 600
    assert within(sum("dropped" in name for name in regular), 600, 0.4)
    assert within(sum("dropped" in name for name in names if name[0] == "a"), 600, 0.4)
