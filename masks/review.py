"""A whole set of masks at once: numbers for all, pictures for those that a person should look at. White = learn.

Shapes: B batch, T frames (1 for a picture), H height, W width in pixels, C channels, h rows and w columns of the latent grid.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .canvas import Pixels
from .latent_grid import clip_weight, frames_per_cell, whole_cells
from .preview import Frame, card, check_sizes, contact_sheet, frames_shown
from .recipe import MaskRecipe, apply_recipe
from .statistics import NO_MASK, WORST_FIRST, MaskStatistics, statistics, summary, worst_first

ORDERS = ("worst first", "as loaded")
SHOWN = 30
FIRST_LINES = 100


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A picture or clip to be looked at. mask and picture load when they are called, so that a large set needs little memory.

    mask: (T, H, W) raw, T = 1 or the clip's frames; None: no mask, learned everywhere. picture: (T, H, W, C) of the same size.
    seed: the name that seeds the recipe's random steps. frames: T of the picture.
    """

    name: str
    mask: Callable[[], Tensor | None]
    picture: Callable[[], Tensor]
    seed: str
    frames: int = 1


def _every_frame(frames: int) -> tuple[int, int]:
    return frames, frames


@dataclass(frozen=True, slots=True)
class Grid:
    """What a VAE makes of pixels.

    cell: pixels to a latent cell. clip: for a clip's number of frames, how many of them, from the first on, are encoded, and
    how many frames the latent then has; it may raise ValueError for a clip that cannot be encoded.
    """

    cell: int = 8
    clip: Callable[[int], tuple[int, int]] = _every_frame


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """pixels_THW: after the recipe; cells_Thw: what reaches the loss, its frames those of the latent."""

    pixels_THW: Tensor
    cells_Thw: Tensor


def from_batches(images: Sequence[Tensor], masks: Sequence[Tensor], names: Sequence[str] = ()) -> list[Source]:
    """Sources for pictures in batches (B, H, W, C) and masks in batches (B, H, W), as many masks as pictures.

    Raises ValueError if numbers or sizes differ.
    """
    pictures = [image_HWC for batch in images for image_HWC in batch]
    planes = [mask_HW for batch in masks for mask_HW in batch.reshape(-1, *batch.shape[-2:])]
    if len(pictures) != len(planes):
        raise ValueError(f"{len(pictures)} pictures but {len(planes)} masks; connect one mask for each picture")
    if names and len(names) != len(planes):
        raise ValueError(f"{len(names)} names for {len(planes)} pictures; connect one for each picture or none")
    sources = []
    for index, (image_HWC, mask_HW) in enumerate(zip(pictures, planes, strict=True)):
        title = (names[index] if names else "") or f"picture {index + 1}"
        check_sizes(title, image_HWC, mask_HW)
        sources.append(Source(title, _given(mask_HW[None]), _given(image_HWC[None]), title))
    return sources


def review(sources: Sequence[Source], recipe: MaskRecipe, grid: Grid, shown: int = SHOWN, order: str = "worst first",
           update: Callable[[int, int], None] | None = None) -> tuple[Pixels, str]:
    """A contact sheet of `shown` cards, and a text of totals and one line for each source in the same order.

    All masks are looked at, one after the other; pictures are loaded for the cards alone. update is called with (done, total).
    "worst first": see statistics.worst_first. Raises ValueError without sources and for masks that do not fit their picture.
    """
    if not sources:
        raise ValueError("no pictures to show; connect at least one picture and its mask")
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; use {' or '.join(ORDERS)}")
    if shown < 1:
        raise ValueError(f"shown is {shown}; set it to 1 or more")
    total = len(sources) + min(shown, len(sources))
    found = []
    for index, source in enumerate(sources, 1):
        weights = _weights(source, recipe, grid)
        found.append(statistics(weights.pixels_THW, weights.cells_Thw) if weights else NO_MASK)
        if update:
            update(index, total)
    places = worst_first(found) if order == "worst first" else list(range(len(sources)))
    cards = []
    for place in places[:shown]:
        cards.append(draw_card(sources[place], recipe, grid, found[place]))
        if update:
            update(len(sources) + len(cards), total)
    part = "" if len(cards) == len(sources) else f", {len(cards)} of {len(sources)} shown"
    titles = [f"White = learn{part}. Recipe: {recipe.describe()}", *([WORST_FIRST] if order == "worst first" and len(cards) > 1 else [])]
    lines = [_line(sources[place].name, found[place]) for place in places]
    return contact_sheet(cards, titles), "\n".join([*summary(found, recipe.describe()), *lines])


def draw_card(source: Source, recipe: MaskRecipe, grid: Grid, numbers: MaskStatistics | None = None) -> Pixels:
    """The card of one source. numbers: if its mask was looked at before. Raises ValueError for a mask that does not fit its picture."""
    picture_THWC = source.picture()
    _require_a_cell(source.name, picture_THWC[..., 0], grid)
    weights = _weights(source, recipe, grid)
    if numbers is None:
        numbers = statistics(weights.pixels_THW, weights.cells_Thw) if weights else NO_MASK
    rows, columns = whole_cells(picture_THWC.shape[1], picture_THWC.shape[2], grid.cell)
    count, latent_frames = grid.clip(len(picture_THWC))
    seen_THWC = picture_THWC[:count, rows, columns]
    if weights is None:
        pixels_THW = torch.ones(1, *seen_THWC.shape[1:3])
        weights = Weights(pixels_THW, torch.ones(1, pixels_THW.shape[1] // grid.cell, pixels_THW.shape[2] // grid.cell))
    latent_frame = _latent_frame_of(count, latent_frames) if len(weights.cells_Thw) > 1 else [0] * count
    frames = [Frame(seen_THWC[place], weights.pixels_THW[min(place, len(weights.pixels_THW) - 1)],
                    weights.cells_Thw[latent_frame[place]], place + 1) for place in frames_shown(count)]
    return card(source.name, frames, len(picture_THWC), numbers)


def first_lines(text: str) -> str:
    """The first hundred lines of a text, and how many more there are: a page would choke on one line for each of 10,000 masks."""
    lines = text.splitlines()
    more = len(lines) - FIRST_LINES
    return text if more <= 0 else "\n".join([*lines[:FIRST_LINES], f"and {more} more lines in the text output"])


def _given(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _line(name: str, numbers: MaskStatistics) -> str:
    said = [remark.text for remark in numbers.remarks()]
    return f"{name}: {'; '.join([numbers.describe(), *said])}"


def _weights(source: Source, recipe: MaskRecipe, grid: Grid) -> Weights | None:
    """What training makes of the raw mask: cut to whole cells, the recipe, the mean in each cell; None without a mask."""
    mask_THW = source.mask()
    if mask_THW is None:
        return None
    _require_a_cell(source.name, mask_THW, grid)
    frames, latent_frames = grid.clip(source.frames)
    rows, columns = whole_cells(mask_THW.shape[1], mask_THW.shape[2], grid.cell)
    pixels_THW = apply_recipe(mask_THW[:frames, rows, columns], recipe, [source.seed] * len(mask_THW[:frames]))
    size = (latent_frames, pixels_THW.shape[1] // grid.cell, pixels_THW.shape[2] // grid.cell)
    return Weights(pixels_THW, clip_weight(pixels_THW, frames, size)[0])


def _latent_frame_of(frames: int, cells: int) -> list[int]:
    return [cell for cell, length in enumerate(frames_per_cell(frames, cells)) for _ in range(length)]


def _require_a_cell(name: str, mask_THW: Tensor, grid: Grid) -> None:
    if mask_THW.ndim != 3 or not math.prod(mask_THW.shape):
        raise ValueError(f"{name}: mask has shape {tuple(mask_THW.shape)}; give frames, height, width")
    if min(mask_THW.shape[1:]) < grid.cell:
        raise ValueError(f"{name} is {mask_THW.shape[2]}x{mask_THW.shape[1]} pixels, less than the {grid.cell} of one latent cell; "
                         "use a larger picture")
