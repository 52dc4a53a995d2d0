"""Encoding pictures with their masks, with the demo model's own encoders."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.encode import Picture, clip_fingerprint, encode_training_set, pair_up
from pack.host.folders import DEMO_MODEL
from pack.host.progress import Progress
from pack.host.text_padding import PRESETS
from pack.masks.latent_grid import latent_weight
from pack.masks.preview import seen_by_the_model


def encode(pictures: list[Picture], folder: Path):
    with torch.inference_mode():
        clip, vae = load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL)
        return encode_training_set(pictures, clip, vae, PRESETS["comfyui-mask"], folder, Progress(None))


@pytest.mark.parametrize("height, width", [(135, 143), (64, 71), (129, 128)])
def test_mask_is_cut_as_the_vae_cuts_the_picture(height: int, width: int, tmp_path: Path) -> None:
    """The VAE drops what does not fill a cell, from the centre out: a mask on the dropped pixels alone must weigh nothing."""
    mask = torch.ones(height, width)
    top, left = height % 8 // 2, width % 8 // 2
    mask[top:top + height // 8 * 8, left:left + width // 8 * 8] = 0
    (example,) = encode([Picture("odd", torch.rand(1, height, width, 3), mask, "a star")], tmp_path).examples
    assert example.latent_CHW.shape[-2:] == (height // 8, width // 8)
    assert not latent_weight(example.mask_HW[None], example.latent_CHW.shape[-2:]).any()
    _, shown = seen_by_the_model(torch.rand(height, width, 3), mask, 8)
    assert torch.equal(shown, example.mask_HW), "the preview shows what is trained"


def test_a_second_encoding_comes_from_the_cache_under_its_new_name(tmp_path: Path) -> None:
    image, mask = torch.rand(1, 64, 64, 3), torch.rand(64, 64)
    first = encode([Picture("first", image, mask, "a star")], tmp_path)
    second = encode([Picture("renamed", image, mask, "a star")], tmp_path)
    assert "1 encoded" in first.report
    assert "1 from the cache, 0 encoded" in second.report
    assert second.examples[0].name == "renamed"
    assert torch.equal(first.examples[0].latent_CHW, second.examples[0].latent_CHW)


def test_another_kind_of_tokenizer_is_another_cache_key() -> None:
    clip = load_text_encoders(DEMO_MODEL)
    other = clip.clone()
    other.set_tokenizer_option("t5xxl_min_length", 77)
    assert clip_fingerprint(clip) != clip_fingerprint(other)


def test_mask_of_another_size_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    good = Picture("good", torch.rand(1, 64, 64, 3), torch.ones(64, 64), "")
    bad = Picture("bad", torch.rand(1, 64, 64, 3), torch.ones(32, 64), "")
    with pytest.raises(ValueError, match="bad: the picture is 64x64 and its mask 64x32"):
        encode([good, bad], tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_lists_of_different_length_are_told() -> None:
    with pytest.raises(ValueError, match="2 pictures came with 3 captions"):
        pair_up([torch.rand(2, 8, 8, 3)], None, ["a", "b", "c"], None)
