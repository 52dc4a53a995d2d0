"""Training that starts from a LoRA file: any naming that ComfyUI's own loader understands, with the effect that it would have there,
or with the scale that a peft configuration in the file tells.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter, OFTAdapter, WeightAdapterBase
from torch import Tensor, nn

from ..trainer.adapter import LoraAdapter
from ..trainer.linear import is_linear
from .lora_format import PREFIX, TEXT_ENCODER, load_lora
from .peft_files import named_for_host, scaled_as_trained

logger = logging.getLogger(__name__)
NAMED = 5  # how many keys a message lists

Parts = dict[str, Tensor]


def warm_start(adapter: LoraAdapter, patcher: ModelPatcher) -> str:
    """Let `adapter` go on from the file that its spec names, and say so; '' where it names none."""
    if not adapter.spec.start:
        return ""
    file = Path(adapter.spec.start)
    lora, scaled = scaled_as_trained(load_lora(file), file)
    words = f"{start_from(adapter, patcher, lora)} ({file.name})"
    return f"{words}; {scaled}" if scaled else words


def warm_start_text(adapter: LoraAdapter, start: str) -> str:
    """The same for text encoders, from the part of the file that is theirs; '' where there is none."""
    if not start:
        return ""
    lora = scaled_as_trained(load_lora(Path(start)), Path(start))[0]
    lora = {key: tensor for key, tensor in lora.items() if key.startswith(TEXT_ENCODER)}
    if not lora:
        return ""
    with adapter.disabled():
        state, _ = read(comfy.lora.model_lora_keys_clip(adapter.network, {}), adapter.network, "", lora)
    chosen = {key: tensor for key, tensor in state.items() if key.split(".lora_")[0].removesuffix(".alpha") in adapter.layers}
    if chosen:
        adapter.adopt(chosen)
    layers = sum(key.endswith(".alpha") for key in chosen)
    return f"the text encoders start from {layers} layers of the LoRA" if layers else ""


def start_from(adapter: LoraAdapter, patcher: ModelPatcher, lora: Mapping[str, Tensor]) -> str:
    """Let `adapter` go on from a LoRA file's tensors, with the file's ranks and alphas, and say in words what came of it.

    Raises ValueError for a file of which nothing belongs to this model, of another kind of adapter, or with layers that the trainer
    cannot train. Layers that are not linear have no place in the adapter: they are named in a warning. A text encoder's are for
    `warm_start_text`.
    """
    own = {key: tensor for key, tensor in lora.items() if not key.startswith(TEXT_ENCODER)}
    with adapter.disabled():  # ComfyUI's key maps are made from the names of the model's own weights
        state, left_out = read(comfy.lora.model_lora_keys_unet(patcher.model, {}), patcher.model.diffusion_model, PREFIX, own)
    adapter.adopt(state)
    ranks = sorted({layer.rank for name, layer in adapter.layers.items() if f"{name}.alpha" in state})
    fresh = sum(f"{name}.alpha" not in state for name in adapter.layers)
    words = (f"starts from {len(adapter.layers) - fresh} layers of the LoRA, rank {ranks[0]}" + (f" to {ranks[-1]}" if ranks[1:] else "")
             + (f", and {fresh} fresh layers" if fresh else ""))
    if left_out:
        logger.warning("Masked LoRA: %d names of the LoRA to start from are no linear layers of this model and are left out: %s",
                       len(left_out), listed(left_out))
        words += f"; {len(left_out)} of its names left out"
    return words + ("; its text encoder part is for Text Encoder LoRA" if len(own) < len(lora) else "")


def read(places: dict[str, Any], network: nn.Module, prefix: str, lora: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The file as our own `state_dict` would have it, and the names in it that found no place.

    `places`: ComfyUI's map from names in files to weights, which have `prefix` before their names in `network`.
    """
    file = comfy.lora_convert.convert_lora(named_for_host(lora, places))
    patches = comfy.lora.load_lora(file, places, log_missing=False)
    layers: dict[str, list[Patch]] = {}
    loaded, left_out = set[str](), list[str]()
    for target, adapter in patches.items():
        key, *where = target if isinstance(target, tuple) else (target,)
        name = key.removeprefix(prefix).removesuffix(".weight")
        loaded |= getattr(adapter, "loaded_keys", set())
        if isinstance(adapter, WeightAdapterBase) and linear_or_none(network, name) is not None:
            layers.setdefault(name, []).append(Patch(adapter, *where))
        else:
            left_out.append(key)
    if not layers:
        raise ValueError(f"the LoRA to start from has {listed(list(lora))}, none of which belongs to a linear layer of "
                         f"{type(network).__name__}; choose a LoRA of this model")
    state: dict[str, Tensor] = {}
    for name, found in layers.items():
        whole = len(found) == 1 and found[0].offset is None and found[0].function is None
        parts = one(name, found[0].adapter) if whole else several(name, found, network.get_submodule(name).out_features)
        state |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return state, [k for k in file if k not in loaded] + left_out


@dataclass(frozen=True, slots=True)
class Patch:
    """What ComfyUI would do to a weight: to all of it, or to `length` rows from `start` on, `offset` being (dimension, start, length)."""

    adapter: WeightAdapterBase
    offset: tuple[int, int, int] | None = None
    function: Callable[[Tensor], Tensor] | None = None


def one(name: str, adapter: WeightAdapterBase) -> Parts:
    """A layer's tensors under our names. Raises ValueError for what the trainer has no layer for."""
    for kind, convert in ((LoRAAdapter, lora_parts), (LoHaAdapter, loha_parts), (LoKrAdapter, lokr_parts), (OFTAdapter, oft_parts)):
        if isinstance(adapter, kind) and (parts := convert(adapter.weights)) is not None:
            return parts
    raise ValueError(f"{name} of the LoRA to start from is a form of {adapter.name} that cannot be trained on (a Tucker decomposition, "
                     "a reshaped layer, magnitudes on anything but a LoRA, or an unknown kind); choose another")


def several(name: str, patches: Sequence[Patch], outputs: int) -> Parts:
    """One LoRA that does what several do to parts of a fused weight (q, k and v): their ranks one after the other."""
    ups, downs = [], []
    for patch in patches:
        parts = one(name, patch.adapter)
        dimension, start, length = patch.offset or (0, 0, outputs)
        if parts.keys() != {"lora_A.weight", "lora_B.weight", "alpha"} or dimension != 0:
            raise ValueError(f"{name} of the LoRA to start from is {patch.adapter.name} for a part of it, which only plain LoRA can be")
        down, up = parts["lora_A.weight"], parts["lora_B.weight"]
        up = up * (parts["alpha"] / len(down))
        whole = torch.zeros(outputs, len(down))
        whole[start:start + length] = up if patch.function is None else patch.function(up)
        ups.append(whole)
        downs.append(down)
    down = torch.cat(downs)
    return {"lora_A.weight": down, "lora_B.weight": torch.cat(ups, 1), "alpha": torch.tensor(float(len(down)))}


def alpha_of(alpha: float | None, rank: int) -> Tensor:
    """ComfyUI scales by alpha / rank, and by 1 where there is no alpha (diffusers, peft)."""
    return torch.tensor(float(rank if alpha is None else alpha))


def lora_parts(weights: tuple[Any, ...]) -> Parts | None:
    up, down, alpha, middle, magnitude, shape = weights
    if middle is not None or shape is not None:
        return None
    parts = {"lora_A.weight": down.float().flatten(1), "lora_B.weight": up.float().flatten(1), "alpha": alpha_of(alpha, len(down))}
    return parts if magnitude is None else {**parts, "dora_scale": magnitude.float()}


def loha_parts(weights: tuple[Any, ...]) -> Parts | None:
    w1_a, w1_b, alpha, w2_a, w2_b, *tucker, magnitude = weights
    if magnitude is not None or any(t is not None for t in tucker):
        return None
    return {"hada_w1_a": w1_a.float(), "hada_w1_b": w1_b.float(), "hada_w2_a": w2_a.float(), "hada_w2_b": w2_b.float(),
            "alpha": alpha_of(alpha, len(w1_b))}


def lokr_parts(weights: tuple[Any, ...]) -> Parts | None:
    """A small factor that is a product itself is multiplied out."""
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, tucker, magnitude = weights
    if tucker is not None or magnitude is not None:
        return None
    first = w1.float() if w1 is not None else w1_a.float() @ w1_b.float()
    if w2 is None:  # ComfyUI takes the rank of the second factor, whatever the first one's
        return {"lokr_w1": first, "lokr_w2_a": w2_a.float(), "lokr_w2_b": w2_b.float(), "alpha": alpha_of(alpha, len(w2_b))}
    scale = 1.0 if w1 is not None or alpha is None else alpha / len(w1_b)
    return {"lokr_w1": first * scale, "lokr_w2": w2.float(), "alpha": torch.tensor(1.0)}


def oft_parts(weights: tuple[Any, ...]) -> Parts | None:
    """A constraint that is reached is applied once; ComfyUI itself leaves `rescale` out."""
    blocks, _, limit, magnitude = weights
    if magnitude is not None:
        return None
    blocks = blocks.float()
    norm = (blocks - blocks.transpose(1, 2)).norm().item() + 1e-8
    return {"oft_blocks": blocks * (min(1.0, limit / norm) if limit else 1.0), "alpha": torch.tensor(0.0)}


def linear_or_none(network: nn.Module, name: str) -> nn.Module | None:
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return None
    return module if is_linear(module) else None


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
