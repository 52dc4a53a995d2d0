"""What a person may do to a raw mask before it weighs the loss. White = learn.

Shapes: B batch, H height, W width in pixels.
"""
from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

MAXIMUM_BLUR = 0.1


@dataclass(frozen=True, slots=True)
class MaskRecipe:
    """Invert, then blur, then gamma, then floor; the default changes nothing.

    gamma: exponent of the weight, > 0; below 1 raises grey, above 1 lowers it.
    floor: weight of black, 0..1; the rest is squeezed into floor..1.
    blur: standard deviation of a Gaussian as a share of the short side, 0..0.1.
    Raises ValueError for a value outside these limits.
    """

    invert: bool = False
    gamma: float = 1.0
    floor: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.invert, bool):
            raise ValueError(f"invert is {self.invert!r}; use true or false")
        for name in ("gamma", "floor", "blur"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; use a finite number")
        if self.gamma <= 0:
            raise ValueError(f"gamma is {self.gamma}; use a number above 0 (1 changes nothing)")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; use 0 (black is not learned) to 1 (everything is learned)")
        if not 0 <= self.blur <= MAXIMUM_BLUR:
            raise ValueError(f"blur is {self.blur}; use 0 to {MAXIMUM_BLUR}, a share of the picture's short side")

    def describe(self) -> str:
        """One line for a person, the steps in the order in which they run."""
        steps = ["inverted"] if self.invert else []
        if self.blur:
            steps.append(f"blur {self.blur:.2%} of the short side")
        if self.gamma != 1:
            steps.append(f"gamma {self.gamma:g}")
        if self.floor:
            steps.append(f"floor {self.floor:g}")
        return ", ".join(steps) if steps else "as drawn"

    def to_json(self) -> str:
        """The recipe as a JSON object with sorted keys: equal recipes give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> MaskRecipe:
        """Inverse of to_json; raises ValueError for text that is not a recipe."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"mask recipe {text!r} is not JSON ({error}); make one with the Mask Recipe node") from error
        known = set(cls.__dataclass_fields__)
        if not isinstance(values, dict) or not set(values) <= known:
            raise ValueError(f"mask recipe {text!r} must be an object with keys out of {sorted(known)}")
        return cls(**values)


def apply_recipe(mask_BHW: Tensor, recipe: MaskRecipe) -> Tensor:
    """The loss weight of every pixel as a new float32 tensor (B, H, W) in 0..1 on the mask's device.

    Values outside 0..1 are clamped first. Raises ValueError for another number of dimensions and for NaN or infinity.
    """
    if mask_BHW.ndim != 3:
        raise ValueError(f"mask has shape {tuple(mask_BHW.shape)}; give batch, height, width")
    if not torch.isfinite(mask_BHW).all():
        raise ValueError(f"mask of shape {tuple(mask_BHW.shape)} holds NaN or infinity; check the node that made it")
    weight_BHW = mask_BHW.to(torch.float32).clamp(0, 1)
    if recipe.invert:
        weight_BHW = 1 - weight_BHW
    if recipe.blur:
        weight_BHW = _blur(weight_BHW, recipe.blur * min(weight_BHW.shape[1:]))
    if recipe.gamma != 1:
        weight_BHW = weight_BHW**recipe.gamma
    if recipe.floor:
        weight_BHW = weight_BHW * (1 - recipe.floor) + recipe.floor
    return weight_BHW


def _blur(weight_BHW: Tensor, sigma: float) -> Tensor:
    import cv2  # here, so that a recipe can be made and read without the cost of loading OpenCV

    # A reflected border does not darken a subject that touches the frame. In double precision white stays exactly 1: with
    # float32 the complement of an all-white mask would be 1e-7 instead of nothing.
    planes = weight_BHW.double().cpu().numpy()
    blurred = [torch.from_numpy(cv2.GaussianBlur(mask_HW, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)) for mask_HW in planes]
    return torch.stack(blurred).to(weight_BHW.device, torch.float32).clamp(0, 1)
