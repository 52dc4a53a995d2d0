"""How often each example comes, and how its weight counts."""
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from pack.trainer.config import Normalization, TrainConfig
from pack.trainer.epoch import Epoch, draw_order

from .tiny import ConvDenoiser, error_of, make_example, picks, reference_loss, run

EXAMPLES = [make_example(name) for name in ("a", "b", "c")]


def drawn(epoch: Epoch, steps: int, batch_size: int = 1, seed: int = 3) -> list[int]:
    return list(chain.from_iterable(draw_order(epoch, TrainConfig(steps=steps, batch_size=batch_size, seed=seed))))


def test_repeats_are_how_often_an_example_comes_in_an_epoch() -> None:
    epoch = Epoch.of([3, 1, 0, 2], [False] * 4)
    order = drawn(epoch, steps=4, batch_size=3)
    assert Counter(order[:6]) == Counter(order[6:]) == {0: 3, 1: 1, 3: 2}


@pytest.mark.parametrize("regular", [1, 2, 5, 20])
def test_regularisation_is_drawn_one_for_one_however_many_there_are(regular: int) -> None:
    epoch = Epoch.of([1] * (5 + regular), [False] * 5 + [True] * regular)
    order = drawn(epoch, steps=20, batch_size=4)
    subject, other = [i for i in order if i < 5], [i for i in order if i >= 5]
    assert len(subject) == len(other) == 40
    assert set(Counter(subject).values()) == {8}
    assert max(Counter(other).values()) - min(Counter(other).values()) <= 1  # all of them before any comes again
    assert len(set(other)) == regular
    assert all(sum(i < 5 for i in order[k:k + 4]) == 2 for k in range(0, 80, 4))  # every step has both


def test_the_order_of_the_others_does_not_depend_on_regularisation() -> None:
    """A subject's run stays comparable when regularisation pictures are exchanged."""
    alone = drawn(Epoch.of([1] * 5, [False] * 5), steps=10)
    mixed = [i for i in drawn(Epoch.of([1] * 9, [False] * 5 + [True] * 4), steps=20) if i < 5]
    assert alone == mixed


def test_nothing_but_regularisation_is_refused() -> None:
    with pytest.raises(ValueError, match="add a folder of the subject"):
        Epoch.of([2, 1], [True, True])
    with pytest.raises(ValueError, match="nothing to train on"):
        Epoch.of([0], [False])
    with pytest.raises(ValueError, match="-1 repeats"):
        Epoch.of([-1], [False])


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("micro_batch", [0, 1])
def test_a_loss_weight_is_a_factor_of_the_numerator_alone(normalization: Normalization, micro_batch: int) -> None:
    """sd-scripts and ai-toolkit multiply an image's masked loss by its data set's weight; no denominator knows of it."""
    weights = {"a": 1.0, "b": 0.25, "c": 3.0}
    config = TrainConfig(steps=1, batch_size=3, micro_batch=micro_batch, normalization=normalization, seed=5)
    _, (report,) = run([replace(e, loss_weight=weights[e.name]) for e in EXAMPLES], steps=1, batch_size=3, micro_batch=micro_batch,
                       normalization=normalization, seed=5)
    chosen = picks(EXAMPLES, config, 1)
    masks = [e.weight_1HW.numpy() for _, e in chosen]
    errors = [error_of(ConvDenoiser(), e, 5, i).detach().numpy() * weights[e.name] for i, e in chosen]
    assert report.loss == pytest.approx(reference_loss(errors, masks, normalization), rel=1e-6)
    assert report.loss_inside == pytest.approx(  # what a person reads is the error, whatever it counts
        sum((error_of(ConvDenoiser(), e, 5, i).detach().numpy() * m).sum() for (i, e), m in zip(chosen, masks, strict=True))
        / np.sum([m.sum() * 2 for m in masks]), rel=1e-6)


def test_a_weight_of_zero_teaches_nothing() -> None:
    model = ConvDenoiser()
    before = model.snapshot()
    after, (report,) = run([replace(e, loss_weight=0.0) for e in EXAMPLES], model=model, steps=1, batch_size=3)
    assert report.loss == 0
    assert torch.equal(before, after)
