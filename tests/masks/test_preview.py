"""What the preview shows is what is trained: tiles, polarity, grid, histogram and text that fits."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pack.masks import canvas, heat_map, preview
from pack.masks.latent_grid import latent_weight
from pack.masks.preview import Frame, card, contact_sheet, frames_shown
from pack.masks.statistics import BINS, NO_MASK, statistics
from torch import Tensor


def half_white(side: int = 128) -> Tensor:
    mask_HW = torch.zeros(side, side)
    mask_HW[:, side // 2:] = 1
    return mask_HW


def drawn(image_HWC: Tensor, mask_HW: Tensor, cell: tuple[int, int], title: str = "picture") -> np.ndarray:
    cells_1hw = latent_weight(mask_HW[None], cell)[:, 0]
    return card(title, [Frame(image_HWC, mask_HW, cells_1hw[0])], 1, statistics(mask_HW[None], cells_1hw))


def tiles(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask and the heat map of a square picture's card, by brightness."""
    top = preview.GAP + preview.TITLE_SIZE + 10
    left = 2 * preview.GAP + preview.TILE
    side = preview.TILE
    grey = picture.mean(axis=-1)
    return grey[top:top + side, preview.GAP:preview.GAP + side], grey[top:top + side, left:left + side]


def test_white_is_bright_on_both_tiles() -> None:
    mask, heat = tiles(drawn(torch.full((128, 128, 3), 0.5), half_white(), (16, 16)))
    assert mask[:, :199].max() == 0
    assert mask[:, 201:].min() == 255
    assert heat[:, 210:].mean() > heat[:, :190].mean() + 60


def test_the_heat_map_shows_cells_not_pixels() -> None:
    mask_HW = torch.zeros(128, 128)
    mask_HW[:, 60:] = 1  # half of the eighth column of cells
    _, heat = tiles(drawn(torch.full((128, 128, 3), 0.5), mask_HW, (16, 16)))
    dark, mixed, bright = (np.median(heat[:, 25 * column + 8:25 * column + 17]) for column in (6, 7, 8))
    assert dark + 20 < mixed < bright - 20
    assert np.ptp(heat[8:17, 25 * 7 + 8:25 * 7 + 17]) < 2  # one colour in the whole cell


def test_the_heat_is_the_cells_that_are_given() -> None:
    """A clip's latent frame weighs several masks together; its own mask must not be drawn in its place."""
    frame = Frame(torch.full((128, 128, 3), 0.5), torch.zeros(128, 128), torch.ones(16, 16))
    _, heat = tiles(card("picture", [frame], 1, NO_MASK))
    assert np.median(heat) > 150


def test_grid_lines_lie_on_cell_borders() -> None:
    _, heat = tiles(drawn(torch.zeros(128, 128, 3), torch.zeros(128, 128), (16, 16)))
    row = heat[12]
    assert [int(x) for x in np.flatnonzero(row > np.median(row) + 10)] == [25 * k for k in range(16)] + [399]


def test_a_fine_grid_keeps_the_picture_visible() -> None:
    _, heat = tiles(drawn(torch.zeros(1024, 1024, 3), torch.zeros(1024, 1024), (128, 128)))
    lines = np.flatnonzero(heat[1] > np.median(heat) + 10)
    assert 30 < len(lines) < 70


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="cat: picture is 32x16, mask is 64x64"):
        drawn(torch.zeros(16, 32, 3), torch.zeros(64, 64), (2, 2), "cat")


def test_a_clip_shows_the_masks_and_weights_of_four_frames() -> None:
    greys = [0.0, 0.3, 0.6, 0.9]
    frames = [Frame(torch.zeros(64, 64, 3), torch.full((64, 64), grey), torch.full((8, 8), 1 - grey), number)
              for number, grey in enumerate(greys, 1)]
    picture = card("clip", frames, 17, NO_MASK)
    side, top = 194, preview.GAP + preview.TITLE_SIZE + 10
    middles = [preview.GAP + index * 206 + side // 2 for index in range(4)]
    masks = [picture[top + 97, x].mean() for x in middles]
    assert masks == pytest.approx([255 * grey for grey in greys], abs=1)
    below = top + side + 12 + round(preview.TEXT_SIZE * 1.4)
    heats = [np.median(picture[below + 40:below + 150, x - 60:x + 60].mean(-1)) for x in middles]
    assert heats == sorted(heats, reverse=True)
    assert heats[0] > heats[3] + 60


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (17, [0, 5, 11, 16])])
def test_frames_shown(count: int, shown: list[int]) -> None:
    assert frames_shown(count) == shown


def test_histogram_bars_are_as_high_as_the_logarithm_and_a_single_cell_shows() -> None:
    counts = [0] * BINS
    counts[0], counts[10], counts[19] = 9999, 99, 1
    bars = np.asarray(heat_map.histogram_bars(counts, (800, 101), (0, 0, 0)))
    tall = [(bars[:-1, 40 * index + 20] != 0).any(-1).sum() for index in range(BINS)]
    assert tall[0] == 99  # one row is the base line
    assert tall[10] == pytest.approx(99 * np.log(100) / np.log(10000), abs=1.5)
    assert 5 < tall[19] < 10
    assert sum(tall) == tall[0] + tall[10] + tall[19]


def test_the_histogram_of_a_card_has_black_on_the_left() -> None:
    picture = drawn(torch.zeros(128, 128, 3), half_white() * 0.99, (16, 16))
    bars_top = preview.GAP + preview.TITLE_SIZE + 10 + preview.TILE + 12 + round(preview.TEXT_SIZE * 1.4)
    row = picture[bars_top + preview.BARS - 10]
    assert tuple(row[preview.GAP + 15]) == tuple(heat_map.colours(np.array(0.025)))
    assert tuple(row[-preview.GAP - 15]) == tuple(heat_map.colours(np.array(0.975)))
    assert tuple(row[400]) == canvas.PANEL


def test_more_weight_is_always_more_light() -> None:
    light = heat_map.colours(np.linspace(0, 1, 101)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_the_sheet_has_room_for_every_card(count: int) -> None:
    flat = np.full((100, 60, 3), 200, np.uint8)
    sheet = contact_sheet([flat] * count, ["White = learn", "worst first"])
    assert (sheet == 200).all(axis=-1).sum() == count * flat.shape[0] * flat.shape[1]
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([])


@pytest.mark.parametrize("size", [(128, 128), (1024, 384), (384, 1024), (64, 1024)])
def test_nothing_reaches_the_border_of_a_card(size: tuple[int, int]) -> None:
    height, width = size
    mask_HW = torch.zeros(size)
    mask_HW[:height // 3] = 1
    picture = drawn(torch.rand(height, width, 3), mask_HW, (height // 8, width // 8), "name " * 60)
    border = np.concatenate([picture[:6].reshape(-1, 3), picture[-3:].reshape(-1, 3), picture[:, :6].reshape(-1, 3),
                             picture[:, -6:].reshape(-1, 3)])
    assert (border == canvas.PANEL).all()


def test_long_titles_are_shortened_and_long_text_is_wrapped() -> None:
    shortened = canvas.shorten("first " + "name " * 100 + "last", 300, 20)
    assert canvas.font(20).getlength(shortened) <= 300
    assert shortened.startswith("first")
    assert shortened.endswith("last")
    lines = canvas.wrap("one " + "w" * 200 + " two", 300, 20)
    assert "".join("".join(lines).split()) == "one" + "w" * 200 + "two"
    assert all(canvas.font(20).getlength(line) <= 300 for line in lines)
    assert canvas.wrap("", 300, 20) == []


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(canvas, "WIDE_FONTS", ())
    canvas._best_font.cache_clear()
    yield
    monkeypatch.undo()
    canvas._best_font.cache_clear()


@pytest.mark.usefixtures("no_system_fonts")
def test_letters_without_a_font_are_replaced() -> None:
    assert canvas.legible("cat_01 (a)") == "cat_01 (a)"
    assert canvas.legible("Ŕob\n\u732b.png") in ("Rob ?.png", "Ŕob ?.png")
    assert canvas.font_for("\u732b", 20).getname() == canvas.font(20).getname()


def test_a_font_of_the_system_is_used_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {None: "abc", "wide.ttf": "abcд"}
    monkeypatch.setattr(canvas, "WIDE_FONTS", ("wide.ttf",))
    monkeypatch.setattr(canvas, "_missing", lambda name, text: sum(letter not in has[name] and not letter.isspace() for letter in text))
    canvas._best_font.cache_clear()
    assert canvas._best_font("д a") == "wide.ttf"
    assert canvas._best_font("猫") is None  # no better than Pillow's own
    assert canvas.legible("д 猫 b") == "д ? b"
    canvas._best_font.cache_clear()
