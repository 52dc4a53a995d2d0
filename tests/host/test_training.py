"""Training through ComfyUI's own model objects: what comes out, and that the model is given back as it was."""
from __future__ import annotations

import copy
import json
import logging
import os
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3
from pack.dataset.cache import CachedExample, TrainingSet
from pack.host.denoiser import ComfyDenoiser
from pack.host.drift import borrow_for_prediction, measure_drift
from pack.host.examples import Examples
from pack.host.lora_format import load_lora, save_lora
from pack.host.lora_padding import trained_padding
from pack.host.progress import Progress
from pack.host.run import RunConfig, run_training
from pack.host.text_padding import TextPadding
from pack.host.training import borrow_for_training, thaw
from pack.masks.recipe import MaskRecipe, simple_recipe
from pack.trainer.adapter import LoraAdapter
from pack.trainer.adapter_spec import AdapterSpec, Kind
from pack.trainer.config import LoraSpec, Normalization, PriorSpec, TrainConfig
from pack.trainer.draws import Batch, draw
from pack.trainer.ema import EmaSpec
from pack.trainer.layers import LoRA
from pack.trainer.loop import micro_batches, scales, train
from pack.trainer.loss import masked_mean
from pack.trainer.objective import prediction_errors
from pack.trainer.optimizer import OptimizerSpec
from pack.trainer.schedule import ScheduleSpec
from torch import Tensor

from .tiny import ARCHITECTURES, Architecture, tiny_patcher

ALL = [*ARCHITECTURES, "sdxl as flow", "sdxl as v"]


def training_set(arch: Architecture, count: int = 3, tokens: tuple[int, ...] = (7, 5, 7)) -> TrainingSet:
    generator = torch.Generator().manual_seed(5)
    examples = []
    for i in range(count):
        height, width = (8 * side for side in arch.latent[-2:])
        mask = torch.zeros(height, width)
        mask[: height // 2, : width // (i + 1)] = 1
        cond = arch.cond(tokens[i % len(tokens)], generator)
        latent = torch.randn(arch.latent, generator=generator)
        examples.append(CachedExample(f"picture {i}", "", latent, mask[None], cond, TextPadding().to_json()))
    return TrainingSet(tuple(examples), TextPadding().to_json(), "")


def run_config(folder: Path, steps: int = 4, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {"steps": steps, "batch_size": 3, "learning_rate": 1e-2, "seed": 3}
    return RunConfig(train=TrainConfig(**settings | changes), lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(), checkpointing=False,
                     name="test", rescue_folder=folder)


class Fingerprint:
    """Outputs, module tree, flags and hooks of a model."""

    def __init__(self, patcher: ModelPatcher, data: TrainingSet) -> None:
        model = patcher.model
        self.modules = [(n, id(m)) for n, m in model.named_modules()]
        self.flags = [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()]
        self.hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
        self.forwards = sum("forward" in m.__dict__ for m in model.modules())
        self.state = {k: v.clone() for k, v in model.state_dict().items()}
        self.attributes = sorted(model.diffusion_model.__dict__)
        self.in_training = comfy.model_management.in_training
        with torch.inference_mode():
            latent = data.examples[0].latent_CHW[None]
            cond = data.examples[0].cond
            conds = model.extra_conds(**{"pooled_output": None} | cond, noise=latent, device=torch.device("cpu"), width=64, height=64,
                                      prompt_type="positive", latent_image=None, denoise_mask=None, seed=0, latent_shapes=[latent.shape])
            comfy.model_management.load_models_gpu([patcher])
            kwargs = {k: v.process_cond(batch_size=1, area=None).cond for k, v in conds.items()}
            self.output = model.apply_model(latent, torch.tensor([0.5]), **kwargs,
                                            transformer_options={"sample_sigmas": torch.tensor([1.0, 0.0])}).clone()

    def assert_same(self, other: Fingerprint) -> None:
        for name in ("modules", "flags", "hooks", "forwards", "in_training", "attributes"):
            assert getattr(self, name) == getattr(other, name), name
        assert self.state.keys() == other.state.keys()
        assert all(torch.equal(v, other.state[k]) for k, v in self.state.items())
        assert torch.equal(self.output, other.output)


def loaded_in_prompt(name: str) -> tuple[ModelPatcher, Architecture]:
    """The model as a node gets it: loaded under inference_mode, so that its weights are inference tensors."""
    with torch.inference_mode():
        patcher, arch = tiny_patcher(name.partition(" ")[0])
        if name.endswith("as flow"):
            patcher, = ModelSamplingSD3().patch(patcher, shift=3.0)
        elif name.endswith("as v"):
            patcher, = ModelSamplingDiscrete().patch(patcher, sampling="v_prediction", zsnr=False)
    assert any(p.is_inference() for p in patcher.model.parameters())
    assert patcher.cached_patcher_init is None
    return patcher, arch


def predict(patcher: ModelPatcher, example: Any) -> Tensor:
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        return model(example.latent_CHW[None], torch.tensor([0.6]), [example.cond])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("name", ALL)
def test_saved_lora_loaded_by_the_host_predicts_as_the_trained_model(name: str, checkpointing: bool, tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt(name)
    data = training_set(arch, tokens=(7,))
    examples = Examples(patcher, data, MaskRecipe())
    before = predict(patcher, examples[0])
    spec = LoraSpec(rank=2, alpha=4.0)
    with torch.inference_mode(), borrow_for_training(patcher, spec, seed=1, checkpointing=checkpointing) as (model, lora):
        examples = Examples(patcher, data, MaskRecipe())
        train(model, lora.parameters, examples, TrainConfig(steps=3, batch_size=3, learning_rate=1e-2))
        with torch.no_grad():
            in_memory = model(examples[0].latent_CHW[None], torch.tensor([0.6]), [examples[0].cond])
        state = {f"diffusion_model.{k}": v for k, v in lora.state_dict().items()}
    file = tmp_path / "lora.safetensors"
    save_lora(state, file)
    adapted, _ = comfy.sd.load_lora_for_models(patcher, None, dict(load_lora(file)), 1.0, 0.0)
    examples = Examples(patcher, data, MaskRecipe())
    loaded = predict(adapted, examples[0])
    assert torch.linalg.norm(in_memory - before) / torch.linalg.norm(before) > 1e-3
    assert torch.linalg.norm(loaded - in_memory) / torch.linalg.norm(in_memory) <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_model_is_given_back_bit_identical(name: str, tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt(name)
    data = training_set(arch)
    before = Fingerprint(patcher, data)
    with torch.inference_mode():
        run_training(patcher, data, run_config(tmp_path), Progress(None))
    before.assert_same(Fingerprint(patcher, data))
    assert not list(tmp_path.iterdir())


def test_cancel_stops_within_a_step_saves_and_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    before = Fingerprint(patcher, data)
    progress = Progress(None)
    monkeypatch.setattr(progress.bar, "update_absolute", lambda done, total: comfy.model_management.interrupt_current_processing(done == 2))
    with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
        run_training(patcher, data, run_config(tmp_path, steps=50), progress)
    before.assert_same(Fingerprint(patcher, data))
    (saved,) = tmp_path.iterdir()
    lora = load_lora(saved)
    assert lora.metadata["ss_steps"] == "2"
    assert any(v.abs().max() > 0 for k, v in lora.items() if "lora_B" in k)


def test_cancel_during_the_last_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = loaded_in_prompt("flux")
    progress = Progress(None)

    def press_cancel_at_the_end(done: int, total: int, text: str = "") -> None:
        if done == total:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(progress, "update", press_cancel_at_the_end)
    for _ in range(2):
        with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
            run_training(patcher, training_set(arch), run_config(tmp_path, steps=2), progress)
    assert len(list(tmp_path.iterdir())) == 2  # and the second file did not replace the first


def test_error_in_mid_training_saves_and_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    before = Fingerprint(patcher, data)
    calls = []

    def failing(self: ComfyDenoiser, noisy: Tensor, *rest: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 5:
            raise torch.OutOfMemoryError("no memory left on the device")
        return original(self, noisy, *rest)

    original = ComfyDenoiser.__call__
    monkeypatch.setattr(ComfyDenoiser, "__call__", failing)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        run_training(patcher, data, run_config(tmp_path, steps=50), Progress(None))
    monkeypatch.undo()
    before.assert_same(Fingerprint(patcher, data))
    assert len(list(tmp_path.iterdir())) == 1


def test_unloading_all_models_in_mid_training_leaves_the_module_tree_clean(tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt("flux")
    names = [n for n, _ in patcher.model.named_modules()]
    with borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False) as (_, lora):
        assert len([n for n, _ in patcher.model.named_modules()]) > len(names)
        comfy.model_management.unload_all_models()
        assert [n for n, _ in patcher.model.named_modules()] == names
        assert lora.state_dict()


def test_a_model_that_comfyui_unloads_while_the_adapter_is_off_is_given_back_without_it() -> None:
    patcher, _ = tiny_patcher("flux")
    before = [(name, id(module)) for name, module in patcher.model.named_modules()]
    with pytest.raises(RuntimeError, match="no memory"), \
            borrow_for_training(patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (_, adapter), adapter.disabled():
        comfy.model_management.unload_all_models()
        raise RuntimeError("no memory")
    assert [(name, id(module)) for name, module in patcher.model.named_modules()] == before


def test_no_second_copy_of_the_weights() -> None:
    patcher, arch = loaded_in_prompt("flux")
    with torch.inference_mode(), borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False) as (model, _):
        assert model.model is patcher.model


def gradient(patcher: ModelPatcher, data: TrainingSet, members: list[int], normalization: Normalization) -> Tensor:
    """Gradient of one optimizer step's loss over `members`, through the trainer's own parts."""
    with borrow_for_training(patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (model, lora):
        for p in lora.parameters:
            p.data = 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        examples = Examples(patcher, data, MaskRecipe())
        config = TrainConfig(steps=1, batch_size=3, normalization=normalization, seed=9)
        draws = [draw(examples[i], config, 1, i) for i in members]
        learn, _ = scales(draws, config)
        for places in micro_batches(draws, 0):
            batch = Batch.stack([draws[i] for i in places], torch.device("cpu"))
            errors = prediction_errors(model, batch, config.loss, lora.disabled)
            (masked_mean(errors.target_BCHW, batch.weight_B1HW) * learn[places].float()).sum().backward()
        return torch.cat([p.grad.flatten() for p in lora.parameters if p.grad is not None])


@pytest.mark.parametrize("normalization", [Normalization.NONE, Normalization.IMAGE])
@pytest.mark.parametrize("name", ["flux", "sd3", "qwen_image"])
def test_gradient_of_a_batch_is_the_mean_of_its_members(name: str, normalization: Normalization) -> None:
    """One caption a picture: core's trainer evaluates every caption on every picture instead."""
    patcher, arch = loaded_in_prompt(name)
    data = training_set(arch)
    batch = gradient(patcher, data, [0, 1, 2], normalization)
    members = torch.stack([gradient(patcher, data, [i], normalization) for i in range(3)]).mean(0)
    assert torch.linalg.norm(batch - members) / torch.linalg.norm(members) < 1e-5


def test_latents_pass_the_models_latent_format() -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    example = Examples(patcher, data, MaskRecipe())[0]
    expected = (data.examples[0].latent_CHW - 0.1159) * 0.3611  # Flux's published shift and scale
    assert torch.allclose(example.latent_CHW, expected, atol=1e-6)


def test_flow_prediction_is_raw_and_not_x0() -> None:
    patcher, arch = loaded_in_prompt("flux")
    example = Examples(patcher, training_set(arch), MaskRecipe())[0]
    x, sigma = example.latent_CHW[None], torch.tensor([0.6])
    raw = predict(patcher, example)
    with torch.no_grad():
        comfy.model_management.load_models_gpu([patcher])
        kwargs = {k: v.cond for k, v in example.cond.items()}
        x0 = patcher.model.apply_model(x, sigma, **kwargs, transformer_options={"sample_sigmas": torch.tensor([1.0, 0.0])})
    assert torch.allclose(x - sigma * raw, x0, atol=1e-5)


def test_recipe_is_applied_at_training_time() -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    plain, inverted = (Examples(patcher, data, simple_recipe(invert=invert))[0].weight_1HW for invert in (False, True))
    assert torch.allclose(plain + inverted, torch.ones_like(plain))


def test_metadata_tells_the_conditions_of_training(tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt("flux")
    with torch.inference_mode():
        result = run_training(patcher, training_set(arch), run_config(tmp_path), Progress(None))
    metadata = result.lora.metadata
    assert {"masked_lora.version", "masked_lora.text_padding", "masked_lora.objective", "masked_lora.mask", "masked_lora.base",
            "masked_lora.adapter", "masked_lora.optimization", "masked_lora.data",
            "ss_network_dim", "ss_network_alpha", "modelspec.architecture"} <= metadata.keys()
    assert "ss_apply_t5_attn_mask" not in metadata
    assert trained_padding(result.lora).padding == TextPadding()
    assert metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert metadata["ss_base_model_version"] == "flux1"  # what sd-scripts writes for Flux and other tools look for


def test_metadata_tells_adapter_optimizer_and_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    patcher, arch = loaded_in_prompt("flux")
    first, second, third = training_set(arch).examples
    examples = (replace(first, repeats=3), replace(second, weight=0.5), replace(third, regularisation=True))
    data = TrainingSet(examples, first.text_padding, "")
    start, file = tmp_path / "private" / "before.safetensors", tmp_path / "after.safetensors"
    with torch.inference_mode():
        save_lora(run_training(patcher, data, run_config(tmp_path), Progress(None)).lora, start)
        run = run_config(tmp_path, optimizer=OptimizerSpec(beta2=0.99), ema=EmaSpec(decay=0.9),
                         schedule=ScheduleSpec(name="cosine with restarts", cycles=2, warmup=1))
        run = replace(run, lora=AdapterSpec(rank=2, alpha=4.0, start=str(start)))
        save_lora(run_training(patcher, data, run, Progress(None)).lora, file)
    assert f"Masked LoRA: the LoRA is saved in {file}" in caplog.messages
    metadata = load_lora(file).metadata
    assert (metadata["ss_optimizer"], metadata["ss_lr_scheduler"], metadata["ss_lr_warmup_steps"]) == (
        "adamw(beta2=0.99)", "cosine_with_restarts", "1")
    moved = json.loads(metadata["masked_lora.optimization"])
    assert moved["optimizer"] == {"name": "adamw", "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}
    assert (moved["schedule"]["cycles"], moved["ema"]) == (2, {"decay": 0.9, "every": 1, "warmup": True})
    adapter = json.loads(metadata["masked_lora.adapter"])
    assert (adapter["kind"], adapter["rank"], adapter["alpha"], adapter["start"]) == ("lora", 2, 4.0, "before.safetensors")
    assert "private" not in str(metadata)
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("3", "1")
    assert json.loads(metadata["masked_lora.data"]) == {"regularisation": 1, "repeats": {"1": 2, "3": 1}, "weights": {"0.5": 1, "1": 2}}


def test_a_lora_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, synced = tmp_path / "lora.safetensors", list[bool]()
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(file.exists()), original(handle)))
    save_lora({"x": torch.zeros(1)}, file)
    assert synced == [False]
    assert file.exists()


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_dropout_of_a_run_belongs_to_its_draws(micro_batch: int, tmp_path: Path) -> None:
    """Noise, order and first weights are the same; only ranks are missing, whatever shares a forward pass."""
    patcher, arch = loaded_in_prompt("sd3")
    data, tensors = training_set(arch), list[Tensor]()
    for dropout, size in ((0.0, 0), (0.5, 0), (0.5, micro_batch)):
        run = replace(run_config(tmp_path, steps=3, micro_batch=size), lora=AdapterSpec(rank=4, alpha=4.0, dropout=dropout))
        with torch.inference_mode():
            lora = run_training(patcher, data, run, Progress(None)).lora
        tensors.append(torch.cat([v.flatten() for k, v in lora.items() if "lora_B" in k]))
    plain, dropped, again = tensors
    assert (dropped - plain).norm() > 0.05 * plain.norm()
    assert (dropped - again).norm() < 1e-3 * dropped.norm()


def test_an_unproven_model_is_said_before_and_after_its_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patcher, arch = loaded_in_prompt("sd3")
    reports = []
    for name in ("SD3", "Mochi"):
        patcher.model.__class__ = type(name, (type(patcher.model),), {})
        with torch.inference_mode():
            reports.append(run_training(patcher, training_set(arch), run_config(tmp_path, steps=1), Progress(None)).report)
    assert reports[0]["warning"] == ""
    assert str(reports[1]["warning"]).startswith("Mochi is not among the proven models")
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [f"Masked LoRA: {reports[1]['warning']}"]


def test_a_dora_on_a_model_with_patches_is_refused_before_it_is_touched() -> None:
    patcher, _ = loaded_in_prompt("flux")
    patched, spec = patcher.clone(), AdapterSpec(rank=2, kind=Kind.DORA)
    with borrow_for_training(patched, spec, seed=0, checkpointing=False):
        pass
    name, weight = next((n, p) for n, p in patcher.model.named_parameters() if n.endswith("weight"))
    patched.add_patches({name: ("diff", (torch.ones_like(weight),))})
    with borrow_for_training(patched, AdapterSpec(rank=2), seed=0, checkpointing=False):
        pass
    flags = [p.requires_grad for p in patcher.model.parameters()]
    with pytest.raises(ValueError, match="carries a LoRA or another patch"), borrow_for_training(
            patched, spec, seed=0, checkpointing=False):
        pass
    assert [p.requires_grad for p in patcher.model.parameters()] == flags


def test_masks_that_are_all_black_are_refused_before_the_first_step(tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    black = TrainingSet(tuple(replace(e, mask_THW=torch.zeros_like(e.mask_THW)) for e in data.examples), data.text_padding, "")
    with torch.inference_mode(), pytest.raises(ValueError, match="every mask is black"):
        run_training(patcher, black, run_config(tmp_path), Progress(None))


def test_drift_is_zero_for_a_lora_that_does_nothing(tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    with torch.inference_mode():
        lora = run_training(patcher, data, run_config(tmp_path), Progress(None)).lora
        trained = measure_drift(patcher, lora, data, MaskRecipe(), seed=0)
        idle = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in lora.items()}
        nothing = measure_drift(patcher, idle, data, MaskRecipe(), seed=0)
    assert trained.inside > 0
    assert nothing.inside == nothing.outside == 0


def test_a_schedule_without_a_target_is_refused_in_words() -> None:
    patcher, _ = loaded_in_prompt("sdxl")
    sampling = copy.copy(patcher.get_model_object("model_sampling"))
    sampling.calculate_denoised = lambda sigma, output, noisy: output.tanh()
    patched = patcher.clone()
    patched.add_object_patch("model_sampling", sampling)
    with pytest.raises(ValueError, match="SDXL is sampled by .* no training target"), borrow_for_training(
            patched, LoraSpec(), seed=0, checkpointing=False):
        pass
    assert all(p.is_inference() for p in patcher.model.parameters()), "a refused model is not even copied"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["while layers are made", "while they are attached"])
def test_failing_to_make_the_lora_restores_the_model(error: type[BaseException], moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    before, calls = Fingerprint(patcher, data), []

    def third_time_fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise error("no more")
        return original(*args, **kwargs)

    owner, name = (LoRA, "__init__") if moment == "while layers are made" else (LoraAdapter, "_replace")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, third_time_fails)
    with torch.inference_mode(), pytest.raises(error), borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False):
        pass
    monkeypatch.undo()
    before.assert_same(Fingerprint(patcher, data))


def test_requires_grad_flags_come_back() -> None:
    with torch.inference_mode(False):
        patcher, _ = tiny_patcher("flux")
    for p in list(patcher.model.parameters())[::2]:
        p.requires_grad_(True)
    flags = [p.requires_grad for p in patcher.model.parameters()]
    with borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False):
        pass
    assert [p.requires_grad for p in patcher.model.parameters()] == flags


def test_started_with_other_attention_the_trainer_still_uses_a_differentiable_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """sage and flash attention have no backward; stand in for them with one that refuses gradients."""
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as attention

    @attention.wrap_attn
    def no_backward(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("attention without a backward was called")

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", no_backward)
    patcher, arch = loaded_in_prompt("flux")
    with borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False) as (model, lora):
        train(model, lora.parameters, Examples(patcher, training_set(arch), MaskRecipe()), TrainConfig(steps=1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_targets_are_block_layers_without_modulation(name: str) -> None:
    patcher, _ = tiny_patcher(name)
    targets = [n for n, m in patcher.model.diffusion_model.named_modules()
               if isinstance(m, torch.nn.Linear) and re.fullmatch(LoraSpec().targets, n)]
    assert any("attn" in n or "attention" in n or n.endswith("linear1") for n in targets)
    assert any("mlp" in n or "ff" in n or "feed_forward" in n or n.endswith("linear2") for n in targets)
    assert not any("mod" in n or "time" in n or "emb" in n for n in targets)


@pytest.mark.parametrize("name", ALL)
def test_without_its_adapter_the_model_predicts_bit_for_bit_as_before(name: str) -> None:
    """What prior preservation compares with."""
    patcher, arch = loaded_in_prompt(name)
    data = training_set(arch)
    before = predict(patcher, Examples(patcher, data, MaskRecipe())[0])
    with torch.inference_mode(), borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=False) as (model, lora):
        for p in lora.parameters:
            p.data = 0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        example = Examples(patcher, data, MaskRecipe())[0]
        inputs = (example.latent_CHW[None], torch.tensor([0.6]), [example.cond])
        with torch.no_grad(), lora.disabled():
            base = model(*inputs)
        with torch.no_grad():
            adapted = model(*inputs)
    assert torch.equal(base, before)
    assert not torch.allclose(adapted, before, atol=1e-3)


@pytest.mark.parametrize(("name", "checkpointing"), [("flux", False), ("flux", True), ("sdxl", False), ("sdxl as v", False)])
def test_a_prior_keeps_the_model_outside_the_masks(name: str, checkpointing: bool, tmp_path: Path) -> None:
    patcher, arch = loaded_in_prompt(name)
    data = training_set(arch)
    before = Fingerprint(patcher, data)
    drifts = []
    for weight in (0.0, 30.0):
        run = run_config(tmp_path, steps=12, prior=PriorSpec(weight=weight), normalization="image")
        run = replace(run, checkpointing=checkpointing)
        with torch.inference_mode():
            result = run_training(patcher, data, run, Progress(None))
            drifts.append(measure_drift(patcher, result.lora, data, MaskRecipe(), seed=0))
        assert json.loads(result.lora.metadata["masked_lora.mask"])["prior"] == ({"weight": 30.0} if weight else {})
    assert drifts[1].outside < 0.8 * drifts[0].outside
    before.assert_same(Fingerprint(patcher, data))


def test_examples_beyond_the_room_are_made_again_and_are_the_same() -> None:
    """Latents and embeddings count: 512 tokens of T5 weigh eight times as much as the latent of a 1024 px picture."""
    patcher, arch = loaded_in_prompt("flux")
    data = training_set(arch)
    whole = Examples(patcher, data, MaskRecipe())
    first = data.examples[0]
    small = Examples(patcher, data, MaskRecipe(), room=first.latent_CHW.nbytes + 10)
    assert whole[0] is whole[0]
    assert small[0] is not small[0], "the text is not counted"
    for one, other in zip(whole, small, strict=True):
        assert torch.equal(one.latent_CHW, other.latent_CHW)
        assert torch.equal(one.weight_1HW, other.weight_1HW)
        assert one.group == other.group


def test_thawing_keeps_one_old_weight_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would be a second copy of the model."""
    with torch.inference_mode():
        model = torch.nn.Sequential(*(torch.nn.Linear(4, 4, bias=False) for _ in range(5)))
    old = [weakref.ref(p) for p in model.parameters()]
    replace_one, alive = comfy.utils.set_attr_param, []

    def spy(*args: Any) -> object:
        alive.append(sum(reference() is not None for reference in old))
        return replace_one(*args)

    monkeypatch.setattr(comfy.utils, "set_attr_param", spy)
    with torch.inference_mode(False):
        thaw(model)
    assert alive == [5, 4, 3, 2, 1]
    assert not any(p.is_inference() for p in model.parameters())
