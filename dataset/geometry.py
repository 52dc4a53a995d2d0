"""The one place where pictures change size: image and mask always move together. Shapes: H height, W width, C channels."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
STEP = 16  # pixels; every latent format in use divides it


def square_crop(image_HWC: Floats, mask_HW: Floats, size: int) -> tuple[Floats, Floats]:
    """The central square of both, resampled to size x size, values in 0..1.

    image_HWC and mask_HW: float32 0..1 of one size, EXIF rotation already applied. A source that has the wanted size
    comes back bit for bit. Raises ValueError for sizes that differ and for a size that is not a multiple of 16.
    """
    if image_HWC.shape[:2] != mask_HW.shape:
        raise ValueError(f"picture is {image_HWC.shape[1]}x{image_HWC.shape[0]}, mask is {mask_HW.shape[1]}x{mask_HW.shape[0]}; "
                         "resize one of them")
    if size < STEP or size % STEP:
        raise ValueError(f"size is {size}; use a multiple of {STEP}, such as {max(STEP, round(size / STEP) * STEP)}")
    height, width = mask_HW.shape
    side = min(height, width)
    # Fractions of a pixel are allowed: an odd margin must not shift the mask against the picture.
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    channels = [_resample(image_HWC[..., c], size, box, Image.Resampling.LANCZOS) for c in range(image_HWC.shape[-1])]
    # A tent never overshoots, so black stays 0 and white stays 1 away from the edges; Lanczos would ring around them.
    return np.stack(channels, axis=-1), _resample(mask_HW, size, box, Image.Resampling.BILINEAR)


def _resample(plane_HW: Floats, size: int, box: tuple[float, float, float, float], kernel: Image.Resampling) -> Floats:
    plane = Image.fromarray(np.ascontiguousarray(plane_HW, dtype=np.float32))
    resampled: Floats = np.asarray(plane.resize((size, size), kernel, box=box)).clip(0, 1)
    return resampled
