"""Area averaging onto the latent grid, of pictures and of clips."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.masks.latent_grid import clip_weight, latent_weight


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


def moving_bar(frames: int, height: int = 16, width: int = 24, seed: int = 3) -> np.ndarray:
    """Masks of which no two frames and no two cells are alike: a white bar that moves over noise."""
    mask_THW = np.random.default_rng(seed).random((frames, height, width), dtype=np.float32) * 0.5
    for t in range(frames):
        mask_THW[t, :, t % width: t % width + 5] = 1
    return mask_THW


def box_means(mask_THW: np.ndarray, groups: list[list[int]], cell: int) -> np.ndarray:
    """(T', rows, columns) from the definition: the mean over every frame and pixel of a cell."""
    rows, columns = mask_THW.shape[1] // cell, mask_THW.shape[2] // cell
    means = np.zeros((len(groups), rows, columns))
    for k, group in enumerate(groups):
        for row in range(rows):
            for column in range(columns):
                values = [mask_THW[t, row * cell + y, column * cell + x] for t in group for y in range(cell) for x in range(cell)]
                means[k, row, column] = sum(map(float, values)) / len(values)
    return means


@pytest.mark.parametrize(
    ("frames", "groups"),
    [
        (1, [[0]]),
        (5, [[0], [1, 2, 3, 4]]),  # WAN, HunyuanVideo, CogVideoX: every 4
        (9, [[0], [1, 2, 3, 4], [5, 6, 7, 8]]),
        (9, [[0], [1, 2, 3, 4, 5, 6, 7, 8]]),  # LTX-Video, Cosmos: every 8
        (13, [[0], [1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]),  # Mochi: every 6
        (5, [[0], [1, 2], [3, 4]]),
        (8, [[0, 1, 2, 3], [4, 5, 6, 7]]),  # no first frame of its own; 1 + 7 would also add up
        (6, [[0, 1], [2, 3], [4, 5]]),
        (4, [[0, 1, 2, 3]]),
        (3, [[0], [1], [2]]),
    ],
)
def test_frames_of_a_latent_frame_are_averaged(frames: int, groups: list[list[int]]) -> None:
    mask_THW = moving_bar(frames)
    weight_1THW = clip_weight(torch.from_numpy(mask_THW), frames, (len(groups), 2, 3))
    assert weight_1THW.shape == (1, len(groups), 2, 3)
    assert weight_1THW.dtype == torch.float32
    np.testing.assert_allclose(weight_1THW[0].numpy(), box_means(mask_THW, groups, 8), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 9, 10])
def test_one_mask_counts_for_every_latent_frame(frames: int) -> None:
    mask_1HW = torch.from_numpy(moving_bar(1))
    weight_1THW = clip_weight(mask_1HW, frames, (3, 2, 3))
    assert weight_1THW.shape == (1, 3, 2, 3)
    for latent_frame in weight_1THW[0]:
        assert torch.equal(latent_frame, latent_weight(mask_1HW, (2, 3))[0, 0])


def test_a_still_is_weighed_like_a_picture() -> None:
    mask_1HW = torch.from_numpy(moving_bar(1))
    assert torch.equal(clip_weight(mask_1HW, 1, (1, 2, 3)), latent_weight(mask_1HW, (2, 3)))


def test_clip_values_outside_are_clamped_and_half_precision_is_averaged_in_float32() -> None:
    assert clip_weight(torch.full((5, 8, 8), 1.5), 5, (2, 1, 1)).max().item() == 1
    ones = clip_weight(torch.ones(9, 512, 512, dtype=torch.float16), 9, (3, 1, 1))
    assert ones.dtype == torch.float32
    assert ones.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("frames", "cells"),
    [(22, 7), (39, 12),  # MiniMax H3: 17 k + 5 frames to 5 k + 2
     (6, 4), (10, 4), (7, 5), (2, 3), (5, 6)],
)
def test_unequal_shares_of_frames_are_refused_with_the_numbers(frames: int, cells: int) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames became {cells} latent frames.*one mask for the whole clip"):
        clip_weight(torch.ones(frames, 8, 8), frames, (cells, 1, 1))


@pytest.mark.parametrize("masks", [2, 4, 6])
def test_another_number_of_masks_is_refused(masks: int) -> None:
    with pytest.raises(ValueError, match=f"has 5 frames and its mask {masks}; give one mask"):
        clip_weight(torch.ones(masks, 8, 8), 5, (2, 1, 1))


@pytest.mark.parametrize(("shape", "size"), [((8, 8), (1, 1, 1)), ((1, 5, 8, 8), (2, 1, 1)), ((1, 8, 8), (1, 1)), ((1, 8, 8), (0, 1, 1))])
def test_wrong_clip_shapes_are_refused(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape|latent size"):
        clip_weight(torch.ones(shape), 5, size)
