"""Training while ComfyUI keeps part of the model elsewhere: lowvram, weight memory that is used again, and dynamic VRAM."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import safetensors.torch
import torch
from comfy.model_patcher import ModelPatcher
from pack.host import training
from pack.host.training import borrow_for_training, resident
from torch import Tensor

from .test_low_precision import TRAINED, distance, gradient, quantized
from .test_training import loaded_in_prompt
from .tiny import Architecture, flux, random_weights

Loaded = tuple[ModelPatcher, Architecture]


def quantized_flux() -> Loaded:
    with torch.inference_mode():
        patcher = comfy.sd.load_diffusion_model_state_dict(quantized(random_weights(flux().network()), "float8_e4m3fn"))
    return patcher, flux()


def patched_flux(load: Callable[..., Any] = comfy.sd.load_lora_for_models) -> Loaded:
    """With another LoRA on it, which ComfyUI adds to a weight that is not loaded whenever it fetches it."""
    patcher, arch = loaded_in_prompt("flux")
    names = [n for n, m in patcher.model.diffusion_model.named_modules() if isinstance(m, torch.nn.Linear) and "blocks" in n]
    g = torch.Generator().manual_seed(7)
    lora = {}
    for name in names:
        layer = patcher.model.diffusion_model.get_submodule(name)
        lora[f"diffusion_model.{name}.lora_A.weight"] = 0.3 * torch.randn(2, layer.in_features, generator=g)
        lora[f"diffusion_model.{name}.lora_B.weight"] = 0.3 * torch.randn(layer.out_features, 2, generator=g)
    return load(patcher, None, lora, 1.0, 0.0)[0], arch


MODELS: dict[str, Callable[[], Loaded]] = {
    **{name: lambda name=name: loaded_in_prompt(name) for name in ("flux", "wan", "qwen_image", "z_image", "sdxl")},
    "flux in fp8": quantized_flux, "flux with a LoRA": patched_flux,
}


def load_only(monkeypatch: pytest.MonkeyPatch, room: float) -> None:
    """`room`: bytes of weights that may lie on the device; the others are fetched for every call, as with too little VRAM."""
    load = comfy.model_management.LoadedModel.model_load
    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", lambda self, *_, **__: load(self, room))


def lend_weights(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Weights come in memory that is overwritten when the layer is done with it: what offload streams and dynamic VRAM may do."""
    cast, uncast, lent = comfy.ops.cast_bias_weight, comfy.ops.uncast_bias_weight, list[Tensor]()

    def borrow(*args: Any, **kwargs: Any) -> Any:
        weight, bias, *rest = cast(*args, **kwargs)
        weight, bias = (None if t is None else t.detach().clone() for t in (weight, bias))
        lent.append(weight)
        return weight, bias, *rest

    def give_back(module: Any, weight: Tensor | None, bias: Tensor | None, stream: Any) -> None:
        uncast(module, weight, bias, stream)
        for t in (weight, bias):
            if type(t) is Tensor:  # a quantized one is made anew each time
                t.data.fill_(torch.nan)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", borrow)
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", give_back)
    return lent


@pytest.mark.parametrize("reused", [False, True], ids=["weights stay", "weights are overwritten"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_a_partly_loaded_model_are_those_of_the_whole(
        name: str, checkpointing: bool, reused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = MODELS[name]()
    whole, _ = gradient(patcher, arch)
    load_only(monkeypatch, patcher.model_size() / 3)
    lent = lend_weights(monkeypatch) if reused else [torch.empty(0)]
    part, _ = gradient(patcher, arch, checkpointing)
    assert lent
    assert distance(part, whole) <= 1e-5


def test_without_frozen_layers_an_overwritten_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above guards against, so that it is known to be able to fail."""
    def nothing(network: torch.nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    patcher, arch = loaded_in_prompt("flux")
    load_only(monkeypatch, patcher.model_size() / 3)
    lend_weights(monkeypatch)
    monkeypatch.setattr(training, "frozen_layers", nothing)
    assert gradient(patcher, arch, checkpointing=True)[0].isnan().any()


def test_another_lora_in_bypass_takes_part_in_the_gradient() -> None:
    """It has a forward of its own in the layers, which is left there."""
    merged, _ = gradient(*patched_flux())
    bypassed, _ = gradient(*patched_flux(comfy.sd.load_bypass_lora_for_models))
    assert distance(bypassed, merged) <= 1e-4


def test_partly_loaded_model_is_given_back_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = loaded_in_prompt("flux")
    before = {k: v.clone() for k, v in patcher.model.state_dict().items()}
    layers = {n: (id(m), m.comfy_cast_weights, len(m.weight_function)) for n, m in patcher.model.named_modules()
              if isinstance(m, comfy.ops.CastWeightBiasOp)}
    load_only(monkeypatch, patcher.model_size() / 3)
    gradient(patcher, arch)
    after = patcher.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert layers == {n: (id(m), m.comfy_cast_weights, len(m.weight_function)) for n, m in patcher.model.named_modules()
                      if isinstance(m, comfy.ops.CastWeightBiasOp)}


class Dynamic(ModelPatcher):
    """Answers as the patcher of dynamic VRAM does, which ComfyUI makes on a GPU alone."""

    def is_dynamic(self) -> bool:
        return True


def dynamic(folder: Path) -> Loaded:
    """A Flux from a file, as core's loaders hand it over under dynamic VRAM."""
    file = folder / "flux.safetensors"
    safetensors.torch.save_file(random_weights(flux().network()), file)
    with torch.inference_mode():
        loaded = comfy.sd.load_diffusion_model(str(file))
        patcher = Dynamic(loaded.model, loaded.load_device, loaded.offload_device)
    patcher.cached_patcher_init = loaded.cached_patcher_init
    return patcher, flux()


def test_under_dynamic_vram_a_twin_with_weights_in_place_is_trained(tmp_path: Path) -> None:
    patcher, arch = dynamic(tmp_path)
    modules, weights = [id(m) for m in patcher.model.modules()], patcher.model.state_dict()
    pointers = {k: v.data_ptr() for k, v in weights.items()}
    plain, _ = loaded_in_prompt("flux")
    expected, _ = gradient(plain, arch)
    found, _ = gradient(patcher, arch)
    assert torch.equal(found, expected)
    assert [id(m) for m in patcher.model.modules()] == modules
    assert {k: v.data_ptr() for k, v in patcher.model.state_dict().items()} == pointers
    twin = resident(patcher)
    assert type(twin) is ModelPatcher
    assert twin.model is not patcher.model
    assert resident(twin) is twin
    assert not any(p.is_inference() for p in twin.model.parameters())


def test_dynamic_vram_without_a_file_is_refused_in_words() -> None:
    patcher, _ = loaded_in_prompt("flux")
    stuck = Dynamic(patcher.model, patcher.load_device, patcher.offload_device)
    with pytest.raises(ValueError, match="--disable-dynamic-vram"), borrow_for_training(stuck, TRAINED, seed=0, checkpointing=False):
        pass
    assert all(p.is_inference() for p in patcher.model.parameters()), "a refused model is not even copied"
