"""ComfyUI's own ways with a prompt under every preset: weights, embeddings, hooks, schedules, long prompts, other text encoders.

Expected values come from transformers' T5 and CLIP-L with the demo model's weights.
"""
from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.hooks
import comfy.sample
import comfy.sd
import comfy_extras.nodes_cond
import comfy_extras.nodes_hooks
import pytest
import torch
from comfy import sdxl_clip
from pack.dataset.keys import hash_tensor
from pack.host.demo_model import load_diffusion_model, load_text_encoders, read_weights
from pack.host.folders import DEMO_MODEL
from pack.host.text import SPEC_KEY, encode_text
from pack.host.text_padding import PRESETS, TextPadding
from pack.host.text_tokens import carried_tokens
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel

import nodes

from . import regimes

CAPTION, TOLERANCE = "a red star on the left, plain grey background", 1e-5
LORA_KEY = "encoder.block.0.layer.0.SelfAttention.v"
PADS = 0  # T5's padding token
CUSTOM = TextPadding(max_length=64, attend="real", keep_pads=3, encoder_masked=True)
EVERY = {**PRESETS, "custom": CUSTOM}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of two tokens: one for both text encoders, one for CLIP-L alone, which T5 cannot read."""
    folder, generator = tmp_path_factory.mktemp("embeddings"), torch.Generator().manual_seed(2)
    t5, clip_l = torch.randn(2, 48, generator=generator), torch.randn(2, 16, generator=generator)
    save_file({"t5xxl": t5, "clip_l": clip_l}, folder / "pibo.safetensors")
    save_file({"clip_l": clip_l}, folder / "flat.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> comfy.sd.CLIP:
    clip = load_text_encoders(DEMO_MODEL)
    clip.cond_stage_model.float()  # ComfyUI adds hooks in the precision of the weights, at random roundings
    for tokenizer in (clip.tokenizer.t5xxl, clip.tokenizer.clip_l):
        tokenizer.embedding_directory = str(folder)
    return clip


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def padded(ids: list[int], padding: TextPadding) -> Tensor:
    """(1, T) with the end token, as ComfyUI's Flux pads where the specification names no length."""
    length = max(256, len(ids) + 1 + padding.keep_pads) if padding.max_length is None else padding.max_length
    return torch.tensor([[*ids, 1, *[PADS] * (length - len(ids) - 1)]])


def expected(embeds_BTD: Tensor, real: int, padding: TextPadding, model: T5EncoderModel | None = None) -> Tensor:
    """What the specification says, from input embeddings of the full length."""
    mask = torch.ones(embeds_BTD.shape[:2], dtype=torch.long)
    if padding.encoder_masked:
        mask[:, real:] = 0
    out = (model or regimes.t5_model())(inputs_embeds=embeds_BTD, attention_mask=mask).last_hidden_state
    if padding.pad_embedding == "zero":
        out = torch.cat([out[:, :real], torch.zeros_like(out[:, real:])], dim=1)
    return out if padding.attend == "all" else out[:, :real + padding.keep_pads]


def looked_up(ids_BT: Tensor) -> Tensor:
    return regimes.t5_model().shared(ids_BT)


def word_ids(*pieces: str) -> list[int]:
    return [number for piece in pieces for number in regimes.t5_tokenizer()(piece)["input_ids"][:-1]]


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("name", list(EVERY))
def test_weights_move_words_away_from_the_empty_prompt(clip: comfy.sd.CLIP, name: str) -> None:
    """ComfyUI's rule: each token is moved along the line from what an empty prompt gives in its place."""
    padding = EVERY[name]
    ((cond, _),) = encode_text(clip, "a (red:1.4) star (on the left)", padding)
    pieces, weights = ["a ", "red", " star ", "on the left"], [1.0, 1.4, 1.0, 1.1]
    ids = word_ids(*pieces)
    weight_T = [weight for piece, weight in zip(pieces, weights, strict=True) for _ in word_ids(piece)]
    real, said, nothing = len(ids) + 1, padded(ids, padding), padded([], padding)
    plain = TextPadding(encoder_masked=padding.encoder_masked)
    full, empty = expected(looked_up(said), real, plain), expected(looked_up(nothing), 1, plain)
    weight = torch.tensor(weight_T + [1.0] * (full.shape[1] - len(ids)))[None, :, None]
    moved = empty + (full - empty) * weight
    if padding.pad_embedding == "zero":
        moved[:, real:] = 0
    assert error(cond, moved if padding.attend == "all" else moved[:, :real + padding.keep_pads]) <= TOLERANCE
    assert error(cond, encode_text(clip, "a red star on the left", padding)[0][0]) > 1e-3


@pytest.mark.parametrize("name", list(EVERY))
def test_embeddings_stand_in_the_place_of_words(clip: comfy.sd.CLIP, folder: Path, name: str) -> None:
    padding, vectors = EVERY[name], read_embedding(folder)
    ((cond, extra),) = encode_text(clip, "a embedding:pibo on grass", padding)
    before, after = word_ids("a "), word_ids("on grass")
    embeds = looked_up(padded([*before, PADS, PADS, *after], padding))
    embeds[:, len(before):len(before) + 2] = vectors
    real = len(before) + 2 + len(after) + 1
    assert error(cond, expected(embeds, real, padding)) <= TOLERANCE
    tokens = carried_tokens(cond, extra)
    assert tokens is not None
    assert (tokens.real, tokens.encoded) == (real, embeds.shape[1])


@pytest.mark.parametrize("name", list(EVERY))
def test_embeddings_of_clip_l_alone_are_no_tokens_of_t5(clip: comfy.sd.CLIP, name: str) -> None:
    """ComfyUI leaves them out of T5's prompt and pads more: the padding begins earlier than in the tokenizer's row."""
    padding = EVERY[name]
    ((cond, _),) = encode_text(clip, "a embedding:flat on grass", padding)
    ids = word_ids("a ", "on grass")
    assert error(cond, expected(looked_up(padded(ids, padding)), len(ids) + 1, padding)) <= TOLERANCE


def read_embedding(folder: Path) -> Tensor:
    return read_weights(folder, "pibo")["t5xxl"]


@pytest.mark.parametrize("name", list(EVERY))
def test_own_tokenizer_options_of_the_clip_count_where_the_preset_names_no_length(clip: comfy.sd.CLIP, name: str) -> None:
    padding = EVERY[name]
    (longer,) = comfy_extras.nodes_cond.T5TokenizerOptions.execute(clip, 0, 300).result
    ((cond, _),) = encode_text(longer, CAPTION, padding)
    ids = word_ids(CAPTION)
    asked = padding if padding.max_length else TextPadding(**fields(padding) | {"max_length": 300})
    assert error(cond, expected(looked_up(padded(ids, asked)), len(ids) + 1, asked)) <= TOLERANCE
    assert not clip.tokenizer_options


def fields(padding: TextPadding) -> dict[str, Any]:
    return {name: getattr(padding, name) for name in TextPadding.__slots__}


# Hooks


def hooked(clip: comfy.sd.CLIP, schedule: bool = True) -> tuple[comfy.sd.CLIP, Tensor]:
    """A LoRA on one weight of T5 at strength 0.5, from 40 % on at 1.5, by ComfyUI's nodes; and what it adds at strength 1."""
    generator = torch.Generator().manual_seed(4)
    up, down = torch.randn(48, 4, generator=generator), torch.randn(4, 48, generator=generator)
    key = f"text_encoders.t5xxl.transformer.{LORA_KEY}"
    hooks = comfy.hooks.create_hook_lora({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}, 0.0, 1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.5, 0.0), (1.5, 0.4)):
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(frames)
    return comfy_extras.nodes_hooks.SetClipHooks().apply_hooks(clip, schedule, True, hooks)[0], up @ down


def t5_with(delta: Tensor, strength: float) -> T5EncoderModel:
    model = copy.deepcopy(regimes.t5_model())
    model.get_submodule(LORA_KEY).weight += strength * delta
    return model


@pytest.mark.parametrize("name", list(EVERY))
def test_clip_hooks_are_scheduled(clip: comfy.sd.CLIP, name: str) -> None:
    padding, (scheduled, delta) = EVERY[name], hooked(clip)
    conds, ids = encode_text(scheduled, CAPTION, padding), word_ids(CAPTION)
    assert [(extra["clip_start_percent"], extra["clip_end_percent"]) for _, extra in conds] == [(0.0, 0.4), (0.4, 1.0)]
    for (cond, extra), strength in zip(conds, (0.5, 1.5), strict=True):
        theirs = expected(looked_up(padded(ids, padding)), len(ids) + 1, padding, t5_with(delta, strength))
        assert error(cond, theirs) <= TOLERANCE
        assert TextPadding.from_json(extra[SPEC_KEY]) == padding
        assert extra["hooks"] is scheduled.apply_hooks_to_conds
    assert error(conds[0][0], conds[1][0]) > 1e-3


@pytest.mark.parametrize("name", list(EVERY))
def test_clip_hooks_without_a_schedule_hold_throughout(clip: comfy.sd.CLIP, name: str) -> None:
    padding, (steady, delta) = EVERY[name], hooked(clip, schedule=False)
    ((cond, extra),) = encode_text(steady, CAPTION, padding)
    ids = word_ids(CAPTION)
    assert error(cond, expected(looked_up(padded(ids, padding)), len(ids) + 1, padding, t5_with(delta, 1.0))) <= TOLERANCE
    assert extra["hooks"] is steady.apply_hooks_to_conds


@pytest.mark.parametrize("name", list(EVERY))
def test_prompt_schedules_reach_the_sampler(clip: comfy.sd.CLIP, name: str) -> None:
    """Two prompts, one for each half of the steps, and a negative one of another length, against the tools' own embeddings."""
    padding, set_range = EVERY[name], nodes.ConditioningSetTimestepRange().set_range
    texts = ("a red star", CAPTION, "")
    ours = [encode_text(clip, text, padding) for text in texts]
    ids = [word_ids(text) for text in texts]
    theirs = [[[expected(looked_up(padded(i, padding)), len(i) + 1, padding), {"pooled_output": regimes.pooled(text)}]]
              for i, text in zip(ids, texts, strict=True)]
    patcher, noise = load_diffusion_model(DEMO_MODEL), torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))

    def sampled(first: list[Any], second: list[Any], negative: list[Any]) -> Tensor:
        positive = set_range(first, 0.0, 0.5)[0] + set_range(second, 0.5, 1.0)[0]
        return comfy.sample.sample(patcher, noise, 2, 2.0, "euler", "simple", positive, negative, torch.zeros_like(noise), seed=0,
                                   disable_pbar=True)

    result = sampled(*ours)
    assert error(result, sampled(*theirs)) <= 2 * TOLERANCE  # two steps
    assert error(result, sampled(ours[1], ours[1], ours[2])) > 1e-3


# Nothing shared is changed


def state(clip: comfy.sd.CLIP) -> dict[str, Any]:
    patcher, t5 = clip.patcher, clip.cond_stage_model.t5xxl
    hook_patches = {key: dict(value) for key, value in patcher.hook_patches.items()}
    return {
        "weights": {key: hash_tensor(value) for key, value in clip.cond_stage_model.state_dict().items()},
        "patches": (dict(patcher.patches), patcher.patches_uuid, dict(patcher.object_patches), dict(patcher.object_patches_backup)),
        "hooks": (patcher.forced_hooks, clip.apply_hooks_to_conds, clip.use_clip_schedule, hook_patches),
        "encoder": (t5.enable_attention_masks, t5.zero_out_masked, t5.return_attention_masks, t5.layer, clip.layer_idx),
        "tokenizer": dict(clip.tokenizer_options),
    }


def host_outputs(*clips: comfy.sd.CLIP) -> list[Tensor]:
    """What core's CLIPTextEncode gives."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(CAPTION), show_pbar=False) for clip in clips]
    return [tensor for conds in encoded for cond, extra in conds for tensor in (cond, extra["pooled_output"])]


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("failing", [False, True], ids=["", "error"])
@pytest.mark.parametrize("with_hooks", [False, True], ids=["", "hooks"])
def test_other_users_of_the_clip_see_no_change(clip: comfy.sd.CLIP, name: str, failing: bool, with_hooks: bool,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    used, _ = hooked(clip) if with_hooks else (clip, None)
    before = host_outputs(clip, used)
    host_outputs(clip)  # so that the plain one is loaded
    found = state(clip), state(used)
    if failing:
        t5, calls = clip.cond_stage_model.t5xxl.transformer, []
        forward = t5.forward

        def fail(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 1 + with_hooks:  # with hooks, between one keyframe and the next
                raise MemoryError("no room")
            return forward(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(t5, "forward", fail)
            with pytest.raises(MemoryError):
                encode_text(used, CAPTION, EVERY[name])
    else:
        encode_text(used, CAPTION, EVERY[name])
    assert state(clip)["encoder"] == found[0]["encoder"]  # at once, and not only when ComfyUI loads the CLIP again
    assert all_equal(host_outputs(clip, used), before)
    assert all_equal(host_outputs(used, clip), [*before[len(before) // 3 if with_hooks else 2:], *before[:2]])
    host_outputs(clip)
    assert (state(clip), state(used)) == found


# Long prompts and other text encoders


def test_long_prompts_of_clip_encoders_are_read_in_chunks() -> None:
    """75 tokens with their own start and end each, as SDXL trainers encode long captions; the preset comfyui leaves that alone."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
    target = SimpleNamespace(clip=sdxl_clip.SDXLClipModel, tokenizer=sdxl_clip.SDXLTokenizer, params={})
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": sizes, "clip_g_model_config": sizes | {"projection_dim": 32}})
    generator = torch.Generator().manual_seed(0)
    for parameter in clip.cond_stage_model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    text = " ".join(["red star on grey grass"] * 32)  # 160 tokens
    ((cond, extra),) = encode_text(clip, text, PRESETS["comfyui"])

    config = CLIPTextConfig(vocab_size=49408, hidden_act="quick_gelu", eos_token_id=49407, **sizes)
    model = CLIPTextModel(config).eval()
    prefix = "" if "text_model.final_layer_norm.weight" in model.state_dict() else "text_model."
    own = {key.removeprefix(prefix): value.float() for key, value in clip.cond_stage_model.clip_l.transformer.state_dict().items()}
    assert not model.load_state_dict({k: v for k, v in own.items() if "text_projection" not in k}, strict=False).missing_keys
    ids = regimes.CLIPTokenizer.from_pretrained(regimes.TOKENIZERS.parent / "sd1_tokenizer")(text)["input_ids"][1:-1]
    chunks = [ids[i:i + 75] for i in range(0, len(ids), 75)]
    rows = torch.tensor([[49406, *chunk, *[49407] * (76 - len(chunk))] for chunk in chunks])
    penultimate = torch.cat(list(model(rows, output_hidden_states=True).hidden_states[-2]))[None]
    assert len(ids) == 160
    assert cond.shape == (1, 3 * 77, 64)
    assert error(cond[..., :32], penultimate) <= TOLERANCE
    assert TextPadding.from_json(extra[SPEC_KEY]) == TextPadding()
    for name in PRESETS.keys() - {"comfyui"}:
        with pytest.raises(ValueError, match=r"reads g, l and not T5 .* use the preset 'comfyui'"):
            encode_text(clip, text, PRESETS[name])


def test_comfyui_preset_cuts_nothing_and_is_silent(clip: comfy.sd.CLIP, caplog: pytest.LogCaptureFixture) -> None:
    ids = word_ids(" ".join(["star"] * 600))
    with caplog.at_level(logging.WARNING, logger="pack"):
        ((cond, _),) = encode_text(clip, " ".join(["star"] * 600), PRESETS["comfyui"])
    assert error(cond, expected(looked_up(padded(ids, TextPadding())), len(ids) + 1, TextPadding())) <= TOLERANCE
    assert not [record for record in caplog.records if record.name.startswith("pack")]
