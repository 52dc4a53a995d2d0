"""The comparison grid: every picture in its place, labels in theirs."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.masks.canvas import BACKGROUND
from pack.masks.comparison import GAP, comparison_grid
from torch import Tensor


def colours(*values: tuple[float, float, float], side: int = 256) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 3).expand(-1, side, side, 3)


RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_each_picture_has_its_place() -> None:
    grid = comparison_grid([colours(RED, GREEN), colours(BLUE)])
    assert grid.shape == (2 * 256 + 3 * GAP, 2 * 256 + 3 * GAP, 3)
    near, far = GAP + 128, 2 * GAP + 256 + 128
    assert grid[near, near].tolist() == [255, 0, 0]
    assert grid[near, far].tolist() == [0, 255, 0]
    assert grid[far, near].tolist() == [0, 0, 255]
    assert grid[far, far].tolist() == list(BACKGROUND)


def test_small_pictures_are_enlarged_by_a_whole_factor_and_large_ones_are_kept() -> None:
    assert comparison_grid([colours(RED, side=128)]).shape[0] == 256 + 2 * GAP
    assert comparison_grid([colours(RED, side=100)]).shape[0] == 300 + 2 * GAP
    picture_BHWC = torch.rand(1, 300, 320, 3)
    grid = comparison_grid([picture_BHWC])
    assert np.array_equal(grid[GAP:-GAP, GAP:-GAP], (picture_BHWC[0] * 255).round().byte().numpy())


def test_pictures_of_other_sizes_are_centred_without_distortion() -> None:
    grid = comparison_grid([colours(RED, side=400), colours(GREEN, side=200)])
    green = np.argwhere((grid == [0, 255, 0]).all(axis=-1))
    assert (green.min(axis=0) == [2 * GAP + 400 + 100, GAP + 100]).all()
    assert len(green) == 200 * 200


def test_labels_stand_beside_their_rows_and_columns() -> None:
    rows = [colours(RED, GREEN), colours(BLUE, RED)]
    plain, labelled = comparison_grid(rows), comparison_grid(rows, ["", "second row"], ["", "right"])
    strip, head = labelled.shape[1] - plain.shape[1], labelled.shape[0] - plain.shape[0]
    assert strip > 60
    assert head > 15
    assert np.array_equal(labelled[head:, strip:], plain)
    text = (labelled.max(axis=-1) > 100)
    assert not text[: head + GAP + 256, :strip].any()
    assert text[head + 2 * GAP + 256:, :strip].any()
    assert not text[:head, : strip + GAP + 256].any()
    assert text[:head, strip + GAP + 256:].any()


def test_long_labels_are_wrapped_and_leave_the_pictures_alone() -> None:
    labels, columns = ["a label that is much longer than its strip is wide"], ["and a column label to match, too"]
    grid = comparison_grid([colours(RED)], labels, columns)
    red = np.argwhere((grid == [255, 0, 0]).all(axis=-1))
    assert len(red) == 256 * 256
    assert grid.shape[1] < 2 * 256
    written = (grid[-256 - GAP:, : grid.shape[1] - 256 - GAP].max(axis=-1) > 100)
    lines = np.flatnonzero(np.diff(written.any(axis=1).astype(int)) == 1)
    assert len(lines) >= 3
    assert not written[:, 0].any()


def test_labels_that_would_be_lost_are_refused() -> None:
    with pytest.raises(ValueError, match="2 row labels for 1 rows, 'b' would be lost"):
        comparison_grid([colours(RED)], ["a", "b"])
    with pytest.raises(ValueError, match="2 column labels for 1 columns"):
        comparison_grid([colours(RED)], [], ["a", "b"])
    with pytest.raises(ValueError, match="no pictures"):
        comparison_grid([])
