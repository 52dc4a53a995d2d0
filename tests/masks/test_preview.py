"""What the preview shows is what is trained: numbers, polarity, grid and text."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.masks import preview
from pack.masks.preview import contact_sheet, overlay, review, statistics
from pack.masks.recipe import MaskRecipe
from torch import Tensor


def half_white(side: int = 128) -> Tensor:
    mask_HW = torch.zeros(side, side)
    mask_HW[:, side // 2:] = 1
    return mask_HW


def tiles(card: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask and the heat map of a square picture's card, by brightness."""
    top = preview.GAP + preview.TITLE_SIZE + 10
    left = 2 * preview.GAP + preview.TILE
    side = preview.TILE
    grey = card.mean(axis=-1)
    return grey[top:top + side, preview.GAP:preview.GAP + side], grey[top:top + side, left:left + side]


def test_statistics() -> None:
    found = statistics(torch.tensor([[0.0, 0.5], [0.75, 1.0]]))
    assert (found.coverage, found.minimum, found.mean, found.maximum) == (0.5, 0.0, 0.5625, 1.0)  # 0.5 itself is not white


@pytest.mark.parametrize(("value", "said"), [(0.0, "nothing is learned"), (1.0, "every pixel is learned"), (0.25, "weight 0.25")])
def test_flat_masks_are_remarked_on(value: float, said: str) -> None:
    assert said in statistics(torch.full((4, 4), value)).remark()
    assert statistics(torch.tensor([[0.0, 1.0]])).remark() == ""


def test_white_is_bright_on_both_tiles() -> None:
    mask, heat = tiles(overlay(torch.full((128, 128, 3), 0.5), half_white(), (16, 16), "picture"))
    assert mask[:, :199].max() == 0
    assert mask[:, 201:].min() == 255
    assert heat[:, 210:].mean() > heat[:, :190].mean() + 60


def test_the_heat_map_shows_cells_not_pixels() -> None:
    mask_HW = torch.zeros(128, 128)
    mask_HW[:, 60:] = 1  # half of the eighth column of cells
    _, heat = tiles(overlay(torch.full((128, 128, 3), 0.5), mask_HW, (16, 16), "picture"))
    dark, mixed, bright = (np.median(heat[:, 25 * column + 8:25 * column + 17]) for column in (6, 7, 8))
    assert dark + 20 < mixed < bright - 20
    assert np.ptp(heat[8:17, 25 * 7 + 8:25 * 7 + 17]) < 2  # one colour in the whole cell


def test_grid_lines_lie_on_cell_borders() -> None:
    _, heat = tiles(overlay(torch.zeros(128, 128, 3), torch.zeros(128, 128), (16, 16), "picture"))
    row = heat[12]
    assert [int(x) for x in np.flatnonzero(row > np.median(row) + 10)] == [25 * k for k in range(16)] + [399]


def test_a_fine_grid_keeps_the_picture_visible() -> None:
    _, heat = tiles(overlay(torch.zeros(1024, 1024, 3), torch.zeros(1024, 1024), (128, 128), "picture"))
    lines = np.flatnonzero(heat[1] > np.median(heat) + 10)
    assert 30 < len(lines) < 70


def test_sizes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="cat: picture is 32x16, mask is 64x64"):
        overlay(torch.zeros(16, 32, 3), torch.zeros(64, 64), (2, 2), "cat")


@pytest.mark.parametrize("count", [1, 2, 3, 11])
def test_the_sheet_has_room_for_every_card(count: int) -> None:
    card = np.full((100, 60, 3), 200, np.uint8)
    sheet = contact_sheet([card] * count, "White = learn")
    assert (sheet == 200).all(axis=-1).sum() == count * card.shape[0] * card.shape[1]
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([])


def test_review_applies_the_recipe_and_lists_every_mask() -> None:
    images, masks = torch.rand(3, 64, 64, 3), torch.ones(3, 64, 64)
    sheet, text = review([images[:2], images[2:]], [masks], MaskRecipe(invert=True, floor=0.25), 8, ["a", "", "c"])
    lines = text.splitlines()
    assert lines[0] == "White = learn. 3 masks, recipe: inverted, floor 0.25"
    assert [line.split(": ")[0] for line in lines[1:]] == ["a", "picture 2", "c"]
    assert all("0.0% of pixels; weight mean 0.250" in line for line in lines[1:])
    assert sheet.dtype == np.uint8
    assert sheet.flags.writeable


def test_review_takes_the_cell_size_from_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def drawn(image: Tensor, mask: Tensor, cell: tuple[int, int], title: str) -> np.ndarray:
        seen.append(cell)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(preview, "overlay", drawn)
    for pixels in (8, 16):
        review([torch.rand(1, 64, 128, 3)], [torch.ones(1, 64, 128)], None, pixels)
    assert seen == [(8, 16), (4, 8)]


def test_review_says_when_the_sheet_is_shorter_than_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []

    def drawn(cards: list[np.ndarray], title: str) -> np.ndarray:
        titles.append(title)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(preview, "SHOWN", 2)
    monkeypatch.setattr(preview, "contact_sheet", drawn)
    _, text = review([torch.rand(3, 32, 32, 3)], [torch.ones(3, 32, 32)], None, 8)
    assert "first 2 of 3" in titles[0]
    assert len(text.splitlines()) == 4


def test_review_refuses_numbers_that_differ() -> None:
    with pytest.raises(ValueError, match="2 pictures but 1 masks"):
        review([torch.rand(2, 32, 32, 3)], [torch.ones(1, 32, 32)], None, 8)
    with pytest.raises(ValueError, match="1 names for 2 pictures"):
        review([torch.rand(2, 32, 32, 3)], [torch.ones(2, 32, 32)], None, 8, ["a"])


def test_long_titles_are_shortened_and_long_text_is_wrapped() -> None:
    from pack.masks.canvas import font, shorten, wrap

    assert font(20).getlength(shorten("name " * 100, 300, 20)) <= 300
    lines = wrap("one " + "w" * 200 + " two", 300, 20)
    assert "".join("".join(lines).split()) == "one" + "w" * 200 + "two"
    assert all(font(20).getlength(line) <= 300 for line in lines)
    assert wrap("", 300, 20) == []
