"""What is kept outside the mask, against the peers' published numbers and an independent computation."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pack.trainer.config import ErrorKind, LossSpec, MaskUse, Normalization, PriorSpec, TrainConfig, Weighting
from pack.trainer.draws import Batch, Draw, draw
from pack.trainer.example import Example
from pack.trainer.loop import scales
from pack.trainer.loss import masked_mean
from pack.trainer.noise import NoiseLevels
from pack.trainer.objective import elementwise, level_weight, noise_generator, prediction_errors
from torch import Tensor, nn

from .tiny import ConvDenoiser, error_of, make_example, picks, run

# Two pictures of 2 x 2 in one channel: prediction, base prediction, mask. Target 0.
PREDICTION = torch.tensor([[[1.0, 2], [3, 4]], [[2, 0], [1, 1]]])
BASE = torch.tensor([[[1.0, 1], [1, 1]], [[0, 0], [0, 1]]])
MASK = torch.tensor([[[1, 0.5], [0, 0]], [[1, 1], [1, 0]]])


def total(mask: Tensor, normalization: Normalization, prior: PriorSpec, damping: float = 0.0) -> float:
    config = TrainConfig(steps=1, batch_size=2, normalization=normalization, prior=prior, loss=LossSpec(damping=damping))
    draws = [draw(Example(str(i), torch.zeros(1, 2, 2), m[None], None), config, 1, i) for i, m in enumerate(mask)]
    learn, keep = scales(draws, config)
    batch = Batch.stack(draws, torch.device("cpu"))
    error, base_error = PREDICTION.square()[:, None], (PREDICTION - BASE).square()[:, None]
    return float((masked_mean(error, batch.weight_B1HW) * learn + masked_mean(base_error, batch.prior_B1HW) * keep).sum())


CLAMPED = MASK.clamp(min=0.1)  # OneTrainer's unmasked weight


@pytest.mark.parametrize(("mask", "normalization", "prior", "expected"), [
    (MASK, "none", PriorSpec(), 1.0),  # sd-scripts, diffusion-pipe, SimpleTuner
    (MASK, "step", PriorSpec(), 1.7777779),  # ai-toolkit, blissful-tuner fork
    (MASK * 0.9 + 0.1, "step", PriorSpec(), 2.2268043),  # ai-toolkit with a floor of 0.1
    (MASK**2 * 0.9 + 0.1, "step", PriorSpec(), 2.1405407),  # the fork with gamma 2 and floor 0.1
    (CLAMPED, "none", PriorSpec(), (1.375 + 1.275) / 2),  # OneTrainer
    (CLAMPED, "image", PriorSpec(), (3.2352939 + 1.6451614) / 2),
    (CLAMPED, "none", PriorSpec(weight=0.5), (2.90 + 1.275) / 2),
    (CLAMPED, "image", PriorSpec(weight=0.5), (5.8874679 + 1.6451614) / 2),
    (MASK, "step", PriorSpec(weight=0.5), 3.7063492),  # blissful-tuner fork, batch-global and per sample
    (MASK, "image", PriorSpec(weight=0.5), 3.1833332),
    (MASK, "step", PriorSpec(weight=0.5, threshold=0.25), 3.9444444),
    (MASK, "step", PriorSpec(weight=0.5, every=2), 1.7777779),  # the first step is not one of every second
    (torch.ones_like(MASK), "image", PriorSpec(weight=0.5), 4.5),  # OneTrainer gives NaN here
    (torch.zeros_like(MASK), "image", PriorSpec(), 0.0),
    (torch.zeros_like(MASK), "step", PriorSpec(weight=1.0), 19 / 8),  # nothing to learn, everything to keep
])
def test_golden_numbers_of_the_peers(mask: Tensor, normalization: str, prior: PriorSpec, expected: float) -> None:
    assert total(mask, Normalization(normalization), prior) == pytest.approx(expected, rel=1e-6)


def test_binary_segmentation_of_simpletuner() -> None:
    """1.25 with any weight above 0; a threshold in the middle drops the half cell."""
    for threshold, expected in ((1e-6, 1.25), (0.5, 1.25), (0.6, 0.75)):
        config = TrainConfig(steps=1, batch_size=2, normalization="none", mask=MaskUse(threshold=threshold))
        draws = [draw(Example("", torch.zeros(1, 2, 2), m[None], None), config, 1, i) for i, m in enumerate(MASK)]
        learn, _ = scales(draws, config)
        got = (masked_mean(PREDICTION.square()[:, None], Batch.stack(draws, torch.device("cpu")).weight_B1HW) * learn).sum()
        assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [0.25, 0.5, 1.0])
def test_damping_multiplies_by_a_power_of_the_mean(beta: float) -> None:
    step = total(MASK, Normalization.STEP, PriorSpec())
    assert total(MASK, Normalization.STEP, PriorSpec(), beta) == pytest.approx(step * 0.5625**beta, rel=1e-6)
    e = [float((PREDICTION[i].square() * MASK[i]).sum() / MASK[i].sum() * MASK[i].mean() ** beta) for i in range(2)]
    assert total(MASK, Normalization.IMAGE, PriorSpec(), beta) == pytest.approx(np.mean(e), rel=1e-6)
    assert total(MASK, Normalization.IMAGE, PriorSpec(), 1.0) == pytest.approx(total(MASK, Normalization.NONE, PriorSpec()), rel=1e-6)


EXAMPLES = [make_example(name, (5, 4)) for name in "abcd"]


def moved() -> ConvDenoiser:
    """A denoiser whose parameters have left the base, as in the middle of a run."""
    model = ConvDenoiser()
    for i, parameter in enumerate(model.parameters):
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)).double()
    return model


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
@pytest.mark.parametrize("normalization", [Normalization.STEP, Normalization.IMAGE])
def test_a_step_with_a_prior_equals_a_computation_apart(normalization: Normalization, micro_batch: int) -> None:
    settings = {"steps": 1, "batch_size": 4, "micro_batch": micro_batch, "normalization": normalization, "seed": 6}
    prior = PriorSpec(weight=0.7, minimum=0.3, maximum=0.8)
    model = moved()
    start = [p.data.clone().requires_grad_() for p in model.parameters]
    expected = torch.zeros((), dtype=torch.float64)
    learned, kept = [], []
    for index, e in picks(EXAMPLES, TrainConfig(**settings), 1):
        g = noise_generator(6, index)
        level = torch.randn((), generator=g).sigmoid().double()
        noise = torch.randn(e.latent_CHW.shape, generator=g).double()
        noisy = (1 - level) * e.latent_CHW + level * noise
        now = nn.functional.conv2d(noisy[None], start[0], start[1], padding=1)[0] * (1 + level)
        base = nn.functional.conv2d(noisy[None], *ConvDenoiser().first, padding=1)[0] * (1 + level)
        w = e.weight_1HW.expand_as(now)
        learned.append((((now - noise + e.latent_CHW).square() * w).sum(), w.sum()))
        p = (1 - w) * float(0.3 <= level <= 0.8)
        kept.append((((now - base).square() * p).sum(), p.sum()))
    assert 0 < sum(bool(p) for _, p in kept) < 4, "the seed must draw levels inside and outside the range"
    for factor, parts in ((1.0, learned), (0.7, kept)):
        if normalization is Normalization.STEP:
            expected = expected + factor * sum(a for a, _ in parts) / sum(b for _, b in parts)
        else:
            expected = expected + factor * sum(a / b for a, b in parts if b > 0) / 4
    expected.backward()
    _, (report,) = run(EXAMPLES, model=model, prior=prior, learning_rate=1e-30, **settings)
    assert report.loss == pytest.approx(expected.item(), rel=1e-5)
    assert report.grad_norm == pytest.approx(torch.cat([p.grad.flatten() for p in start]).norm().item(), rel=1e-5)


def test_the_base_is_asked_only_for_pictures_with_something_to_keep() -> None:
    model = moved()
    examples = [make_example("white", weight=1.0), make_example("grey", weight=0.5)]
    run(examples, model=model, steps=4, batch_size=2, prior=PriorSpec(weight=1.0, every=2))
    assert sorted(map(sorted, model.calls)) == sorted([["grey", "white"]] * 4 + [["grey"]] * 2)


def test_a_strong_prior_keeps_the_outside_and_lets_the_inside_learn() -> None:
    left = torch.zeros(2, 16, 16)
    left[..., :8] = 1
    base = make_example("left", (16, 16))
    example = replace(base, latent_CHW=torch.zeros_like(base.latent_CHW), weight_1HW=left[:1].double())

    def outside_change(weight: float) -> tuple[float, float]:
        model = ConvDenoiser()
        _, reports = run([example], model=model, steps=200, batch_size=2, learning_rate=3e-2, prior=PriorSpec(weight=weight))
        x = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(9)).double()
        with torch.no_grad():
            now = model(x, torch.tensor([0.5]).double(), [example.cond])
            with model.base():
                was = model(x, torch.tensor([0.5]).double(), [example.cond])
        return (now - was).square().mean().item(), reports[-1].loss_inside

    free, kept = outside_change(0.0), outside_change(20.0)
    assert kept[0] < 0.05 * free[0]


def test_mask_probability_has_draws_of_its_own() -> None:
    """A quarter of the draws learn every pixel; noise and order stay what they are without."""
    config = TrainConfig(steps=300, batch_size=4, mask=MaskUse(probability=0.75), seed=2)
    plain = replace(config, mask=MaskUse())
    drawn = [draw(EXAMPLES[i], config, step, i) for step in range(1, 301) for i in range(4)]
    usual = [draw(EXAMPLES[i], plain, step, i) for step in range(1, 301) for i in range(4)]
    assert np.mean([d.masked for d in drawn]) == pytest.approx(0.75, abs=0.04)
    assert all((d.weight_1HW == 1).all() or torch.equal(d.weight_1HW, u.weight_1HW) for d, u in zip(drawn, usual, strict=True))
    assert all(d.level == u.level for d, u in zip(drawn, usual, strict=True))
    assert not any(d.masked for d in (draw(EXAMPLES[0], replace(config, mask=MaskUse(probability=0.0)), s, 0) for s in range(1, 50)))


def test_masked_pictures_see_less_noise_under_a_cap() -> None:
    config = TrainConfig(steps=100, noise=NoiseLevels(distribution="uniform"), mask=MaskUse(level_cap=0.75), seed=2)
    white = make_example("white", weight=1.0)
    masked = [draw(EXAMPLES[0], config, step, 0).level.item() for step in range(1, 400)]
    unmasked = [draw(white, config, step, 0).level.item() for step in range(1, 400)]
    assert 0.7 < max(masked) <= 0.75
    assert max(unmasked) > 0.95


def test_error_kinds() -> None:
    d = torch.linspace(-3, 3, 61, dtype=torch.float64)
    x = d.numpy()
    for kind, expected in (
            (ErrorKind.MSE, x**2), (ErrorKind.L1, np.abs(x)), (ErrorKind.HUBER, 0.5 * (np.sqrt(x**2 + 0.25) - 0.5)),
            (ErrorKind.SMOOTH_L1, np.where(np.abs(x) < 0.5, x**2 / (2 * 0.5), np.abs(x) - 0.25))):
        assert np.allclose(elementwise(d, LossSpec(error=kind, delta=0.5)).numpy(), expected), kind


class Kind(ConvDenoiser):
    """A denoiser that says it predicts `prediction` at sigmas of a variance-exploding schedule."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def snr(self, sigma_B: Tensor) -> Tensor:
        return sigma_B**-2

    def gain(self, sigma_B: Tensor) -> Tensor:
        return sigma_B if self.prediction == "eps" else sigma_B / (1 + sigma_B**2).sqrt()


def test_level_weights_are_those_of_sd_scripts_and_sd3() -> None:
    sigma = torch.tensor([0.03, 0.3, 1.0, 4.0, 14.0])
    snr = sigma.double().numpy() ** -2
    for kind, weighting, expected in (
            ("eps", Weighting.MIN_SNR, np.minimum(snr, 5) / snr), ("v", Weighting.MIN_SNR, np.minimum(snr, 5) / (snr + 1)),
            ("eps", Weighting.DEBIASED, 1 / np.sqrt(np.minimum(snr, 1000))), ("v", Weighting.DEBIASED, 1 / (snr + 1))):
        assert np.allclose(level_weight(Kind(kind), sigma, LossSpec(weighting=weighting)).numpy(), expected, rtol=1e-6), (kind, weighting)
    flow = torch.tensor([0.1, 0.5, 0.9])
    s = flow.double().numpy()
    assert np.allclose(level_weight(ConvDenoiser(), flow, LossSpec(weighting="sigma sqrt")).numpy(), s**-2.0)
    assert np.allclose(level_weight(ConvDenoiser(), flow, LossSpec(weighting="cosmap")).numpy(), 2 / (np.pi * (1 - 2 * s + 2 * s**2)))
    assert np.allclose(level_weight(ConvDenoiser(), flow, LossSpec(weighting="min-snr")).numpy(),
                       np.minimum(((1 - s) / s) ** 2, 5) * s**2)  # the same weight in x0, whose error is sigma times the flow's
    for kind, weighting in (("eps", "cosmap"), ("flow", "debiased"), ("x0", "sigma sqrt")):
        with pytest.raises(ValueError, match=f"predicts {kind}"):
            level_weight(Kind(kind), sigma, LossSpec(weighting=weighting))


def test_a_level_weight_counts_for_both_terms_and_no_denominator() -> None:
    model = moved()
    config = TrainConfig(steps=1, batch_size=1, prior=PriorSpec(weight=0.5), loss=LossSpec(weighting="sigma sqrt"), seed=4)
    (index, example), = picks(EXAMPLES, config, 1)
    d: Draw = draw(example, config, 1, 0)
    _, (weighted,) = run(EXAMPLES, model=moved(), steps=1, prior=config.prior, loss=config.loss, seed=4)
    _, (plain,) = run(EXAMPLES, model=moved(), steps=1, prior=config.prior, seed=4)
    assert weighted.loss == pytest.approx(plain.loss * d.level.item() ** -2, rel=1e-5)
    assert weighted.loss_inside == pytest.approx(plain.loss_inside)  # what a person reads is the error itself
    assert error_of(model, example, 4, index).isfinite().all()


def test_the_adapter_is_back_when_the_base_fails() -> None:
    class Broken(ConvDenoiser):
        def __call__(self, noisy_BCHW: Tensor, sigma_B: Tensor, conds: object) -> Tensor:
            if not torch.is_grad_enabled():
                raise RuntimeError("no memory")
            return super().__call__(noisy_BCHW, sigma_B, conds)

    model = Broken()
    for p in model.parameters:
        p.data = p.data + 1
    before = model.snapshot()
    config = TrainConfig(steps=1, prior=PriorSpec(weight=1.0))
    with pytest.raises(RuntimeError, match="no memory"):
        prediction_errors(model, Batch.stack([draw(EXAMPLES[0], config, 1, 0)], torch.device("cpu")), config.loss, model.base)
    assert torch.equal(model.snapshot(), before)


@pytest.mark.parametrize(("made", "word"), [
    (lambda: PriorSpec(weight=-1), "prior weight"), (lambda: PriorSpec(minimum=0.9, maximum=0.1), "0.9"),
    (lambda: PriorSpec(every=0), "every 0"),
    (lambda: PriorSpec(threshold=0.0), "threshold"), (lambda: MaskUse(probability=1.5), "1.5"), (lambda: MaskUse(threshold=2.0), "2.0"),
    (lambda: MaskUse(level_cap=0.0), "cap"), (lambda: LossSpec(error="l3"), "mse, l1, huber, smooth l1"),
    (lambda: LossSpec(damping=2), "damping"),
    (lambda: LossSpec(weighting="p2"), "min-snr"), (lambda: LossSpec(delta=0), "delta")])
def test_nonsense_is_refused(made: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        made()
