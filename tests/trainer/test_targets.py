"""Which layers the presets mean, by name."""
from __future__ import annotations

import re

import pytest
from pack.trainer.adapter_spec import AdapterSpec, Kind, patterns_of
from pack.trainer.config import LoraSpec
from pack.trainer.targets import OWN, PRESETS, block_pattern, describe, find_layers, targets
from torch import nn

ALL, ATTENTION, LINEAR = PRESETS
NAMES = ["img_in", "double_blocks.0.img_attn.qkv", "double_blocks.0.img_mlp.0", "double_blocks.0.img_mod.lin", "double_blocks.10.txt_mlp.2",
         "single_blocks.1.linear1", "single_blocks.1.modulation.lin", "single_blocks.10.linear2", "final_layer.linear"]
SDXL = ["input_blocks.4.1.transformer_blocks.0.attn1.to_q", "input_blocks.4.1.transformer_blocks.0.ff.net.2",
        "input_blocks.4.0.emb_layers.1",
        "middle_block.1.transformer_blocks.9.attn2.to_k", "output_blocks.10.1.transformer_blocks.4.ff.net.0.proj", "time_embed.0"]


def matched(pattern: str, names: list[str]) -> list[int]:
    return [i for i, name in enumerate(names) if re.fullmatch(pattern, name)]


@pytest.mark.parametrize(("preset", "blocks", "flux", "sdxl"), [
    (ALL, "", [1, 2, 4, 5, 7], [0, 1, 3, 4]), (ATTENTION, "", [1, 5, 7], [0, 3]), (LINEAR, "", list(range(9)), list(range(6))),
    (ALL, "0", [1, 2], []), (ALL, "1", [5], [3]), (ALL, "0-1", [1, 2, 5], [3]), (ALL, "10", [4, 7], [4]),
    (ALL, " 0 , 4 - 10", [1, 2, 4, 7], [0, 1, 4]),
    (ALL, "double 0, 10", [1, 2, 4], []), (ALL, "double 0, single 10", [1, 2, 7], []), (ALL, "single 0-9, 10", [5, 7], []),
    (ATTENTION, "double 0-18", [1], []), (LINEAR, "double 0", [1, 2, 3], []), (LINEAR, "input 4", [], [0, 1, 2]),
    (ALL, "input 4, output 0-10", [], [0, 1, 4]), (ALL, "middle 1", [], [3]), (ALL, "double_blocks 10", [4], [])])
def test_presets_and_blocks(preset: str, blocks: str, flux: list[int], sdxl: list[int]) -> None:
    pattern = targets(preset, blocks)
    assert matched(pattern, NAMES) == flux
    assert matched(pattern, SDXL) == sdxl


def test_the_first_preset_is_what_a_run_without_settings_trains() -> None:
    assert targets(ALL) == f"(?:{LoraSpec().targets})"


def test_an_own_expression_goes_with_blocks() -> None:
    assert matched(targets(OWN, "single 1", r".*linear1|.*mod.*"), NAMES) == [5, 6]
    assert matched(targets(OWN, "", "img_in|.*lin"), NAMES) == [0, 3, 6]


@pytest.mark.parametrize(("arguments", "message"), [
    (("some layers",), "layers are 'some layers'; choose one of attention and feed-forward"), ((OWN, "", " "), "there is none; write one"),
    ((ALL, "3-1"), "blocks '3-1' run backwards"), ((ALL, "0, x"), "'x' is no number or range"), ((ALL, "0,,1"), "'' is no number"),
    ((ALL, "1.5"), "'1.5' is no number")])
def test_what_makes_no_sense_is_refused_in_words(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        targets(*arguments)


def test_no_blocks_is_no_condition() -> None:
    assert block_pattern("  ") == ""


def network() -> nn.Module:
    return nn.ModuleDict({"img_in": nn.Linear(1, 1), "double_blocks": nn.ModuleList(
        nn.ModuleDict({"img_attn": nn.Linear(1, 1), "norm": nn.LayerNorm(1), "mlp": nn.Sequential(nn.Linear(1, 1), nn.GELU())})
        for _ in range(3))})


def test_words_tell_how_many_layers_are_trained_and_where() -> None:
    assert describe(network(), ".*") == "on 7 of 7 linear layers: 1 in img_in, 6 in double_blocks"
    assert describe(network(), r".*\.1\..*") == "on 2 of 7 linear layers: 2 in double_blocks"


def test_no_layer_is_an_error_that_names_some() -> None:
    with pytest.raises(ValueError, match="no linear layer of ModuleDict matches 'attn'.* 7 linear layers: img_in, double_blocks.0"):
        find_layers(network(), "attn")


def test_sizes_are_read_from_lines() -> None:
    assert patterns_of("") == ()
    assert patterns_of(" .*attn.* = 32, 16.5\n\n(?=x)y=4\nz = 16") == ((".*attn.*", 32, 16.5), ("(?=x)y", 4, 4.0), ("z", 16, 16.0))


@pytest.mark.parametrize("text", [".*attn.*", "x = ", "x = a", "x = 4, 2, 1", "x = 1.5"])
def test_lines_that_are_no_sizes_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is no size of layers; write 'regular expression = rank, alpha'"):
        patterns_of(text)


@pytest.mark.parametrize(("settings", "message"), [
    ({"kind": "ia3"}, "kind of adapter is 'ia3'; choose one of lora, rslora, dora, loha, lokr, oft"), ({"dropout": 1.0}, "dropout is 1.0"),
    ({"dropout": -0.1}, "dropout is -0.1"), ({"kind": "lokr", "dropout": 0.1}, "lokr.*set it to 0, or choose lora, rslora, dora"),
    ({"targets": "("}, r"'\(' is no regular expression"), ({"patterns": (("[", 1, 1.0),)}, r"'\[' is no regular expression"),
    ({"patterns": (("x", 0, 1.0),)}, "'x' has rank 0"), ({"patterns": (("x", 1, 0.0),)}, "'x' has rank 1 and alpha 0"),
    ({"rank": 0}, "rank must be at least 1"), ({"alpha": 0.0}, "alpha must be above 0")])
def test_specs_that_make_no_sense_are_refused_in_words(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterSpec(**settings)


def test_a_spec_says_what_it_is() -> None:
    assert AdapterSpec.of(LoraSpec(rank=3, alpha=1.0, targets="x")) == AdapterSpec(rank=3, alpha=1.0, targets="x")
    spec = AdapterSpec(kind="rslora", rank=4, alpha=2.0, dropout=0.1, patterns=(("x", 1, 1.0),), start="a.safetensors", targets="x")
    assert AdapterSpec.of(spec) is spec
    assert spec.describe() == "rslora rank 4 alpha 2, 1 patterns with sizes of their own, rank dropout 0.1, starting from a.safetensors"
    assert AdapterSpec(kind=Kind.OFT).describe() == "oft rank 16"
    assert AdapterSpec(targets="x").to_dict() == {"kind": "lora", "rank": 16, "alpha": 16.0, "targets": "x"}
    assert spec.to_dict() == {"kind": "rslora", "rank": 4, "alpha": 2.0, "targets": "x", "dropout": 0.1, "patterns": (("x", 1, 1.0),),
                              "start": "a.safetensors"}
