"""A set of masks at once: all are measured, the worst are drawn, and both as training will use them."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.masks import review as module
from pack.masks.latent_grid import clip_weight, latent_weight
from pack.masks.operations import Blobs, Floor, Invert
from pack.masks.preview import Frame
from pack.masks.recipe import MaskRecipe, apply_recipe, simple_recipe
from pack.masks.review import Grid, Source, first_lines, from_batches, review
from pack.masks.statistics import MaskStatistics
from torch import Tensor

AS_DRAWN = MaskRecipe()


def video(frames: int) -> tuple[int, int]:
    """A VAE that takes 4 k + 1 frames, as Wan's does."""
    return (frames - 1) // 4 * 4 + 1, (frames - 1) // 4 + 1


def square(side: int, size: int = 64) -> Tensor:
    mask_HW = torch.zeros(size, size)
    start = (size - side) // 2
    mask_HW[start:start + side, start:start + side] = 1
    return mask_HW


def source(name: str, mask_THW: Tensor | None, frames: int = 1, loaded: list[str] | None = None, size: int = 64) -> Source:
    def picture() -> Tensor:
        if loaded is not None:
            loaded.append(name)
        return torch.full((frames, size, size, 3), 0.5)

    return Source(name, lambda: mask_THW, picture, name, frames)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[Frame], int, MaskStatistics]]:
    """What is drawn, by title, in the order of the sheet."""
    seen: dict[str, tuple[list[Frame], int, MaskStatistics]] = {}

    def draw(title: str, frames: list[Frame], count: int, numbers: MaskStatistics) -> np.ndarray:
        seen[title] = (frames, count, numbers)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(module, "card", draw)
    return seen


def names(text: str) -> list[str]:
    return [line.split(":")[0] for line in text.splitlines() if "% of pixels;" in line]


def test_the_recipe_is_applied_and_every_mask_listed() -> None:
    images, masks = torch.rand(3, 64, 64, 3), torch.ones(3, 64, 64)
    sheet, text = review(from_batches([images[:2], images[2:]], [masks], ["a", "", "c"]), simple_recipe(invert=True, floor=0.25), Grid())
    assert text.splitlines()[0] == "White = learn. 3 masks, recipe: inverted, floor 0.25"
    assert names(text) == ["a", "picture 2", "c"]
    assert text.count("0.0% of pixels; weight mean 0.250") == 3
    assert sheet.dtype == np.uint8
    assert sheet.flags.writeable


def test_the_worst_are_drawn_first_and_only_they_are_loaded(cards: dict[str, object]) -> None:
    loaded: list[str] = []
    masks = {"good": square(30), "white": torch.ones(64, 64), "none": None, "black": torch.zeros(64, 64), "large": square(60)}
    sources = [source(name, mask if mask is None else mask[None], loaded=loaded) for name, mask in masks.items()]
    done: list[tuple[int, int]] = []
    _, text = review(sources, AS_DRAWN, Grid(), shown=3, update=lambda *step: done.append(step))
    assert names(text) == ["black", "white", "large", "none", "good"]
    assert list(cards) == loaded == ["black", "white", "large"]
    assert done == [(step, 8) for step in range(1, 9)]
    loaded.clear()
    _, text = review(sources, AS_DRAWN, Grid(), shown=2, order="as loaded")
    assert names(text) == list(masks)
    assert loaded == ["good", "white"]


def test_the_sheet_tells_its_order_and_that_it_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[list[str]] = []

    def draw(cards: list[np.ndarray], lines: list[str]) -> np.ndarray:
        titles.append(lines)
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(module, "contact_sheet", draw)
    sources = [source(name, square(30)[None]) for name in "abc"]
    review(sources, AS_DRAWN, Grid(), shown=2)
    review(sources, AS_DRAWN, Grid(), order="as loaded")
    assert titles[0][0] == "White = learn, 2 of 3 shown. Recipe: as drawn"
    assert titles[0][1].startswith("worst first: all black, no contrast")
    assert titles[1] == ["White = learn. Recipe: as drawn"]


def test_what_is_drawn_is_what_reaches_the_loss(cards: dict[str, tuple[list[Frame], int, MaskStatistics]]) -> None:
    """Cut to whole cells, then the recipe with the item's name, then the mean of each cell: as host.examples has it."""
    mask_HW = torch.rand(70, 83, generator=torch.Generator().manual_seed(0))
    recipe = MaskRecipe((Invert(), Blobs(seed=3), Floor(0.1)))
    picture = torch.rand(1, 70, 83, 3)
    review([Source("cat", lambda: mask_HW[None], lambda: picture, "cat")], recipe, Grid(16))
    (frame,), _, numbers = cards["cat"]
    weight_1HW = apply_recipe(mask_HW[None, 3:67, 1:81], recipe, ["cat"])
    assert torch.equal(frame.weight_HW, weight_1HW[0])
    assert torch.equal(frame.cells_hw, latent_weight(weight_1HW, (4, 5))[0, 0])
    assert torch.equal(frame.image_HWC, picture[0, 3:67, 1:81])
    assert numbers.mean == pytest.approx(weight_1HW.double().mean().item(), abs=1e-9)
    assert not torch.equal(weight_1HW, apply_recipe(mask_HW[None, 3:67, 1:81], recipe))  # the name does decide


def test_a_clip_is_drawn_with_the_latent_frame_of_each_frame(cards: dict[str, tuple[list[Frame], int, MaskStatistics]]) -> None:
    clip_THW = torch.rand(19, 64, 64, generator=torch.Generator().manual_seed(0))  # the VAE takes 17
    review([source("clip", clip_THW, frames=19)], AS_DRAWN, Grid(8, video))
    frames, count, numbers = cards["clip"]
    cells_Thw = clip_weight(clip_THW[:17], 17, (5, 8, 8))[0]
    assert [frame.number for frame in frames] == [1, 6, 12, 17]
    assert count == 19
    for frame, pixel_frame, latent_frame in zip(frames, (0, 5, 11, 16), (0, 2, 3, 4), strict=True):
        assert torch.equal(frame.weight_HW, clip_THW[pixel_frame])
        assert torch.equal(frame.cells_hw, cells_Thw[latent_frame])
    assert numbers.mean == pytest.approx(clip_THW[:17].double().mean().item(), abs=1e-9)
    assert sum(numbers.histogram) == 5 * 64


def test_one_mask_for_a_clip_and_none_at_all(cards: dict[str, tuple[list[Frame], int, MaskStatistics]]) -> None:
    _, text = review([source("one", square(32)[None], frames=9), source("none", None, frames=9)], MaskRecipe((Invert(),)), Grid(8, video))
    assert [frame.weight_HW.mean().item() for frame in cards["one"][0]] == [0.75] * 4
    assert [frame.cells_hw.min().item() for frame in cards["none"][0]] == [1] * 4  # learned everywhere, whatever the recipe says
    assert "none: white (learn): 100.0% of pixels" in text
    assert "no mask: learned everywhere" in text


def test_the_cell_size_decides_the_grid(cards: dict[str, tuple[list[Frame], int, MaskStatistics]]) -> None:
    shapes = []
    for cell in (8, 16):
        review([source("a", square(32)[None])], AS_DRAWN, Grid(cell))
        shapes.append(tuple(cards["a"][0][0].cells_hw.shape))
    assert shapes == [(8, 8), (4, 4)]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="2 pictures but 1 masks"):
        from_batches([torch.rand(2, 32, 32, 3)], [torch.ones(1, 32, 32)])
    with pytest.raises(ValueError, match="1 names for 2 pictures"):
        from_batches([torch.rand(2, 32, 32, 3)], [torch.ones(2, 32, 32)], ["a"])
    with pytest.raises(ValueError, match="cat: picture is 32x16, mask is 64x64"):
        from_batches([torch.zeros(1, 16, 32, 3)], [torch.zeros(1, 64, 64)], ["cat"])
    with pytest.raises(ValueError, match="a is 4x4 pixels, less than the 8 of one latent cell"):
        review([source("a", torch.ones(1, 4, 4), size=4)], AS_DRAWN, Grid())
    with pytest.raises(ValueError, match="a: picture is 64x64, mask is 32x32"):
        review([source("a", torch.ones(1, 32, 32))], AS_DRAWN, Grid())
    with pytest.raises(ValueError, match="no pictures to show"):
        review([], AS_DRAWN, Grid())
    with pytest.raises(ValueError, match="shown is 0"):
        review([source("a", torch.ones(1, 64, 64))], AS_DRAWN, Grid(), shown=0)
    with pytest.raises(ValueError, match="order is 'best first'"):
        review([source("a", torch.ones(1, 64, 64))], AS_DRAWN, Grid(), order="best first")


def test_long_text_is_cut_for_the_page() -> None:
    lines = [f"line {number}" for number in range(250)]
    assert first_lines("\n".join(lines[:100])) == "\n".join(lines[:100])
    assert first_lines("\n".join(lines)).splitlines() == [*lines[:100], "and 150 more lines in the text output"]
