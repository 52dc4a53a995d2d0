"""From pixels to latent cells. Shapes: B batch, 1 channel, H height, W width."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def whole_cells(height: int, width: int, cell: int) -> tuple[slice, slice]:
    """Rows and columns of the centre part of a picture that a VAE of `cell` pixels to a cell encodes; it drops the rest.

    A mask must be cut in the same way: stretched over the grid, it would weigh other pixels than those that are seen.
    """
    def centre(side: int) -> slice:
        offset = side % cell // 2
        return slice(offset, offset + side // cell * cell)

    return centre(height), centre(width)


def latent_weight(mask_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The mean weight of the pixels under each latent cell: (B, 1, rows, columns), float32 in 0..1.

    size: (rows, columns) of the latent. Averages areas, because nearest reads one pixel in 64 and bicubic leaves 0..1.
    Raises ValueError for another number of dimensions or a size without cells.
    """
    if mask_BHW.ndim != 3:
        raise ValueError(f"mask has shape {tuple(mask_BHW.shape)}; give batch, height, width")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"latent size is {tuple(size)}; give at least one row and one column")
    weight_B1HW = F.interpolate(mask_BHW.to(torch.float32).unsqueeze(1), size=tuple(size), mode="area")
    return weight_B1HW.clamp(0, 1)
