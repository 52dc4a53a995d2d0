"""Validation: errors on a fixed grid of noise levels, against plain numpy, and what must not change them."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pack.trainer.seeds import generator
from pack.trainer.validation import ErrorMeans, ValidationSpec, validate

from .tiny import ConvDenoiser, make_example

CPU = torch.device("cpu")
SPEC = ValidationSpec(levels=(0.2, 0.7), draws=2, seed=4)
EXAMPLES = [make_example("a"), make_example("b", size=(3, 6))]


def test_the_means_are_those_of_plain_numpy() -> None:
    model = ConvDenoiser()
    result = validate(model, EXAMPLES, SPEC, CPU)
    rows = []
    for level in SPEC.levels:
        errors, weights = [], []
        for example in EXAMPLES:
            for draw in range(2):
                noise = torch.randn(example.latent_CHW.shape, generator=generator(4, f"validation {example.name}", draw)).double()
                noisy = (1 - level) * example.latent_CHW + level * noise
                out = torch.nn.functional.conv2d(noisy[None], model.conv.weight, model.conv.bias, padding=1)[0] * (1 + level)
                errors.append((out - noise + example.latent_CHW).square().mean(0).detach().numpy().ravel())
                weights.append(example.weight_1HW[0].numpy().ravel())
        error, weight = np.concatenate(errors), np.concatenate(weights)
        rows.append((error.mean(), (error * weight).sum() / weight.sum(), (error * (1 - weight)).sum() / (1 - weight).sum()))
    for (level, means), row, expected in zip(result.levels, rows, SPEC.levels, strict=True):
        assert level == expected
        assert (means.everywhere, means.inside, means.outside) == pytest.approx(row, rel=1e-6)
    total = result.total
    assert (total.everywhere, total.inside, total.outside) == pytest.approx(np.mean(rows, axis=0), rel=1e-6)


def test_numbers_depend_on_nothing_but_pictures_model_and_seed() -> None:
    model = ConvDenoiser()
    torch.manual_seed(0)
    first = validate(model, EXAMPLES, SPEC, CPU)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert validate(model, EXAMPLES, SPEC, CPU) == first
    assert torch.equal(torch.get_rng_state(), before)
    turned = validate(model, EXAMPLES[::-1], SPEC, CPU)
    assert turned.total.inside == pytest.approx(first.total.inside, rel=1e-12), "the order of the pictures does not matter"
    fewer = validate(model, EXAMPLES[:1], SPEC, CPU), validate(model, EXAMPLES[1:], SPEC, CPU)
    cells = [e.weight_1HW.numel() for e in EXAMPLES]
    together = sum(r.total.everywhere * n for r, n in zip(fewer, cells, strict=True)) / sum(cells)
    assert together == pytest.approx(first.total.everywhere, rel=1e-12), "nor do other pictures in the set"
    assert validate(model, EXAMPLES, replace(SPEC, seed=5), CPU) != first
    assert all(p.grad is None for p in model.parameters)


def test_masks_without_a_learned_or_an_ignored_cell() -> None:
    white, black = (validate(ConvDenoiser(), [make_example("a", weight=weight)], SPEC, CPU).total for weight in (1.0, 0.0))
    assert white.inside == white.everywhere == black.outside == black.everywhere
    assert math.isnan(white.outside)
    assert math.isnan(black.inside)


def test_a_weight_of_one_frame_counts_for_a_whole_clip() -> None:
    class Copy(ConvDenoiser):
        def __call__(self, noisy_BCHW, sigma_B, conds):
            return noisy_BCHW

    clip = make_example("clip")
    clip = replace(clip, latent_CHW=clip.latent_CHW[:, None].repeat(1, 3, 1, 1), weight_1HW=clip.weight_1HW[:, None])
    full = replace(clip, weight_1HW=clip.weight_1HW.expand(1, 3, 5, 4))
    assert validate(Copy(), [clip], SPEC, CPU) == validate(Copy(), [full], SPEC, CPU)
    assert isinstance(validate(Copy(), [clip], SPEC, CPU).total, ErrorMeans)


@pytest.mark.parametrize("settings", [{"levels": ()}, {"levels": (0.0, 0.5)}, {"levels": (0.5, 0.2)}, {"levels": (0.2, 0.2)}, {"draws": 0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation (levels|draws)"):
        ValidationSpec(**settings)
