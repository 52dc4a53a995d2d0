"""Face, hair, body and clothing of painted people: absent groups, boxes, one person of several, faces without necks."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pack.host.mask_plan import MaskPlan, Part
from pack.segmentation.body_parser import BodyParser
from pack.segmentation.body_parts import MEAN_COLOUR, BodyParts, FixedBoxes, crop_around, margins
from pack.segmentation.body_tables import SAPIENS1
from pack.segmentation.boxes import Box
from pack.tests.segmentation.tiny_body import Colours, noise, paint
from torch import Tensor
from torch.nn import functional as F

FACE, HAIR, TORSO, SHIRT = 2, 3, 21, 22  # ids of Sapiens 1
WEIGHTS = {"face": 1.0, "hair": 80 / 255, "body": 128 / 255, "clothing": 128 / 255, "background": 0.0}


@dataclass(eq=False)
class Ready:
    """A parser that reads 128 x 96 pixels; `seen` are the sizes (H, W) of what it was given."""

    seen: list[tuple[int, ...]] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)

    def __call__(self) -> BodyParser:
        module = Colours(28, (128, 96))
        mean, std = torch.tensor([123.5, 116.5, 103.5]), torch.tensor([58.5, 57.0, 57.5])

        def prepare(picture_HWC: Tensor) -> Tensor:
            self.seen.append(tuple(picture_HWC.shape[:2]))
            self.pictures.append(picture_HWC)
            pixels = F.interpolate(((picture_HWC - mean) / std).permute(2, 0, 1)[None], (128, 96), mode="nearest-exact")
            return pixels[0]

        return BodyParser("painted", SAPIENS1, module, prepare, module, 0.75)


@dataclass(frozen=True)
class Fixed:
    """A parser that gives chosen shares for each picture."""

    shares: list[dict[str, Tensor]]
    aspect: float = 0.75
    at_once: int = 2

    def group_shares(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        assert 0 < len(pictures) <= self.at_once
        found = [self.shares.pop(0) for _ in pictures]
        assert [set(share.shape for share in one.values()) for one in found] == [{picture.shape[:2]} for picture in pictures]
        return found


@dataclass(frozen=True)
class Shown:
    """A segmenter that finds given masks."""

    masks: Mapping[str, Tensor]
    name: str = "shown"
    exclusive: bool = False

    def describe(self) -> dict[str, object]:
        return {"shown": sorted(self.masks)}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Mapping[str, Tensor]:
        return self.masks


def parts(ready: Ready | None = None, **settings: Any) -> BodyParts:
    return BodyParts(ready or Ready(), "painted", **settings)


def person(left: int, top: int, unit: int) -> list[tuple[int, int, int, int, int]]:
    """Hair, face with neck, shirt, torso, one below the other, each `unit` high and 2 `unit` wide."""
    return [(number, left, top + row * unit, left + 2 * unit, top + (row + 1) * unit)
            for row, number in enumerate((HAIR, FACE, SHIRT, TORSO))]


def rectangle(height: int, width: int, left: int, top: int, right: int, bottom: int) -> Tensor:
    mask_HW = torch.zeros(height, width)
    mask_HW[top:bottom, left:right] = 1
    return mask_HW


def iou(first_HW: Tensor, second_HW: Tensor) -> float:
    first, second = first_HW >= 0.5, second_HW >= 0.5
    return float((first & second).sum() / (first | second).sum())


def test_one_person_becomes_the_weights_of_the_preset() -> None:
    picture_HWC = paint(240, 180, *person(50, 40, 40))
    regions = parts().segment(picture_HWC)
    assert list(regions) == ["face", "hair", "body", "clothing"]
    for row, group in enumerate(("hair", "face", "clothing", "body")):
        assert iou(regions[group], rectangle(240, 180, 50, 40 + 40 * row, 130, 80 + 40 * row)) > 0.85
    assert torch.stack(list(regions.values())).sum(0).max() <= 1 + 1e-5
    made = MaskPlan((Part(parts(), WEIGHTS),)).make(picture_HWC)
    assert made.weight_HW is not None
    assert [round(255 * made.weight_HW[y, 90].item()) for y in (60, 100, 140, 180, 220)] == [80, 255, 128, 128, 0]


def test_what_is_not_there_is_absent_and_not_black() -> None:
    assert parts().segment(torch.zeros(100, 80, 3, dtype=torch.uint8)) == {}
    no_face = parts().segment(paint(240, 180, *[row for row in person(50, 40, 40) if row[0] != FACE]))
    assert list(no_face) == ["hair", "body", "clothing"]
    made = MaskPlan((Part(parts(), WEIGHTS),)).make(paint(240, 180, *[row for row in person(50, 40, 40) if row[0] != FACE]))
    assert made.missing == ("face",)
    assert MaskPlan((Part(parts(), WEIGHTS),)).make(torch.zeros(100, 80, 3, dtype=torch.uint8)).weight_HW is None


def test_a_speck_does_not_count_as_found() -> None:
    """One of 20000 pixels of what is parsed must be there: 50 of 1000 x 1000. A cell of the network is 10 x 8 = 80 pixels."""
    shirt = (SHIRT, 300, 300, 600, 900)
    assert list(parts().segment(paint(1000, 1000, shirt, (FACE, 800, 800, 840, 840)))) == ["face", "clothing"]
    speck_HW = torch.zeros(1000, 1000)
    for pixels, found in ((49, []), (50, ["face"])):
        speck_HW.view(-1)[:pixels] = 0.5
        shares = {"face": speck_HW, "hair": torch.full((1000, 1000), 0.49)}
        assert list(BodyParts(lambda shares=shares: Fixed([shares]), "fixed").segment(noise(1000, 1000))) == found


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (3, 3), (2, 50)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    face = parts().segment(paint(*size, (FACE, 0, 0, size[1], size[0])))
    assert {name: mask.shape for name, mask in face.items()} == {"face": size}
    assert parts().segment(torch.zeros(*size, 3, dtype=torch.uint8)) == {}
    parts(boxes=FixedBoxes((Box(0, 0, 1, 1),))).segment(noise(*size))


def test_small_people_need_boxes() -> None:
    """Two people 10 pixels wide in a picture of 1200 x 300: less than one cell of the network's."""
    picture_HWC = paint(300, 1200, *person(100, 100, 5), *person(900, 120, 5))
    faces = [rectangle(300, 1200, 100, 105, 110, 110), rectangle(300, 1200, 900, 125, 910, 130)]
    expected_HW = torch.stack(faces).amax(0)
    boxes = FixedBoxes((Box(100, 100, 10, 20), Box(900, 120, 10, 20)))
    ready = Ready()
    found = parts(ready, boxes=boxes).segment(picture_HWC)
    assert ready.seen == [(26, 20), (26, 20)]  # 20 x 1.25 = 25, and 3/4 of that; both ends of a crop cut through pixels
    assert iou(found["face"], expected_HW) > 0.9
    assert iou(parts().segment(picture_HWC).get("face", torch.zeros(300, 1200)), expected_HW) < 0.7
    one = parts(boxes=FixedBoxes(boxes.boxes[:1])).segment(picture_HWC)
    assert iou(one["face"], faces[0]) > 0.9


def test_overlapping_crops_merge_by_the_greatest_and_share_each_pixel() -> None:
    """Crops of (0, 0) to (15, 20) and (5, 0) to (20, 20); columns 5 to 14 lie in both."""
    boxes = FixedBoxes((Box(1.5, 2, 12, 16), Box(6.5, 2, 12, 16)))
    left = {"face": torch.full((20, 15), 0.9), "hair": torch.full((20, 15), 0.05), "clothing": torch.full((20, 15), 0.05)}
    right = {"face": torch.full((20, 15), 0.2), "body": torch.full((20, 15), 0.6), "clothing": torch.full((20, 15), 0.2)}
    found = BodyParts(lambda: Fixed([left, right]), "fixed", boxes).segment(noise(20, 20))
    assert list(found) == ["face", "body"]  # hair and clothing are nowhere half sure
    for column, face, body in ((2, 0.9, 0.0), (10, 0.9 / 1.5, 0.6 / 1.5), (17, 0.0, 0.6)):
        torch.testing.assert_close(found["face"][:, column], torch.full((20,), face))
        torch.testing.assert_close(found["body"][:, column], torch.full((20,), body))
    surer = {"face": torch.full((20, 15), 0.95), "hair": torch.full((20, 15), 0.02)}
    for shares in ([left, surer], [surer, left]):
        found = BodyParts(lambda shares=shares: Fixed(shares), "fixed", boxes).segment(noise(20, 20))
        torch.testing.assert_close(found["face"][:, 10], torch.full((20,), 0.95))


def test_one_person_of_two() -> None:
    picture_HWC = paint(240, 400, *person(40, 40, 40), *person(260, 40, 40))
    right_HW = rectangle(240, 400, 250, 30, 350, 210)
    ready = Ready()
    regions = parts(ready, person=Shown({"she": right_HW})).segment(picture_HWC)
    assert iou(regions["face"], rectangle(240, 400, 260, 80, 340, 120)) > 0.85
    assert all(mask_HW[:, :250].max() == 0 for mask_HW in regions.values())
    assert ready.seen == [(226, 170)]  # the crop goes around the person: 180 x 1.25, and 3/4 of that
    for nobody in ({}, {"she": torch.zeros(240, 400)}):
        assert parts(person=Shown(nobody)).segment(picture_HWC) == {}
    assert parts(person=Shown({"wall": rectangle(240, 400, 150, 0, 240, 240)})).segment(picture_HWC) == {}


def test_a_face_without_its_neck() -> None:
    picture_HWC = paint(240, 180, *person(50, 40, 40))
    whole = parts().segment(picture_HWC)
    oval_HW = rectangle(240, 180, 40, 60, 140, 100)  # the upper half of the face, and some hair
    split = parts(face_oval=Shown({"oval": oval_HW})).segment(picture_HWC)
    assert iou(split["face"], rectangle(240, 180, 50, 80, 130, 100)) > 0.85
    assert iou(split["body"], torch.maximum(rectangle(240, 180, 50, 100, 130, 120), rectangle(240, 180, 50, 160, 130, 200))) > 0.85
    torch.testing.assert_close(split["hair"], whole["hair"])
    torch.testing.assert_close(torch.stack(list(split.values())).sum(0), torch.stack(list(whole.values())).sum(0))
    none = parts(face_oval=Shown({})).segment(picture_HWC)
    assert list(none) == ["hair", "body", "clothing"]
    torch.testing.assert_close(none["body"], whole["body"] + whole["face"])


def test_crops_have_the_networks_shape_and_stay_inside() -> None:
    assert crop_around(Box(100, 100, 60, 80), 0.75, 1000, 1000) == (92, 90, 168, 190)  # 75 x 100 around (130, 140)
    assert crop_around(Box(100, 100, 90, 40), 0.75, 1000, 1000) == (88, 45, 202, 195)  # wide: the height follows, 112.5 x 150
    assert crop_around(Box(0, 0, 60, 80), 0.75, 50, 1000) == (0, 0, 50, 90)
    for outside in (Box(-50, 0, 40, 40), Box(0, 500, 10, 10), Box(5, 5, 0, 10), Box(5, 5, 10, float("nan"))):
        assert crop_around(outside, 0.75, 100, 100) is None


def test_many_crops_are_parsed_few_at_a_time() -> None:
    """Crops of 15 x 20 side by side, each sure of a face by another share."""
    boxes = FixedBoxes(tuple(Box(16 * number + 1.5, 2, 12, 16) for number in range(5)))
    shares = [{"face": torch.full((20, 15), 0.5 + number / 10)} for number in range(5)]
    found = BodyParts(lambda: Fixed(list(shares)), "fixed", boxes).segment(noise(20, 80))
    torch.testing.assert_close(found["face"][10, 7::16], torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]))


def test_a_crop_that_an_edge_cuts_off_is_filled_up_to_the_networks_shape() -> None:
    assert margins((92, 90, 168, 190), 0.75, 1000, 1000) == (0, 0, 0, 0)
    assert margins((0, 100, 50, 200), 0.75, 1000, 1000) == (25, 0, 0, 0)
    assert margins((950, 100, 1000, 200), 0.75, 1000, 1000) == (0, 25, 0, 0)
    assert margins((100, 0, 175, 60), 0.75, 1000, 1000) == (0, 0, 40, 0)
    assert margins((100, 940, 175, 1000), 0.75, 1000, 1000) == (0, 0, 0, 40)
    assert margins((0, 0, 60, 20), 0.75, 60, 20) == (0, 0, 30, 30)


@pytest.mark.parametrize(("left", "top"), [(0, 60), (120, 60), (60, 0), (60, 80)])
def test_a_person_at_the_pictures_edge_is_not_stretched(left: int, top: int) -> None:
    picture_HWC = paint(240, 200, *person(left, top, 40))
    ready = Ready()
    found = parts(ready, boxes=FixedBoxes((Box(left, top, 80, 160),))).segment(picture_HWC)
    [(rows, columns)] = ready.seen
    assert columns / rows == pytest.approx(0.75, abs=0.01)
    crop = crop_around(Box(left, top, 80, 160), 0.75, 200, 240)
    assert crop is not None
    assert (rows, columns) != (crop[3] - crop[1], crop[2] - crop[0])
    grey = (ready.pictures[0] == torch.tensor(MEAN_COLOUR, dtype=torch.uint8)).all(-1)
    assert int(grey.sum()) == rows * columns - (crop[3] - crop[1]) * (crop[2] - crop[0])
    for row, group in enumerate(("hair", "face", "clothing", "body")):
        assert iou(found[group], rectangle(240, 200, left, top + 40 * row, left + 80, top + 40 * row + 40)) > 0.9


def test_boxes_outside_the_picture_and_no_boxes_mean_the_whole_picture() -> None:
    picture_HWC = paint(240, 180, *person(50, 40, 40))
    whole = parts().segment(picture_HWC)
    for boxes in ((), (Box(500, 500, 10, 10),)):
        found = parts(boxes=FixedBoxes(boxes)).segment(picture_HWC)
        assert all(torch.equal(found[group], whole[group]) for group in whole)


def test_all_that_decides_the_masks_is_described() -> None:
    plans = [parts(), parts(boxes=FixedBoxes((Box(1, 2, 3, 4),))), parts(boxes=FixedBoxes((Box(1, 2, 3, 5),))),
             parts(person=Shown({"a": torch.zeros(1, 1)})), parts(face_oval=Shown({"a": torch.zeros(1, 1)})), BodyParts(Ready(), "other")]
    texts = [json.dumps(plan.describe(), sort_keys=True) for plan in plans]
    assert len(set(texts)) == len(texts)
    assert plans[0].name == "body parts by painted"
