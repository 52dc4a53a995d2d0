"""Training targets against the formulas of their papers, whatever object samples the model."""
from __future__ import annotations

import comfy.model_sampling as sampling
import pytest
import torch
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled
from pack.host.denoiser import ComfyDenoiser, prediction_name, raw_denoiser, require_affine
from torch import Tensor, nn

from .tiny import tiny_patcher

LEVELS = torch.linspace(0.001, 0.999, 23)


def made(prediction: type, schedule: type) -> nn.Module:
    return type("Sampling", (schedule, prediction), {})()


def denoiser(sampler: nn.Module) -> ComfyDenoiser:
    patcher, _ = tiny_patcher("sdxl")
    patcher.add_object_patch("model_sampling", sampler)
    return raw_denoiser(patcher)[1]


def draws() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(len(LEVELS), 4, 8, 8, generator=generator) for _ in range(2))


def v_target(latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Progressive distillation, arXiv 2202.00512: v = alpha noise - sigma' x with alpha^2 + sigma'^2 = 1."""
    alpha = 1 / (1 + sigma**2).sqrt()
    return alpha * noise - sigma * alpha * latent


@pytest.mark.parametrize(("name", "sampler", "expected"), [
    ("eps", made(sampling.EPS, sampling.ModelSamplingDiscrete), lambda x, n, s: n),
    ("v", made(sampling.V_PREDICTION, sampling.ModelSamplingDiscrete), v_target),
    ("v_ddpm", made(sampling.V_PREDICTION_DDPM, sampling.ModelSamplingDiscrete), v_target),
    ("flow", made(sampling.CONST, sampling.ModelSamplingDiscreteFlow), lambda x, n, s: n - x),
    ("x0", made(sampling.X0, sampling.ModelSamplingDiscrete), lambda x, n, s: x)])
def test_targets_follow_the_papers(name: str, sampler: nn.Module, expected: object) -> None:
    model, (latent, noise) = denoiser(sampler), draws()
    sigma = model.sigma(LEVELS)
    assert prediction_name(sampler) == name
    assert torch.allclose(model.target(latent, noise, sigma), expected(latent, noise, sigma.view(-1, 1, 1, 1)), atol=2e-6)


@pytest.mark.parametrize("sampler", [
    made(sampling.EDM, sampling.ModelSamplingContinuousEDM), made(LCM, ModelSamplingDiscreteDistilled),
    made(sampling.COSMOS_RFLOW, sampling.ModelSamplingCosmosRFlow)])
def test_the_host_finds_the_clean_latent_in_the_target(sampler: nn.Module) -> None:
    """For schedules without a formula of their own here: what the sampler would make of a perfect prediction."""
    if isinstance(sampler, sampling.ModelSamplingContinuousEDM):
        sampler.set_parameters(0.01, 80.0, 0.5)
    model, (latent, noise) = denoiser(sampler), draws()
    sigma = model.sigma(LEVELS).double()
    noisy = model.add_noise(latent.double(), noise.double(), sigma)
    found = sampler.calculate_denoised(sigma, model.target(latent.double(), noise.double(), sigma), noisy)
    assert torch.allclose(found, latent.double(), atol=1e-6)


def test_the_models_see_the_timesteps_that_they_were_trained_with() -> None:
    """An eps model knows whole timesteps 0..999 only; the table's ends are reached."""
    model = denoiser(made(sampling.EPS, sampling.ModelSamplingDiscrete))
    sigma = model.sigma(torch.tensor([0.0, 0.0005, 0.5, 0.9999, 1.0]))
    assert model.sampling.timestep(sigma).tolist() == [0, 0, 500, 999, 999]
    assert torch.equal(sigma, model.sampling.sigmas[[0, 0, 500, 999, 999]])
    assert sigma[-1].item() == pytest.approx(14.6146, abs=1e-3)  # Stable Diffusion's largest sigma


def test_a_wrong_target_is_found() -> None:
    """An SDXL that a node turned into flow matching must not be trained on its noise."""
    model, (latent, noise) = denoiser(made(sampling.CONST, sampling.ModelSamplingDiscreteFlow)), draws()
    assert not torch.allclose(model.target(latent, noise, LEVELS), noise, atol=0.1)


def test_outputs_that_are_no_straight_line_are_refused() -> None:
    sampler = made(sampling.EPS, sampling.ModelSamplingDiscrete)
    require_affine(sampler, "SDXL")
    for bent in (lambda sigma, output, noisy: output.square(), lambda sigma, output, noisy: noisy):
        sampler.calculate_denoised = bent
        with pytest.raises(ValueError, match="no training target"):
            require_affine(sampler, "SDXL")
