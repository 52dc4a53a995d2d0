"""Keys of text encoders and VAEs: another for every change of weights or patches, the same whatever ComfyUI has loaded."""
from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.sd
import pytest
import torch
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.fingerprints import clip_fingerprint, hash_weight, vae_fingerprint, weights_fingerprint
from pack.host.folders import DEMO_MODEL


@pytest.fixture(scope="module")
def models() -> tuple[comfy.sd.CLIP, comfy.sd.VAE]:
    with torch.inference_mode():
        return load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)


def test_every_weight_counts(models: Any) -> None:
    """One value of one token's row in the text encoders, and one of the VAE, wherever they lie."""
    clip, vae = models
    for fingerprint, model, network in ((clip_fingerprint, clip, clip.cond_stage_model), (vae_fingerprint, vae, vae.first_stage_model)):
        before = fingerprint(model)
        for name, weight in list(network.named_parameters())[::7]:
            with torch.inference_mode():
                flat = weight.view(-1)
                place = len(flat) * 2 // 3 + 1 if len(flat) > 4 else 0
                kept = flat[place].clone()
                flat[place] += 1
                changed = fingerprint(model)
                flat[place] = kept
            assert changed != before, name
        assert fingerprint(model) == before


def with_lora(clip: comfy.sd.CLIP, strength: float = 1.0, rank_one: float = 1.0) -> comfy.sd.CLIP:
    """A clone with a LoRA that is made anew from its values, as in another session."""
    from comfy.weight_adapter.lora import LoRAAdapter

    clone = clip.clone()
    names = [name for name in clip.patcher.model_state_dict() if name.endswith(("q.weight", "wo.weight"))]
    weights = clip.patcher.model_state_dict()
    patches = {name: LoRAAdapter({name}, (torch.full((weights[name].shape[0], 1), rank_one), torch.ones(1, weights[name].shape[1]), 1.0,
                                          None, None, None)) for name in names}
    patches[names[0]] = ("diff", (torch.full_like(weights[names[0]], rank_one),))
    assert len(clone.add_patches(patches, strength)) == len(names) > 1
    return clone


def test_keys_do_not_depend_on_what_is_loaded(models: Any) -> None:
    """ComfyUI writes patches into the weights that all clones share, and takes them out when another clone is loaded."""
    clip, load = models[0], comfy.model_management.load_models_gpu
    with torch.inference_mode():
        comfy.model_management.unload_all_models()
        one, again = with_lora(clip), with_lora(clip)
        keys = [(clip_fingerprint(clip), clip_fingerprint(one), clip_fingerprint(again))]
        sums = [sum(float(p.double().sum()) for p in clip.cond_stage_model.parameters())]
        for loaded in (one, clip, again):
            load([loaded.patcher])
            sums.append(sum(float(p.double().sum()) for p in clip.cond_stage_model.parameters()))
            keys.append((clip_fingerprint(clip), clip_fingerprint(one), clip_fingerprint(again)))
        comfy.model_management.unload_all_models()
        keys.append((clip_fingerprint(clip), clip_fingerprint(one), clip_fingerprint(again)))
    assert sums[1] != sums[0] == sums[2], "the patches were in the weights"
    assert len(set(keys)) == 1, "the same whatever is loaded"
    plain, first, second = keys[0]
    assert plain != first == second, "and in every session"
    others = {clip_fingerprint(with_lora(clip, 0.5)), clip_fingerprint(with_lora(clip, 1.0, 0.5)), clip_fingerprint(with_lora(one))}
    assert len(others | {plain, first}) == 5


def test_changes_that_cannot_be_compared_are_never_equal(models: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A function may do anything."""
    clip = models[0].clone()
    name = next(iter(clip.patcher.model_state_dict()))
    clip.patcher.add_weight_wrapper(name, [weights_fingerprint])
    assert clip_fingerprint(clip) == clip_fingerprint(clip) != clip_fingerprint(models[0]), "one that depends on nothing has a name"
    clip.patcher.add_weight_wrapper(name, lambda weight: weight * caplog.handler.level)
    with caplog.at_level(logging.WARNING):
        assert clip_fingerprint(clip) != clip_fingerprint(clip)
    assert "cannot be told apart" in caplog.text


def test_quantised_and_missing_weights_have_hashes() -> None:
    from comfy.quant_ops import QuantizedTensor

    weight = torch.linspace(-3, 3, 64 * 64).reshape(64, 64)
    one, same, other = (QuantizedTensor.from_float(w, "TensorCoreFP8E4M3Layout", scale=s) for w, s in ((weight, 1.0), (weight, 1.0),
                                                                                                    (weight * 2, 2.0)))
    assert torch.equal(one._qdata.view(torch.uint8), other._qdata.view(torch.uint8))
    assert hash_weight(one) == hash_weight(same) != hash_weight(other), "the scale counts"
    assert hash_weight(torch.empty(2, device="meta")) != hash_weight(torch.empty(3, device="meta"))
