"""Our loader beside ComfyUI's own: the same numbers on model and text encoder, and what each leaves out in words."""
from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import comfy.sd
import pytest
import safetensors.torch
import torch
from pack.host.demo_model import load_text_encoders
from pack.host.examples import Examples
from pack.host.folders import DEMO_MODEL
from pack.host.lora_format import load_lora
from pack.host.lora_loading import put_on
from pack.host.padding_check import marks
from pack.host.text_padding import PRESETS
from pack.masks.recipe import MaskRecipe
from pack.nodes.lora import ApplyLora, LoadLora
from torch import Tensor

from .test_adapters import data_of, lycoris, predicted, random_pair, written
from .tiny import tiny_patcher

LAYER = "lora_te1_text_model_encoder_layers_0_mlp_fc1"  # sd-scripts' name in CLIP-L


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return load_text_encoders(DEMO_MODEL)


def clip_keys(clip: comfy.sd.CLIP) -> dict[str, Tensor]:
    """A LoRA of rank 2 on layers of CLIP-L (sd-scripts) and of T5 (OneTrainer's third text encoder)."""
    weights, draw, file = clip.cond_stage_model.state_dict(), torch.Generator().manual_seed(3), {}
    t5 = next(k for k in weights if k.startswith("t5xxl.transformer.") and k.endswith("SelfAttention.q.weight"))
    names = {LAYER: "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
             "lora_te3_" + t5.removeprefix("t5xxl.transformer.").removesuffix(".weight").replace(".", "_"): t5}
    for name, key in names.items():
        down, up = random_pair(2, *weights[key].shape, draw)
        file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    return file


def encoded(clip: comfy.sd.CLIP) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        ((cond, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize("a red star"))
    return cond, extra["pooled_output"]


def pictures(patcher: Any) -> Tensor:
    return predicted(patcher, Examples(patcher, data_of(tiny_patcher("flux")[1]), MaskRecipe())[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


def told(result: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(result.ui.as_dict()["text"][0])
    return report


@pytest.mark.parametrize("naming", ["ours", "kohya", "diffusers"])
def test_model_and_clip_get_the_numbers_of_comfyuis_loader(naming: str, clip: comfy.sd.CLIP, folder: Path) -> None:
    file = written(naming) | clip_keys(clip)
    safetensors.torch.save_file(file, folder / "both.safetensors")
    patcher, _ = tiny_patcher("flux")
    before, words_before = pictures(patcher), encoded(clip)
    core_model, core_clip = comfy.sd.load_lora_for_models(patcher, clip, load_lora(folder / "both.safetensors"), 0.7, 0.4)
    result = LoadLora.execute(patcher, "both.safetensors", 0.7, clip, 0.4)
    model, padding, adapted = result.args[:3]
    assert torch.equal(pictures(model), pictures(core_model))
    assert all(torch.equal(a, b) for a, b in zip(encoded(adapted), encoded(core_clip), strict=True))
    assert not torch.allclose(pictures(model), before, atol=1e-3)
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in zip(encoded(adapted), words_before, strict=True))
    assert told(result)["notes"] == []
    assert padding == PRESETS["comfyui"]
    assert torch.equal(pictures(patcher), before)
    assert all(torch.equal(a, b) for a, b in zip(encoded(clip), words_before, strict=True)), "the CLIP of other nodes is as it was"


def test_every_kind_of_adapter_and_plain_differences_are_read_as_by_comfyui(caplog: pytest.LogCaptureFixture) -> None:
    base = "diffusion_model.double_blocks.0.img_attn.proj"
    file = lycoris("loha") | {f"{base}.diff": 0.1 * torch.ones(128, 128), f"{base}.diff_b": torch.ones(128)}
    patcher, _ = tiny_patcher("flux")
    with caplog.at_level(logging.WARNING):
        core, _ = comfy.sd.load_lora_for_models(patcher, None, dict(file), 1.0, 0.0)
    assert not caplog.records
    loaded = put_on(patcher, None, file, 1.0, 1.0)
    assert loaded.notes == ()
    assert torch.equal(pictures(loaded.model), pictures(core))
    plain = {k: v for k, v in file.items() if ".diff" in k}
    assert put_on(patcher, None, plain, 1.0, 1.0).notes == (), "a file without any adapter"


def test_what_found_no_place_is_counted_and_named_as_comfyui_logs_it(clip: comfy.sd.CLIP, caplog: pytest.LogCaptureFixture) -> None:
    strange = {f"lora_unet_double_blocks_{90 + i}_img_mod_lin.lora_down.weight": torch.zeros(1, 1) for i in range(7)}
    file = written("kohya") | strange | {"diffusion_model.double_blocks.0.img_attn.proj.lora_magnitude_vector": torch.zeros(128)}
    patcher, _ = tiny_patcher("flux")
    with caplog.at_level(logging.WARNING):
        comfy.sd.load_lora_for_models(patcher, None, dict(file), 1.0, 0.0)
    logged = [r.message.removeprefix("lora key not loaded: ") for r in caplog.records]
    caplog.clear()
    (note,) = put_on(patcher, None, file, 1.0, 1.0).notes
    assert note == f"not loaded: 8 keys that this model has no place for: {', '.join(logged[:5])} and 3 more"
    assert not caplog.records, "said once, on the node"
    (alone,) = put_on(patcher, None, written("kohya") | clip_keys(clip), 1.0, 1.0).notes
    assert alone.startswith(f"not loaded: 6 keys of a text encoder, connect clip to load them: {LAYER}.lora_down.weight, ")
    other = {"lora_te1_text_model_encoder_layers_31_mlp_fc1.alpha": torch.tensor(1.0)}
    (missing,) = put_on(patcher, clip, written("kohya") | other, 1.0, 1.0).notes
    assert missing.startswith("not loaded: 1 key of a text encoder, the CLIP that is connected has no such layers: lora_te1_")


def test_loras_add_up_and_the_model_knows_each_with_its_padding(folder: Path) -> None:
    masked = {"masked_lora.text_padding": PRESETS["comfyui-mask"].to_json()}
    safetensors.torch.save_file(written("ours"), folder / "a.safetensors", metadata=masked)
    safetensors.torch.save_file({k: v.half() for k, v in written("kohya").items()}, folder / "b.safetensors")
    patcher, _ = tiny_patcher("flux")
    first = LoadLora.execute(patcher, "a.safetensors", 0.5).args[0]
    both = LoadLora.execute(first, "b.safetensors", 0.5).args[0]
    core, _ = comfy.sd.load_lora_for_models(patcher, None, load_lora(folder / "a.safetensors"), 0.5, 0.0)
    core, _ = comfy.sd.load_lora_for_models(core, None, load_lora(folder / "b.safetensors"), 0.5, 0.0)
    assert torch.equal(pictures(both), pictures(core))
    assert [(lora.name, lora.trained.known) for lora in marks(both)] == [("a.safetensors", "stated"), ("b.safetensors", "assumed")]
    assert [lora.name for lora in marks(first)] == ["a.safetensors"]
    assert marks(patcher) == ()
    assert len(both.get_all_wrappers("outer_sample")) == 1
    assert both.clone().get_attachment("masked_lora_text_padding") == marks(both)


def test_strength_zero_leaves_its_half_as_it_is(clip: comfy.sd.CLIP, folder: Path) -> None:
    safetensors.torch.save_file(written("kohya") | clip_keys(clip), folder / "both.safetensors")
    patcher, _ = tiny_patcher("flux")
    model, _, adapted = LoadLora.execute(patcher, "both.safetensors", 0.0, clip, 1.0).args[:3]
    assert model is patcher
    assert marks(model) == ()
    assert adapted is not clip
    model, _, adapted = LoadLora.execute(patcher, "both.safetensors", 1.0, clip, 0.0).args[:3]
    assert model is not patcher
    assert adapted is clip
    assert LoadLora.execute(patcher, "both.safetensors", 1.0).args[2] is None
    assert ApplyLora.execute(patcher, written("ours"), 1.0).args[2] is None


def test_the_scale_of_a_peft_configuration_is_used_and_said(folder: Path) -> None:
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 1.5, "transformer.r": 3})}
    file = {k: v for k, v in written("diffusers").items() if "single" not in k}
    safetensors.torch.save_file(file, folder / "theirs.safetensors", metadata=metadata)
    patcher, _ = tiny_patcher("flux")
    result = LoadLora.execute(patcher, "theirs.safetensors", 1.0)
    half, _ = comfy.sd.load_lora_for_models(patcher, None, dict(file), 0.5, 0.0)
    assert torch.allclose(pictures(result.args[0]), pictures(half), atol=1e-6)
    assert told(result)["notes"] == ["scaled by 0.5 as its peft configuration says; ComfyUI's own loader does not read that and would "
                                     "take 1"]
    assert told(result)["known"] == "usual"
    assert result.args[1] == PRESETS["none-512"]


def test_a_file_that_is_written_again_is_read_again(folder: Path) -> None:
    assert LoadLora.fingerprint_inputs(lora_name=None) == LoadLora.fingerprint_inputs(lora_name="missing.safetensors") == ""
    file = folder / "again.safetensors"
    safetensors.torch.save_file(written("ours"), file)
    stamps = [LoadLora.fingerprint_inputs(lora_name=file.name)]
    assert LoadLora.fingerprint_inputs(lora_name=file.name) == stamps[0] != ""
    for changed in (file, folder / "adapter_config.json"):
        changed.touch()
        os.utime(changed, ns=(1, len(stamps)))
        stamps.append(LoadLora.fingerprint_inputs(lora_name=file.name))
    assert len(set(stamps)) == 3


@pytest.mark.parametrize(("file", "message"), [
    ({"lora_unet_nothing.lora_up.weight": torch.zeros(2, 2)}, "lora_unet_nothing.lora_up.weight, none of which belongs to Flux"),
    ({}, "the LoRA has no tensors, none"),
    (written("kohya") | {"lora_unet_double_blocks_0_img_attn_proj.alpha": torch.zeros(3)}, r"has the shape \(3,\) and is no number"),
    ({k: v for k, v in written("ours").items() if k != "diffusion_model.double_blocks.1.img_attn.proj.lora_A.weight"},
     "lacks diffusion_model.double_blocks.1.img_attn.proj.lora_A.weight"),
], ids=["another model", "empty", "alpha", "half a layer"])
def test_a_file_that_is_no_lora_of_this_model_is_refused_in_words(file: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        put_on(tiny_patcher("flux")[0], None, file, 1.0, 1.0)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64, (8).to_bytes(8, "little") + b"{\"a\":[}]"])
def test_a_damaged_file_is_named(content: bytes, folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        LoadLora.execute(tiny_patcher("flux")[0], "bad.safetensors", 1.0)
