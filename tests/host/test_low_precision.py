"""Bases in bf16, fp16, fp8 and ComfyUI's quantized layouts, loaded by its own loader: gradients are right and nothing is changed."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from pack.host import training
from pack.host.drift import borrow_for_prediction
from pack.host.examples import Examples
from pack.host.frozen import frozen_layers
from pack.host.lora_format import load_lora, save_lora
from pack.host.training import borrow_for_training
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.loop import train
from torch import Tensor, nn

from .test_training import training_set
from .tiny import Architecture, flux, flux_config, random_weights

TRAINED = LoraSpec(rank=2, alpha=4.0)
INTEGER = ("int8_tensorwise", "convrot_w4a4")  # their layers round what they multiply, whatever one asks of them
# How far rounding the inputs of two double and two single blocks moves the gradient of random weights: measured, and some room.
ROUNDING = {"float8_e4m3fn": 0.07, "float8_e5m2": 0.14, "nvfp4": 0.25, "mxfp8": 0.07, "int8_tensorwise": 0.03, "convrot_w4a4": 0.25}


def wide() -> Architecture:
    from comfy.ldm.flux.model import Flux

    from .tiny import KW

    c = flux_config(hidden=256)
    return Architecture(flux().config_class, lambda: Flux(**KW, **c), c, (16, 8, 8), 64, {"pooled_output": 32})


def is_quantized(key: str, value: Tensor) -> bool:
    """As published files do it: the matrices of the blocks."""
    return key.endswith(".weight") and value.ndim == 2 and "blocks." in key and "mod" not in key


def quantized(weights: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """A state dict in the layout of ComfyUI's quantized files."""
    out = dict(weights)
    for key in [k for k, v in weights.items() if is_quantized(k, v)]:
        scale = {"scale": "recalculate"} if form.startswith("float8") or form == "nvfp4" else {}
        out |= QuantizedTensor.from_float(out.pop(key).bfloat16(), QUANT_ALGOS[form]["comfy_tensor_layout"], **scale).state_dict(key)
        out[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    return out


def load(weights: dict[str, Tensor], **options: Any) -> ModelPatcher:
    """As UNETLoader does, in a prompt."""
    with torch.inference_mode():
        patcher = comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in weights.items()}, model_options=options)
    patcher.model.diffusion_model.requires_grad_(False)
    return patcher


def dequantized(patcher: ModelPatcher, arch: Architecture) -> dict[str, Tensor]:
    """What its layers stand for, in float32, under the names of a plain model's state dict."""
    weights = {}
    for name in arch.network().state_dict():
        module, _, last = name.rpartition(".")
        value = getattr(patcher.model.diffusion_model.get_submodule(module), last)
        weights[name] = (value.dequantize() if isinstance(value, QuantizedTensor) else value).detach().float().clone()
    return weights


def raw(patcher: ModelPatcher) -> dict[str, Tensor]:
    """Every stored bit of the weights."""
    state = patcher.model.state_dict()
    return {k: v.detach().clone().contiguous().view(torch.uint8) for k, v in state.items() if v.numel() and v.ndim}


def gradient(patcher: ModelPatcher, arch: Architecture, checkpointing: bool = False, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gradient of a fixed sum over the prediction, times `scale`, by every LoRA parameter, and the prediction. The LoRA is random."""
    with torch.inference_mode(), borrow_for_training(patcher, TRAINED, seed=1, checkpointing=checkpointing) as (model, lora):
        for p in lora.parameters:
            p.data = 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        data = training_set(arch, tokens=(7,))
        # Flux embeds 1000 times the guidance, computed in its own dtype, and 4000 is one of bfloat16's numbers (3500 is not).
        cached = [replace(e, cond=dict(e.cond) | {"guidance": torch.tensor(4.0)}) for e in data.examples]
        example = Examples(patcher, replace(data, examples=cached), MaskRecipe())[0]
        out = model(example.latent_CHW[None], torch.tensor([0.6]), [example.cond])
        (scale * out * torch.randn(out.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        assert all(p.dtype == torch.float32 for p in lora.parameters)
        # The text side of a last block reaches nothing.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in lora.parameters]
        return torch.cat([g.flatten() for g in grads]).double(), out.detach().double()


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def train_and_load(patcher: ModelPatcher, arch: Architecture, file: Path) -> tuple[float, float]:
    """Relative change of a prediction by training, and how far the saved LoRA, loaded by the host beside the base, is from it."""
    data = training_set(arch, tokens=(7,))
    with torch.inference_mode(), borrow_for_training(patcher, TRAINED, seed=1, checkpointing=False) as (model, lora):
        examples = Examples(patcher, data, MaskRecipe())
        losses: list[float] = []
        train(model, lora.parameters, examples, TrainConfig(steps=3, batch_size=3, learning_rate=1e-2),
              on_step=lambda report: losses.append(report.loss))
        assert torch.isfinite(torch.tensor(losses)).all()
        inputs = (examples[0].latent_CHW[None], torch.tensor([0.6]), [examples[0].cond])
        with torch.no_grad():
            trained = model(*inputs)
        save_lora({f"diffusion_model.{k}": v for k, v in lora.state_dict().items()}, file)
    adapted, _ = comfy.sd.load_bypass_lora_for_models(patcher, None, dict(load_lora(file)), 1.0, 0.0)
    found = []
    for source in (patcher, adapted):
        with torch.no_grad(), borrow_for_prediction(source) as model:
            found.append(model(*inputs))
    return distance(trained, found[0]), distance(found[1], trained)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)], ids=["bf16", "fp16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_half_precision_compute_gives_nearly_the_float32_gradient(dtype: torch.dtype, near: float, checkpointing: bool) -> None:
    """Weights and activations in half precision; the reference has the same weights and computes in float32."""
    arch = flux()
    weights = {k: v.to(dtype) for k, v in random_weights(arch.network()).items()}
    exact, _ = gradient(load({k: v.float() for k, v in weights.items()}), arch)
    patcher = load(weights, dtype=dtype)
    patcher.set_model_compute_dtype(dtype)
    found, _ = gradient(patcher, arch, checkpointing)
    assert torch.isfinite(found).all()
    assert distance(found, exact) <= near


def test_float16_gradients_of_a_mean_over_a_large_picture_do_not_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    arch, mean = flux(), 1e-6  # 1024 x 1024 pixels have 262,144 latent values
    weights = {k: v.half() for k, v in random_weights(arch.network()).items()}
    exact, _ = gradient(load({k: v.float() for k, v in weights.items()}), arch, scale=mean)
    patcher = load(weights, dtype=torch.float16)
    patcher.set_model_compute_dtype(torch.float16)
    assert distance(gradient(patcher, arch, scale=mean)[0], exact) <= 4e-3
    monkeypatch.setattr(training, "FLOAT16_SCALE", 1.0)
    assert distance(gradient(patcher, arch, scale=mean)[0], exact) > 4e-2, "without the scale it would not be worth a test"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_stored_low_and_cast_for_each_layer(dtype: torch.dtype, tmp_path: Path) -> None:
    """What `weight_dtype` of core's loader gives: the gradient is that of a model with the same numbers in float32."""
    arch = flux()
    patcher = load({k: v.to(dtype) if is_quantized(k, v) else v for k, v in random_weights(arch.network()).items()}, dtype=dtype)
    layer = patcher.model.diffusion_model.double_blocks[0].img_attn.qkv
    assert layer.weight.dtype == dtype
    before = raw(patcher)
    full = load(dequantized(patcher, arch))
    found, exact = gradient(patcher, arch), gradient(full, arch)
    assert distance(found[1], exact[1]) <= 1e-5
    assert distance(found[0], exact[0]) <= 1e-5
    changed, apart = train_and_load(patcher, arch, tmp_path / "lora.safetensors")
    assert changed > 1e-3
    assert apart <= (1e-5 if dtype.itemsize == 1 else 1e-3)  # ComfyUI rounds a LoRA to the dtype of half-precision weights
    assert all(torch.equal(v, before[k]) for k, v in raw(patcher).items())


def quantized_layers(patcher: ModelPatcher) -> list[Any]:
    return [m for m in patcher.model.diffusion_model.modules() if isinstance(getattr(m, "weight", None), QuantizedTensor)]


@contextmanager
def inputs_rounded(patcher: ModelPatcher, rounded: bool) -> Iterator[None]:
    """Whether layers multiply in their low precision, as devices with kernels for it do; a CPU has none and does not by itself."""
    before = [layer._full_precision_mm for layer in quantized_layers(patcher)]
    for layer in quantized_layers(patcher):
        layer._full_precision_mm = not rounded
    try:
        yield
    finally:
        for layer, value in zip(quantized_layers(patcher), before, strict=True):
            layer._full_precision_mm = value


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("form", QUANT_ALGOS)
def test_quantized_layers_give_the_gradient_of_the_model_that_they_stand_for(form: str, checkpointing: bool, tmp_path: Path) -> None:
    arch = wide() if form == "convrot_w4a4" else flux()
    patcher = load(quantized(random_weights(arch.network()), form))
    assert quantized_layers(patcher)
    assert not any(isinstance(layer, nn.Linear) for layer in quantized_layers(patcher))
    before = raw(patcher)
    exact = gradient(load(dequantized(patcher, arch)), arch)
    with inputs_rounded(patcher, False):
        found = gradient(patcher, arch, checkpointing)
    assert distance(found[0], exact[0]) <= (ROUNDING[form] if form in INTEGER else 2e-6)  # threads add up in another order
    with inputs_rounded(patcher, True):
        rounded = gradient(patcher, arch, checkpointing)
    assert 1e-3 < distance(rounded[0], exact[0]) <= ROUNDING[form]
    changed, apart = train_and_load(patcher, arch, tmp_path / "lora.safetensors")
    assert changed > 1e-3
    assert apart <= 1e-5
    assert all(torch.equal(v, before[k]) for k, v in raw(patcher).items())


@pytest.mark.parametrize("rounded", [False, True], ids=["exact inputs", "rounded inputs"])
@pytest.mark.parametrize("form", QUANT_ALGOS)
def test_a_quantized_layer_passes_back_what_its_full_weight_would(form: str, rounded: bool) -> None:
    """Straight through the rounding of inputs, which has no slope of its own; with kernels that know no autograd, too."""
    arch = wide() if form == "convrot_w4a4" else flux()
    patcher = load(quantized(random_weights(arch.network()), form))
    with torch.inference_mode(False), inputs_rounded(patcher, rounded), frozen_layers(patcher.model):
        for layer in quantized_layers(patcher):
            x = torch.randn(2, 3, layer.in_features, requires_grad=True)
            out = layer(x)
            g = torch.randn(out.shape)
            out.backward(g)
            assert distance(x.grad, g @ layer.weight.dequantize().float()) <= 1e-6
