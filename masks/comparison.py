"""Pictures side by side, with labels: the same prompt under different settings. Shapes: B batch, H, W, C."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import BACKGROUND, INK, MUTED, font, to_picture, wrap, write

Pixels = npt.NDArray[np.uint8]

READABLE_SIDE = 256  # smaller pictures are enlarged by a whole factor, so that labels fit and pixels stay even
GAP = 8


def comparison_grid(rows_BHWC: Sequence[Tensor], labels: Sequence[str] = (), columns: Sequence[str] = ()) -> Pixels:
    """One uint8 RGB picture (H, W, C): a row for each batch, row labels on the left, column labels on top.

    rows_BHWC: float 0..1, each (B, H, W, C), any sizes; a smaller picture is centred in its cell. Fewer labels than
    rows or columns leave the rest blank. Raises ValueError for no pictures and for labels that would not be shown.
    """
    count = max((len(row_BHWC) for row_BHWC in rows_BHWC), default=0)
    if not count:
        raise ValueError("no pictures to compare; connect at least one row")
    for given, shown, what in ((labels, len(rows_BHWC), "row"), (columns, count, "column")):
        if len(given) > shown:
            raise ValueError(f"{len(given)} {what} labels for {shown} {what}s, {given[shown]!r} would be lost; "
                             f"remove labels (one line each) or connect the missing {what}")
    pictures = [[to_picture(image_HWC) for image_HWC in row_BHWC] for row_BHWC in rows_BHWC]
    cell = _enlarge(pictures)
    return _draw(pictures, cell, _padded(labels, len(pictures)), _padded(columns, count))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` (1 or more) of the positions 0 to count - 1, evenly spread: the first and the last among them, of one the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)] if most > 1 else [count - 1]


def _enlarge(pictures: list[list[Image.Image]]) -> tuple[int, int]:
    """Enlarges small pictures in place, all by one factor; returns the width and height of a cell."""
    width = max(picture.width for row in pictures for picture in row)
    height = max(picture.height for row in pictures for picture in row)
    factor = max(1, -(-READABLE_SIDE // max(width, height)))
    if factor > 1:
        for row in pictures:
            row[:] = [p.resize((p.width * factor, p.height * factor), Image.Resampling.LANCZOS) for p in row]
    return width * factor, height * factor


def _draw(pictures: list[list[Image.Image]], cell: tuple[int, int], labels: list[str], columns: list[str]) -> Pixels:
    size = max(18, min(cell) // 14)
    step = round(size * 1.3)
    longest = max(font(size).getlength(text) for text in labels)
    strip = round(min(0.7 * min(cell), longest + 1)) if any(labels) else 0
    heads = [wrap(text, cell[0] - 2 * GAP, size) for text in columns]
    head = max((len(lines) for lines in heads), default=0) * step
    left, top = GAP + (strip + 2 * GAP if strip else 0), GAP + (head + GAP if head else 0)
    sheet = Image.new("RGB", (left + len(columns) * (cell[0] + GAP), top + len(pictures) * (cell[1] + GAP)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, lines in enumerate(heads):
        _lines(draw, (left + index * (cell[0] + GAP) + cell[0] / 2, top - GAP - head + head / 2), lines, size, step, "mm")
    for number, (row, label) in enumerate(zip(pictures, labels, strict=True)):
        y = top + number * (cell[1] + GAP)
        _lines(draw, (GAP + strip, y + cell[1] / 2), wrap(label, strip, size), size, step, "rm")
        for index, picture in enumerate(row):
            x = left + index * (cell[0] + GAP)
            sheet.paste(picture, (x + (cell[0] - picture.width) // 2, y + (cell[1] - picture.height) // 2))
    return np.array(sheet)


def _lines(draw: ImageDraw.ImageDraw, centre: tuple[float, float], lines: list[str], size: int, step: int, anchor: str) -> None:
    first = centre[1] - (len(lines) - 1) * step / 2
    for index, line in enumerate(lines):
        write(draw, (centre[0], first + index * step), line, size, INK if anchor == "rm" else MUTED, anchor)


def _padded(texts: Sequence[str], count: int) -> list[str]:
    return [*texts, *[""] * (count - len(texts))]
