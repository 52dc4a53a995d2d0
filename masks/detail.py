"""Which thin details vanish at the latent grid, and the smallest growth that keeps them. White = learn.

Shapes: B masks, H height, W width in pixels, h rows and w columns of the latent grid.

A white pixel (mask >= 0.5) vanishes when the weight of its latent cell, the mean of the mask in it, is below a threshold: what
is learned there is mostly background. Growing raises every cell's weight and never lowers one, so more growth keeps more.
A cell may miss the threshold by one 8-bit grey level: ComfyUI's own loader makes 254/255 of the white in a grey PNG.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .latent_grid import latent_weight, whole_cells
from .operations import GREATEST_LENGTH, Grow
from .recipe import MaskRecipe, apply_recipe

ONE_GREY_LEVEL = 1 / 255


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """A batch grown by one radius. before and after: share of each mask's white pixels that vanish; added: share of all its
    pixels that growth made white.
    """

    pixels: int
    mask_BHW: Tensor
    before: tuple[float, ...]
    after: tuple[float, ...]
    added: tuple[float, ...]


def reached(cells_Bhw: Tensor, threshold: float) -> Tensor:
    """Which cells (B, h, w, bool) have the weight that keeps a detail."""
    return cells_Bhw >= threshold - ONE_GREY_LEVEL


def vanished(mask_BHW: Tensor, cells_Bhw: Tensor, threshold: float = 0.5) -> Tensor:
    """Which pixels (B, H, W, bool) are white and lie in a cell of less weight than `threshold`.

    The cells cover the mask evenly: H and W are whole multiples of h and w, or ValueError.
    """
    tall, wide = _cell_size(mask_BHW, cells_Bhw)
    return (mask_BHW >= 0.5) & (~reached(cells_Bhw, threshold)).repeat_interleave(tall, 1).repeat_interleave(wide, 2)


def vanished_share(mask_BHW: Tensor, cells_Bhw: Tensor, threshold: float = 0.5) -> float:
    """The vanished part of the white pixels, 0..1; 0 without white pixels."""
    tall, wide = _cell_size(mask_BHW, cells_Bhw)
    white = (mask_BHW >= 0.5).float()
    total = white.sum(dtype=torch.float64).item()
    # The mean of white in a cell times its area counts white pixels without spreading cells over pixels again.
    share_Bhw = latent_weight(white, (cells_Bhw.shape[1], cells_Bhw.shape[2]))[:, 0]
    lost = share_Bhw[~reached(cells_Bhw, threshold)].sum(dtype=torch.float64).item() * tall * wide
    return lost / total if total else 0.0


def grow_for_latent_grid(mask_BHW: Tensor, cell: int, *, keep: float = 0.99, threshold: float = 0.5, largest: int = 16) -> Growth:
    """Grows masks by the smallest whole radius at which at least `keep` of each mask's own white pixels do not vanish.

    One radius for the batch, what its most demanding mask needs, so that the frames of a clip stay alike. The radius is at most
    `largest` pixels, even if more vanishes then. Pixels that the VAE cuts off are grown too, but not counted.
    Raises ValueError for another shape, a mask smaller than a cell, or settings outside their range.
    """
    _check(mask_BHW, cell, keep, threshold, largest)
    mask_BHW = mask_BHW.detach().cpu().to(torch.float32).clamp(0, 1)
    radius = 0
    for mask_HW in mask_BHW:
        radius = _smallest_radius(mask_HW, cell, (keep, threshold), radius, largest)
    grown_BHW = torch.stack([dilate(mask_HW, radius) for mask_HW in mask_BHW])
    pairs = list(zip(mask_BHW, grown_BHW, strict=True))
    return Growth(radius, grown_BHW, before=tuple(_lost(mask_HW, mask_HW, cell, threshold) for mask_HW in mask_BHW),
                  after=tuple(_lost(mask_HW, grown_HW, cell, threshold) for mask_HW, grown_HW in pairs),
                  added=tuple(((grown_HW >= 0.5) & (mask_HW < 0.5)).double().mean().item() for mask_HW, grown_HW in pairs))


def dilate(mask_HW: Tensor, radius: int) -> Tensor:
    """What the recipe step Grow makes of the mask with `radius` pixels, as a new float32 tensor."""
    return apply_recipe(mask_HW[None], MaskRecipe((Grow(radius, "pixels"),)))[0]


def report(growth: Growth, keep: float, threshold: float) -> str:
    """What the growth does, in lines: the radius and why, then one line for each mask."""
    worst = max(growth.after)
    lines = [f"White = learn. Grown by {growth.pixels} px, so that at least {keep:.1%} of the white pixels lie in latent cells of "
             f"weight {threshold:g} or more"]
    if 1 - worst < keep - 1e-9:
        lines = [f"White = learn. Grown by {growth.pixels} px, the largest growth allowed, and {worst:.1%} of the white pixels still "
                 f"vanish (lie in latent cells of weight below {threshold:g}); raise 'largest' or enlarge picture and mask"]
    for number, (before, after, added) in enumerate(zip(growth.before, growth.after, growth.added, strict=True), 1):
        lines.append(f"mask {number}: {before:.1%} of its white pixels vanish as drawn, {after:.1%} grown; growth makes "
                     f"{added:.2%} of all pixels white")
    return "\n".join(lines)


def _smallest_radius(mask_HW: Tensor, cell: int, rule: tuple[float, float], smallest: int, largest: int) -> int:
    """Bisection over smallest..largest, which works because more growth never keeps less."""
    keep, threshold = rule

    def keeps(radius: int) -> bool:
        return _lost(mask_HW, dilate(mask_HW, radius), cell, threshold) <= 1 - keep + 1e-9

    low, high = smallest, largest
    while low < high:
        # The first try is the smallest radius: most masks of a batch are content with what another one needs.
        middle = low if low == smallest else (low + high) // 2
        if keeps(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _lost(mask_HW: Tensor, grown_HW: Tensor, cell: int, threshold: float) -> float:
    """Share of the mask's white pixels that vanish when the grown mask decides the weights."""
    rows, columns = whole_cells(mask_HW.shape[0], mask_HW.shape[1], cell)
    mask_1HW, grown_1HW = mask_HW[None, rows, columns], grown_HW[None, rows, columns]
    size = (mask_1HW.shape[1] // cell, mask_1HW.shape[2] // cell)
    return vanished_share(mask_1HW, latent_weight(grown_1HW, size)[:, 0], threshold)


def _cell_size(mask_BHW: Tensor, cells_Bhw: Tensor) -> tuple[int, int]:
    (height, width), (rows, columns) = mask_BHW.shape[-2:], cells_Bhw.shape[-2:]
    if mask_BHW.ndim != 3 or cells_Bhw.ndim != 3 or height % rows or width % columns:
        raise ValueError(f"mask has shape {tuple(mask_BHW.shape)} and its cells {tuple(cells_Bhw.shape)}; cut the mask to whole cells")
    return height // rows, width // columns


def _check(mask_BHW: Tensor, cell: int, keep: float, threshold: float, largest: int) -> None:
    if mask_BHW.ndim != 3 or not len(mask_BHW):
        raise ValueError(f"mask has shape {tuple(mask_BHW.shape)}; give at least one mask as batch, height, width")
    if min(mask_BHW.shape[1:]) < cell:
        raise ValueError(f"mask is {mask_BHW.shape[2]}x{mask_BHW.shape[1]} pixels, less than the {cell} of one latent cell; "
                         "use a larger mask")
    if not torch.isfinite(mask_BHW).all():
        raise ValueError(f"mask of shape {tuple(mask_BHW.shape)} holds NaN or infinity; check the node that made it")
    if not 0 <= keep <= 1:
        raise ValueError(f"keep is {keep}; set it to 0 (anything may vanish) to 1 (nothing may)")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; set it above 0 and up to 1")
    most = GREATEST_LENGTH["pixels"]
    if not 0 <= largest <= most:
        raise ValueError(f"largest is {largest}; set it to 0 to {most:g} pixels")
