"""Text padding against independent computations, on the demo model's T5 and a tiny Flux."""
from __future__ import annotations

import comfy.model_management
import comfy.sd
import pytest
import torch
from pack.host.demo_model import load_text_encoders
from pack.host.folders import DEMO_MODEL
from pack.host.text import SPEC_KEY, encode_text
from pack.host.text_padding import PRESETS, TextPadding
from torch import Tensor

from .tiny import Architecture, tiny_patcher

CAPTION = "a red star on the left, plain grey background"


@pytest.fixture(scope="module")
def clip() -> comfy.sd.CLIP:
    return load_text_encoders(DEMO_MODEL)


def embeddings(clip: comfy.sd.CLIP, padding: TextPadding, text: str = CAPTION) -> Tensor:
    with torch.no_grad():
        ((cond, extra),) = encode_text(clip, text, padding)
    assert TextPadding.from_json(extra[SPEC_KEY]) == padding
    return cond


def host_embeddings(clip: comfy.sd.CLIP, text: str = CAPTION, **options: int) -> Tensor:
    """What core's CLIPTextEncode gives."""
    with torch.no_grad():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text, tokenizer_options=options))[0][0]


def real_tokens(clip: comfy.sd.CLIP, text: str = CAPTION) -> int:
    """From the tokenizer alone: words and the end token."""
    return len(clip.tokenizer.t5xxl.tokenizer(text)["input_ids"])


def test_comfyui_preset_is_the_hosts_own_encoding(clip: comfy.sd.CLIP) -> None:
    cond = embeddings(clip, PRESETS["comfyui"])
    assert cond.shape[1] == 256
    assert torch.equal(cond, host_embeddings(clip))


@pytest.mark.parametrize("preset, length", [("comfyui-zero", 256), ("zero-512", 512), ("zero-77", 77)])
def test_zero_keeps_real_tokens_and_zeroes_padding(clip: comfy.sd.CLIP, preset: str, length: int) -> None:
    cond, n = embeddings(clip, PRESETS[preset]), real_tokens(clip)
    expected = host_embeddings(clip, t5xxl_min_length=length)
    assert cond.shape[1] == length
    assert torch.equal(cond[:, :n], expected[:, :n])
    assert not cond[:, n:].any()
    assert expected[:, n:].any()


@pytest.mark.parametrize("preset, length, keep", [("comfyui-mask", 256, 0), ("mask-512", 512, 0), ("chroma", 256, 1)])
def test_mask_drops_padding_after_encoding_with_it(clip: comfy.sd.CLIP, preset: str, length: int, keep: int) -> None:
    cond, n = embeddings(clip, PRESETS[preset]), real_tokens(clip) + keep
    assert torch.equal(cond, host_embeddings(clip, t5xxl_min_length=length)[:, :n])


def test_encoder_mask_equals_encoding_without_padding(clip: comfy.sd.CLIP) -> None:
    """A T5 that cannot see its padding gives real tokens the embeddings of the bare prompt."""
    cond = embeddings(clip, PRESETS["mask-512-encoder"])
    bare = host_embeddings(clip, t5xxl_min_length=0)
    assert cond.shape == bare.shape
    assert torch.allclose(cond, bare, atol=1e-5)
    assert not torch.allclose(cond, embeddings(clip, PRESETS["mask-512"]), atol=1e-3)


def test_long_prompts_are_cut_with_their_end_token(clip: comfy.sd.CLIP, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(["star"] * 200)
    cond = embeddings(clip, PRESETS["zero-77"], long)
    ids = clip.tokenizer.t5xxl.tokenizer(long, truncation=True, max_length=77)["input_ids"]
    expected = clip.encode_from_tokens_scheduled(
        {"t5xxl": [[(i, 1.0) for i in ids]], "l": clip.tokenize("x")["l"]})[0][0]
    assert cond.shape[1] == 77
    assert torch.allclose(cond, expected, atol=1e-6)
    assert "201 T5 tokens" in caplog.text


def test_text_encoders_without_plain_t5_are_refused_in_words() -> None:
    class Other:
        def tokenize(self, text: str, **options: object) -> dict[str, list[object]]:
            return {"g": [], "l": []}

    with pytest.raises(ValueError, match="reads g, l and not T5"):
        encode_text(Other(), "a star", PRESETS["mask-512"])


def predict(arch: Architecture, patcher: object, context: Tensor, **extra: Tensor) -> Tensor:
    g = torch.Generator().manual_seed(0)
    latent, pooled = torch.randn(1, *arch.latent, generator=g), torch.randn(1, 32, generator=g)
    with torch.no_grad():
        comfy.model_management.load_models_gpu([patcher])
        return patcher.model.apply_model(latent, torch.tensor([0.5]), c_crossattn=context, y=pooled, guidance=torch.tensor([3.5]),
                                         transformer_options={"sample_sigmas": torch.tensor([1.0, 0.0])}, **extra)


def errors_of_masks(tokens: int = 20, real: int = 6) -> dict[str, float]:
    """How far a tiny Flux with its padding treated otherwise is from one without those tokens."""
    patcher, arch = tiny_patcher("flux")
    context = torch.randn(1, tokens, arch.text, generator=torch.Generator().manual_seed(1))
    cells = arch.latent[1] * arch.latent[2] // 4
    seen = torch.ones(1, 1, tokens + cells, dtype=torch.bool)
    seen[..., real:tokens] = False
    additive = torch.zeros(seen.shape).masked_fill(~seen, -1e30)
    zeroed = torch.cat([context[:, :real], torch.zeros_like(context[:, real:])], dim=1)
    dropped = predict(arch, patcher, context[:, :real])
    others = {"additive": predict(arch, patcher, context, attention_mask=additive),
              "bool": predict(arch, patcher, context, attention_mask=seen.expand(1, tokens + cells, -1)),
              "zero": predict(arch, patcher, zeroed), "none": predict(arch, patcher, context)}
    return {name: ((other - dropped).norm() / dropped.norm()).item() for name, other in others.items()}


def test_masked_padding_equals_dropped_tokens_equals_finite_additive_mask() -> None:
    errors = errors_of_masks()
    assert errors["additive"] <= 1e-5
    assert errors["zero"] > 1e-3
    assert errors["none"] > 1e-3
