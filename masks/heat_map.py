"""Colours for weights, and the latent grid over a picture. More light = more learning; white = learn.

Shapes: H height, W width, C channels; h rows and w columns of the latent grid.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import BACKGROUND, INK, MUTED, Pixels, fit, font, to_picture, write

SMALLEST_SPACING = 6  # pixels between grid lines; closer ones would hide the picture
# Dark to bright without a turn, so that more light always means more learning; the bright end is almost white.
RAMP_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
RAMP_COLOURS = ((22, 24, 58), (103, 32, 112), (200, 62, 86), (250, 142, 52), (255, 244, 190))
BARS_BASE = (62, 67, 78)
LEARNED = ("0 = black, not learned", "1 = white, learned")


def colours(weight: npt.NDArray[np.floating]) -> Pixels:
    """Weights 0..1 of any shape to RGB in a new last axis."""
    channels = [np.interp(weight, RAMP_WEIGHTS, channel) for channel in zip(*RAMP_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heat_map(image_HWC: Tensor, cells_hw: Tensor, side: int) -> tuple[Image.Image, int]:
    """The picture in grey under the colours of its cells' weights, its long side at `side` pixels, and how many cells lie
    between two grid lines.
    """
    grey = fit(to_picture(image_HWC), side).convert("L")
    cells = Image.fromarray(colours(cells_hw.cpu().numpy())).resize(grey.size, Image.Resampling.NEAREST)
    return with_grid(Image.blend(grey.convert("RGB"), cells, 0.5), (cells_hw.shape[0], cells_hw.shape[1]))


def outlined(picture: Image.Image, inside_hw: npt.NDArray[np.bool_]) -> Image.Image:
    """The picture with a light line, dark on both sides, along the cell borders between inside and outside."""
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    rows, columns = inside_hw.shape
    wide, high = picture.width / columns, picture.height / rows
    upright, level = np.argwhere(inside_hw[:, 1:] != inside_hw[:, :-1]), np.argwhere(inside_hw[1:] != inside_hw[:-1])
    lines = [((x + 1) * wide, y * high, (x + 1) * wide, (y + 1) * high) for y, x in upright]
    lines += [(x * wide, (y + 1) * high, (x + 1) * wide, (y + 1) * high) for y, x in level]
    for colour, half in ((BACKGROUND, 2.5), (INK, 1)):
        for left, top, right, bottom in lines:
            draw.rectangle((left - half, top - half, right + half, bottom + half), fill=colour)
    return drawn


def with_grid(picture: Image.Image, cells: tuple[int, int], strength: float = 0.22) -> tuple[Image.Image, int]:
    """The picture with the borders of its (rows, columns) cells, and how many cells lie between two of the lines drawn."""
    every = 1
    while min(picture.width * every / cells[1], picture.height * every / cells[0]) < SMALLEST_SPACING:
        every *= 2
    grid = picture.copy()
    draw = ImageDraw.Draw(grid)
    for column in range(0, cells[1] + 1, every):
        x = min(round(column * picture.width / cells[1]), picture.width - 1)
        draw.line([(x, 0), (x, picture.height)], fill=INK)
    for row in range(0, cells[0] + 1, every):
        y = min(round(row * picture.height / cells[0]), picture.height - 1)
        draw.line([(0, y), (picture.width, y)], fill=INK)
    return Image.blend(picture, grid, strength), every


def histogram_bars(counts: Sequence[int], size: tuple[int, int], background: tuple[int, int, int]) -> Image.Image:
    """Bars from weight 0 on the left to 1 on the right, each in its weight's colour, as high as the logarithm of its count.

    The logarithm keeps a few cells visible beside many thousands. An empty bin has no bar.
    """
    width, height = size
    picture = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(picture)
    most = math.log1p(max(counts, default=0))
    for index, count in enumerate(counts):
        left, right = round(index * width / len(counts)), round((index + 1) * width / len(counts)) - 2
        tall = max(2, round((height - 1) * math.log1p(count) / most)) if count else 0
        fill = tuple(int(value) for value in colours(np.array((index + 0.5) / len(counts))))
        # The dark end of the colours is close to the panel's own: an outline keeps its bars visible.
        draw.line([(left, height - 1), (right, height - 1)], fill=BARS_BASE)
        if count:
            draw.rectangle((left, height - tall, right, height - 1), fill=fill, outline=BARS_BASE)
    return picture


def draw_legend(sheet: Image.Image, at: tuple[int, int], size: int, line: int, gap: int, ends: tuple[str, str] = LEARNED) -> None:
    """The scale of the colours on one line of height `line`, between what its ends mean."""
    draw = ImageDraw.Draw(sheet)
    ramp = Image.fromarray(colours(np.linspace(0, 1, 160)[None].repeat(18, axis=0)))
    left, middle = at[0], at[1] + line / 2
    for part in (ends[0], ramp, ends[1]):
        if isinstance(part, str):
            write(draw, (left, middle), part, size, MUTED, "lm")
            left += round(font(size).getlength(part)) + gap
        else:
            sheet.paste(part, (left, round(middle - part.height / 2)))
            left += part.width + gap
