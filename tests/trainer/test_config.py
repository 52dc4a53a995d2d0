"""What a run may be asked to do, and what it says when it may not."""
from __future__ import annotations

import dataclasses
import math
import re

import pytest
from pack.trainer.config import BLOCK_LAYERS, LoraSpec, Normalization, TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": -5}, "steps must be at least 1, got -5"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"micro_batch": -1}, "micro_batch must not be negative, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must not be negative, got -1.0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must not be negative, got nan"),
    ],
)
def test_wrong_settings_are_named_with_their_value(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        TrainConfig(**{"steps": 1, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, "rank must be at least 1, got 0"), ({"alpha": 0.0}, "alpha must be above 0, got 0.0"), ({"alpha": -1.0}, "got -1.0")],
)
def test_wrong_lora_settings_are_named_with_their_value(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LoraSpec(**settings)


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        TrainConfig(steps=1, normalization="median")


def test_a_normalization_by_name_is_that_normalization() -> None:
    """'none' must not be taken for the default because it is not the enum's own member."""
    assert TrainConfig(steps=1, normalization="none").normalization is Normalization.NONE


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig(steps=1).steps = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoraSpec().rank = 2


@pytest.mark.parametrize(
    ("layer", "learned"),
    [
        ("double_blocks.0.img_attn.qkv", True),
        ("double_blocks.11.txt_mlp.2", True),
        ("single_blocks.3.linear1", True),
        ("transformer_blocks.0.attn.to_q", True),
        ("joint_blocks.0.x_block.attn.qkv", True),
        ("double_blocks.0.img_mod.lin", False),
        ("single_blocks.3.modulation.lin", False),
        ("joint_blocks.0.x_block.adaLN_modulation.1", False),
        ("final_layer.adaLN_modulation.1", False),
        ("time_in.in_layer", False),
        ("img_in", False),
        ("txt_in", False),
        ("t_embedder.mlp.0", False),
        ("guidance_in.in_layer", False),
    ],
)
def test_default_targets_are_the_layers_of_blocks_and_no_steering(layer: str, learned: bool) -> None:
    assert bool(re.fullmatch(BLOCK_LAYERS, layer)) is learned
