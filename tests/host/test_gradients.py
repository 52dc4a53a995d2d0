"""Autograd through ComfyUI's own model code against central finite differences in float64.

RoPE tables and Krea2's norms are float32 in ComfyUI; they are rebuilt in float64 here, or rounding would drown the differences.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.krea2.model
import comfy.model_management
import pytest
import torch
from comfy.samplers import cond_cat
from pack.host.architectures import reference_method
from pack.host.denoiser import differentiable_attention
from pack.host.training import checkpoint_blocks, differentiable_kernels, gradient_safe
from pack.trainer.adapter import LoraAdapter
from pack.trainer.config import LoraSpec
from pack.trainer.linear import is_linear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .test_architectures import TAKES_THEM
from .tiny import ARCHITECTURES, tiny_patcher

IN_PLACE = ("flux", "chroma", "hunyuan_video")
EPSILON = 2e-4


def rope_float64(pos: Tensor, dim: int, theta: float) -> Tensor:
    omega = 1.0 / theta ** torch.linspace(0, (dim - 2) / dim, steps=dim // 2, dtype=torch.float64)
    angle = torch.einsum("...n,d->...nd", pos.double(), omega)
    return torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))


def krea2_norm_float64(self: Any, x: Tensor) -> Tensor:
    """Krea2 computes it in float32 whatever the dtype."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight=self.scale + 1, eps=self.eps)


@pytest.fixture(autouse=True)
def float64_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.ldm.flux.layers, "rope", rope_float64)
    monkeypatch.setattr(comfy.ldm.flux.math, "rope", rope_float64)
    monkeypatch.setattr(comfy.ldm.krea2.model.RMSNorm, "forward", krea2_norm_float64)


def loss_and_adapter(name: str, targets: str = ".*", references: tuple[tuple[int, int], ...] = ()) -> tuple[
        nn.Module, Callable[[], Tensor], LoraAdapter]:
    """The network in float64 with a LoRA on it whose halves are both random, and its mean squared output.

    references: rows and columns of reference latents that it is shown.
    """
    torch.manual_seed(1)
    patcher, arch = tiny_patcher(name)
    model = patcher.model
    comfy.model_management.load_models_gpu([patcher])
    network = model.diffusion_model
    latent = torch.randn(1, *arch.latent, dtype=torch.float64)
    shown: dict[str, Any] = {} if not references else {
        "reference_latents": [torch.randn(1, *arch.latent[:-2], *cells) for cells in references], **reference_method(patcher)}
    given = {"pooled_output": None} | arch.cond(7) | shown
    conds = model.extra_conds(**given, noise=latent, device=torch.device("cpu"), width=64, height=64,
                              prompt_type="positive", latent_image=None, denoise_mask=None, seed=0, latent_shapes=[latent.shape])
    cond = cond_cat([{k: v.process_cond(batch_size=1, area=None) for k, v in conds.items()}])
    cond = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in cond.items()}
    cond = {k: [part.double() for part in v] if isinstance(v, list) else v for k, v in cond.items()}
    context, concat = cond.pop("c_crossattn"), cond.pop("c_concat", latent[:, :0])
    seen = torch.cat([latent, concat], 1)  # as apply_model does
    model.double()
    for module in network.modules():
        if isinstance(getattr(module, "dtype", None), torch.dtype):
            module.dtype = torch.float64
    if name.startswith("wan"):
        network.patch_embedding.float()  # Wan casts its input to float32 there whatever the dtype
    timestep = torch.tensor([500.0 if name.startswith("sd") and name != "sd3" else 0.5], dtype=torch.float64)
    adapter = LoraAdapter(network, LoraSpec(rank=2, alpha=2.0, targets=targets), seed=0)
    for p in adapter.parameters:
        p.data = 0.1 * torch.randn(p.shape, dtype=torch.float64)
    options = {"optimized_attention_override": differentiable_attention, "sample_sigmas": torch.tensor([1.0, 0.0]),
               "sigmas": torch.tensor([0.5])}

    def loss() -> Tensor:
        out = network(seen.clone(), timestep, context=context, transformer_options=dict(options), **cond)
        return out.double().square().mean()

    return network, loss, adapter


def worst_relative_error(loss: Callable[[], Tensor], adapter: LoraAdapter, around: Callable[[], object]) -> float:
    """Over single parameters and one direction through all of them at once."""
    with differentiable_kernels():
        with around():
            loss().backward()
        torch.manual_seed(2)
        direction = {p: torch.randn_like(p) / p.numel() ** 0.5 for p in adapter.parameters}
        groups = [[p] for p in adapter.parameters[::max(1, len(adapter.parameters) // 12)]] + [adapter.parameters]
        worst = 0.0
        for group in groups:
            exact = sum((p.grad * direction[p]).sum().item() for p in group if p.grad is not None)
            plus, minus = (moved_loss(loss, group, direction, sign * EPSILON) for sign in (1, -1))
            measured = (plus - minus) / (2 * EPSILON)
            # A text block's last output reaches nothing: both numbers are zero but for rounding.
            worst = max(worst, abs(measured - exact) / max(abs(measured), abs(exact), 1e-6))
    return worst


def moved_loss(loss: Callable[[], Tensor], group: list[nn.Parameter], direction: dict[nn.Parameter, Tensor], by: float) -> float:
    with torch.no_grad():
        for p in group:
            p.add_(direction[p], alpha=by)
        value = loss().item()
        for p in group:
            p.sub_(direction[p], alpha=by)
    return value


@pytest.mark.parametrize("targets", [".*", LoraSpec().targets], ids=["all layers", "default layers"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_match_finite_differences(
        name: str, checkpointing: bool, targets: str, record_property: Callable[[str, object], None]) -> None:
    network, loss, adapter = loss_and_adapter(name, targets)
    error = worst_relative_error(loss, adapter, lambda: gradient_safe(network, checkpointing))
    record_property("relative_error", error)
    assert error <= 1e-6


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", TAKES_THEM)
def test_gradients_with_reference_pictures(name: str, checkpointing: bool, record_property: Callable[[str, object], None]) -> None:
    cells = tuple(ARCHITECTURES[name]().latent[-2:])
    network, loss, adapter = loss_and_adapter(name, LoraSpec().targets, ((cells[0], cells[1]), (cells[0] + 2, cells[1] - 2)))
    error = worst_relative_error(loss, adapter, lambda: gradient_safe(network, checkpointing))
    record_property("relative_error", error)
    assert error <= 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_checkpointing_covers_blocks(name: str) -> None:
    patcher, _ = tiny_patcher(name)
    blocks = checkpoint_blocks(patcher.model.diffusion_model)
    inside = {id(m) for block in blocks for m in block.modules()}
    linear = [id(m) for m in patcher.model.diffusion_model.modules() if is_linear(m)]  # their number: some widths cannot be made tiny
    assert len(blocks) >= 2
    assert len(inside.intersection(linear)) / len(linear) > 0.3


@pytest.mark.parametrize("name", IN_PLACE)
def test_without_the_fix_plain_backward_raises(name: str) -> None:
    _, loss, adapter = loss_and_adapter(name)
    with pytest.raises(RuntimeError, match="inplace operation"):
        worst_relative_error(loss, adapter, nullcontext)


def call(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda args, kwargs: forward(*args, **kwargs)


@pytest.mark.parametrize("name", ("flux", "chroma"))
def test_without_the_fix_checkpointing_is_silently_wrong(name: str) -> None:
    """With a LoRA on every layer; where the first block's input needs no gradient, torch notices the overwriting and raises."""
    network, loss, adapter = loss_and_adapter(name)

    @contextmanager
    def plain_checkpointing() -> Iterator[None]:
        for block in checkpoint_blocks(network):
            run = call(block.forward)
            block.forward = lambda *a, _run=run, **k: checkpoint(_run, a, k, use_reentrant=False)
        yield
        for block in checkpoint_blocks(network):
            del block.forward

    assert worst_relative_error(loss, adapter, plain_checkpointing) > 1e-2
