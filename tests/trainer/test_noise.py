"""Noise levels against formulas of their papers and tools, computed apart in numpy and SciPy."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pack.trainer.noise import NoiseLevels, flux_mu
from scipy import stats

NORMAL = torch.randn(20_000, generator=torch.Generator().manual_seed(4))
UNIFORM = stats.norm.cdf(NORMAL.double().numpy())


def levels(cells: int = 4096, **settings: object) -> np.ndarray:
    drawn = NoiseLevels(**settings).levels(NORMAL, cells)
    assert drawn.dtype == torch.float32
    assert drawn.shape == NORMAL.shape
    return drawn.double().numpy()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_default_is_the_logit_normal_of_sd3() -> None:
    assert np.allclose(levels(), sigmoid(NORMAL.double().numpy()), atol=1e-6)
    assert np.allclose(levels(mean=0.5, std=2.0), sigmoid(0.5 + 2 * NORMAL.double().numpy()), atol=1e-6)


def test_shift_three_of_bigasp() -> None:
    """sigmoid(N(0, 1)) shifted by 3 is sigmoid(N(log 3, 1)): two ways to write the same."""
    assert np.allclose(levels(shift=3.0), sigmoid(NORMAL.double().numpy() + math.log(3)), atol=1e-6)


@pytest.mark.parametrize(("side", "shift"), [(64, math.exp(0.63)), (128, math.exp(1.15))])
def test_flux_shift_follows_the_number_of_image_tokens(side: int, shift: float) -> None:
    """1024 px are 128 x 128 cells and 4096 tokens, mu 1.15; 512 px are 1024 tokens, mu 0.5 + 0.65 * 768 / 3840 = 0.63."""
    u = UNIFORM
    assert np.allclose(levels(cells=side * side, distribution="uniform", flux_shift=True), shift * u / (1 + (shift - 1) * u), atol=1e-6)
    # sd-scripts writes it with mu: e^mu / (e^mu + 1 / sigma - 1)
    mu = flux_mu(side * side / 4)
    assert np.allclose(levels(cells=side * side, flux_shift=True), math.exp(mu) / (math.exp(mu) + 1 / levels() - 1), atol=1e-5)


def test_uniform_mode_and_cosmap() -> None:
    u = UNIFORM
    assert np.allclose(levels(distribution="uniform"), u, atol=1e-6)
    assert np.allclose(levels(distribution="mode", scale=1.29), 1 - u - 1.29 * (np.cos(np.pi / 2 * u)**2 - 1 + u), atol=1e-6)
    assert np.allclose(levels(distribution="cosmap"), 1 - 1 / (np.tan(np.pi / 2 * u) + 1), atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (2.0, 5.0)])
def test_beta(alpha: float, beta: float) -> None:
    drawn = levels(distribution="beta", alpha=alpha, beta=beta)
    assert stats.kstest(drawn, stats.beta(alpha, beta).cdf).pvalue > 0.01
    assert stats.kstest(drawn, stats.beta(beta * 2, alpha).cdf).pvalue < 1e-6  # the test can tell them apart


@pytest.mark.parametrize("curve", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 2.0, 0.0), (1.0, 3.0, 0.5, 0.5)])
def test_a_drawn_curve_is_the_density(curve: tuple[float, ...]) -> None:
    drawn = levels(distribution="curve", curve=curve)
    grid = np.linspace(0, 1, 2001)
    density = np.interp(grid, np.linspace(0, 1, len(curve)), curve)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    assert stats.kstest(drawn, lambda x: np.interp(x, grid, cumulative / cumulative[-1])).pvalue > 0.01


@pytest.mark.parametrize("distribution", ["logit-normal", "uniform", "mode", "cosmap", "beta", "curve"])
def test_a_range_is_kept_and_used(distribution: str) -> None:
    drawn = levels(distribution=distribution, minimum=0.2, maximum=0.7, shift=2.0)
    assert 0.2 <= drawn.min() < 0.3
    assert 0.6 < drawn.max() <= 0.7


def test_extremes_stay_inside() -> None:
    far = torch.tensor([-40.0, 40.0])
    for distribution in ("logit-normal", "uniform", "mode", "cosmap", "beta", "curve"):
        drawn = NoiseLevels(distribution=distribution).levels(far, 64)
        assert torch.isfinite(drawn).all()
        assert ((drawn >= 0) & (drawn <= 1)).all(), distribution


@pytest.mark.parametrize(("settings", "word"), [
    ({"distribution": "sigmoid"}, "sigmoid"), ({"std": 0.0}, "std"), ({"shift": -1.0}, "shift"), ({"minimum": 0.6, "maximum": 0.5}, "0.6"),
    ({"maximum": 1.5}, "1.5"), ({"scale": 3.0}, "mode scale"), ({"curve": (1.0,)}, "curve"), ({"curve": (0.0, 0.0)}, "curve")])
def test_nonsense_is_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NoiseLevels(**settings)


def test_metadata_tells_what_differs() -> None:
    assert NoiseLevels().to_dict() == {"distribution": "logit-normal"}
    assert NoiseLevels(distribution="mode", shift=3.0).to_dict() == {"distribution": "mode", "shift": 3.0}
    assert NoiseLevels(shift=3.0, flux_shift=True).describe() == (
        "logit-normal (mean 0, std 1), shift 3, shifted with the picture's size as Flux")
