"""Pictures of what will be learned: the mask, and its weight on the latent grid. White = learn.

Shapes: H height, W width, C channels; drawn pictures are uint8 HWC arrays, RGB.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import BACKGROUND, INK, MUTED, PANEL, WARNING, fit, font, shorten, to_picture, wrap, write
from .latent_grid import latent_weight, whole_cells
from .recipe import MaskRecipe, apply_recipe

Pixels = npt.NDArray[np.uint8]

TILE, GAP, TITLE_SIZE, TEXT_SIZE, LINE = 400, 12, 24, 19, 34
SHOWN = 30
SMALLEST_SPACING = 6  # pixels between grid lines; closer ones would hide the picture
# Dark to bright without a turn, so that more light always means more learning; the bright end is almost white.
RAMP_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
RAMP_COLOURS = ((22, 24, 58), (103, 32, 112), (200, 62, 86), (250, 142, 52), (255, 244, 190))


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """coverage: share of pixels above 0.5; minimum, mean, maximum: of the weight, 0..1."""

    coverage: float
    minimum: float
    mean: float
    maximum: float

    def describe(self) -> str:
        """One line for a person."""
        return (f"white (learn): {self.coverage:.1%} of pixels; weight mean {self.mean:.3f}, "
                f"from {self.minimum:.3f} to {self.maximum:.3f}")

    def remark(self) -> str:
        """What an unusual mask will do, or an empty string."""
        if self.maximum == 0:
            return "all black: nothing is learned from this picture"
        if self.minimum == self.maximum:
            return f"no contrast: every pixel is learned with weight {self.mean:.3g}"
        return ""


def statistics(mask_HW: Tensor) -> MaskStatistics:
    """Counts over the pixels of one mask (H, W); raises ValueError for another shape or an empty mask."""
    if mask_HW.ndim != 2 or not mask_HW.numel():
        raise ValueError(f"mask has shape {tuple(mask_HW.shape)}; give height, width")
    weight_HW = mask_HW.detach().double()
    return MaskStatistics(coverage=(weight_HW > 0.5).double().mean().item(), minimum=weight_HW.min().item(),
                          mean=weight_HW.mean().item(), maximum=weight_HW.max().item())


def review(images: Sequence[Tensor], masks: Sequence[Tensor], recipe: MaskRecipe | None, pixels_per_cell: int,
           names: Sequence[str] = ()) -> tuple[Pixels, str]:
    """A contact sheet of all pictures and one line of text for each mask, the recipe applied.

    images: batches (B, H, W, C), masks: batches (B, H, W), as many masks as pictures. The sheet shows the first 30; the
    text has all. Raises ValueError if numbers or sizes differ, or a picture is smaller than a cell.
    """
    recipe = recipe or MaskRecipe()
    image_list = [image_HWC for batch in images for image_HWC in batch]
    raw = [mask_HW for batch in masks for mask_HW in batch.reshape(-1, *batch.shape[-2:])]
    if len(image_list) == len(raw):
        pairs = [seen_by_the_model(image, mask, pixels_per_cell) for image, mask in zip(image_list, raw, strict=True)]
        image_list, raw = [image for image, _ in pairs], [mask for _, mask in pairs]
    weights = [apply_recipe(mask_HW[None], recipe)[0] for mask_HW in raw]
    if len(image_list) != len(weights):
        raise ValueError(f"{len(image_list)} pictures but {len(weights)} masks; connect one mask for each picture")
    if names and len(names) != len(weights):
        raise ValueError(f"{len(names)} names for {len(weights)} pictures; connect one for each picture or none")
    titles = [name or f"picture {number}" for number, name in enumerate(names or [""] * len(weights), 1)]
    cards: list[Pixels] = []
    lines: list[str] = []
    for image_HWC, weight_HW, title in zip(image_list, weights, titles, strict=True):
        numbers = statistics(weight_HW)
        lines.append(f"{title}: {numbers.describe()}" + (f"; {numbers.remark()}" if numbers.remark() else ""))
        if len(cards) < SHOWN:
            cell = (weight_HW.shape[0] // pixels_per_cell, weight_HW.shape[1] // pixels_per_cell)
            cards.append(overlay(image_HWC, weight_HW, cell, title))
    part = "" if len(cards) == len(weights) else f", first {SHOWN} of {len(weights)}"
    summary = f"White = learn. {len(weights)} masks, recipe: {recipe.describe()}"
    return contact_sheet(cards, f"White = learn{part}. Recipe: {recipe.describe()}"), "\n".join([summary, *lines])


def seen_by_the_model(image_HWC: Tensor, mask_HW: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Picture and mask cut to whole latent cells, as training cuts them; pairs that do not fit are left for the error that says so."""
    if image_HWC.shape[:2] != mask_HW.shape or min(mask_HW.shape) < cell:
        return image_HWC, mask_HW
    rows, columns = whole_cells(mask_HW.shape[0], mask_HW.shape[1], cell)
    return image_HWC[rows, columns], mask_HW[rows, columns]


def overlay(image_HWC: Tensor, mask_HW: Tensor, cell: tuple[int, int], title: str) -> Pixels:
    """A card for one picture: the mask, the weight of each latent cell over the picture, the numbers.

    image_HWC: float 0..1; mask_HW: weights 0..1 of the same size, the recipe already applied; cell: rows and columns
    of the latent grid. The heat is the weight that reaches the loss, not the mask's pixels. Raises ValueError if sizes differ.
    """
    if image_HWC.shape[:2] != mask_HW.shape:
        raise ValueError(f"{title}: picture is {image_HWC.shape[1]}x{image_HWC.shape[0]}, mask is "
                         f"{mask_HW.shape[-1]}x{mask_HW.shape[-2]} (width x height); resize one of them")
    numbers = statistics(mask_HW)
    kernel = Image.Resampling.NEAREST if max(mask_HW.shape) <= TILE else Image.Resampling.BOX
    left = fit(to_picture(mask_HW[..., None]), TILE, kernel)
    right, lines = _heat_map(image_HWC, mask_HW, cell)
    every = "" if lines == 1 else f", a line every {lines}"
    captions = ("mask: white = learn", f"weight on {cell[1]} x {cell[0]} latent cells{every}")
    return _card(title, (left, right), captions, numbers)


def contact_sheet(cards: Sequence[Pixels], title: str = "What will be learned") -> Pixels:
    """The cards in one picture under a title and the scale of the colours; raises ValueError without cards."""
    if not cards:
        raise ValueError("no pictures to show; connect at least one picture and its mask")
    columns = 1 if len(cards) <= 2 else 2 if len(cards) <= 10 else 3
    rows = [cards[i:i + columns] for i in range(0, len(cards), columns)]
    cell = max(card.shape[1] for card in cards)
    width = columns * (cell + GAP) + GAP
    heights = [max(card.shape[0] for card in row) for row in rows]
    titles = wrap(title, width - 2 * GAP, TITLE_SIZE)
    top = GAP + len(titles) * LINE + LINE + GAP
    sheet = Image.new("RGB", (width, top + sum(heights) + GAP * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(titles):
        write(draw, (GAP, GAP + index * LINE), line, TITLE_SIZE)
    _legend(sheet, GAP + len(titles) * LINE)
    for row, height in zip(rows, heights, strict=True):
        for index, card in enumerate(row):
            left = GAP + index * (cell + GAP)
            draw.rectangle((left, top, left + cell - 1, top + height - 1), fill=PANEL)
            sheet.paste(Image.fromarray(card), (left, top))
        top += height + GAP
    return np.array(sheet)


def _heat_map(image_HWC: Tensor, mask_HW: Tensor, cell: tuple[int, int]) -> tuple[Image.Image, int]:
    """The picture in grey under the colours of its cells' weights, and how many cells lie between two lines."""
    grey = fit(to_picture(image_HWC), TILE).convert("L")
    weight_HW = latent_weight(mask_HW[None], cell)[0, 0].cpu().numpy()
    cells = Image.fromarray(_colours(weight_HW)).resize(grey.size, Image.Resampling.NEAREST)
    mixed = Image.blend(grey.convert("RGB"), cells, 0.5)
    lines = 1
    while min(grey.width * lines / cell[1], grey.height * lines / cell[0]) < SMALLEST_SPACING:
        lines *= 2
    grid = mixed.copy()
    draw = ImageDraw.Draw(grid)
    for column in range(0, cell[1] + 1, lines):
        x = min(round(column * grey.width / cell[1]), grey.width - 1)
        draw.line([(x, 0), (x, grey.height)], fill=INK)
    for row in range(0, cell[0] + 1, lines):
        y = min(round(row * grey.height / cell[0]), grey.height - 1)
        draw.line([(0, y), (grey.width, y)], fill=INK)
    return Image.blend(mixed, grid, 0.22), lines


def _colours(weight_HW: npt.NDArray[np.floating]) -> Pixels:
    channels = [np.interp(weight_HW, RAMP_WEIGHTS, channel) for channel in zip(*RAMP_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _card(title: str, tiles: Sequence[Image.Image], captions: Sequence[str], numbers: MaskStatistics) -> Pixels:
    width = TILE * 2 + GAP * 3
    facts = wrap(numbers.describe(), width - 2 * GAP, TEXT_SIZE)
    remarks = wrap(numbers.remark(), width - 2 * GAP, TEXT_SIZE)
    step = round(TEXT_SIZE * 1.4)
    tile_top = GAP + TITLE_SIZE + 10
    text_top = tile_top + max(tile.height for tile in tiles) + 8
    card = Image.new("RGB", (width, text_top + step * (1 + len(facts) + len(remarks)) + 6), PANEL)
    draw = ImageDraw.Draw(card)
    write(draw, (GAP, GAP), shorten(title, width - 2 * GAP, TITLE_SIZE), TITLE_SIZE)
    for index, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = GAP + index * (TILE + GAP)
        card.paste(tile, (left + (TILE - tile.width) // 2, tile_top))
        write(draw, (left, text_top), caption, TEXT_SIZE, MUTED)
    for index, line in enumerate(facts + remarks):
        write(draw, (GAP, text_top + step * (index + 1)), line, TEXT_SIZE, INK if index < len(facts) else WARNING)
    return np.array(card)


def _legend(sheet: Image.Image, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    ramp = Image.fromarray(_colours(np.linspace(0, 1, 160)[None].repeat(18, axis=0)))
    left, middle = GAP, top + LINE / 2
    for part in ("0 = black, not learned", ramp, "1 = white, learned"):
        if isinstance(part, str):
            write(draw, (left, middle), part, TEXT_SIZE, MUTED, "lm")
            left += round(font(TEXT_SIZE).getlength(part)) + GAP
        else:
            sheet.paste(part, (left, round(middle - part.height / 2)))
            left += part.width + GAP
