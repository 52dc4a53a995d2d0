"""What LoRA files of several tools tell of their text padding, in the metadata that each of them writes."""
from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest
import torch
from pack.host.lora_format import LoraWeights
from pack.host.lora_padding import TrainedPadding, trained_padding
from pack.host.text_padding import PRESETS, TextPadding

# Values are strings as the tools write them: sd-scripts turns all of them with str() (train_network.py, "metadata = {k: str(v)").
SD_SCRIPTS = {"ss_network_module": "networks.lora_flux", "ss_base_model_version": "flux1", "ss_max_token_length": "None",
              "ss_sd_scripts_commit_hash": "48d368fa557731ad0488c07304dfeba8c07910eb", "ss_model_type": "flux",
              "modelspec.architecture": "flux-1-dev/lora"}
# flux_train_network.py, update_metadata
MASKED, UNMASKED = {"ss_apply_t5_attn_mask": "True"}, {"ss_apply_t5_attn_mask": "False"}
# ComfyUI-FluxTrainer nodes.py gives its network as a relative import; flux_train_network_comfy.py, update_metadata
FLUX_TRAINER = SD_SCRIPTS | MASKED | {"ss_network_module": ".networks.lora_flux"}
# toolkit/metadata.py, get_meta_for_safetensors: what is no string becomes JSON; info.py; BaseSDTrainProcess.update_training_metadata
AI_TOOLKIT = {"format": "pt", "training_info": '{"step": 2000, "epoch": 3}', "ss_base_model_version": "flux1", "ss_output_name": "me",
              "software": '{"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.5.1"}'}
# modules/modelSaver/mixin/DtypeModelSaverMixin.py, _create_safetensors_header
ONE_TRAINER = {"ot_branch": "master", "ot_revision": "23df3832", "modelspec.sai_model_spec": "1.0.0"}
# helpers/training/save_hooks.py, _build_modelspec_metadata on top of what diffusers writes
SIMPLE_TUNER = {"format": "pt", "lora_adapter_metadata": "{}", "modelspec.sai_model_spec": "1.0.1", "global_step": "1000",
                "modelspec.implementation": "diffusers"}
DIFFUSERS = {"format": "pt", "lora_adapter_metadata": '{"transformer.lora_alpha": 16}'}  # loaders/lora_base.py, write_lora_layers


def one_trainer_config(masked: object, length: object) -> dict[str, str]:
    """modules/util/config/BaseConfig.py to_dict: nested parts; to_settings_dict leaves all other fields in."""
    config = {"__version": 10, "model_type": "FLUX_DEV_1", "transformer": {"__version": 0, "train": True, "attention_mask": masked},
              "text_encoder_2_sequence_length": length}
    return ONE_TRAINER | {"ot_config": json.dumps(config)}


def told(metadata: dict[str, str], architecture: str = "Flux", keys: tuple[str, ...] = ()) -> TrainedPadding:
    return trained_padding(LoraWeights({k: torch.zeros(1) for k in keys}, metadata), architecture)


CORE_KEYS = ("diffusion_model.double_blocks.0.img_attn.qkv.lora_up.weight", "diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight")


@pytest.mark.parametrize(("metadata", "architecture", "known", "padding", "words"), [
    ({"masked_lora.text_padding": PRESETS["comfyui-mask"].to_json()}, "Flux", "stated", PRESETS["comfyui-mask"], "trained with comfyui"),
    (SD_SCRIPTS | MASKED, "Flux", "stated", PRESETS["mask-512-encoder"], "trained by sd-scripts with apply_t5_attn_mask: mask-512-encoder"),
    (SD_SCRIPTS | UNMASKED, "Flux", "stated", PRESETS["none-512"], "trained by sd-scripts without apply_t5_attn_mask: none-512"),
    (SD_SCRIPTS | MASKED | {"modelspec.architecture": "flux-1-schnell/lora"}, "Flux", "stated",
     TextPadding(max_length=256, attend="real", encoder_masked=True), "its length taken to be the default of 256"),
    (SD_SCRIPTS | MASKED | {"ss_t5xxl_max_token_length": "300"}, "Flux", "stated",
     TextPadding(max_length=300, attend="real", encoder_masked=True), "with apply_t5_attn_mask"),
    (SD_SCRIPTS | MASKED, "Chroma", "stated", TextPadding(max_length=512, attend="real", keep_pads=1, encoder_masked=True), "but for 1"),
    (SD_SCRIPTS, "Flux", "usual", PRESETS["none-512"], "it is by sd-scripts, whose usual setting is the preset none-512"),
    (SD_SCRIPTS | MASKED, "SD3", "assumed", TextPadding(), "it is by sd-scripts"),
    (FLUX_TRAINER, "Flux", "stated", PRESETS["mask-512-encoder"], "trained by FluxTrainer with apply_t5_attn_mask"),
    (AI_TOOLKIT, "Flux", "usual", PRESETS["none-512"], "it is by ai-toolkit, whose usual setting is the preset none-512"),
    (AI_TOOLKIT, "Chroma", "usual", PRESETS["chroma"], "the preset chroma"),
    (ONE_TRAINER, "Flux", "usual", TextPadding(max_length=77), "it is by OneTrainer, whose usual setting is custom: 77 tokens"),
    (one_trainer_config(True, 77), "Flux", "stated", PRESETS["zero-77"], "trained by OneTrainer with its attention mask: zero-77"),
    (one_trainer_config(False, 512), "Flux", "stated", PRESETS["none-512"], "trained by OneTrainer without its attention mask"),
    (one_trainer_config(True, None), "Flux", "stated", PRESETS["zero-512"], "trained by OneTrainer"),
    (SIMPLE_TUNER, "Flux", "usual", PRESETS["none-512"], "it is by SimpleTuner"),
    (DIFFUSERS, "Flux", "usual", PRESETS["none-512"], "it is by diffusers"),
    (DIFFUSERS, "SDXL", "assumed", TextPadding(), "unknown: the file does not say how its padding was treated (it is by diffusers)"),
    ({"format": "pt"}, "Flux", "assumed", TextPadding(), "unknown: the file does not say how its padding was treated; ComfyUI's own"),
    ({}, "WAN21", "assumed", TextPadding(), "unknown"),
])
def test_each_tool_is_known_by_what_it_writes(metadata: dict[str, str], architecture: str, known: str, padding: TextPadding,
                                              words: str) -> None:
    trained = told(metadata, architecture)
    assert (trained.known, trained.padding) == (known, padding)
    assert words in trained.sentence
    assert trained.sentence.startswith("trained" if known == "stated" else "unknown")


def test_comfyuis_own_trainer_is_known_by_its_names_and_its_silence() -> None:
    """comfy_extras/nodes_train.py SaveLoRA writes no metadata and the names of WeightAdapter's state."""
    assert told({}, keys=CORE_KEYS).known == "usual"
    assert told({}, keys=CORE_KEYS).padding == PRESETS["comfyui"]
    assert "ComfyUI's own trainer" in told({}, "Chroma", CORE_KEYS).sentence
    assert told({"who": "knows"}, keys=CORE_KEYS).known == "assumed"
    assert trained_padding({}).known == "assumed", "a plain dict is a LoRA too"


@pytest.mark.parametrize("metadata", [
    {"masked_lora.text_padding": "{"}, {"masked_lora.text_padding": "[" * 100_000}, {"masked_lora.text_padding": "null"},
    {"masked_lora.text_padding": '{"max_length": "512"}'}, {"masked_lora.text_padding": '{"max_length": 1' + "0" * 5000 + "}"},
    {"masked_lora.text_padding": '{"max_length": 1' + "0" * 900 + "}"}, {"masked_lora.text_padding": "x" * 50_000_000},
    {"masked_lora.text_padding": '{"attend": ["real"]}'}, {"masked_lora.text_padding": '{"unheard of": 1}'},
    {"software": '["ai-toolkit"]'}, {"software": "[" * 100_000}, {"software": '{"name": {"ai-toolkit": 1}}'}, {"software": "ai-toolkit"},
    {"ss_apply_t5_attn_mask": "maybe"}, {"ss_apply_t5_attn_mask": ""},
], ids=lambda metadata: next(iter(metadata.values()))[:24])
def test_metadata_that_cannot_be_read_is_told_in_a_short_sentence(metadata: dict[str, str]) -> None:
    trained = told(metadata)
    assert (trained.known, trained.padding) == ("assumed", TextPadding())
    assert trained.sentence.startswith("unknown: ")
    assert len(trained.sentence) < 300


@pytest.mark.parametrize("config", ["{", "[" * 100_000, "null", '{"transformer": 1}', '{"transformer": {"attention_mask": "yes"}}',
                                    '{"transformer": {"attention_mask": true}, "text_encoder_2_sequence_length": 1e9}',
                                    '{"transformer": {"attention_mask": true}, "text_encoder_2_sequence_length": 1}',
                                    '{"transformer": {"attention_mask": true}, "text_encoder_2_sequence_length": true}'])
def test_a_configuration_that_cannot_be_read_leaves_the_usual_setting(config: str) -> None:
    assert told(ONE_TRAINER | {"ot_config": config}) == told(ONE_TRAINER)


@pytest.mark.parametrize("length", ["-1", "0", "99999", "²", "1e3", "None"])
def test_a_senseless_length_leaves_the_default(length: str) -> None:
    assert told(SD_SCRIPTS | MASKED | {"ss_t5xxl_max_token_length": length}) == told(SD_SCRIPTS | MASKED)


def test_the_result_is_a_value() -> None:
    trained = told({})
    with pytest.raises(FrozenInstanceError):
        trained.known = "stated"  # type: ignore[misc]
