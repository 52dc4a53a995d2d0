"""Mask plans: how regions become weights and how parts join, with numbers worked out by hand. White = learn."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pack.host.mask_plan import MaskPlan, Part
from pack.masks.operations import Blobs, Invert, Threshold
from pack.masks.recipe import MaskRecipe
from torch import Tensor

PICTURE = torch.zeros(1, 4, 3, dtype=torch.uint8)


@dataclass(frozen=True)
class Fixed:
    """Finds the same regions in every picture; their masks are rows of four pixels."""

    regions: Mapping[str, list[float]] = field(default_factory=dict)
    exclusive: bool = False
    name: str = "stand-in"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, object]:
        return {"name": self.name, **self.settings}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        return {region: torch.tensor([row]) for region, row in self.regions.items()}


def weights(*parts: Part) -> list[float] | None:
    made = MaskPlan(parts).make(PICTURE)
    return None if made.weight_HW is None else pytest.approx(made.weight_HW[0].tolist(), abs=1e-7)


SHARES = Fixed({"face": [0.7, 0.5, 0, 0], "hair": [0.3, 0.25, 0.5, 0], "background": [0, 0.25, 0.5, 1]}, exclusive=True)
OVERLAPS = Fixed({"person": [1, 1, 0.5, 0], "face": [1, 0.5, 0, 0]})
NOTHING = Fixed()


def test_regions_that_share_out_a_pixel_are_averaged() -> None:
    # 1 x 0.7 + 0.5 x 0.3 = 0.85: the greatest, 0.7, would be a dark seam between face and hair.
    assert weights(Part(SHARES, {"face": 1, "hair": 0.5})) == [0.85, 0.625, 0.25, 0]
    assert weights(Part(SHARES, {"face": 1, "hair": 0.5, "background": 0.2})) == [0.85, 0.625 + 0.2 * 0.25, 0.25 + 0.2 * 0.5, 0.2]


def test_what_is_no_region_of_the_table_is_background() -> None:
    assert weights(Part(SHARES, {"face": 1, "background": 0.2})) == [0.7 + 0.06, 0.5 + 0.1, 0.2, 0.2]


def test_of_overlapping_regions_the_greatest_weight_counts() -> None:
    assert weights(Part(OVERLAPS, {"person": 0.5, "face": 1})) == [1, 0.5, 0.25, 0]
    # The pixel that is half a person takes half of each weight.
    assert weights(Part(OVERLAPS, {"person": 0.5, "face": 1, "background": 0.25})) == [1, 0.5, 0.25 + 0.125, 0.25]


@pytest.mark.parametrize("exclusive", [True, False])
def test_regions_of_weight_0_are_taken_out(exclusive: bool) -> None:
    sign = Fixed({"sign": [1, 0.5, 0, 0]}, exclusive)
    assert weights(Part(sign, {"sign": 0, "background": 1})) == [0, 0.5, 1, 1]


def test_nothing_to_take_out_is_no_failure() -> None:
    without_sign = Part(NOTHING, {"sign": 0, "background": 1})
    made = MaskPlan((without_sign,)).make(PICTURE)
    assert made.weight_HW is not None
    assert (made.weight_HW == 1).all()
    assert made.missing == ()
    assert weights(Part(OVERLAPS, {"person": 1}), Part(NOTHING, {"sign": 0, "background": 1}, "multiply")) == [1, 1, 0.5, 0]


@pytest.mark.parametrize(
    ("how", "expected"),
    [("max", [1, 1, 0.5, 0.6]), ("add", [1, 1, 0.5 + 0.2, 0.6]), ("multiply", [0.6, 0.4, 0.1, 0]),
     ("replace", [0.4 + 0.6, 0.6 + 0.4, 0.5 * 0.8 + 0.2, 0.6])])
def test_how_two_parts_join(how: Any, expected: list[float]) -> None:
    second = Fixed({"dress": [0.6, 0.4, 0.2, 0.6]})
    assert weights(Part(OVERLAPS, {"person": 1}), Part(second, {"dress": 1}, how)) == expected


def test_the_first_part_joins_nothing() -> None:
    assert weights(Part(OVERLAPS, {"person": 1}, "multiply")) == [1, 1, 0.5, 0]


def test_parts_join_in_their_order() -> None:
    one, other = Part(OVERLAPS, {"person": 1}), Part(Fixed({"dress": [0.6, 0.4, 0.2, 0.6]}), {"dress": 1}, "multiply")
    half = Part(Fixed({"all": [0.5, 0.5, 0.5, 0.5]}), {"all": 1}, "add")
    assert weights(one, other, half) == [1, 0.9, 0.6, 0.5]
    assert weights(one, half, other) == [0.6, 0.4, 0.2, 0.3]


def test_a_part_that_finds_nothing_leaves_its_background() -> None:
    found = Part(OVERLAPS, {"person": 1})
    assert weights(found, Part(NOTHING, {"dress": 1, "background": 0.2})) == [1, 1, 0.5, 0.2]
    assert weights(Part(NOTHING, {"dress": 1, "background": 0.2}), found) == [1, 1, 0.5, 0.2]
    assert weights(found, Part(NOTHING, {"dress": 1, "background": 0.2}, "multiply")) == [0.2, 0.2, 0.1, 0]


def test_no_mask_where_nothing_is_found() -> None:
    part = Part(NOTHING, {"face": 1, "hair": 0.5, "background": 0.25})
    made = MaskPlan((part, part)).make(PICTURE)
    assert made.weight_HW is None
    assert made.found == {}
    assert made.missing == ("face", "hair")


def test_no_mask_where_the_factor_is_missing() -> None:
    made = MaskPlan((Part(OVERLAPS, {"person": 1}), Part(NOTHING, {"anna": 1}, "multiply"), Part(OVERLAPS, {"face": 1}))).make(PICTURE)
    assert made.weight_HW is None
    assert set(made.found) == {"person", "face"}
    assert made.missing == ("anna",)


def test_no_mask_where_only_regions_without_weight_are_found() -> None:
    assert weights(Part(OVERLAPS, {"person": 0, "dress": 1})) is None


def test_no_mask_where_nothing_is_left() -> None:
    left, right = Fixed({"left": [1, 1, 0, 0]}), Fixed({"right": [0, 0, 1, 0.001]})
    made = MaskPlan((Part(left, {"left": 1}), Part(right, {"right": 1}, "multiply"))).make(PICTURE)
    assert made.weight_HW is None
    assert set(made.found) == {"left", "right"}
    assert made.missing == ()
    assert weights(Part(Fixed({"faint": [0.0019, 0, 0, 0]}), {"faint": 1})) is None  # 0.4845 of 255
    assert weights(Part(Fixed({"faint": [0.002, 0, 0, 0]}), {"faint": 1})) == [0.002, 0, 0, 0]


def test_another_part_may_find_what_one_misses() -> None:
    made = MaskPlan((Part(Fixed({"face": [1, 0, 0, 0]}), {"face": 1, "hair": 1}), Part(NOTHING, {"face": 1}))).make(PICTURE)
    assert made.missing == ("hair",)


def test_a_recipe_changes_its_own_part() -> None:
    inverted = Part(OVERLAPS, {"face": 1}, "multiply", MaskRecipe((Invert(),)))
    assert weights(Part(OVERLAPS, {"person": 1}), inverted) == [0, 0.5, 0.5, 0]
    assert weights(Part(OVERLAPS, {"person": 0.6}, recipe=MaskRecipe((Threshold(0.5),)))) == [1, 1, 0, 0]


def test_random_steps_are_seeded_with_the_name() -> None:
    plan = MaskPlan((Part(Everywhere(), {"all": 1}, recipe=MaskRecipe((Blobs(0.5, 0.2, 1),))),))
    first, again, other = (plan.make(torch.zeros(64, 64, 3, dtype=torch.uint8), name=name).weight_HW for name in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@dataclass(frozen=True)
class Everywhere:
    name: str = "everywhere"
    exclusive: bool = False

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        return {"all": torch.ones(picture_HWC.shape[:2])}


def test_equal_plans_give_equal_text_and_others_do_not() -> None:
    part = Part(SHARES, {"face": 1, "hair": 0.5})
    same = Part(SHARES, {"hair": 0.5, "face": 1.0})
    others = [Part(SHARES, {"face": 1, "hair": 0.4}), Part(SHARES, {"face": 1, "hair": 0.5}, "add"),
              Part(SHARES, {"face": 1, "hair": 0.5}, recipe=MaskRecipe((Invert(),))),
              Part(Fixed(settings={"threshold": 0.3}), {"face": 1, "hair": 0.5})]
    text = MaskPlan((part,)).to_json()
    assert MaskPlan((same,)).to_json() == text
    assert len({text, *(MaskPlan((other,)).to_json() for other in others), MaskPlan((part, part)).to_json()}) == 6
    [told] = json.loads(text)
    assert told == {"segmenter": {"name": "stand-in"}, "weights": {"face": 1.0, "hair": 0.5}, "how": "max",
                    "recipe": {"steps": [], "version": 1}}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask plan is empty"):
        MaskPlan().make(PICTURE)
    with pytest.raises(ValueError, match="how is 'min'; use max, add, multiply, replace"):
        Part(SHARES, {"face": 1}, "min")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the weight of 'hair' is 1.5; use 0 to 1"):
        Part(SHARES, {"face": 1, "hair": 1.5})
    with pytest.raises(ValueError, match="the weight of 'hair' is nan"):
        Part(SHARES, {"hair": float("nan")})
    with pytest.raises(ValueError, match="all weights of stand-in are 0"):
        Part(SHARES, {"face": 0})
    with pytest.raises(ValueError, match=r"stand-in gave 'face' the shape \(1, 2\), the picture is 4x1"):
        MaskPlan((Part(Fixed({"face": [1, 1]}), {"face": 1}),)).make(PICTURE)
    with pytest.raises(ValueError, match="stand-in gave NaN for 'face'"):
        MaskPlan((Part(Fixed({"face": [1, 1, float("nan"), 0]}), {"face": 1}),)).make(PICTURE)


def test_the_segmenters_masks_are_not_written_to() -> None:
    kept = torch.tensor([[0.5, 0.5, 0.5, 0.5]])

    class Kept(Fixed):
        def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
            return {"all": kept}

    MaskPlan((Part(Kept(exclusive=True), {"all": 1}), Part(Kept(), {"all": 1}, "add"))).make(PICTURE)
    assert torch.equal(kept, torch.full((1, 4), 0.5))
