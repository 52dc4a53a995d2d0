"""The text padding that a LoRA file was trained with, as far as the file tells, and how that is known."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from .lora_format import LoraWeights
from .text_padding import PRESETS, TextPadding, is_int

LONGEST = 1 << 20  # characters of JSON; the whole configuration of a trainer has some ten thousand
T5_FAMILIES = ("Flux", "Chroma", "ChromaRadiance")  # models whose trainers treat T5's padding in ways of their own
SD_SCRIPTS, FLUX_TRAINER, AI_TOOLKIT = "sd-scripts", "FluxTrainer", "ai-toolkit"
ONE_TRAINER, SIMPLE_TUNER, DIFFUSERS, COMFYUI = "OneTrainer", "SimpleTuner", "diffusers", "ComfyUI's own trainer"
# What each does to Flux unless it is told otherwise; sd-scripts and FluxTrainer say what they did.
USUAL = {SD_SCRIPTS: PRESETS["none-512"], FLUX_TRAINER: PRESETS["mask-512-encoder"], AI_TOOLKIT: PRESETS["none-512"],
         ONE_TRAINER: TextPadding(max_length=77), SIMPLE_TUNER: PRESETS["none-512"], DIFFUSERS: PRESETS["none-512"],
         COMFYUI: PRESETS["comfyui"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedPadding:
    """`known`: "stated" by the file, the "usual" one of the tool that made it, or "assumed" to be ComfyUI's own."""

    padding: TextPadding
    known: Literal["stated", "usual", "assumed"]
    sentence: str


def trained_padding(lora: Mapping[str, Tensor], architecture: str = "Flux") -> TrainedPadding:
    """What a LoRA tells of the padding of its training; `architecture` is the class of ComfyUI's model that it is loaded on.

    Metadata that cannot be read counts as missing, and the sentence says so: a file from a stranger stops nobody.
    """
    metadata = lora.metadata if isinstance(lora, LoraWeights) else {}
    if "masked_lora.text_padding" in metadata:
        return ours(metadata["masked_lora.text_padding"])
    trainer = trainer_of(metadata, lora)
    if architecture not in T5_FAMILIES:
        return assumed(f"the file does not say how its padding was treated{by(trainer)}")
    chroma = architecture != "Flux"
    if (told := by_sd_scripts(metadata, trainer, chroma)) or (told := by_one_trainer(metadata, chroma)):
        return told
    if trainer is None:
        return assumed("the file does not say how its padding was treated")
    usual = PRESETS["chroma"] if chroma and trainer != COMFYUI else USUAL[trainer]
    return TrainedPadding(padding=usual, known="usual", sentence=(
        f"unknown: the file does not say how its padding was treated; it is by {trainer}, whose usual setting is {named(usual)}"))


def assumed(reason: str) -> TrainedPadding:
    return TrainedPadding(padding=TextPadding(), known="assumed", sentence=f"unknown: {reason}; ComfyUI's own padding is assumed")


def stated(padding: TextPadding, sentence: str) -> TrainedPadding:
    return TrainedPadding(padding=padding, known="stated", sentence=sentence)


def named(padding: TextPadding) -> str:
    return f"the preset {padding.describe()}" if padding.preset != "custom" else padding.describe()


def by(trainer: str | None) -> str:
    return f" (it is by {trainer})" if trainer else ""


def ours(text: str) -> TrainedPadding:
    try:
        padding = TextPadding.from_json(text)
    except (ValueError, RecursionError) as error:
        return assumed(f"its masked_lora.text_padding cannot be read ({short(error)})")
    return stated(padding, f"trained with {padding.describe()}")


def short(error: Exception) -> str:
    words = str(error)
    return words if len(words) <= 120 else f"{words[:120]}..."


def trainer_of(metadata: Mapping[str, str], keys: Iterable[str]) -> str | None:
    """The tool that wrote a file, by what it alone writes; None where that is not known."""
    if object_of(metadata.get("software", "")).get("name") == "ai-toolkit":  # toolkit/metadata.py get_meta_for_safetensors, info.py
        return AI_TOOLKIT
    if "ot_branch" in metadata or "ot_revision" in metadata:  # modules/modelSaver/mixin/DtypeModelSaverMixin.py
        return ONE_TRAINER
    if metadata.get("ss_network_module", "").startswith(".networks."):  # ComfyUI-FluxTrainer nodes.py: a relative import
        return FLUX_TRAINER
    if "ss_sd_scripts_commit_hash" in metadata:  # train_network.py
        return SD_SCRIPTS
    if "global_step" in metadata and "modelspec.sai_model_spec" in metadata:  # helpers/training/save_hooks.py
        return SIMPLE_TUNER
    if "lora_adapter_metadata" in metadata:  # loaders/lora_base.py
        return DIFFUSERS
    if not metadata.keys() - {"format"} and any(k.startswith("diffusion_model.") and k.endswith(".lora_up.weight") for k in keys):
        return COMFYUI  # comfy_extras/nodes_train.py writes these names and no metadata
    return None


def object_of(text: str) -> dict[str, Any]:
    """A JSON object out of metadata, or an empty one for anything else."""
    try:
        value = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def by_sd_scripts(metadata: Mapping[str, str], trainer: str | None, chroma: bool) -> TrainedPadding | None:
    """flux_train_network.py of sd-scripts and FluxTrainer: masked in T5 and in Flux, or nowhere.

    The length is not in the file (forks write ss_t5xxl_max_token_length): 512 by default, 256 for schnell. Chroma is trained with the
    mask alone, and its blocks see one token of padding (library/chroma_models.py, attn_padding).
    """
    applied = {"true": True, "false": False}.get(metadata.get("ss_apply_t5_attn_mask", "").lower())
    if applied is None:
        return None
    told = metadata.get("ss_t5xxl_max_token_length", "")
    length = 256 if "schnell" in metadata.get("modelspec.architecture", "") else 512
    assumed_length = f", its length taken to be the default of {length}"
    if told.isdecimal() and len(told) <= 4 and 2 <= int(told) <= 4096:
        length, assumed_length = int(told), ""
    padding = (TextPadding(max_length=length, attend="real", keep_pads=1 if chroma else 0, encoder_masked=True) if applied
               else TextPadding(max_length=length))
    how = "with" if applied else "without"
    return stated(padding, f"trained by {trainer or SD_SCRIPTS} {how} apply_t5_attn_mask: {padding.describe()}{assumed_length}")


def by_one_trainer(metadata: Mapping[str, str], chroma: bool) -> TrainedPadding | None:
    """The configuration that OneTrainer can put into a file: FluxModel.encode_text zeroes what its mask leaves out and hides nothing."""
    config = object_of(metadata.get("ot_config", ""))
    transformer, length = config.get("transformer"), config.get("text_encoder_2_sequence_length", 77)
    length = 512 if length is None else length  # the tokenizer's own
    if chroma or not isinstance(transformer, dict) or not is_int(length) or not 2 <= length <= 4096:
        return None
    masked = transformer.get("attention_mask")
    if not isinstance(masked, bool):
        return None
    padding = TextPadding(max_length=length, pad_embedding="zero" if masked else "encoded")
    return stated(padding, f"trained by OneTrainer {'with' if masked else 'without'} its attention mask: {padding.describe()}")
