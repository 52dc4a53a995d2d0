"""Pictures in the middle of training: what is sampled, and that training goes on as if it had not been."""
from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import TrainingSet
from pack.host.observing import borrowed_patcher
from pack.host.previews import PreviewSpec, as_sampled
from pack.host.progress import Progress
from pack.host.text import encode_text
from pack.host.training import borrow_for_training
from pack.trainer.config import LoraSpec
from pack.trainer.ema import EmaSpec
from PIL import Image

from .tiny import tiny_patcher
from .watched import PADDING, Told, demo_models, demo_set, run_observed, run_watched, same

Models = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


@pytest.fixture(scope="module")
def models() -> Models:
    return demo_models()


@pytest.fixture(scope="module")
def data(models: Models) -> TrainingSet:
    return demo_set(models[1])


def spec_of(models: Models, **changes: Any) -> PreviewSpec:
    settings: dict[str, Any] = {"prompts": "a red ball\n\n a cat, \u732b", "every": 2, "width": 64, "height": 64, "steps": 2}
    return PreviewSpec(clip=models[1], vae=models[2], **settings | changes)


def pixels(file: Path) -> torch.Tensor:
    with Image.open(file) as picture:
        return torch.tensor(list(picture.convert("RGB").tobytes()))


@pytest.mark.parametrize("changes", [{}, {"cfg": 3.0, "negative": "ugly", "sampler": "euler_ancestral"}])
def test_a_run_with_previews_learns_bit_for_bit_the_same(models: Models, data: TrainingSet, tmp_path: Path, changes: Any) -> None:
    patcher = models[0]
    torch.manual_seed(11)
    plain, after_plain = run_watched(patcher, data, tmp_path, steps=5), torch.rand(3)
    torch.manual_seed(11)
    watched, after_watched = run_watched(patcher, data, tmp_path, spec_of(models, **changes), steps=5), torch.rand(3)
    assert same(plain.lora, watched.lora)
    assert plain.losses == watched.losses
    assert torch.equal(after_plain, after_watched), "the host's random numbers go on as if nothing had been sampled"
    names = sorted(f.name for f in (tmp_path / "test_previews").iterdir())
    assert names == ["grid.png", *(f"step_{step:06d}_{number}.png" for step in (0, 2, 4, 5) for number in (0, 1))]


@pytest.mark.parametrize("ema", [None, EmaSpec(decay=0.6, warmup=False)])
def test_the_preview_is_what_the_host_samples_from_the_lora_file(models: Models, data: TrainingSet, tmp_path: Path,
                                                                 ema: EmaSpec | None) -> None:
    """ComfyUI's own loader and sampler on the finished LoRA, prompts encoded with the training's padding."""
    patcher, clip, vae = models
    spec = spec_of(models, cfg=2.0, negative="ugly", seed=9)
    lora = run_watched(patcher, data, tmp_path, spec, steps=4, learning_rate=5e-2, ema=ema).lora
    with torch.inference_mode():
        adapted, _ = comfy.sd.load_lora_for_models(patcher, None, dict(lora), 1.0, 0.0)
        empty = torch.zeros(1, 16, 8, 8)
        texts = [encode_text(clip, text, PADDING) for text in ("a red ball", "ugly")]
        images = []
        for model in (adapted, patcher):
            latent = comfy.sample.sample(model, comfy.sample.prepare_noise(empty, 9), 2, 2.0, "euler", "simple", *texts, empty, seed=9)
            images.append((vae.decode(latent)[0] * 255).round().byte().flatten().int())
    with_lora, without = ((pixels(tmp_path / "test_previews" / f"step_{step:06d}_0.png") - image).abs()
                          for step, image in zip((4, 0), images, strict=True))
    assert with_lora.max() <= 1
    assert without.max() <= 1
    assert (images[0] - images[1]).abs().max() > 8, "the LoRA changes the picture"


def test_no_memory_for_a_preview_is_told_and_training_goes_on(models: Models, data: TrainingSet, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    patcher, _, vae = models
    plain = run_watched(patcher, data, tmp_path, steps=4)
    decode, calls = vae.decode, []

    def failing(latent: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) in (2, 3):
            raise torch.OutOfMemoryError("no memory left on the device")
        return decode(latent)

    monkeypatch.setattr(vae, "decode", failing)
    spec = spec_of(models)
    observer = spec.observer(tmp_path)
    with caplog.at_level(logging.WARNING):
        watched = run_observed(patcher, data, tmp_path, (observer,), steps=4)
    assert same(plain.lora, watched.lora)
    assert [(m.step, m.kind) for m in observer.marks] == [(0, "preview failed"), (2, "preview failed"), (4, "preview")]
    assert observer.failed == 2
    assert "the preview after step 2 needs more memory" in caplog.text
    assert "2 previews had no memory left" in caplog.text


def test_no_memory_in_the_sampler_leaves_the_model_as_training_needs_it(models: Models, data: TrainingSet, tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    patcher = models[0]
    plain = run_watched(patcher, data, tmp_path, steps=3)
    network, calls = patcher.model.diffusion_model, []

    def sometimes(module: torch.nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled():  # only previews predict without gradients here
            calls.append(1)
            if len(calls) == 2:
                comfy.model_management.unload_all_models()  # what making room may come to
                raise torch.OutOfMemoryError("no memory left on the device")

    handle = network.register_forward_pre_hook(sometimes)
    try:
        watched = run_watched(patcher, data, tmp_path, spec_of(models, every=1), steps=3)
    finally:
        handle.remove()
    assert len(calls) > 2
    assert same(plain.lora, watched.lora)


def test_a_full_disk_costs_the_picture_and_not_the_training(models: Models, data: TrainingSet, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    plain = run_watched(models[0], data, tmp_path, steps=3)
    monkeypatch.setattr(Image.Image, "save", failing)
    observer = spec_of(models).observer(tmp_path)
    assert same(plain.lora, run_observed(models[0], data, tmp_path, (observer,), steps=3).lora)
    assert [m.kind for m in observer.marks] == ["preview failed"] * 3


def test_a_grid_that_cannot_be_written_or_read_does_not_cost_what_was_learned(models: Models, data: TrainingSet, tmp_path: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    save = Image.Image.save

    def full(picture: Image.Image, file: Any, *args: Any, **kwargs: Any) -> None:
        if Path(file).name == "grid.png":
            raise OSError(28, "No space left on device")
        save(picture, file, *args, **kwargs)
        if "000002_0" in str(file):  # as a kill leaves it
            Path(file).write_bytes(Path(file).read_bytes()[:200])

    plain = run_watched(models[0], data, tmp_path, steps=3)
    monkeypatch.setattr(Image.Image, "save", full)
    observer = spec_of(models).observer(tmp_path)
    assert same(plain.lora, run_observed(models[0], data, tmp_path, (observer,), steps=3).lora)
    assert observer.grid() is not None
    assert not (tmp_path / "test_previews" / "grid.png").exists()


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError])
def test_other_errors_of_a_preview_end_the_run(models: Models, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               kind: type[Exception]) -> None:
    def failing(latent: torch.Tensor) -> torch.Tensor:
        raise kind("shapes do not fit")

    monkeypatch.setattr(models[2], "decode", failing)
    with pytest.raises(kind, match="shapes do not fit"):
        run_watched(models[0], data, tmp_path, spec_of(models), steps=4)


def test_cancel_in_a_preview_cancels_saves_and_gives_the_model_back(models: Models, data: TrainingSet, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, sampling = models[0], models[0].get_model_object("model_sampling")
    before = [(n, id(m)) for n, m in patcher.model.named_modules()]
    progress = Progress(None)

    def pressed(done: int, total: int, text: str = "") -> None:
        if done == 2 and text.startswith("preview 2 of 2"):
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(progress, "update", pressed)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run_watched(patcher, data, tmp_path, spec_of(models), steps=4, progress=progress)
    assert (tmp_path / "test_stopped_at_step_000002.safetensors").exists()
    assert [(n, id(m)) for n, m in patcher.model.named_modules()] == before
    assert patcher.model.model_sampling is sampling
    assert not comfy.model_management.in_training
    assert (tmp_path / "test_previews" / "grid.png").exists(), "what was sampled before is kept"


def test_texts_are_encoded_once_and_encoders_leave_the_memory(models: Models, data: TrainingSet, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, clip, vae = models
    loaded: list[list[object]] = []
    look = Told(started=lambda run: loaded.append(comfy.model_management.loaded_models()),
                after_step=lambda run, report: loaded.append(comfy.model_management.loaded_models()))
    encoded: list[str] = []
    tokenize = clip.tokenize
    monkeypatch.setattr(clip, "tokenize", lambda text, **options: encoded.append(text) or tokenize(text, **options))
    run_observed(patcher, data, tmp_path, (spec_of(models, negative="ugly").observer(tmp_path), look), steps=4)
    assert encoded == ["a red ball", "a cat, \u732b", "ugly"]
    for models_now in loaded:
        assert [model.model is patcher.model for model in models_now] == [True], "only the model that trains stays"


def test_pictures_tell_their_prompt_and_go_to_the_node(models: Models, data: TrainingSet, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    progress, shown = Progress(None), []
    monkeypatch.setattr(progress.bar, "update_absolute", lambda done, total, preview=None: preview and shown.append((done, preview)))
    run_watched(models[0], data, tmp_path, spec_of(models, seed=7), steps=2, progress=progress)
    with Image.open(tmp_path / "test_previews" / "step_000002_1.png") as picture:
        assert picture.text["parameters"] == ("a cat, \u732b\nSteps: 2, Sampler: euler, Schedule type: simple, CFG scale: 1, Seed: 7, "
                                              "Size: 64x64")
        assert json.loads(picture.text["masked_lora"])["step"] == 2
    assert [done for done, _ in shown] == [0, 0, 2, 2, 2]
    assert [preview[1].size for _, preview in shown[:4]] == [(64, 64)] * 4
    assert shown[-1][1][1].width > 512, "the last one is the grid"


def test_an_earlier_run_of_the_name_is_set_aside(models: Models, data: TrainingSet, tmp_path: Path) -> None:
    for _ in range(3):
        run_watched(models[0], data, tmp_path, spec_of(models, at_start=False, prompts="x"), steps=1)
    folder = tmp_path / "test_previews"
    assert sorted(f.name for f in folder.iterdir()) == ["earlier_1", "earlier_2", "grid.png", "step_000001_0.png"]
    assert sorted(f.name for f in (folder / "earlier_2").iterdir()) == ["grid.png", "step_000001_0.png"]


@pytest.mark.parametrize(("changes", "message"), [({"prompts": " \n"}, "no prompt"), ({"every": 0}, "every is 0"),
                                                  ({"sampler": "eular"}, "sampler is 'eular'")])
def test_settings_that_mean_nothing_are_refused(models: Models, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(models, **changes)


@pytest.mark.parametrize(("name", "checkpointing"), [("flux", False), ("flux", True), ("chroma", False), ("sd3", False), ("sdxl", True),
                                                     ("sd15", False), ("qwen_image", False)])
def test_the_borrowed_model_samples_as_the_model_itself(name: str, checkpointing: bool) -> None:
    """Flow and eps: a LoRA that is still zero changes nothing, and afterwards predictions are raw again."""
    patcher, arch = tiny_patcher(name)
    generator = torch.Generator().manual_seed(0)
    text = [[torch.randn(1, 7, arch.text, generator=generator), {k: torch.randn(1, v, generator=generator) for k, v in arch.extra.items()}]]
    empty = torch.zeros(1, *arch.latent)

    def sampled(model: ModelPatcher) -> torch.Tensor:
        with torch.no_grad():
            noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1))
            return comfy.sample.sample(model, noise, 2, 2.0, "euler", "simple", text, text, empty, disable_pbar=True, seed=0)

    expected = sampled(patcher)
    with borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=checkpointing) as (model, _):
        run = SimpleNamespace(patcher=patcher, model=model)
        borrowed = borrowed_patcher(run)
        raw = sampled(borrowed)
        with as_sampled(run, borrowed):
            assert torch.equal(sampled(borrowed), expected)
        assert torch.equal(sampled(borrowed), raw)
        assert not torch.equal(raw, expected)
        assert comfy.model_management.in_training
