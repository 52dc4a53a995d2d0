"""What of pictures and clips a VAE encodes: whole latent cells and whole latent frames. Masks lose the same.

Shapes: T frames, H height, W width, C channels.
"""
from __future__ import annotations

from collections.abc import Sequence

import comfy.sd
from torch import Tensor

from ..dataset.item import Item
from ..dataset.keys import Cut
from ..dataset.words import counted
from ..masks.latent_grid import whole_cells
from .video import usable_frames


def extent(item: Item) -> tuple[int, int, int]:
    """Frames, height and width of the item as load_item gives it."""
    width, height = item.size if item.placement is None else item.placement.size
    return item.frames, height, width


def cuts_of(items: Sequence[Item], vae: comfy.sd.VAE) -> dict[tuple[int, int, int], Cut]:
    """What the VAE encodes of each extent: it drops what does not fill a cell, and masks must lose the same."""
    cell, cuts = int(vae.spacial_compression_encode()), {}
    for item in items:
        frames, height, width = extent(item)
        if min(height, width) < cell:
            raise ValueError(f"{item.name} is {width}x{height} pixels, less than the {cell} of one latent cell; use a larger picture")
        if (frames, height, width) not in cuts:
            cuts[frames, height, width] = Cut(usable_frames(vae, frames, item.name), *whole_cells(height, width, cell))
    return cuts


def cut_to(pixels_THWC: Tensor, cut: Cut, item: Item) -> Tensor:
    frames, height, width = extent(item)
    if tuple(pixels_THWC.shape[1:3]) != (height, width):
        raise ValueError(f"its pixels are {pixels_THWC.shape[2]}x{pixels_THWC.shape[1]} and {width}x{height} were announced; scan the "
                         "data set again")
    return pixels_THWC[:cut.frames, cut.rows, cut.columns]


def cut_lines(items: Sequence[Item], cuts: dict[tuple[int, int, int], Cut]) -> list[str]:
    """What was dropped to fill whole latent frames and cells."""
    clips = [(item, cuts[extent(item)].frames) for item in items if cuts[extent(item)].frames != item.frames]
    lines = [f"last frames dropped, which fill no latent frame: {counted(len(clips), 'clip')} "
             f"({', '.join(f'{item.name} {item.frames} to {kept}' for item, kept in clips[:5])})"] if clips else []
    pictures = [item for item in items if covered(cuts[extent(item)]) != extent(item)[1:]]
    if pictures:
        lines.append(f"edges cut, which fill no latent cell: {counted(len(pictures), 'picture')} "
                     f"({', '.join(item.name for item in pictures[:5])})")
    return lines


def covered(cut: Cut) -> tuple[int, int]:
    return cut.rows.stop - cut.rows.start, cut.columns.stop - cut.columns.start
