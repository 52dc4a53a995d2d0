"""What every segmenter takes: pictures as bytes, and boxes as ComfyUI has them."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.segmentation.boxes import Box, read_boxes
from pack.segmentation.segmenter import to_bytes
from PIL import Image

BOX = {"x": 1, "y": 2.5, "width": 3, "height": 4}


def test_bytes_are_those_of_the_file() -> None:
    """ComfyUI divides the bytes of a file by 255."""
    picture_HWC = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image_HWC = torch.from_numpy(np.asarray(Image.fromarray(picture_HWC)).astype(np.float32) / 255.0)
    assert np.array_equal(to_bytes(image_HWC), picture_HWC)


def test_values_beyond_white_and_black_are_cut_and_opacity_is_left_out() -> None:
    image_HWC = torch.tensor([[[-0.5, 1.5, 0.5, 0.0]]])
    assert to_bytes(image_HWC).tolist() == [[[0, 255, 128]]]


def test_grey_pictures_of_one_channel_get_three() -> None:
    assert to_bytes(torch.full((2, 3, 1), 0.2)).tolist() == [[[51] * 3] * 3] * 2


@pytest.mark.parametrize(("value", "pictures", "expected"), [
    (BOX, 1, [1]), (BOX, 2, [1, 1]), ([BOX, BOX], 1, [2]), ([BOX, BOX], 3, [2, 2, 2]), ([[BOX], []], 2, [1, 0]), ([[BOX, BOX]], 2, [2, 2]),
    ([], 2, [0, 0]), ([[]], 1, [0]),
])
def test_boxes_of_every_form_that_core_uses(value: object, pictures: int, expected: list[int]) -> None:
    found = read_boxes(value, pictures)
    assert [len(boxes) for boxes in found] == expected
    assert all(box == Box(1, 2.5, 3, 4) for boxes in found for box in boxes)


def test_labels_and_scores_are_kept_and_written_again() -> None:
    given = BOX | {"label": "face", "score": 0.75}
    [[box]] = read_boxes(given, 1)
    assert box.to_dict() == given
    assert box.corners == (1, 2.5, 4, 6.5)


@pytest.mark.parametrize(("value", "pictures", "says"), [
    ("face", 1, "connect a BOUNDING_BOX"), (None, 1, "connect a BOUNDING_BOX"), ([[BOX], [BOX]], 3, "boxes for 2 pictures, but 3"),
    ([{"x": 1}], 1, "needs numbers x, y, width and height"), ([[BOX | {"x": "left"}]], 1, "needs numbers"), ([[7]], 1, "needs numbers"),
])
def test_what_is_no_box_is_said(value: object, pictures: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_boxes(value, pictures)
