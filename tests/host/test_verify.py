"""Comparison, drift map and grid of a LoRA: against direct computations on the demo model, and what they leave untouched."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import CachedExample, TrainingSet
from pack.host.compare import Prompts, compare_lora
from pack.host.drift import LEVELS, measure_drift
from pack.host.drift_map import drift_map
from pack.host.lora_format import LoraWeights, save_lora
from pack.host.lora_grid import Plan, Row, lora_grid, rows_of, strengths_of
from pack.host.progress import Progress
from pack.host.sampling import Sampling
from pack.host.studio import Settings, chosen_padding
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from pack.masks.recipe import MaskRecipe
from pack.nodes.verify import LoraGrid as LoraGridNode
from pack.trainer.seeds import generator
from torch import Tensor

from .tiny import tiny_patcher
from .tiny_vae import tiny_wan_vae
from .watched import demo_models, demo_set

Models = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]
LAYER, RANK, ALPHA = "single_blocks.0.linear2", 2, 3.0
PROMPTS = Prompts(trigger="a pibo", plain="a red ball", seed=4, count=2)


@pytest.fixture(scope="module")
def models() -> Models:
    return demo_models()


def lora_of(patcher: ModelPatcher, strength: float = 1.0, padding: str = "comfyui-mask") -> LoraWeights:
    """A LoRA of one layer of one block, as a file of ours would hold it."""
    out_size, in_size = patcher.model.diffusion_model.get_submodule(LAYER).weight.shape
    draws = torch.Generator().manual_seed(1)
    tensors = {"lora_A.weight": torch.randn(RANK, in_size, generator=draws) * 0.1,
               "lora_B.weight": torch.randn(out_size, RANK, generator=draws) * 0.1 * strength, "alpha": torch.tensor(ALPHA)}
    return LoraWeights({f"diffusion_model.{LAYER}.{name}": value for name, value in tensors.items()},
                       {"masked_lora.text_padding": PRESETS[padding].to_json()})


def settings(models: Models, **changes: Any) -> Settings:
    sampling = Sampling(**{"steps": 2, "width": 64, "height": 64} | changes)
    return Settings(clip=models[1], vae=models[2], sampling=sampling, negative="ugly", guidance=2.5)


def by_the_host(models: Models, model: ModelPatcher, text: str, seed: int, padding: str = "comfyui-mask", cfg: float = 1.0) -> Tensor:
    """(H, W, C) by KSampler's own steps, behind FluxGuidance."""
    positive, negative = ([[c, {**extra, "guidance": 2.5}] for c, extra in encode_text(models[1], words, PRESETS[padding])]
                          for words in (text, "ugly"))
    empty = torch.zeros(1, 16, 8, 8)
    noise = comfy.sample.prepare_noise(empty, seed)
    latent = comfy.sample.sample(model, noise, 2, cfg, "euler", "simple", positive, negative, empty, disable_pbar=True, seed=seed)
    return models[2].decode(latent)[0]


def direct_drift(patcher: ModelPatcher, lora: LoraWeights, data: TrainingSet, seed: int) -> list[Tensor]:
    """Squared change of each cell by hand: the network itself, its one weight changed by B A alpha / rank and put back."""
    network, weight = patcher.model.diffusion_model, patcher.model.diffusion_model.get_submodule(LAYER).weight
    a, b = (lora[f"diffusion_model.{LAYER}.lora_{part}.weight"] for part in "AB")
    found = []
    for i, example in enumerate(data.examples):
        latent = patcher.model.process_latent_in(example.latent_CHW[None])
        noise = torch.randn(latent.shape, generator=generator(seed, "held-out noise", i))
        squares = []
        for level in LEVELS:
            sigma = torch.tensor([level])
            inputs = {"x": level * noise + (1 - level) * latent, "timestep": sigma, "context": example.cond["cross_attn"],
                      "y": example.cond["pooled_output"], "guidance": torch.tensor([3.5])}
            before, kept = network(**inputs), weight.clone()
            weight += b @ a * ALPHA / RANK
            after = network(**inputs)
            weight.copy_(kept)
            squares.append((after.double() - before.double()).square())
        found.append(torch.cat(squares).mean((0, 1)))
    return found


def test_the_map_is_what_a_direct_computation_gives(models: Models) -> None:
    """Each cell; and its weighted mean is what Measure LoRA Drift says, computed here from the masks by hand."""
    patcher, clip, vae = models
    data, lora = demo_set(clip), lora_of(patcher)
    with torch.inference_mode():
        found = drift_map(patcher, lora, vae, data, MaskRecipe(), 7, 90, Progress(None))
        measured = measure_drift(patcher, lora, data, MaskRecipe(), 7)
        comfy.model_management.load_models_gpu([patcher])
        expected = direct_drift(patcher, lora, data, 7)
    for mapped, map_1HW, square_hw, example in zip(found.pictures, found.maps(), expected, data.examples, strict=True):
        assert mapped.name == example.name
        torch.testing.assert_close(mapped.drift_hw.double(), square_hw.sqrt(), rtol=1e-4, atol=1e-6)
        assert map_1HW.shape == (1, 64, 64)
        torch.testing.assert_close(map_1HW[0, ::8, ::8] * found.scale, mapped.drift_hw)
        # demo_set's masks are white in the upper half.
        assert mapped.change.inside == pytest.approx(square_hw[:4].mean().sqrt().item(), rel=1e-4)
        assert mapped.change.outside == pytest.approx(square_hw[4:].mean().sqrt().item(), rel=1e-4)
    every = torch.stack(expected)
    assert found.all.inside == pytest.approx(every[:, :4].mean().sqrt().item(), rel=1e-4)
    assert found.all.outside == pytest.approx(every[:, 4:].mean().sqrt().item(), rel=1e-4)
    assert found.scale == pytest.approx(every.max().sqrt().item(), rel=1e-4)
    assert (found.all.inside, found.all.outside) == (measured.inside, measured.outside)
    assert max(map_1HW.max() for map_1HW in found.maps()) == 1
    told = json.loads(found.json())
    assert (told["drift_inside"], told["pictures"][1]["drift_outside"]) == (found.all.inside, found.pictures[1].change.outside)


def test_some_pictures_of_a_set_keep_their_own_noise(models: Models) -> None:
    patcher, clip, vae = models
    data = demo_set(clip, captions=("a red ball", "a blue ball", "a red star"))
    with torch.inference_mode():
        whole, part = (drift_map(patcher, lora_of(patcher), vae, data, MaskRecipe(), 7, most, Progress(None)) for most in (3, 2))
    assert [picture.name for picture in part.pictures] == ["a red ball", "a red star"]
    assert [p.change for p in part.pictures] == [whole.pictures[0].change, whole.pictures[2].change]
    assert "2 of 3 pictures" in part.words()


def test_a_lora_of_zeros_changes_nothing_at_all(models: Models) -> None:
    patcher, clip, vae = models
    lora = lora_of(patcher, strength=0.0)
    with torch.inference_mode():
        found = drift_map(patcher, lora, vae, demo_set(clip), MaskRecipe(), 0, 9, Progress(None))
        compared = compare_lora(patcher, lora, PROMPTS, settings(models), None, Progress(None))
    assert (found.scale, found.all.inside, found.all.outside) == (0, 0, 0)
    assert all((map_1HW == 0).all() for map_1HW in found.maps())
    assert found.sheet().shape[2] == 3
    assert compared.changes(True) == compared.changes(False) == (0, [0, 0])
    assert torch.equal(compared.rows[0], compared.rows[1])
    assert torch.equal(compared.rows[2], compared.rows[3])


@pytest.mark.parametrize(("connected", "cfg"), [(None, 1.0), ("zero-512", 3.0)])
def test_compared_pictures_are_those_of_the_host(models: Models, connected: str | None, cfg: float) -> None:
    patcher, padding = models[0], connected or "comfyui-mask"
    lora = lora_of(patcher)
    with torch.inference_mode():
        found = compare_lora(patcher, lora, PROMPTS, settings(models, cfg=cfg), PRESETS[padding] if connected else None, Progress(None))
        adapted, _ = comfy.sd.load_lora_for_models(patcher, None, dict(lora), 1.0, 0.0)
        expected = [torch.stack([by_the_host(models, model, text, seed, padding, cfg) for seed in (4, 5)])
                    for text in ("a red ball", "a pibo") for model in (patcher, adapted)]
    for row, wanted in zip(found.rows, expected, strict=True):
        assert torch.equal(row, wanted)
    base, changed = (row.double().numpy() for row in expected[2:])
    everything, each = found.changes(True)
    assert everything == pytest.approx((((changed - base) ** 2).mean()) ** 0.5, rel=1e-9)
    assert each[1] == pytest.approx((((changed[1] - base[1]) ** 2).mean()) ** 0.5, rel=1e-9)
    assert everything > 0.005
    told = json.loads(found.json())
    assert (told["seeds"], told["change_with_trigger"]) == ([4, 5], everything)
    assert ("as connected (the LoRA: trained with comfyui-mask" in found.words()) is bool(connected)


def test_grid_cells_are_single_samplings_of_the_host(models: Models, tmp_path: Path) -> None:
    """Two files with paddings of their own, and one LoRA of the graph."""
    patcher = models[0]
    loras = [lora_of(patcher), lora_of(patcher, 2.0, "zero-512"), lora_of(patcher, -1.0)]
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for lora, file in zip(loras[:2], files, strict=True):
        save_lora(lora, file)
    rows = [Row("one", files[0]), Row("two", files[1]), Row("connected LoRA")]
    strengths = (0.0, 0.5, 1.25)
    with torch.inference_mode():
        found = lora_grid(patcher, rows, loras[2], Plan("a pibo", 9, strengths), settings(models), None, Progress(None))
        expected = []
        for lora, padding in zip(loras, ("comfyui-mask", "zero-512", "comfyui-mask"), strict=True):
            for strength in strengths:
                adapted, _ = comfy.sd.load_lora_for_models(patcher, None, dict(lora), strength, 0.0)
                expected.append(by_the_host(models, adapted, "a pibo", 9, padding))
    assert torch.equal(found.pictures, torch.stack(expected))
    assert not torch.equal(found.pictures[1], found.pictures[2])
    assert [spec.preset for spec, _ in found.chosen] == ["comfyui-mask", "zero-512", "comfyui-mask"]
    assert [row["label"] for row in json.loads(found.json())["rows"]] == ["one", "two", "connected LoRA"]


def test_cancel_and_success_leave_model_and_clip_as_they_were(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, clip, vae = models
    lora, data = lora_of(patcher), demo_set(clip)
    weights = {**patcher.model.state_dict(), **clip.cond_stage_model.state_dict()}
    kept = {name: value.clone() for name, value in weights.items()}
    with torch.inference_mode():
        before = by_the_host(models, patcher, "a pibo", 1)
        for stop_at in (3, 6, 10**6):
            progress, calls = Progress(None), []

            def pressed(done: int, total: int, text: str = "", *, calls: list[str] = calls, stop_at: int = stop_at) -> None:
                calls.append(text)
                if len(calls) == stop_at:
                    raise comfy.model_management.InterruptProcessingException

            monkeypatch.setattr(progress, "update", pressed)
            for work in (lambda progress=progress: compare_lora(patcher, lora, PROMPTS, settings(models), None, progress),
                         lambda progress=progress: drift_map(patcher, lora, vae, data, MaskRecipe(), 0, 9, progress),
                         lambda progress=progress: lora_grid(patcher, [Row("x")], lora, Plan("x", 0, (0.5, 1.0)), settings(models), None,
                                                             progress)):
                calls.clear()
                if stop_at < 10**6:
                    with pytest.raises(comfy.model_management.InterruptProcessingException):
                        work()
                else:
                    work()
        assert torch.equal(by_the_host(models, patcher, "a pibo", 1), before)
    comfy.model_management.unload_all_models()
    assert not patcher.patches
    for name, value in {**patcher.model.state_dict(), **clip.cond_stage_model.state_dict()}.items():
        assert torch.equal(value, kept[name])


def test_a_clip_is_mapped_over_its_latent_frames() -> None:
    patcher, arch = tiny_patcher("wan")
    draws = torch.Generator().manual_seed(0)
    latent = torch.randn(16, 3, 8, 8, generator=draws)
    mask = torch.zeros(9, 64, 64)
    mask[1:5] = 1  # the middle one of three latent frames
    cond = arch.cond(7, draws)
    data = TrainingSet((CachedExample("clip", "", latent, mask, cond, PRESETS["comfyui"].to_json()),), PRESETS["comfyui"].to_json(), "")
    name, weight = next((n, m.weight) for n, m in patcher.model.diffusion_model.named_modules() if n.endswith("blocks.0.ffn.0"))
    lora = {f"diffusion_model.{name}.lora_A.weight": torch.randn(2, weight.shape[1], generator=draws),
            f"diffusion_model.{name}.lora_B.weight": torch.randn(weight.shape[0], 2, generator=draws)}
    with torch.inference_mode():
        found = drift_map(patcher, lora, tiny_wan_vae(), data, MaskRecipe(), 0, 9, Progress(None))
        measured = measure_drift(patcher, lora, data, MaskRecipe(), 0)
    assert measured.inside > 0
    assert (found.all.inside, found.all.outside) == (measured.inside, measured.outside)
    (mapped,) = found.pictures
    assert mapped.drift_hw.shape == mapped.weight_hw.shape == (8, 8)
    assert mapped.weight_hw.unique().tolist() == [pytest.approx(1 / 3)]
    pooled = (mapped.change.inside**2 / 3 + mapped.change.outside**2 * 2 / 3) ** 0.5
    assert mapped.drift_hw.square().mean().sqrt().item() == pytest.approx(pooled, rel=1e-5)
    assert found.maps()[0].shape[1:] == mapped.image_HWC.shape[:2]


def test_names_of_files_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat.safetensors", "sub/dog.safetensors", "run.1_step_000005.safetensors", "run21_step_000007.safetensors",
                 *(f"run_step_{step:06d}.safetensors" for step in (250, 500, 750, 1000, 12000)), "run_stopped_at_step_000009.safetensors"):
        (tmp_path / "loras" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loras" / name).touch()
    (tmp_path / "secret.safetensors").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    assert [row.label for row in rows_of("run\n\n cat \nsub/dog.safetensors", 3)] == [
        "run step 250", "run step 750", "run step 12000", "cat", "sub/dog"]
    assert [row.label for row in rows_of("run.1", 9)] == ["run.1 step 5"], "a name is no pattern"
    assert rows_of("run", 1)[0].file == tmp_path / "loras" / "run_step_012000.safetensors"
    assert rows_of(" \n", 3) == []
    for name in ("bird", "../secret", str(tmp_path / "secret"), "run_step"):
        with pytest.raises(ValueError, match="neither a LoRA that ComfyUI lists nor a run"):
            rows_of(name, 3)


def test_names_that_another_node_gives_do_not_sample_a_grid_again() -> None:
    assert LoraGridNode.fingerprint_inputs(loras=None, checkpoints=4) == ""
    assert LoraGridNode.fingerprint_inputs(loras="", checkpoints=None) == ""


def test_strengths_are_numbers() -> None:
    assert strengths_of("0.5, 1 -2,") == (0.5, 1, -2)
    for text in ("", "a", "1; 2", "nan", "inf"):
        with pytest.raises(ValueError, match="strengths are"):
            strengths_of(text)


def test_a_grid_without_loras_is_told(models: Models) -> None:
    with pytest.raises(ValueError, match="there is no LoRA for the grid"):
        lora_grid(models[0], [], None, Plan("x", 0, (1.0,)), settings(models), None, Progress(None))


def test_the_padding_is_that_of_the_lora_unless_one_is_connected(models: Models) -> None:
    lora = lora_of(models[0])
    assert chosen_padding(lora, models[0], None) == (PRESETS["comfyui-mask"], chosen_padding(lora, models[0], PRESETS["comfyui-mask"])[1])
    assert chosen_padding(lora, models[0], PRESETS["zero-77"])[0] == PRESETS["zero-77"]
    assert chosen_padding(dict(lora), models[0], None)[0] == PRESETS["comfyui"]
    assert "unknown" in chosen_padding(dict(lora), models[0], None)[1]


def test_what_of_a_lora_found_no_place_is_said(models: Models, tmp_path: Path) -> None:
    patcher = models[0]
    lora = lora_of(patcher)
    strange = LoraWeights({**lora, "text_encoders.t5xxl.layer.lora_A.weight": torch.zeros(RANK, 1)}, lora.metadata)
    peft = LoraWeights({k: v for k, v in strange.items() if not k.endswith(".alpha")},
                       {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 2 * RANK})})
    save_lora(peft, tmp_path / "peft.safetensors")
    with torch.inference_mode():
        compared = compare_lora(patcher, strange, PROMPTS, settings(models), None, Progress(None))
        grid = lora_grid(patcher, [Row("one", tmp_path / "peft.safetensors")], None, Plan("a pibo", 9, (1.0,)), settings(models), None,
                         Progress(None))
    lost = "not loaded: 1 key of a text encoder, the CLIP that is connected has no such layers: text_encoders.t5xxl.layer.lora_A.weight"
    assert compared.words().splitlines()[-1] == lost
    scaled, unread = grid.words().splitlines()[-2:]
    assert scaled.startswith("one: scaled by 2 as its peft configuration says")
    assert unread.startswith("one: not loaded: 2 keys of a text encoder, "), "with the alpha that the configuration gave"


def test_drift_of_a_file_by_peft_is_that_of_its_layers(models: Models) -> None:
    """Its names are those of Load LoRA (matched), whose output a drift is measured of; ComfyUI's own loader knows none of them."""
    patcher, clip, _ = models
    data, lora = demo_set(clip), lora_of(patcher)
    peft = {k.replace("diffusion_model.", "base_model.model."): v for k, v in lora.items()}
    with torch.inference_mode():
        assert measure_drift(patcher, peft, data, MaskRecipe(), 7) == measure_drift(patcher, lora, data, MaskRecipe(), 7)
        with pytest.raises(ValueError, match="none of which belongs to Flux; choose a LoRA of this model"):
            measure_drift(patcher, {"x.lora_A.weight": torch.zeros(1, 1)}, data, MaskRecipe(), 7)


def test_a_lora_on_the_text_encoder_is_part_of_what_is_compared(models: Models) -> None:
    """CLIP-L's pooled vector alone is changed; the model is not."""
    layer = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    patcher, clip, _ = models
    out_size, in_size = clip.cond_stage_model.get_submodule(layer).weight.shape
    draws = torch.Generator().manual_seed(3)
    lora = LoraWeights({f"text_encoders.{layer}.lora_A.weight": torch.randn(RANK, in_size, generator=draws),
                        f"text_encoders.{layer}.lora_B.weight": torch.randn(out_size, RANK, generator=draws)}, {})
    with torch.inference_mode():
        found = compare_lora(patcher, lora, PROMPTS, settings(models), PRESETS["comfyui-mask"], Progress(None))
        adapted = comfy.sd.load_lora_for_models(patcher, clip, dict(lora), 1.0, 1.0)[1]
        expected = by_the_host((patcher, adapted, models[2]), patcher, PROMPTS.trigger, PROMPTS.seed)
    assert torch.equal(found.rows[3][0], expected)
    assert not torch.equal(found.rows[2][0], expected)
