"""What the sides of pictures must be multiples of, asked from the VAE and the model themselves."""
from __future__ import annotations

from dataclasses import dataclass

import comfy.sd
from comfy.model_patcher import ModelPatcher

ASSUMED_PATCH = 2  # of Flux, SD3, Wan, Qwen-Image, Z-Image, HunyuanVideo and most other transformers


@dataclass(frozen=True, slots=True)
class PictureMultiple:
    """Pixels, and where the number comes from, as text."""

    pixels: int
    source: str


def picture_multiple(vae: comfy.sd.VAE, model: ModelPatcher | None) -> PictureMultiple:
    """The pixels of a latent cell times the model's patch size; networks without patches, such as UNets, take any cell.

    Without a model a patch counts as 2 cells. Raises ValueError for a VAE that is not for pictures.
    """
    cell = vae.spacial_compression_encode()
    # VAEs for sound have ratios in the thousands, or none that are whole numbers.
    if not float(cell).is_integer() or not 1 <= cell <= 128:
        raise ValueError(f"the VAE makes one latent cell of {cell} samples; connect a VAE for pictures or video")
    patch = ASSUMED_PATCH if model is None else patch_size(model)
    told = "assumed, because no model is connected" if model is None else "the model's patch size"
    return PictureMultiple(int(cell) * patch, f"sides are multiples of {int(cell) * patch}: {int(cell)} pixels for a latent cell of the "
                                              f"VAE x {patch} ({told})")


def patch_size(model: ModelPatcher) -> int:
    """Latent cells along one side of a patch of the diffusion model; 1 when it has none."""
    network = model.model.diffusion_model
    # Cosmos and its relatives name it patch_spatial, Krea2 patch. Video models give (time, height, width).
    size = next((getattr(network, name) for name in ("patch_size", "patch_spatial", "patch") if hasattr(network, name)), 1)
    return int(size if isinstance(size, int) else size[-1])
