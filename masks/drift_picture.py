"""Pictures of where something changed, beside the picture with its mask outlined. White = learn = inside.

Shapes: H height, W width, C channels; h rows and w columns of the latent grid.
"""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, MUTED, PANEL, Pixels, fit, legible, shorten, to_picture, write
from .heat_map import colours, outlined

TILE, GAP, TITLE_SIZE, TEXT_SIZE = 400, 12, 24, 19
RELIEF = 0.3  # how much of the picture's light is seen through the colours
STEP = round(TEXT_SIZE * 1.4)


def drift_card(title: str, image_HWC: Tensor, heat_hw: Tensor, weight_hw: Tensor, words: str) -> Pixels:
    """The picture, and it in grey under the colours of `heat_hw` (0..1), both with the border of the mask's cells of weight 0.5."""
    inside_hw = (weight_hw >= 0.5).cpu().numpy()
    tiles = [outlined(tile, inside_hw) for tile in (fit(to_picture(image_HWC), TILE), heat_over(image_HWC, heat_hw))]
    width, top, tall = 2 * TILE + 3 * GAP, GAP + TITLE_SIZE + 10, tiles[0].height
    drawn = Image.new("RGB", (width, top + tall + 2 * STEP + 20), PANEL)
    draw = ImageDraw.Draw(drawn)
    write(draw, (GAP, GAP), shorten(legible(title), width - 2 * GAP, TITLE_SIZE), TITLE_SIZE)
    for index, (tile, caption) in enumerate(zip(tiles, ("picture, mask outlined", "change of the prediction"), strict=True)):
        left = GAP + index * (TILE + GAP)
        drawn.paste(tile, (left + (TILE - tile.width) // 2, top))
        write(draw, (left, top + tall + 8), caption, TEXT_SIZE, MUTED)
    write(draw, (GAP, top + tall + 8 + STEP), shorten(words, width - 2 * GAP, TEXT_SIZE), TEXT_SIZE, INK)
    return np.array(drawn)


def heat_over(image_HWC: Tensor, heat_hw: Tensor) -> Image.Image:
    """Cells in the colours of `heat_hw`, with the picture as a faint relief: on average the colours are those of the legend."""
    grey = fit(to_picture(image_HWC), TILE).convert("L")
    cells = Image.fromarray(colours(heat_hw.cpu().numpy())).resize(grey.size, Image.Resampling.NEAREST)
    light_HW = np.asarray(grey, np.float32)
    relief_HW1 = RELIEF * (light_HW - light_HW.mean())[..., None]
    return Image.fromarray((np.asarray(cells, np.float32) + relief_HW1).clip(0, 255).round().astype(np.uint8))
