"""Models of other libraries under ComfyUI's memory management: loaded when they are used, offloaded when room is needed."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True, eq=False)
class Managed(Generic[Model]):
    """A model; calling this loads it onto its device and gives it. Raises ComfyUI's interruption once the user has pressed Cancel."""

    model: Model
    patcher: comfy.model_patcher.ModelPatcher

    def __call__(self) -> Model:
        comfy.model_management.throw_exception_if_processing_interrupted()
        # Whole: only ComfyUI's own layers run while a part of the weights stays on the offload device.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.model


def manage(model: Model, module: nn.Module) -> Managed[Model]:
    """model: what is called; module: its weights, on the offload device and in inference mode (eval) from now on."""
    load, offload = comfy.model_management.text_encoder_device(), comfy.model_management.text_encoder_offload_device()
    module.eval().to(offload)
    # ComfyUI notes the device on the module that it is given; that of a transformers model cannot be set.
    held = nn.ModuleList([module])
    return Managed(model, comfy.model_patcher.CoreModelPatcher(held, load_device=load, offload_device=offload))


def inference_dtype() -> torch.dtype:
    """bfloat16 where the device is quick with it, else float32. float16 overflows in large networks that were trained in bfloat16."""
    device = comfy.model_management.text_encoder_device()
    return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
