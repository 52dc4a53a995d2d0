"""A LoRA on a model and its text encoder, as ComfyUI's own loader would put it there, and what found no place."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ..dataset.words import counted
from .lora_format import TEXT_ENCODER
from .peft_files import named_for_host
from .warm_start import listed

# Parts of a layer that comfy.lora.load_lora reads itself; all others are an adapter's, which knows what it read.
DIRECT = ("alpha", "dora_scale", "w_norm", "b_norm", "diff", "diff_b", "set_weight")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Clones with the LoRA; `notes` are sentences on what was not loaded. `text`: whether the text encoder reads otherwise now."""

    model: ModelPatcher
    clip: CLIP | None
    text: bool
    notes: tuple[str, ...] = ()


def put_on(model: ModelPatcher, clip: CLIP | None, lora: Mapping[str, Tensor], strength: float, clip_strength: float) -> Loaded:
    """The numbers of comfy.sd.load_lora_for_models. A strength of 0 leaves its half as it is; nothing that comes in is changed.

    Raises ValueError for a file that is no LoRA at all or whose tensors do not belong together.
    """
    places = comfy.lora.model_lora_keys_unet(model.model, {})
    encoder_places = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}) if clip is not None else {}
    places |= encoder_places
    file = comfy.lora_convert.convert_lora(named_for_host(lora, places))
    patches = read_patches(file, places)
    if not patches:
        raise ValueError(f"the LoRA has {listed(list(file)) or 'no tensors'}, none of which belongs to {type(model.model).__name__}; "
                         "choose a LoRA of this model")
    adapted, encoder = model.clone(), clip.clone() if clip is not None else None
    reached = set(adapted.add_patches(patches, strength))
    read = set(encoder.add_patches(patches, clip_strength)) if encoder is not None else set()
    lost = lost_names(file, places, patches) + [name_of(target) for target in patches if target not in reached | read]
    return Loaded(adapted if strength else model, encoder if clip_strength else clip, bool(read and clip_strength),
                  notes_on(lost, clip is not None))


def read_patches(file: Mapping[str, Tensor], places: Mapping[str, Any]) -> dict[Any, Any]:
    for key, value in file.items():
        if key.endswith(".alpha") and value.numel() != 1:
            raise ValueError(f"{key} of the LoRA has the shape {tuple(value.shape)} and is no number; the file is damaged")
    try:
        patches: dict[Any, Any] = comfy.lora.load_lora(file, places, log_missing=False)
    except KeyError as error:
        raise ValueError(f"the LoRA lacks {error.args[0]}, without which the other half of that layer means nothing; "
                         "the file is damaged") from error
    return patches


def lost_names(file: Mapping[str, Tensor], places: Mapping[str, Any], patches: Mapping[Any, Any]) -> list[str]:
    """The names in the file that ComfyUI's loader did not read."""
    read = {f"{place}.{part}" for place in places for part in DIRECT}
    for adapter in patches.values():
        if isinstance(adapter, WeightAdapterBase):
            read |= adapter.loaded_keys
    return [key for key in file if key not in read]


def name_of(target: str | tuple[Any, ...]) -> str:
    return target if isinstance(target, str) else str(target[0])


def notes_on(lost: Collection[str], has_clip: bool) -> tuple[str, ...]:
    encoder = [key for key in lost if key.startswith(TEXT_ENCODER)]
    rest = [key for key in lost if not key.startswith(TEXT_ENCODER)]
    notes = []
    if encoder:
        why = "the CLIP that is connected has no such layers" if has_clip else "connect clip to load them"
        notes.append(f"not loaded: {counted(len(encoder), 'key')} of a text encoder, {why}: {listed(encoder)}")
    if rest:
        notes.append(f"not loaded: {counted(len(rest), 'key')} that this model has no place for: {listed(rest)}")
    return tuple(notes)
