"""A picture of the details that vanish at the latent grid, before and after growth. White = learn.

Shapes: H height, W width in pixels, C = 3 colours; h rows and w columns of the latent grid.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import BACKGROUND, INK, MUTED, Pixels, fit, legible, shorten, to_picture, wrap, write
from .detail import Growth, reached, vanished
from .heat_map import with_grid
from .latent_grid import latent_weight, whole_cells

TILE, GAP, TITLE_SIZE, TEXT_SIZE, STEP = 480, 12, 24, 19, 27
LOST, KEPT, ADDED, LEARNED = (255, 45, 155), (255, 255, 255), (40, 150, 170), (30, 62, 40)
SHOWN = 8
DETAIL = 80  # pixels of mask across the enlarged part


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """One stage of a mask, cut to whole cells: mask_HW as drawn, grown_HW what decides the weights cells_hw."""

    mask_HW: Tensor
    grown_HW: Tensor
    cells_hw: Tensor
    learned_hw: Tensor
    lost_HW: Tensor


def detail_pictures(mask_BHW: Tensor, growth: Growth, cell: int, threshold: float) -> Pixels:
    """A batch (B, H, W, C) of detail_picture for up to eight masks, those that lose most first."""
    order = sorted(range(len(mask_BHW)), key=lambda index: -growth.before[index])
    return np.stack([detail_picture(mask_BHW[index], growth, index, cell, threshold) for index in order[:SHOWN]])


def detail_picture(mask_HW: Tensor, growth: Growth, index: int, cell: int, threshold: float) -> Pixels:
    """The mask of batch position `index` before and after growth, whole and enlarged where most of it vanishes.

    mask_HW: as drawn. Vanished pixels are pink, in the whole mask also where they are thinner than a pixel of the picture.
    """
    before = _state(mask_HW, mask_HW, cell, threshold)
    after = _state(mask_HW, growth.mask_BHW[index], cell, threshold)
    window = _most_lost(before, cell)
    title = f"mask {index + 1} of {len(growth.mask_BHW)}, grown by {growth.pixels} px. White = learn"
    captions = (f"as drawn: {growth.before[index]:.1%} of the white pixels vanish",
                f"grown: {growth.after[index]:.1%} vanish, {growth.added[index]:.2%} of all pixels added")
    wholes, close = [_whole(state) for state in (before, after)], [_enlarged(state, window, cell) for state in (before, after)]
    note = f"enlarged: every cell of {cell} x {cell} px, green where its weight is {threshold:g} or more"
    return _compose(title, captions, wholes, close, note)


def _state(mask_HW: Tensor, grown_HW: Tensor, cell: int, threshold: float) -> _State:
    rows, columns = whole_cells(mask_HW.shape[0], mask_HW.shape[1], cell)
    mask_HW, grown_HW = mask_HW[rows, columns].cpu().float(), grown_HW[rows, columns].cpu().float()
    cells_1hw = latent_weight(grown_HW[None], (grown_HW.shape[0] // cell, grown_HW.shape[1] // cell))[:, 0]
    return _State(mask_HW, grown_HW, cells_1hw[0], reached(cells_1hw, threshold)[0], vanished(mask_HW[None], cells_1hw, threshold)[0])


def _colours(state: _State) -> Tensor:
    """(H, W, C) in 0..1: the mask in grey, what growth added in blue."""
    kept, added = (torch.tensor(colour) / 255 for colour in (KEPT, ADDED))
    return state.mask_HW[..., None] * kept + (state.grown_HW - state.mask_HW)[..., None] * added


def _whole(state: _State) -> Image.Image:
    resample = Image.Resampling.NEAREST if max(state.mask_HW.shape) <= TILE else Image.Resampling.BOX
    picture = fit(to_picture(_colours(state)), TILE, resample)
    # The greatest value under each pixel: an average would let thin lines fade, which are what this picture is about.
    lost = F.adaptive_max_pool2d(state.lost_HW[None].float(), (picture.height, picture.width))[0].bool().numpy()
    pixels = np.array(with_grid(picture, (state.cells_hw.shape[0], state.cells_hw.shape[1]))[0])
    pixels[lost] = LOST
    return Image.fromarray(pixels)


def _most_lost(state: _State, cell: int) -> tuple[slice, slice]:
    """Rows and columns of the window of whole cells in which most pixels vanish, or most are white if none do."""
    side = max(3, DETAIL // cell)
    marked = state.lost_HW if state.lost_HW.any() else state.mask_HW >= 0.5
    cells = state.cells_hw.shape
    size = (min(side, cells[0]), min(side, cells[1]))
    sums = F.avg_pool2d(latent_weight(marked[None].float(), (cells[0], cells[1])), size, stride=1)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return slice(row * cell, (row + size[0]) * cell), slice(column * cell, (column + size[1]) * cell)


def _enlarged(state: _State, window: tuple[slice, slice], cell: int) -> Image.Image:
    learned_HW = state.learned_hw.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    tint_HWC = ((1 - state.grown_HW) * learned_HW)[..., None] * (torch.tensor(LEARNED) / 255)
    colours_HWC = (_colours(state) + tint_HWC)[window]
    colours_HWC[state.lost_HW[window]] = torch.tensor(LOST) / 255
    scale = max(1, TILE // max(colours_HWC.shape[:2]))
    picture = to_picture(colours_HWC)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    return with_grid(picture, (colours_HWC.shape[0] // cell, colours_HWC.shape[1] // cell), 0.45)[0]


def _compose(title: str, captions: tuple[str, str], wholes: list[Image.Image], close: list[Image.Image], note: str) -> Pixels:
    width = 2 * TILE + 3 * GAP
    lines = wrap(note, width - 2 * GAP, TEXT_SIZE)
    tops = [GAP + TITLE_SIZE + 12 + STEP]
    tops.append(tops[0] + wholes[0].height + 8 + STEP + GAP)
    bottom = tops[1] + close[0].height + 8
    sheet = Image.new("RGB", (width, bottom + len(lines) * STEP + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    write(draw, (GAP, GAP), shorten(legible(title), width - 2 * GAP, TITLE_SIZE), TITLE_SIZE)
    left: float = GAP
    for colour, words in ((KEPT, "white, learned"), (LOST, "white, but vanishes"), (ADDED, "added by growth")):
        y = GAP + TITLE_SIZE + 10
        draw.rectangle((left, y + 2, left + 18, y + 20), fill=colour)
        write(draw, (left + 26, y), words, TEXT_SIZE, MUTED)
        left += 230
    for column, (whole, part, caption) in enumerate(zip(wholes, close, captions, strict=True)):
        x = GAP + column * (TILE + GAP)
        sheet.paste(whole, (x + (TILE - whole.width) // 2, tops[0]))
        write(draw, (x, tops[0] + whole.height + 8), caption, TEXT_SIZE, INK)
        sheet.paste(part, (x + (TILE - part.width) // 2, tops[1]))
    for index, line in enumerate(lines):
        write(draw, (GAP, bottom + index * STEP), line, TEXT_SIZE, MUTED)
    return np.array(sheet)
