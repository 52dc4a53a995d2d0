"""Runs a mask plan on one picture, whatever memory is left. White = learn. Shapes: H height, W width, C = 3 colours."""
from __future__ import annotations

import comfy.model_management
from torch import Tensor

from .mask_plan import Made, MaskPlan


def make_mask(plan: MaskPlan, picture_HWC: Tensor, caption: str = "", name: str = "") -> Made:
    """plan.make; where memory runs out, once more with all models unloaded. Raises ValueError with a remedy if that fails too."""
    try:
        return plan.make(picture_HWC, caption, name)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Here, where the error and with it the tensors of the first try are gone.
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache(force=True)
    try:
        return plan.make(picture_HWC, caption, name)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        height, width = picture_HWC.shape[:2]
        raise ValueError(f"memory ran out twice for a picture of {width}x{height}; use a smaller model, make the picture smaller, or close "
                         "what else uses the memory") from error


def out_of_memory(error: BaseException) -> bool:
    """Of the device, as ComfyUI tells it, or of the computer."""
    return (comfy.model_management.is_oom(error) or isinstance(error, MemoryError)
            or "can't allocate memory" in str(error) or "not enough memory" in str(error))
