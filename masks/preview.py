"""Pictures of what will be learned: the mask, and its weight on the latent grid. White = learn.

Shapes: T frames (1 for a picture), H height, W width in pixels, C channels, h rows and w columns of the latent grid; drawn
pictures are uint8 HWC arrays, RGB.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import BACKGROUND, INK, MUTED, PANEL, WARNING, Pixels, fit, legible, shorten, to_picture, wrap, write
from .heat_map import LEARNED, draw_legend, heat_map, histogram_bars
from .statistics import MaskStatistics

TILE, GAP, TITLE_SIZE, TEXT_SIZE, LINE = 400, 12, 24, 19, 34
BARS = 54  # height of a histogram
FRAMES = 4  # of a clip


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture, or one frame of a clip, as it will be learned.

    image_HWC: float 0..1. weight_HW: weights 0..1 of the same size, the recipe applied. cells_hw: the weight that reaches the
    loss. number: which frame of the clip, from 1.
    """

    image_HWC: Tensor
    weight_HW: Tensor
    cells_hw: Tensor
    number: int = 1


def frames_shown(count: int) -> list[int]:
    """Up to four positions out of `count` frames: the first, the last, and those that divide the time between them evenly."""
    shown = min(FRAMES, count)
    return [round(index * (count - 1) / max(1, shown - 1)) for index in range(shown)]


def card(title: str, frames: Sequence[Frame], count: int, numbers: MaskStatistics) -> Pixels:
    """A picture or clip with its mask, the weight of each latent cell over it, the histogram of those weights and the numbers.

    frames: the one picture, or those of a clip's `count` frames that are shown. Raises ValueError if sizes differ.
    """
    for frame in frames:
        check_sizes(title, frame.image_HWC, frame.weight_HW)
    rows, cells = len(frames[0].cells_hw), frames[0].cells_hw.shape[1]
    side = TILE if len(frames) == 1 else (2 * TILE + GAP - (FRAMES - 1) * GAP) // FRAMES
    masks = [_mask_tile(frame, side) for frame in frames]
    heats = [heat_map(frame.image_HWC, frame.cells_hw, side) for frame in frames]
    every = "" if heats[0][1] == 1 else f", a line every {heats[0][1]}"
    weight = f"weight on {cells} x {rows} latent cells{every}"
    tiles = [heat for heat, _ in heats]
    if len(frames) == 1:
        return _draw_card(title, [[*masks, *tiles]], [["mask: white = learn", weight]], numbers)
    shown = ", ".join(str(frame.number) for frame in frames)
    return _draw_card(f"{title} (clip)", [masks, tiles], [[f"masks of frames {shown} of {count}: white = learn"], [weight]], numbers)


def check_sizes(title: str, image_HWC: Tensor, mask_HW: Tensor) -> None:
    """Raises ValueError if a picture and its mask have not the same height and width."""
    if image_HWC.shape[:2] != mask_HW.shape:
        raise ValueError(f"{title}: picture is {image_HWC.shape[1]}x{image_HWC.shape[0]}, mask is "
                         f"{mask_HW.shape[-1]}x{mask_HW.shape[-2]} (width x height); resize one of them")


def contact_sheet(cards: Sequence[Pixels], titles: Sequence[str] = ("What will be learned",),
                  ends: tuple[str, str] = LEARNED) -> Pixels:
    """The cards in one picture under lines of text and the scale of the colours, `ends` at its two sides; raises ValueError without
    cards.
    """
    if not cards:
        raise ValueError("no pictures to show; connect at least one picture and its mask")
    columns = 1 if len(cards) <= 2 else 2 if len(cards) <= 10 else 3
    rows = [cards[i:i + columns] for i in range(0, len(cards), columns)]
    cell = max(drawn.shape[1] for drawn in cards)
    width = columns * (cell + GAP) + GAP
    heights = [max(drawn.shape[0] for drawn in row) for row in rows]
    lines = [(line, TEXT_SIZE if index else TITLE_SIZE, MUTED if index else INK) for index, title in enumerate(titles)
             for line in wrap(title, width - 2 * GAP, TEXT_SIZE if index else TITLE_SIZE)]
    top = GAP + sum(_step(size) for _, size, _ in lines) + LINE + GAP
    sheet = Image.new("RGB", (width, top + sum(heights) + GAP * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    y = GAP
    for line, size, fill in lines:
        write(draw, (GAP, y), line, size, fill)
        y += _step(size)
    draw_legend(sheet, (GAP, y), TEXT_SIZE, LINE, GAP, ends)
    for row, height in zip(rows, heights, strict=True):
        for index, drawn in enumerate(row):
            left = GAP + index * (cell + GAP)
            draw.rectangle((left, top, left + cell - 1, top + height - 1), fill=PANEL)
            sheet.paste(Image.fromarray(drawn), (left, top))
        top += height + GAP
    return np.array(sheet)


def _step(size: int) -> int:
    return round(size * 1.4)


def _mask_tile(frame: Frame, side: int) -> Image.Image:
    kernel = Image.Resampling.NEAREST if max(frame.weight_HW.shape) <= side else Image.Resampling.BOX
    return fit(to_picture(frame.weight_HW[..., None]), side, kernel)


def _draw_card(title: str, rows: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]], numbers: MaskStatistics) -> Pixels:
    """Rows of tiles, each with its captions below, then the histogram and the text."""
    width, step = TILE * 2 + GAP * 3, _step(TEXT_SIZE)
    texts = [(line, INK) for line in wrap(numbers.describe(), width - 2 * GAP, TEXT_SIZE)]
    texts += [(line, WARNING) for remark in numbers.remarks() for line in wrap(remark.text, width - 2 * GAP, TEXT_SIZE)]
    top = GAP + TITLE_SIZE + 10
    tall = [max(tile.height for tile in row) for row in rows]
    bars_top = top + sum(tall) + (12 + step) * len(rows)
    drawn = Image.new("RGB", (width, bars_top + BARS + step * (1 + len(texts)) + 10), PANEL)
    draw = ImageDraw.Draw(drawn)
    write(draw, (GAP, GAP), shorten(legible(title), width - 2 * GAP, TITLE_SIZE), TITLE_SIZE)
    for row, height, words in zip(rows, tall, captions, strict=True):
        slot = (width - GAP) // (2 if len(rows) == 1 else FRAMES)
        for index, tile in enumerate(row):
            drawn.paste(tile, (GAP + index * slot + (slot - GAP - tile.width) // 2, top))
        for index, caption in enumerate(words):
            write(draw, (GAP + index * slot, top + height + 8), caption, TEXT_SIZE, MUTED)
        top += height + 12 + step
    drawn.paste(histogram_bars(numbers.histogram, (width - 2 * GAP, BARS), PANEL), (GAP, bars_top))
    y = bars_top + BARS + 2
    for place, anchor, words_ in ((GAP, "la", "0"), (width // 2, "ma", "latent cells by weight (log scale)"), (width - GAP, "ra", "1")):
        write(draw, (place, y), words_, TEXT_SIZE, MUTED, anchor)
    for index, (line, fill) in enumerate(texts, 1):
        write(draw, (GAP, y + step * index + 4), line, TEXT_SIZE, fill)
    return np.array(drawn)
