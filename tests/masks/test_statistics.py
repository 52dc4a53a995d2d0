"""Numbers and remarks about masks, against counts written out in numpy, and the order in which a person should look."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.dataset.preflight import looks_inverted
from pack.masks.latent_grid import latent_weight
from pack.masks.statistics import BINS, NO_MASK, MaskStatistics, inverted_by, statistics, summary, worst_first
from torch import Tensor


def measure(mask_HW: Tensor | np.ndarray, cell: int = 8) -> MaskStatistics:
    mask_1HW = torch.as_tensor(np.asarray(mask_HW), dtype=torch.float32)[None]
    return statistics(mask_1HW, latent_weight(mask_1HW, (mask_1HW.shape[1] // cell, mask_1HW.shape[2] // cell))[:, 0])


def disc(side: int = 128, radius: float = 0.3) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side - 0.5
    return (x**2 + y**2 < radius**2).astype(np.float32)


def hairs(side: int = 128) -> np.ndarray:
    """A disc with vertical lines of one pixel beside it."""
    mask = disc(side, 0.1)
    mask[20:108, [4, 20, 36, 92, 108, 124]] = 1
    return mask


def kinds(numbers: MaskStatistics) -> list[str]:
    return [remark.kind for remark in numbers.remarks()]


def test_numbers_of_a_small_mask() -> None:
    found = measure(torch.tensor([[0.0, 0.5], [0.75, 1.0]]), cell=1)
    assert (found.coverage, found.minimum, found.mean, found.maximum) == (0.5, 0.0, 0.5625, 1.0)  # 0.5 itself is not white


def test_numbers_of_a_grey_mask_match_numpy() -> None:
    mask = (np.random.default_rng(0).random((64, 96)) ** np.linspace(0.3, 3, 96)).astype(np.float32)
    found = measure(mask)
    cells = mask.reshape(8, 8, 12, 8).mean((1, 3))
    assert found.coverage == pytest.approx((mask > 0.5).mean(), abs=1e-12)
    assert found.mean == pytest.approx(mask.astype(np.float64).mean(), abs=1e-9)
    assert (found.minimum, found.maximum) == (mask.min(), mask.max())
    assert found.histogram == tuple(np.histogram(cells, BINS, (0, 1))[0])
    lost = sum((mask[8 * r:8 * r + 8, 8 * c:8 * c + 8] >= 0.5).sum() for r in range(8) for c in range(12) if cells[r, c] < 0.5 - 1 / 255)
    assert found.lost == pytest.approx(lost / (mask >= 0.5).sum(), abs=1e-9)
    assert 0.2 < found.lost < 0.8


def test_the_ends_of_the_histogram() -> None:
    assert measure(np.ones((16, 16))).histogram == (*[0] * 19, 4)
    assert measure(np.zeros((16, 16))).histogram == (4, *[0] * 19)


def test_a_clip_counts_all_its_frames() -> None:
    clip_THW = torch.stack([torch.ones(16, 16), torch.zeros(16, 16), torch.zeros(16, 16), torch.zeros(16, 16)])
    found = statistics(clip_THW, latent_weight(clip_THW, (2, 2))[:, 0])
    assert (found.coverage, found.mean) == (0.25, 0.25)
    assert sum(found.histogram) == 16


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\).*give frames, height, width"):
        statistics(torch.ones(4, 4), torch.ones(1, 1, 1))


@pytest.mark.parametrize(
    ("mask", "kind"),
    [(np.zeros((128, 128)), ["all black"]), (np.ones((128, 128)), ["no contrast"]), (np.full((128, 128), 0.25), ["no contrast"]),
     (1 - disc(), ["looks inverted", "over 50% white"]), (disc(radius=0.05), ["under 1% white", "thin details lost"]),
     (disc(radius=0.45), ["over 50% white"]),
     (hairs(), ["thin details lost"]), (disc(), [])])
def test_what_is_remarked_on(mask: np.ndarray, kind: list[str]) -> None:
    assert kinds(measure(mask)) == kind


def test_remarks_tell_the_number() -> None:
    assert "nothing is learned" in measure(np.zeros((64, 64))).remarks()[0].text
    assert "weight 0.25" in measure(np.full((64, 64), 0.25)).remarks()[0].text
    numbers = measure(hairs())
    assert f"{numbers.lost:.1%}" in numbers.remarks()[0].text
    assert NO_MASK.remarks()[0].text == "no mask: learned everywhere"


def test_how_much_a_mask_looks_inverted_by_hand() -> None:
    frame = np.ones((100, 100), np.float32)
    frame[8:92, 8:92] = 0.25
    assert inverted_by(torch.from_numpy(frame)[None]) == 0.75
    assert inverted_by(torch.from_numpy(1 - frame)[None]) == 0
    frame[:, :4] = 0  # three white sides are enough: the upper and the lower one keep 96 of 100
    assert inverted_by(torch.from_numpy(frame)[None]) == pytest.approx(0.71)
    frame[:4] = 0
    assert inverted_by(torch.from_numpy(frame)[None]) == 0
    assert inverted_by(torch.ones(1, 100, 100)) == 0


def test_preview_and_folder_check_call_the_same_masks_inverted() -> None:
    random = np.random.default_rng(0)
    masks = [(1 - disc(96, random.uniform(0.2, 0.5))) * random.uniform(0.7, 1) for _ in range(200)]
    masks = [np.roll(mask, random.integers(-20, 20, 2), (0, 1)) for mask in masks]
    said = [looks_inverted(mask) for mask in masks]
    assert [inverted_by(torch.from_numpy(mask)[None]) > 0 for mask in masks] == said
    assert 20 < sum(said) < 180


def test_worst_first() -> None:
    masks = {
        "good": disc(), "lines": hairs(), "large": disc(radius=0.45), "larger": disc(radius=0.49), "tiny": disc(radius=0.05),
        "tinier": disc(radius=0.03), "inverted": 1 - disc(), "white": np.ones((128, 128)), "black": np.zeros((128, 128)),
        "also good": disc(radius=0.2)}
    found = {name: measure(mask) for name, mask in masks.items()} | {"none": NO_MASK}
    names = list(found)
    order = [names[index] for index in worst_first(list(found.values()))]
    assert order[:9] == ["black", "white", "inverted", "tinier", "tiny", "larger", "large", "lines", "none"]
    assert order[9:] == sorted(["good", "also good"], key=lambda name: -found[name].lost)
    assert worst_first([found["good"]] * 3) == [0, 1, 2]  # equal ones keep their order


def test_the_summary_counts_what_it_says() -> None:
    found = [measure(np.repeat(np.arange(128)[None] < share * 128, 128, 0)) for share in (0.0625, 0.25, 0.25, 1)] + [NO_MASK]
    lines = summary(found, "as drawn")
    assert lines[0] == "White = learn. 4 masks, 1 without a mask (learned everywhere), recipe: as drawn"
    assert "on average 39.1% of the pixels" in lines[1]  # the picture without a mask does not count
    assert "masks by share 0-10%: 1, 20-30%: 2, 90-100%: 1" in lines[1]
    assert lines[2] == "To look at: no contrast: 1"
    assert summary([NO_MASK], "as drawn") == ["White = learn. 0 masks, 1 without a mask (learned everywhere), recipe: as drawn"]
