"""The masks that a run made, in one picture with the doubtful ones first. White = learn."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..dataset.item import ImageFiles
from ..dataset.load import load_item
from ..dataset.pixels import read_mask, read_picture, unit
from ..masks.canvas import INK, PANEL, WARNING, Pixels, fit, legible, shorten, wrap, write
from ..masks.preview import GAP, LINE, TEXT_SIZE, TILE, TITLE_SIZE, contact_sheet
from ..masks.recipe import MaskRecipe
from ..masks.review import Grid, Source, draw_card
from .mask_report import doubt, doubtful_first, mask_file
from .mask_writer import Result, describe

SHOWN = 30


def doubtful_sheet(results: Sequence[Result], shown: int = SHOWN) -> Pixels:
    """The first `shown` of the doubtful ones, then others, each with its mask, its weight on the latent grid, and what is doubted."""
    chosen = doubtful_first(results)[:shown]
    part = f", {len(chosen)} of {len(results)} shown" if len(chosen) < len(results) else ""
    return contact_sheet([_card(result) for result in chosen],
                         (f"White = learn{part}", "without a mask first, then what misses regions, then very small and large masks"))


def _card(result: Result) -> Pixels:
    mask = mask_file(result)
    said = doubt(result.entry)
    if mask is not None:
        try:
            title = f"{result.place.name} ({said})" if said else result.place.name
            item = replace(result.place.item, image=ImageFiles((result.place.picture,)), mask=None, frames=1)
            picture = lambda: load_item(item).image_THWC  # noqa: E731 - what Source wants
            return draw_card(Source(title, lambda: torch.from_numpy(read_mask(mask))[None], picture, item.name), MaskRecipe(), Grid())
        except ValueError as error:  # too small for a latent cell, or a person's mask of another size
            return _words_card(result, str(error))
    return _words_card(result, describe(result.entry))


def _words_card(result: Result, words: str) -> Pixels:
    """The picture, if it can be read, under its name and over the reason why there is no mask to show."""
    width = 2 * TILE + 3 * GAP
    lines = wrap(words, width - 2 * GAP, TEXT_SIZE)
    tile = _tile(result.place.picture)
    top = GAP + TITLE_SIZE + 10
    bottom = top + (tile.height + 12 if tile else 0)
    drawn = Image.new("RGB", (width, bottom + LINE * len(lines) + GAP), PANEL)
    draw = ImageDraw.Draw(drawn)
    write(draw, (GAP, GAP), shorten(legible(result.place.name), width - 2 * GAP, TITLE_SIZE), TITLE_SIZE, INK)
    if tile:
        drawn.paste(tile, (GAP, top))
    for index, line in enumerate(lines):
        write(draw, (GAP, bottom + LINE * index), line, TEXT_SIZE, WARNING)
    return np.array(drawn)


def _tile(picture: Path) -> Image.Image | None:
    try:
        pixels = read_picture(picture)
    except ValueError:
        return None
    return fit(Image.fromarray((unit(pixels.colours_HWC) * 255).round().astype(np.uint8)), TILE)
