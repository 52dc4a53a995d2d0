"""From pixels to latent cells. Shapes: B batch, T frames, 1 channel, H height, W width."""
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


def clip_weight(mask_THW: Tensor, frames: int, size: tuple[int, int, int]) -> Tensor:
    """The mean weight of the pixels and frames under each cell of a clip's latent: (1, T', rows, columns), float32 in 0..1.

    mask_THW: one mask for the clip (T = 1), which counts for every latent frame, or one for each of the `frames` pictures
    that the VAE encodes; what it drops is cut off before. size: (T', rows, columns) of the latent.
    Raises ValueError for another number of masks and for frames that no known VAE makes into T' latent frames.
    """
    if mask_THW.ndim != 3:
        raise ValueError(f"mask has shape {tuple(mask_THW.shape)}; give frames, height, width")
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"latent size is {tuple(size)}; give at least one frame, row and column")
    if len(mask_THW) == 1:
        return latent_weight(mask_THW, size[1:]).movedim(0, 1).repeat(1, size[0], 1, 1)
    if len(mask_THW) != frames:
        raise ValueError(f"the clip has {frames} frames and its mask {len(mask_THW)}; give one mask for the clip or one for each frame")
    lengths = frames_per_cell(frames, size[0])
    weight_THW = latent_weight(mask_THW, size[1:])[:, 0]
    return torch.stack([group.mean(0) for group in torch.split(weight_THW, lengths)])[None]


def frames_per_cell(frames: int, cells: int) -> list[int]:
    """How many of a clip's frames each latent frame stands for, in order.

    Causal video VAEs give the first frame a latent frame of its own and then one to every 2, 4, 6 or 8: 9 frames in 3 are
    1 + 4 + 4. Others give one to every so many: 8 frames in 2 are 4 + 4. Raises ValueError for anything else.
    """
    if frames == cells:
        return [1] * cells
    stride, rest = divmod(frames - 1, cells - 1) if cells > 1 else (0, 1)
    # Strides in use are even. An odd one would claim 8 frames in 2 as 1 + 7.
    if rest == 0 and stride > 0 and stride % 2 == 0:
        return [1] + [stride] * (cells - 1)
    if 0 < cells < frames and frames % cells == 0:
        return [frames // cells] * cells
    raise ValueError(f"{frames} frames became {cells} latent frames, in which frames have no equal share: masks for single frames cannot "
                     "be applied; use one mask for the whole clip, or a VAE that takes every 2, 4, 6 or 8 frames together")
