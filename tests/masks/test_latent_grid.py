"""Area averaging onto the latent grid."""
from __future__ import annotations

import pytest
import torch
from pack.masks.latent_grid import latent_weight


def test_area_average_of_five_white_columns() -> None:
    mask_BHW = torch.zeros(1, 16, 16)
    mask_BHW[..., :5] = 1
    assert torch.equal(latent_weight(mask_BHW, (2, 2)), torch.tensor([[[[0.625, 0.0], [0.625, 0.0]]]]))


def test_rows_come_before_columns() -> None:
    mask_BHW = torch.zeros(1, 16, 32)
    mask_BHW[:, :8] = 1
    weight_B1HW = latent_weight(mask_BHW, (2, 4))
    assert torch.equal(weight_B1HW[0, 0], torch.tensor([[1.0] * 4, [0.0] * 4]))


@pytest.mark.parametrize("column", range(1, 16))
def test_no_step_edge_leaves_zero_to_one_or_loses_area(column: int) -> None:
    mask_BHW = torch.zeros(1, 16, 16)
    mask_BHW[..., column:] = 1
    weight_B1HW = latent_weight(mask_BHW, (2, 2))
    assert 0 <= weight_B1HW.min() <= weight_B1HW.max() <= 1
    assert weight_B1HW.mean().item() == pytest.approx((16 - column) / 16, abs=1e-7)


def test_values_outside_are_clamped_and_half_precision_is_averaged_in_float32() -> None:
    assert latent_weight(torch.full((1, 8, 8), 1.5), (1, 1)).item() == 1
    ones = latent_weight(torch.ones(1, 512, 512, dtype=torch.float16), (1, 1))  # a float16 sum would overflow
    assert ones.dtype == torch.float32
    assert ones.item() == 1


@pytest.mark.parametrize(("shape", "size"), [((8, 8), (1, 1)), ((1, 1, 8, 8), (1, 1)), ((1, 8, 8), (0, 1))])
def test_wrong_shapes_are_refused(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="shape|latent size"):
        latent_weight(torch.ones(shape), size)
