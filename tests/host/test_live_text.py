"""A LoRA on the text encoders: right gradients, the file that the host loads, and text encoders that are given back as they were."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import pytest
import safetensors.torch
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from pack.dataset.cache import CachedExample, OtherText, TrainingSet
from pack.host.checkpoints import Checkpoints
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
from pack.host.examples import Examples
from pack.host.finish import FinishEarly
from pack.host.folders import DEMO_MODEL
from pack.host.live_text import LiveText, TextEncoderSpec, borrow_text_encoder
from pack.host.lora_format import load_lora, save_lora
from pack.host.previews import PreviewSpec
from pack.host.progress import Progress
from pack.host.prompts import encode_caption
from pack.host.run import RunConfig, RunResult, run_training
from pack.host.text_padding import PRESETS
from pack.host.training import borrow_for_training
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.optimizer import OptimizerSpec
from pack.trainer.state import TrainingState
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from . import tiny
from .test_offloading import Dynamic
from .test_resume import Ending

CAPTIONS = ("a red star", "a blue (pibo:1.3) on a plain ground", "a pibo")
CONFIG = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}


def tiny_clip(kind: str) -> comfy.sd.CLIP:
    """SD 1.5's or SDXL's text encoders, 32 numbers wide, with random weights."""
    options = {"dtype": torch.float32, "clip_l_model_config": CONFIG, "clip_g_model_config": CONFIG | {"num_attention_heads": 1}}
    kinds = {"sd15": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
             "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)}
    clip = comfy.sd.CLIP(ClipTarget(*kinds[kind]), model_options=options)
    clip.cond_stage_model.load_state_dict(tiny.random_weights(clip.cond_stage_model))
    return clip


def model_of(kind: str) -> ModelPatcher:
    if kind == "flux":
        return load_diffusion_model(DEMO_MODEL)
    wide = {"sd15": {"context_dim": 32}, "sdxl": {"context_dim": 64, "adm_in_channels": 32 + 6 * 256}}[kind]
    arch = tiny.ARCHITECTURES[kind]()
    config = arch.config | wide

    def network() -> nn.Module:
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        return UNetModel(**tiny.KW, **config)

    return tiny.patcher_of(replace(arch, network=network, config=config))


@dataclass(frozen=True, slots=True)
class Case:
    patcher: ModelPatcher
    clip: comfy.sd.CLIP
    data: TrainingSet

    @property
    def spec(self) -> TextEncoderSpec:
        return TextEncoderSpec(clip=self.clip, rank=2, alpha=4.0, rate=1.0)

    @contextmanager
    def live(self) -> Iterator[LiveText]:
        with borrow_for_training(self.patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (denoiser, _), \
                borrow_text_encoder(self.spec, self.patcher, denoiser, 1) as text:
            draw = torch.Generator().manual_seed(2)
            for parameter in text.adapter.parameters:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
            yield text

    def train(self, folder: Path, steps: int = 4, spec: TextEncoderSpec | None = None, observers: tuple[Any, ...] = ()) -> RunResult:
        with torch.inference_mode():
            run = RunConfig(
                train=TrainConfig(steps=steps, batch_size=2, learning_rate=1e-2, seed=3), lora=LoraSpec(rank=2), recipe=MaskRecipe(),
                checkpointing=False, name="test", rescue_folder=folder, text_encoder=spec or self.spec, observers=observers)
            return run_training(self.patcher, self.data, run, Progress(None))


def case(kind: str) -> Case:
    """As a prompt has them: loaded under inference_mode."""
    with torch.inference_mode():
        patcher = model_of(kind)
        clip = load_text_encoders(DEMO_MODEL) if kind == "flux" else tiny_clip(kind)
        channels, draw = patcher.model.latent_format.latent_channels, torch.Generator().manual_seed(4)
        padding = PRESETS["comfyui-mask" if kind == "flux" else "comfyui"]
        examples = tuple(CachedExample(f"picture {i}", caption, torch.randn(channels, 8, 8, generator=draw), None,
                                       encode_caption(clip, caption, padding), padding.to_json()) for i, caption in enumerate(CAPTIONS))
    return Case(patcher, clip, TrainingSet(examples, padding.to_json(), ""))


KINDS = ("sd15", "sdxl", "flux")


@pytest.fixture(scope="module", params=KINDS)
def tried(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def picture_of(clip: comfy.sd.CLIP) -> list[Any]:
    """Everything about text encoders that training could leave changed."""
    model = clip.cond_stage_model
    with torch.inference_mode():
        encoded = clip.encode_from_tokens(clip.tokenize(CAPTIONS[1]), return_dict=True)
    return [[(n, id(m), sorted(m.__dict__), len(m._forward_pre_hooks)) for n, m in model.named_modules()],
            [(n, p.requires_grad, p.grad is None) for n, p in model.named_parameters()],
            {n: v.clone() for n, v in model.state_dict().items()}, {k: v.clone() for k, v in encoded.items() if isinstance(v, Tensor)}]


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert before[:2] == after[:2]
    for old, new in zip(before[2:], after[2:], strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) for k in old)


def test_the_file_gives_in_the_host_what_was_trained(tried: Case, tmp_path: Path) -> None:
    before = picture_of(tried.clip)
    result = tried.train(tmp_path)
    assert_same(before, picture_of(tried.clip))
    save_lora(result.lora, tmp_path / "lora.safetensors")
    lora = load_lora(tmp_path / "lora.safetensors")
    text_keys = {k for k in lora if k.startswith("text_encoders.")}
    assert len(text_keys) > 30
    assert '"text_encoder": {"alpha": 4.0, "encoders": "CLIP-L and CLIP-G"' in lora.metadata["masked_lora.adapter"]
    _, loaded = comfy.sd.load_lora_for_models(tried.patcher, tried.clip, dict(lora), 1.0, 1.0)
    assert len(loaded.patcher.patches) == len(text_keys) // 3, "a part of the file found no place in the host"
    with borrow_for_training(tried.patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (denoiser, _), \
            borrow_text_encoder(tried.spec, tried.patcher, denoiser, 1) as text, torch.no_grad():
        text.adapter.adopt({k.removeprefix("text_encoders."): v for k, v in lora.items() if k in text_keys})
        trained = text.cond(CAPTIONS[1], tried.data.examples[1].cond)
    with torch.inference_mode():
        padding = PRESETS["comfyui-mask" if "t5xxl" in tried.clip.tokenize("") else "comfyui"]
        sampled = encode_caption(loaded, CAPTIONS[1], padding)
    plain = tried.data.examples[1].cond
    half = next((p for p in tried.clip.cond_stage_model.parameters() if p.dtype == torch.float16), None)
    for name in sampled:
        rounding = 1e-5 if half is None else 1e-3  # the host adds a LoRA to the float16 weights of the demo model
        assert (trained[name] - sampled[name]).abs().max() < rounding * sampled[name].abs().max()
    assert (sampled["pooled_output"] - plain["pooled_output"]).abs().max() > 1e-3, "nothing was learned"


@pytest.mark.parametrize("kind", ["sd15", "flux"])
def test_gradients_are_those_of_transformers(kind: str) -> None:
    """The same weights in transformers' CLIPTextModel, each linear layer's weight as W + scale B A."""
    tried = case(kind)
    clip_l = tried.clip.cond_stage_model.clip_l
    state = {k: v.clone().float() for k, v in clip_l.transformer.state_dict().items()}
    width = state["text_model.embeddings.token_embedding.weight"].shape[1]
    layers = sum(k.endswith("fc1.weight") for k in state)
    config = CLIPTextConfig(hidden_size=width, intermediate_size=state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
                            num_hidden_layers=layers, num_attention_heads=clip_l.transformer.text_model.encoder.layers[0].self_attn.heads,
                            max_position_embeddings=77, eos_token_id=49407, hidden_act="quick_gelu")
    other = CLIPTextModel(config)
    own = {k.removeprefix("text_model."): v for k, v in state.items()}
    names = {k: own[k.removeprefix("text_model.")] for k in other.state_dict()}
    other.load_state_dict(names)
    tokens = torch.tensor([[t for t, _ in tried.clip.tokenize("a red star")["l"][0]]])
    with tried.live() as text:
        cond = text.cond("a red star", tried.data.examples[0].cond)
        cond["pooled_output"].square().sum().backward()
        grads = {name: {part: p.grad.clone() for part, p in layer.learned().items()} for name, layer in text.adapter.layers.items()}
        pairs = {name: [p.detach().clone().requires_grad_() for p in (layer.lora_A, layer.lora_B)]
                 for name, layer in text.adapter.layers.items()}
        scale = text.adapter.layers[next(iter(pairs))].scale
    weights = dict(other.named_parameters())
    changed = {}
    for name, (down, up) in pairs.items():
        inner = name.removeprefix("clip_l.transformer.")
        key = next(k for k in weights if k.removeprefix("text_model.") == f"{inner}.weight".removeprefix("text_model."))
        changed[key] = weights[key].detach() + scale * up @ down
    out = torch.func.functional_call(other, {k: v.detach() for k, v in weights.items()} | changed, (tokens,))
    pooled = out.pooler_output  # SD 1.5 and Flux take it without the projection
    pooled.square().sum().backward()
    assert (pooled - cond["pooled_output"]).abs().max() < 1e-5 * pooled.abs().max()
    for name, (down, up) in pairs.items():
        for part, reference in (("lora_A.weight", down.grad), ("lora_B.weight", up.grad)):
            error = (grads[name][part] - reference).abs().max() / reference.abs().max().clamp(min=1e-8)
            assert error < 1e-4, (name, part, error)


def test_every_part_of_the_text_encoders_gets_a_gradient_through_the_model(tried: Case) -> None:
    with borrow_for_training(tried.patcher, LoraSpec(rank=2), seed=1, checkpointing=True) as (denoiser, _), \
            borrow_text_encoder(tried.spec, tried.patcher, denoiser, 1) as text:
        draw = torch.Generator().manual_seed(2)
        for parameter in text.adapter.parameters:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
        example = Examples(tried.patcher, tried.data, MaskRecipe(), text=text)[0]
        denoiser(example.latent_CHW[None], torch.tensor([0.6]), [example.cond]).square().sum().backward()
        silent = [name for name, layer in text.adapter.layers.items()
                  if not any(p.grad is not None and p.grad.any() for p in layer.learned().values())]
    last = [name for name in silent if ".layers.2." not in name]  # SDXL reads CLIP-L before its last layer
    assert not last, last


def test_it_learns_in_the_encoders_that_it_is_told(tmp_path: Path) -> None:
    tried = case("sdxl")
    result = tried.train(tmp_path, steps=2, spec=replace(tried.spec, encoders="CLIP-G"))
    names = {k.split(".")[1] for k in result.lora if k.startswith("text_encoders.")}
    assert names == {"clip_g"}


def test_other_texts_of_a_picture_are_read_anew_too(tried: Case) -> None:
    cached = tried.data.examples[0]
    other = OtherText(CAPTIONS[2], lambda: tried.data.examples[2].cond)
    data = replace(tried.data, examples=(replace(cached, alternatives=(other,)),))
    with tried.live() as text, torch.no_grad():
        (later,) = Examples(tried.patcher, data, MaskRecipe(), text=text)[0].alternatives
        given, expected = later().cond(), text.cond(CAPTIONS[2], other.load())
        pooled = {"flux": "y", "sdxl": "y"}.get(type(tried.patcher.model).__name__.lower(), "c_crossattn")
        plain = Examples(tried.patcher, tried.data, MaskRecipe())[2].cond[pooled].cond
        reference = expected["cross_attn"] if pooled == "c_crossattn" else expected["pooled_output"]
    assert torch.equal(given[pooled].cond.flatten()[:reference.numel()], reference.flatten())
    assert not torch.equal(given[pooled].cond, plain)


def test_without_its_adapter_the_text_is_what_the_cache_has(tried: Case) -> None:
    with tried.live() as text, torch.no_grad():
        for cached in tried.data.examples:
            moved = text.cond(cached.caption, cached.cond)
            with text.disabled():
                plain = text.cond(cached.caption, cached.cond)
            for name, value in cached.cond.items():
                assert torch.equal(plain[name], value), name
            assert not torch.equal(moved["pooled_output"], plain["pooled_output"])


def test_without_what_was_learned_the_prediction_is_the_base_models(tried: Case) -> None:
    """That of prior preservation and of validation: ComfyUI loads the model again whenever a caption is encoded."""
    with borrow_for_training(tried.patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (denoiser, adapter), \
            borrow_text_encoder(tried.spec, tried.patcher, denoiser, 1) as text, torch.no_grad():
        draw = torch.Generator().manual_seed(2)
        for parameter in (*adapter.parameters, *text.adapter.parameters):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
        example, plain = (Examples(tried.patcher, tried.data, MaskRecipe(), text=live)[0] for live in (text, None))

        def prediction(cond: Any) -> Tensor:
            return denoiser(example.latent_CHW[None], torch.tensor([0.6]), [cond])

        with adapter.disabled():
            expected = prediction(plain.cond)
            with text.disabled():
                kept = prediction(example.cond)
        learned = prediction(example.cond)
    assert torch.equal(kept, expected)
    assert (learned - expected).abs().max() > 1e-3


def test_under_dynamic_vram_a_twin_of_the_text_encoders_is_trained(tmp_path: Path) -> None:
    tried = case("sd15")
    plain = tried.train(tmp_path, steps=2)
    own = tried.clip.patcher
    tried.clip.patcher = Dynamic(own.model, own.load_device, own.offload_device)
    with pytest.raises(ValueError, match="--disable-dynamic-vram"):
        tried.train(tmp_path, steps=2)
    tried.clip.patcher.cached_patcher_init = (lambda disable_dynamic: tiny_clip("sd15").patcher, ())
    before = picture_of(tried.clip)
    with tried.live() as text:
        assert text.clip.cond_stage_model is text.clip.patcher.model is not tried.clip.cond_stage_model
        assert not any("forward" in module.__dict__ for module in tried.clip.cond_stage_model.modules())
    assert_same(before, picture_of(tried.clip))
    found = tried.train(tmp_path, steps=2)
    assert all(torch.equal(value, found.lora[key]) for key, value in plain.lora.items())


def test_the_summary_tells_of_text_encoders_that_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tried = case("sd15")
    with caplog.at_level("INFO"):
        tried.train(tmp_path, steps=1)
    (said,) = [line for line in caplog.text.splitlines() if line.startswith("  memory: ")]
    assert f", text encoders {tried.clip.patcher.model_size() / 2**20:.1f} MB (" in said
    assert said.endswith("; the VAE is unloaded where its room is needed")


def test_room_for_the_forward_pass_stays_free_while_captions_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, asked, load = case("sd15"), [], comfy.model_management.load_models_gpu

    def watched(models: Any, memory_required: float = 0, **others: Any) -> None:
        if any(loaded.is_clone(tried.patcher) for loaded in models):
            asked.append(memory_required)
        load(models, memory_required, **others)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watched)
    tried.train(tmp_path, steps=2)
    assert len(asked) > 4
    assert set(asked) == {tried.patcher.memory_required([2, 4, 8, 8])}


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_chosen_layer_of_clip_is_read(kind: str) -> None:
    """CLIP Set Last Layer."""
    tried = case(kind)
    skipped = tried.clip.clone()
    skipped.clip_layer(-3)
    with torch.inference_mode():
        expected = encode_caption(skipped, CAPTIONS[0], PRESETS["comfyui"])
    with replace(tried, clip=skipped).live() as text, torch.no_grad(), text.disabled():
        found = text.cond(CAPTIONS[0], {})
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(expected["cross_attn"], tried.data.examples[0].cond["cross_attn"])


def test_other_users_of_the_clip_in_between_do_not_switch_the_adapter_off(tried: Case) -> None:
    with tried.live() as text, torch.no_grad():
        first = text.cond(CAPTIONS[0], tried.data.examples[0].cond)
        between = tried.clip.encode_from_tokens(tried.clip.tokenize(CAPTIONS[0]), return_dict=True)
        again = text.cond(CAPTIONS[0], tried.data.examples[0].cond)
    assert torch.equal(first["pooled_output"], again["pooled_output"])
    assert torch.equal(between["pooled_output"], tried.data.examples[0].cond["pooled_output"]), "a preview's neighbour sees the LoRA"


def test_stopped_and_resumed_it_ends_at_the_same_lora(tmp_path: Path) -> None:
    tried = case("sd15")
    whole = tried.train(tmp_path / "whole", steps=6)
    keeper = Checkpoints(every=2, keep=2)
    tried.train(tmp_path, steps=6, observers=(keeper.observer(tmp_path), Ending(3, FinishEarly())))
    resumed = tried.train(tmp_path, steps=6, observers=(keeper.observer(tmp_path),))
    assert resumed.losses == whole.losses
    assert all(torch.equal(value, resumed.lora[key]) for key, value in whole.lora.items())
    with pytest.raises(ValueError, match="text encoder LoRA was LoRA rank 2 .* and is LoRA rank 2 alpha 1 "):
        tried.train(tmp_path, steps=6, spec=replace(tried.spec, alpha=1.0), observers=(keeper.observer(tmp_path),))


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_training_goes_on_from_the_text_encoder_part_of_a_file(kind: str, tmp_path: Path) -> None:
    tried = case(kind)
    first = tried.train(tmp_path, steps=3).lora
    save_lora(first, tmp_path / "first.safetensors")
    with borrow_for_training(tried.patcher, LoraSpec(rank=2), seed=1, checkpointing=False) as (denoiser, _), torch.no_grad():
        start = str(tmp_path / "first.safetensors")
        with borrow_text_encoder(tried.spec, tried.patcher, denoiser, 1, start=start) as text:
            state, goes_on = text.adapter.state_dict(), text.cond(CAPTIONS[1], tried.data.examples[1].cond)
    assert all(torch.equal(value, first[f"text_encoders.{name}"]) for name, value in state.items())
    _, loaded = comfy.sd.load_lora_for_models(tried.patcher, tried.clip, dict(first), 1.0, 1.0)
    with torch.inference_mode():
        sampled = encode_caption(loaded, CAPTIONS[1], PRESETS["comfyui"])
    assert (goes_on["pooled_output"] - sampled["pooled_output"]).abs().max() < 1e-5 * sampled["pooled_output"].abs().max()


def test_the_text_encoders_learn_at_their_own_rate() -> None:
    model, text = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    state = TrainingState([model], TrainConfig(steps=2, learning_rate=0.1, optimizer=OptimizerSpec(name="sgd", momentum=0.0)), [text], 0.25)
    state.start(1)
    model.grad, text.grad = torch.ones(1), torch.ones(1)
    state.move()
    assert model.item() == pytest.approx(-0.1)
    assert text.item() == pytest.approx(-0.025)


def test_prodigy_has_one_rate_for_all() -> None:
    with pytest.raises(ValueError, match="0.25 times the model's; set it to 1"):
        TrainingState([nn.Parameter(torch.zeros(1))], TrainConfig(steps=2, learning_rate=1.0, optimizer=OptimizerSpec(name="prodigy")),
                      [nn.Parameter(torch.zeros(1))], 0.25)


def test_previews_read_their_prompts_as_the_trained_text_encoder_does(tmp_path: Path) -> None:
    tried = case("flux")
    observer = PreviewSpec(clip=tried.clip, vae=load_autoencoder(DEMO_MODEL), prompts="a pibo", width=64, height=64, steps=2,
                           every=2).observer(tmp_path)
    result = tried.train(tmp_path, steps=4, observers=(observer,))
    (_, seen), = observer.positive[0]
    _, loaded = comfy.sd.load_lora_for_models(tried.patcher, tried.clip, dict(result.lora), 1.0, 1.0)
    with torch.inference_mode():
        encoded = [clip.encode_from_tokens(clip.tokenize("a pibo"), return_dict=True) for clip in (tried.clip, loaded)]
    plain, after = (e["pooled_output"] for e in encoded)
    assert len(list((tmp_path / "test_previews").glob("step_*.png"))) == 3
    assert (seen["pooled_output"] - after).abs().max() < 1e-3 * after.abs().max() < 0.1 * (after - plain).abs().max()


def test_another_clip_than_the_one_that_encoded_is_refused(tmp_path: Path) -> None:
    tried = case("sd15")
    other = tiny_clip("sd15")
    state = other.cond_stage_model.state_dict()
    state["clip_l.transformer.text_model.final_layer_norm.weight"] *= 1.5
    other.cond_stage_model.load_state_dict(state)
    with pytest.raises(ValueError, match="reads the caption of picture 0 otherwise"):
        tried.train(tmp_path, spec=replace(tried.spec, clip=other))


def test_text_encoders_that_are_not_clip_are_refused(tmp_path: Path) -> None:
    tried = case("sd15")

    class Words:
        def tokenize_with_weights(self, text: str, return_word_ids: bool, **options: Any) -> dict[str, list[Any]]:
            return {"qwen3_4b": []}

    other = tried.clip.clone()
    other.tokenizer = Words()
    with pytest.raises(ValueError, match="reads qwen3_4b; a text encoder LoRA is for the CLIP-L and CLIP-G"):
        tried.train(tmp_path, spec=replace(tried.spec, clip=other))


@pytest.mark.parametrize(("changes", "message"), [
    ({"rate": 0.0}, "learning rate is 0.0 times the model's"), ({"encoders": "T5"}, "text encoders to train is 'T5'; choose one of ")])
def test_settings_without_a_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoderSpec(clip=None, **changes)  # type: ignore[arg-type]


def test_after_an_error_the_text_encoders_are_as_before(tmp_path: Path) -> None:
    tried = case("sd15")
    before = picture_of(tried.clip)
    with pytest.raises(RuntimeError, match="in the middle"):
        tried.train(tmp_path, observers=(Ending(2, RuntimeError("in the middle")),))
    assert_same(before, picture_of(tried.clip))
    saved = safetensors.torch.load_file(tmp_path / "test_stopped_at_step_000002.safetensors")
    assert any(k.startswith("text_encoders.clip_l.") for k in saved)
