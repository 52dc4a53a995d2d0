"""LoRA files that ComfyUI and other tools load, with the conditions of training in their metadata."""
from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import comfy.utils
import safetensors
import safetensors.torch
from torch import Tensor

from ..trainer.checkpoint import flush
from ..trainer.optimizer import Optimization
from .text_padding import TextPadding

logger = logging.getLogger(__name__)
FORMAT_VERSION = "1"
PREFIX, TEXT_PREFIX = "diffusion_model.", "text_encoders."
TEXT_ENCODER = ("lora_te", "text_encoder", "lora_prior_te")  # how names of a text encoder's layers begin, whoever wrote the file
# modelspec.architecture of Stability's model spec 1.0.1, and sd-scripts' name of the base (library/flux_utils.py); an unlisted
# model gets its class name.
ARCHITECTURES = {"Flux": "flux-1-dev", "SD3": "stable-diffusion-3"}
BASE_MODEL_VERSIONS = {"Flux": "flux1"}


class LoraWeights(dict[str, Tensor]):
    """A LORA_MODEL as ComfyUI's own nodes expect it, `{key: tensor}`, that also knows how it was trained."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        super().__init__(tensors)
        self.metadata = dict(metadata)

    @classmethod
    def from_adapter(cls, state: Mapping[str, Tensor], metadata: Mapping[str, str], text_state: Mapping[str, Tensor] | None = None
                     ) -> LoraWeights:
        tensors = {PREFIX + k: v for k, v in state.items()} | {TEXT_PREFIX + k: v for k, v in (text_state or {}).items()}
        return cls(tensors, {**metadata, **network_metadata(state)})


# By a tensor's name: what sd-scripts' metadata calls the module that reads such a file, and its arguments (LyCORIS, kohya.py).
NETWORKS = {
    "hada_w1_a": ("lycoris.kohya", {"algo": "loha"}),
    "lokr_w1": ("lycoris.kohya", {"algo": "lokr"}),
    "oft_blocks": ("lycoris.kohya", {"algo": "diag-oft"}),
    "dora_scale": ("lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}),
}
RANKS = {"lora_A.weight": 0, "hada_w1_b": 0, "lokr_w2_b": 0, "oft_blocks": 1}  # which dimension of a tensor is its layer's rank


def network_metadata(state: Mapping[str, Tensor]) -> dict[str, str]:
    """ss_network_* from the tensors themselves. A number that differs between layers is "Dynamic", as sd-scripts' resizing writes it.

    The alpha is the one that the file scales by, alpha / rank: for rsLoRA it is the chosen one times the root of the rank.
    """
    module, arguments = next((v for name, v in NETWORKS.items() if any(k.endswith(f".{name}") for k in state)), ("networks.lora", {}))
    ranks = {v.shape[dim] for k, v in state.items() for name, dim in RANKS.items() if k.endswith(f".{name}")}
    alphas = {v.item() for k, v in state.items() if k.endswith(".alpha")}

    def one(values: set[int] | set[float]) -> str:
        return str(next(iter(values))) if len(values) == 1 else "Dynamic"

    data = {"ss_network_module": module, "ss_network_dim": one(ranks), "ss_network_alpha": one(alphas)}
    return {**data, "ss_network_args": json.dumps(arguments)} if arguments else data


def optimization_metadata(moved: Optimization) -> dict[str, str]:
    """ss_* in the words of sd-scripts, whose schedulers have underscores, and all settings as JSON."""
    spec = moved.optimizer
    given = ",".join(f"{setting}={value:g}" for setting, value in spec.given().items())
    settings = {"optimizer": {"name": spec.name, **spec.settings()}, "schedule": asdict(moved.schedule),
                "ema": asdict(moved.ema) if moved.ema else None}
    return {"ss_optimizer": f"{spec.name}({given})" if given else spec.name, "ss_lr_scheduler": moved.schedule.name.replace(" ", "_"),
            "ss_lr_warmup_steps": str(moved.schedule.warmup), "masked_lora.optimization": json.dumps(settings, sort_keys=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecord:
    """What a LoRA file says about its training, besides what its tensors tell themselves."""

    architecture: str
    weight_dtype: str
    base_hash: str
    padding: TextPadding
    objective: Mapping[str, object]
    mask: Mapping[str, str | float | int]
    data: Mapping[str, object]
    adapter: Mapping[str, object]
    optimization: Optimization
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    pictures: int
    resolution: str
    title: str = "masked-lora"
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def metadata(self) -> dict[str, str]:
        """Safetensors metadata: ss_* as sd-scripts writes and other tools read, modelspec.*, and masked_lora.*."""
        data = {
            "ss_base_model_version": BASE_MODEL_VERSIONS.get(self.architecture, self.architecture),
            "ss_steps": str(self.steps),
            "ss_batch_size_per_device": str(self.batch_size),
            "ss_learning_rate": str(self.learning_rate),
            "ss_seed": str(self.seed),
            **optimization_metadata(self.optimization),
            "ss_num_train_images": str(self.pictures),
            "ss_num_reg_images": str(self.data["regularisation"]),
            "ss_output_name": self.title,
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{ARCHITECTURES.get(self.architecture, self.architecture)}/lora",
            "modelspec.title": self.title,
            "modelspec.date": self.date,
            "modelspec.resolution": self.resolution,
            "masked_lora.version": FORMAT_VERSION,
            "masked_lora.text_padding": self.padding.to_json(),
            "masked_lora.objective": json.dumps(dict(self.objective), sort_keys=True),
            "masked_lora.mask": json.dumps(dict(self.mask), sort_keys=True),
            "masked_lora.data": json.dumps(dict(self.data), sort_keys=True),
            "masked_lora.adapter": json.dumps(dict(self.adapter), sort_keys=True),
            "masked_lora.base": json.dumps(
                {"architecture": self.architecture, "dtype": self.weight_dtype, "hash": self.base_hash}, sort_keys=True),
        }
        if self.padding.encoder_masked and self.padding.attend == "real":
            data["ss_apply_t5_attn_mask"] = "True"  # sd-scripts means both: masked in T5 and in Flux
        return data


def save_lora(lora: Mapping[str, Tensor], file: Path) -> None:
    """Write atomically: an interrupted save, also by a power cut, leaves no half file under the LoRA's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = lora.metadata if isinstance(lora, LoraWeights) else {}
    partial = file.with_name(file.name + ".partial")
    safetensors.torch.save_file({k: v.contiguous() for k, v in lora.items()}, partial, metadata)
    flush(partial)
    partial.replace(file)
    logger.info("Masked LoRA: the LoRA is saved in %s", file.absolute())


def unused(file: Path) -> Path:
    """`file`, or the first of file_2, file_3, ... that is not taken: nothing is overwritten."""
    number, free = 1, file
    while free.exists():
        number += 1
        free = file.with_name(f"{file.stem}_{number}{file.suffix}")
    return free


def load_lora(file: Path) -> LoraWeights:
    """Raises ValueError that names the file where it is damaged."""
    try:
        tensors, metadata = comfy.utils.load_torch_file(str(file), safe_load=True, return_metadata=True)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}); download or save it again") from error
    return LoraWeights(tensors, metadata or {})
