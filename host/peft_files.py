"""LoRA files of peft and diffusers: the scale and the names that they have there, where ComfyUI's loader has its own."""
from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .lora_format import LoraWeights

if TYPE_CHECKING:
    from peft import LoraConfig

METADATA_KEY = "lora_adapter_metadata"  # diffusers loaders/lora_base.py
WEIGHTS, CONFIG = "adapter_model", "adapter_config.json"  # what peft calls the two files of a folder
PREFIX = "base_model.model."  # before every name in a file that peft itself saved
HOMES = ("", "diffusion_model.", "transformer.", "unet.", "text_encoder.")  # where ComfyUI may know such a module
DOWNS = (".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight")  # diffusers renames those of UNets and encoders
FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
LONGEST = 1 << 22  # bytes of configuration


def scaled_as_trained(lora: LoraWeights, file: Path) -> tuple[LoraWeights, str]:
    """The LoRA with the alpha that its maker's configuration gives each layer, and a sentence; '' where nothing differs.

    diffusers (0.34 and later) keeps peft's LoraConfig in the metadata, peft in a file beside the weights; both scale by alpha / rank
    or alpha / sqrt(rank). ComfyUI reads neither and scales by 1 where a layer has no alpha of its own. A configuration that cannot be
    read is told in the sentence, and the scale stays ComfyUI's.
    """
    try:
        fields = configuration(lora.metadata, file)
        alphas = alphas_of(lora, fields) if fields else {}
    except (ValueError, RecursionError) as error:
        return lora, f"its peft configuration cannot be read ({str(error)[:200]}), so that its scale is ComfyUI's own, 1"
    scales = sorted({alpha.item() / rank for alpha, rank in alphas.values()})
    if scales in ([], [1.0]):
        return lora, ""
    words = f"{scales[0]:.4g}" + (f" to {scales[-1]:.4g}" if scales[1:] else "")
    scaled = LoraWeights({**lora, **{k: alpha for k, (alpha, _) in alphas.items()}}, lora.metadata)
    return scaled, f"scaled by {words} as its peft configuration says; ComfyUI's own loader does not read that and would take 1"


def file_stamp(file: Path) -> str:
    """Changes when a LoRA file or the configuration beside it is written again; without the file it is empty."""
    stamps = [(path.stat().st_mtime_ns, path.stat().st_size) for path in (file, file.with_name(CONFIG)) if path.is_file()]
    return repr(stamps) if stamps else ""


def configuration(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """The JSON object that the file's maker left, empty if there is none. ValueError for anything else."""
    beside = file.with_name(CONFIG)
    text = metadata.get(METADATA_KEY)
    if text is None:
        if file.stem != WEIGHTS or not beside.is_file():
            return {}
        if beside.stat().st_size > LONGEST:
            raise ValueError(f"{beside.name} has {beside.stat().st_size} bytes")
        text = beside.read_text(encoding="utf-8")
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text)} characters")
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError(f"it is {type(fields).__name__} and not an object")
    return fields


def alphas_of(lora: Mapping[str, Tensor], fields: Mapping[str, Any]) -> dict[str, tuple[Tensor, int]]:
    """For each layer without an alpha of its own: the name and value of ComfyUI's alpha that gives peft's scale, and the rank.

    diffusers puts the name of a pipeline's part before each field ("transformer.lora_alpha"), as before the names of the tensors.
    """
    configs: dict[str, LoraConfig] = {}
    alphas = {}
    for key, down in lora.items():
        module = next((key.removesuffix(end) for end in DOWNS if key.endswith(end)), None)
        if module is None or down.ndim < 2 or f"{module}.alpha" in lora:
            continue
        part = f"{module.split('.')[0]}."
        prefix = part if f"{part}lora_alpha" in fields else ""
        if prefix not in configs:
            configs[prefix] = read_config({name: fields[prefix + name] for name in FIELDS if prefix + name in fields})
        alphas[f"{module}.alpha"] = alpha_for(configs[prefix], module.removeprefix(PREFIX).removeprefix(prefix), len(down)), len(down)
    return alphas


def alpha_for(config: LoraConfig, module: str, rank: int) -> Tensor:
    """As peft's LoraModel chooses it for a layer and LoraLayer.update_layer scales with it; the rank is the tensor's own."""
    from peft.utils.other import get_pattern_key

    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    return torch.tensor(alpha * math.sqrt(rank) if config.use_rslora else float(alpha), dtype=torch.float64)


def read_config(fields: Mapping[str, Any]) -> LoraConfig:
    """peft's own class, made from nothing but what decides the scale. ValueError for a field of another type."""
    from peft import LoraConfig

    if "lora_alpha" not in fields:
        raise ValueError("it has no lora_alpha")
    patterns = [fields.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(p, dict) for p in patterns) or not isinstance(fields.get("use_rslora", False), bool):
        raise ValueError("rank_pattern, alpha_pattern or use_rslora is of a wrong type")
    for number in (fields["lora_alpha"], fields.get("r", 1), *(v for p in patterns for v in p.values())):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e6:
            raise ValueError(f"{str(number)[:40]!r} is no rank or alpha")
    for pattern in (name for p in patterns for name in p):
        if not harmless(pattern):
            raise ValueError(f"the pattern {pattern[:60]!r} is no name of a layer")
    return LoraConfig(r=fields.get("r", 8), lora_alpha=fields["lora_alpha"], rank_pattern=patterns[0], alpha_pattern=patterns[1],
                      use_rslora=fields.get("use_rslora", False))


def harmless(pattern: str) -> bool:
    """Whether a stranger's regular expression, which peft matches with every name, can be tried in a short time."""
    if len(pattern) > 200 or len(re.findall(r"[*+{]", pattern)) > 3 or re.search(r"\)[*+{?]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def named_for_host(lora: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """A file that peft itself saved, under names among `known` where the host has the module under another one."""
    def renamed(key: str) -> str:
        bare = key.removeprefix(PREFIX)
        module = re.split(r"\.(?:lora_|alpha$)", bare)[0]
        if bare == key or PREFIX + module in known:
            return key
        return next((home for home in HOMES if home + module in known), "") + bare

    return {renamed(key): tensor for key, tensor in lora.items()}
