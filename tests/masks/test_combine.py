"""Several masks become one, each formula beside numpy."""
from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from pack.masks.combine import combine_masks, read_weights_in_order
from skimage import data
from torch import Tensor

WEIGHTS = (1.0, 0.6, 0.25)


def photographs() -> list[np.ndarray]:
    """Three real pictures as grey masks."""
    return [picture[100:160, 100:180].astype(np.float64) / 255 for picture in (data.camera(), data.coins(), data.moon())]


def named(masks: list[np.ndarray]) -> dict[str, Tensor]:
    return {f"mask{i}": torch.from_numpy(mask)[None] for i, mask in enumerate(masks)}


@pytest.mark.parametrize("weights", [(), WEIGHTS, (0.5,), (0.0, 1.0, 0.5)])
@pytest.mark.parametrize("how", ["max", "add", "multiply", "replace"])
def test_formulas(how: str, weights: tuple[float, ...]) -> None:
    masks = photographs()
    a = [*weights, 1.0, 1.0, 1.0][:3]
    expected = {
        "max": lambda: np.maximum.reduce([w * m for w, m in zip(a, masks, strict=True)]),
        "add": lambda: np.minimum(sum(w * m for w, m in zip(a, masks, strict=True)), 1),
        "multiply": lambda: np.prod([(1 - w) + w * m for w, m in zip(a, masks, strict=True)], axis=0),
        "replace": lambda: reduce(lambda below, top: below * (1 - top[1]) + top[0] * top[1], zip(a[1:], masks[1:], strict=True),
                                  a[0] * masks[0]),
    }[how]()
    result = combine_masks(named(masks), how, weights)  # type: ignore[arg-type]
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-6)


def test_a_later_mask_covers_earlier_ones() -> None:
    body, face = torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)
    body[..., :3], face[..., 2:] = 1, 1
    assert combine_masks({"body": body, "face": face}, "replace", [0.9, 0.2]).tolist() == [[pytest.approx([0.9, 0.9, 0.2, 0.2])]]


def test_people_times_one_person() -> None:
    people = torch.tensor([[[1.0, 0.502, 0.0, 1.0]]])
    person = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    assert combine_masks({"a": people, "b": person}, "multiply").tolist() == [[pytest.approx([1, 0.502, 0, 0])]]


@pytest.mark.parametrize("how", ["max", "add", "multiply", "replace"])
def test_white_and_black_stay_exact_and_inputs_stay(how: str) -> None:
    ones, zeros = torch.ones(1, 3, 3), torch.zeros(1, 3, 3)
    kept = [ones.clone(), zeros.clone()]
    assert torch.equal(combine_masks({"a": ones, "b": ones}, how), ones)  # type: ignore[arg-type]
    assert torch.equal(combine_masks({"a": zeros, "b": zeros}, how), zeros)  # type: ignore[arg-type]
    single = combine_masks({"a": ones}, how)  # type: ignore[arg-type]
    single.zero_()
    assert torch.equal(ones, kept[0])
    assert torch.equal(zeros, kept[1])


def test_weights_outside_0_to_1_are_clamped_and_the_input_stays() -> None:
    mask = torch.tensor([[[-0.5, 0.25, 1.5]]])
    for how in ("max", "add", "multiply", "replace"):
        assert combine_masks({"a": mask, "b": mask}, how, [1, 0])[0, 0, 0].item() == 0  # type: ignore[arg-type]
    assert combine_masks({"a": mask}, "max").tolist() == [[[0, 0.25, 1]]]
    assert mask.tolist() == [[[-0.5, 0.25, 1.5]]]


def test_one_mask_serves_a_batch_in_any_place() -> None:
    batch = torch.rand(3, 4, 5)
    one = torch.full((1, 4, 5), 0.5)
    expected = torch.stack([mask.clamp(min=0.5) for mask in batch])
    assert torch.equal(combine_masks({"a": batch, "b": one}, "max"), expected)
    assert torch.equal(combine_masks({"a": one, "b": batch}, "max"), expected)


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        ({"mask0": torch.zeros(1, 8, 4), "mask1": torch.zeros(1, 8, 6)}, r"mask 'mask0' is 4x8, mask 'mask1' is 6x8"),
        ({"mask0": torch.zeros(2, 8, 4), "mask1": torch.zeros(3, 8, 4)}, r"mask 'mask0' is a batch of 2, another of 3"),
        ({"mask0": torch.zeros(8, 4)}, r"mask 'mask0' has shape \(8, 4\)"),
        ({"mask0": torch.zeros(1, 8, 4), "mask1": torch.full((1, 8, 4), float("nan"))}, r"mask 'mask1' holds NaN"),
        ({}, "no mask to combine"),
    ],
)
def test_masks_that_do_not_fit_are_named(masks: dict[str, Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        combine_masks(masks, "max")


def test_wrong_weights_and_words_are_named() -> None:
    masks = {"a": torch.zeros(1, 2, 2)}
    with pytest.raises(ValueError, match="2 weights for 1 masks"):
        combine_masks(masks, "max", [1, 1])
    with pytest.raises(ValueError, match=r"a weight is 1.5"):
        combine_masks(masks, "max", [1.5])
    with pytest.raises(ValueError, match="a weight is nan"):
        combine_masks(masks, "max", [float("nan")])
    with pytest.raises(ValueError, match="how is 'xor'"):
        combine_masks(masks, "xor")  # type: ignore[arg-type]


def test_weights_are_read_line_by_line() -> None:
    assert read_weights_in_order("0.5\n\n 1\n") == [0.5, 1.0, 1.0]
    assert read_weights_in_order("") == []
    with pytest.raises(ValueError, match="line 2 of the weights is 'half'"):
        read_weights_in_order("1\nhalf")
