"""Files as peft and diffusers save them, against what peft itself computes with them."""
from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import peft
import pytest
import safetensors.torch
import torch
from comfy.model_patcher import ModelPatcher
from pack.host.lora_format import LoraWeights, load_lora
from pack.host.lora_loading import put_on
from pack.host.peft_files import scaled_as_trained
from pack.host.training import borrow_for_training
from pack.host.warm_start import warm_start
from pack.trainer.adapter_spec import AdapterSpec
from torch import Tensor, nn

from .test_adapters import output, predicted, same
from .tiny import tiny_patcher

CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 3},
    "alpha above the rank": {"r": 2, "lora_alpha": 32},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {r"^.*1\.img_attn\.proj": 2, "transformer_blocks.0.attn.to_q": 3},
                 "alpha_pattern": {"img_attn.proj": 5, r"blocks\.\d\.attn\.to_k": 1, "single_transformer_blocks.0.proj_mlp": 9}},
}
NATIVE = {"double_blocks.0.img_attn.proj": (128, 128), "double_blocks.1.img_attn.proj": (128, 128), "single_blocks.1.linear2": (128, 640)}
# diffusers' name of each layer: its shape, and the rows of ComfyUI's weight that it is
SPLIT = {"transformer_blocks.0.attn.to_q": ((128, 128), "double_blocks.0.img_attn.qkv", 0),
         "transformer_blocks.0.attn.to_k": ((128, 128), "double_blocks.0.img_attn.qkv", 128),
         "transformer_blocks.1.attn.to_out.0": ((128, 128), "double_blocks.1.img_attn.proj", 0),
         "single_transformer_blocks.0.proj_mlp": ((512, 128), "single_blocks.0.linear1", 384)}


class Tree(nn.Module):
    """Linear layers under the names of a model, which peft can wrap without that model."""

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        for name, (outputs, inputs) in shapes.items():
            *parents, last = name.split(".")
            parent: nn.Module = self
            for part in parents:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent._modules[part]  # type: ignore[assignment]
            parent.add_module(last, nn.Linear(inputs, outputs, bias=False))


def adapted_by_peft(shapes: dict[str, tuple[int, int]], settings: dict[str, Any]) -> peft.PeftModel:
    torch.manual_seed(3)
    config = peft.LoraConfig(**settings, target_modules=list(shapes))
    model = peft.get_peft_model(Tree(shapes), config)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def save_as_peft(model: peft.PeftModel, folder: Path) -> Path:
    model.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors"


def save_as_diffusers(model: peft.PeftModel, folder: Path) -> Path:
    """loaders/lora_base.py of diffusers: _save_lora_weights packs a prefix before tensors and settings, write_lora_layers writes JSON."""
    tensors = {f"transformer.{k.removeprefix('base_model.model.')}": v.detach().clone()
               for k, v in peft.get_peft_model_state_dict(model).items()}
    settings = {f"transformer.{k}": list(v) if isinstance(v, set) else v for k, v in model.peft_config["default"].to_dict().items()}
    file = folder / "pytorch_lora_weights.safetensors"
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True)}
    safetensors.torch.save_file(tensors, file, metadata=metadata)
    return file


def save_as_model(model: peft.PeftModel, folder: Path) -> Path:
    """loaders/peft.py of diffusers, save_lora_adapter: the same without prefixes."""
    tensors = {k.removeprefix("base_model.model."): v.detach().clone() for k, v in peft.get_peft_model_state_dict(model).items()}
    settings = {k: list(v) if isinstance(v, set) else v for k, v in model.peft_config["default"].to_dict().items()}
    file = folder / "pytorch_lora_weights.safetensors"
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(settings, indent=2)})
    return file


def change_by_peft(model: peft.PeftModel, name: str, inputs: Tensor) -> Tensor:
    layer = model.get_submodule(f"base_model.model.{name}")
    with torch.no_grad():
        return layer(inputs) - layer.base_layer(inputs)


def change_by_host(patcher: ModelPatcher, name: str, inputs: Tensor) -> Tensor:
    """What the layer's output changes by, from the weight that ComfyUI computes for sampling."""
    key = f"diffusion_model.{name}.weight"
    weight = patcher.model.state_dict()[key]
    patched = comfy.lora.calculate_weight(patcher.patches[key], weight.clone(), key)
    return inputs @ (patched - weight).T


def read_file(file: Path) -> tuple[LoraWeights, str]:
    return scaled_as_trained(load_lora(file), file)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() < 1e-5 * b.norm() and b.norm() > 0.1)


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_peft_folder_changes_layers_as_peft_does(settings: dict[str, Any], tmp_path: Path) -> None:
    model = adapted_by_peft(NATIVE, settings)
    lora, words = read_file(save_as_peft(model, tmp_path))
    loaded = put_on(tiny_patcher("flux")[0], None, lora, 1.0, 1.0)
    assert loaded.notes == ()
    assert words.startswith("scaled by ")
    for name, (_, width) in NATIVE.items():
        inputs = torch.randn(7, width, generator=torch.Generator().manual_seed(1))
        assert close(change_by_host(loaded.model, name, inputs), change_by_peft(model, name, inputs)), name


@pytest.mark.parametrize("save", [save_as_diffusers, save_as_model])
@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_diffusers_file_changes_layers_as_peft_does(
        settings: dict[str, Any], save: Callable[[peft.PeftModel, Path], Path], tmp_path: Path) -> None:
    model = adapted_by_peft({name: shape for name, (shape, _, _) in SPLIT.items()}, settings)
    lora, _ = read_file(save(model, tmp_path))
    loaded = put_on(tiny_patcher("flux")[0], None, lora, 1.0, 1.0)
    assert loaded.notes == ()
    inputs = torch.randn(7, 128, generator=torch.Generator().manual_seed(1))
    for name, ((rows, _), layer, first) in SPLIT.items():
        change = change_by_host(loaded.model, layer, inputs)[:, first:first + rows]
        assert close(change, change_by_peft(model, name, inputs)), name


@pytest.mark.parametrize("save", [save_as_peft, save_as_model])
def test_training_goes_on_with_the_scale_of_the_file(save: Callable[[peft.PeftModel, Path], Path], tmp_path: Path) -> None:
    from pack.host.examples import Examples
    from pack.masks.recipe import MaskRecipe

    from .test_adapters import data_of

    shapes = NATIVE if save is save_as_peft else {"transformer_blocks.1.attn.to_out.0": (128, 128)}
    file = save(adapted_by_peft(shapes, CONFIGS["rslora"]), tmp_path)
    patcher, arch = tiny_patcher("flux")
    example = Examples(patcher, data_of(arch), MaskRecipe())[0]
    before = predicted(patcher, example)
    expected = predicted(put_on(patcher, None, read_file(file)[0], 1.0, 1.0).model, example)
    spec = AdapterSpec(targets=r"double_blocks\.1\.img_attn\.proj", start=str(file))
    with borrow_for_training(patcher, spec, seed=0, checkpointing=False) as (model, adapter):
        words = warm_start(adapter, patcher)
        assert same(output(model, example), expected, before)
    assert "; scaled by 4 as its peft configuration says; ComfyUI's own loader does not read that and would take 1" in words
    unscaled = predicted(put_on(patcher, None, load_lora(file), 1.0, 1.0).model, example)
    assert not same(unscaled, expected, before)


def test_each_part_of_a_pipeline_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    """And an alpha that a layer has already is left alone."""
    pair = {"lora_A.weight": torch.zeros(4, 8), "lora_B.weight": torch.zeros(8, 4)}
    names = ("transformer.a", "text_encoder.b", "transformer.c")
    lora = LoraWeights({f"{n}.{k}": v for n in names for k, v in pair.items()} | {"transformer.c.alpha": torch.tensor(4.0)},
                       {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "text_encoder.lora_alpha": 16})})
    scaled, words = scaled_as_trained(lora, tmp_path / "x.safetensors")
    assert {k: v.item() for k, v in scaled.items() if k.endswith("alpha")} == {
        "transformer.a.alpha": 2.0, "text_encoder.b.alpha": 16.0, "transformer.c.alpha": 4.0}
    assert words.startswith("scaled by 0.5 to 4 as")


def test_names_that_diffusers_gives_to_unets_and_encoders(tmp_path: Path) -> None:
    """utils/state_dict_utils.py: to_k.lora_A becomes to_k.lora.down, q_proj.lora_A becomes q_proj.lora_linear_layer.down."""
    lora = LoraWeights({"unet.x.to_k.lora.down.weight": torch.zeros(4, 8), "text_encoder.y.q_proj.lora_linear_layer.down.weight":
                        torch.zeros(2, 8)}, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2, "text_encoder.lora_alpha": 6})})
    scaled, _ = scaled_as_trained(lora, tmp_path / "x.safetensors")
    assert scaled["unet.x.to_k.alpha"] == 2
    assert scaled["text_encoder.y.q_proj.alpha"] == 6


@pytest.mark.parametrize("told", [
    "{", "[1, 2]", "[" * 100_000, '{"lora_alpha": "sixteen"}', '{"lora_alpha": NaN}', '{"lora_alpha": true}', '{"lora_alpha": -1}',
    '{"r": 4}', '{"lora_alpha": 8, "alpha_pattern": [1]}', '{"lora_alpha": 8, "use_rslora": 1}', '{"lora_alpha": 1' + "0" * 5000 + "}",
    '{"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1}}', '{"lora_alpha": 8, "alpha_pattern": {"(": 1}}',
    json.dumps({"lora_alpha": 8, "x": "x" * 5_000_000}),
], ids=lambda text: text[:24])
def test_a_strangers_configuration_is_told_and_not_followed(told: str, tmp_path: Path) -> None:
    tensors = {f"transformer.{'a' * 40}.lora_A.weight": torch.zeros(4, 8), f"transformer.{'a' * 40}.lora_B.weight": torch.zeros(8, 4)}
    lora = LoraWeights(tensors, {"lora_adapter_metadata": told})
    scaled, words = scaled_as_trained(lora, tmp_path / "x.safetensors")
    assert scaled.keys() == tensors.keys()
    assert words.startswith("its peft configuration cannot be read (")
    assert len(words) < 400


def test_a_configuration_beside_another_file_is_not_this_ones(tmp_path: Path) -> None:
    file = save_as_peft(adapted_by_peft(NATIVE, CONFIGS["alpha"]), tmp_path)
    other = copy.copy(file.rename(tmp_path / "other.safetensors"))
    lora, words = read_file(other)
    assert words == ""
    assert not any(k.endswith(".alpha") for k in lora)


def test_a_scale_of_one_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_file(save_as_peft(adapted_by_peft(NATIVE, {"r": 4, "lora_alpha": 4}), tmp_path))[1] == ""
    assert not caplog.records
