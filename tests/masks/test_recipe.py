"""A recipe as a value, as text, and applied. Golden values were worked out by hand or come from other trainers."""
from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from itertools import pairwise

import numpy as np
import pytest
import torch
from pack.masks.operations import (
    STEPS,
    Blobs,
    Blur,
    CircularShrink,
    Feather,
    FillHoles,
    Floor,
    Gamma,
    Grow,
    Invert,
    RegionWeights,
    Threshold,
)
from pack.masks.presets import PRESET_HELP, PRESETS
from pack.masks.recipe import MaskRecipe, apply_recipe, simple_recipe
from pack.masks.step import Step
from torch import Tensor

GUIDE = {"face": 1.0, "body": 128 / 255, "hair": 80 / 255, "background": 0.0}
EVERY_STEP = (Invert(), Threshold(0.4), Gamma(0.7), Floor(0.05), Floor(0.1, "clamp"), Blur(0.02), Blur(3, "pixels"), Grow(0.05),
              Grow(-2, "pixels"), Feather(0.03), FillHoles(), Blobs(0.4, 0.1, 7), CircularShrink(0.3, 0.9, 8),
              RegionWeights(((1.0, 0.2), (0.5, 1.0), (0.0, 0.1))))


def flat(value: float) -> Tensor:
    return torch.full((1, 4, 4), value)


def step_edge() -> Tensor:
    """White from column 50 on, 100 x 100 pixels: 1 % of the short side is one pixel."""
    mask_BHW = torch.zeros(1, 100, 100)
    mask_BHW[..., 50:] = 1
    return mask_BHW


@pytest.mark.parametrize(
    ("recipe", "grey", "weight"),
    [
        (MaskRecipe(), 0.3, 0.3),
        (simple_recipe(gamma=2, floor=0.1), 0.5, 0.325),  # gamma first, then floor
        (simple_recipe(invert=True), 0.25, 0.75),
        (simple_recipe(invert=True, floor=0.1), 1.0, 0.1),  # a floor before the inversion would give 0
        (simple_recipe(invert=True, gamma=2), 0.25, 0.5625),  # a gamma before the inversion would give 0.9375
        (simple_recipe(gamma=0.7, floor=0.05), 80 / 255, 0.473),  # hair in a published guide, three digits
        (simple_recipe(floor=1), 0.0, 1.0),
        (simple_recipe(floor=0.2), 1.0, 1.0),
        (simple_recipe(gamma=3), 0.0, 0.0),
        (MaskRecipe((Floor(0.1), Gamma(2.0))), 0.0, 0.01),  # in the order given
        (MaskRecipe((Gamma(2.0), Floor(0.1))), 0.0, 0.1),
        (MaskRecipe(), 1.7, 1.0),
        (MaskRecipe(), -0.2, 0.0),
    ],
)
def test_golden_values(recipe: MaskRecipe, grey: float, weight: float) -> None:
    tolerance = 1.5e-3 if weight == 0.473 else 1e-6
    assert apply_recipe(flat(grey), recipe).flatten()[0].item() == pytest.approx(weight, abs=tolerance)


@pytest.mark.parametrize(
    ("preset", "weights"),
    [  # face, body, hair, background
        ("as drawn", (1, 0.502, 0.314, 0)),
        ("character (blissful-tuner guide)", (1, 0.636, 0.472, 0.05)),
        ("character + prior (blissful-tuner guide)", (1, 0.617, 0.444, 0)),
        ("face focus (blissful-tuner guide)", (1, 0.369, 0.192, 0.02)),
        ("style / clothes (blissful-tuner guide)", (1, 0.738, 0.604, 0.1)),
        ("OneTrainer default", (1, 0.502, 0.314, 0.1)),
        ("ai-toolkit template", (1, 0.552, 0.382, 0.1)),
    ],
)
def test_presets_on_the_grey_levels_of_the_guide(preset: str, weights: tuple[float, ...]) -> None:
    mask_BHW = torch.tensor(list(GUIDE.values()))[:, None, None].repeat(1, 2, 2)
    result = apply_recipe(mask_BHW, PRESETS[preset])[:, 0, 0].tolist()
    assert result == pytest.approx(weights, abs=6e-4)
    assert f"{preset}: {PRESETS[preset].describe()}" in PRESET_HELP


def test_every_preset_has_a_golden_row() -> None:
    assert len(PRESETS) == 7


def test_blur_comes_before_gamma() -> None:
    edge = apply_recipe(step_edge(), simple_recipe(blur=0.03, gamma=2))[0, 50, 49:51].mean().item()
    assert edge == pytest.approx(0.25, abs=0.02)  # 0.5 to the power of 2; a blur of the squared step would leave 0.5


def test_each_mask_of_a_batch_is_treated_alone() -> None:
    batch = torch.cat([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    assert torch.equal(apply_recipe(batch, simple_recipe(blur=0.1)), batch)


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step.describe())
def test_a_result_is_new_float32_within_bounds_and_the_mask_stays(step: Step) -> None:
    mask_BHW = torch.rand(2, 40, 30, generator=torch.Generator().manual_seed(0)).sub(0.3).clamp(min=0)
    kept = mask_BHW.clone()
    weight_BHW = apply_recipe(mask_BHW, MaskRecipe((step,)))
    assert weight_BHW.dtype == torch.float32
    assert weight_BHW.shape == mask_BHW.shape
    assert 0 <= weight_BHW.min().item() <= weight_BHW.max().item() <= 1
    assert not torch.equal(weight_BHW, kept)
    weight_BHW.zero_()
    assert torch.equal(mask_BHW, kept)


def test_a_recipe_without_steps_gives_a_copy_too() -> None:
    mask_BHW = torch.rand(1, 4, 4)
    weight_BHW = apply_recipe(mask_BHW, MaskRecipe())
    assert torch.equal(weight_BHW, mask_BHW)
    assert weight_BHW.data_ptr() != mask_BHW.data_ptr()


def test_other_types_layouts_and_inference_tensors_are_accepted() -> None:
    mask_BHW = torch.rand(3, 20, 30, dtype=torch.float64)
    recipe = simple_recipe(invert=True, blur=0.02, gamma=0.5, floor=0.1)
    expected = apply_recipe(mask_BHW, recipe)
    turned = mask_BHW.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(apply_recipe(turned, recipe), expected)
    assert torch.equal(apply_recipe(mask_BHW.requires_grad_(), recipe), expected)
    with torch.inference_mode():
        inside = mask_BHW.clone()
        assert torch.equal(apply_recipe(inside, recipe), expected)
    assert torch.equal(apply_recipe(inside, recipe), expected)
    assert torch.equal(apply_recipe(mask_BHW > 0.5, MaskRecipe()), (mask_BHW > 0.5).float())
    assert apply_recipe(torch.zeros(1, 8, 8).expand(5, 8, 8), recipe).shape == (5, 8, 8)
    assert apply_recipe(torch.zeros(0, 8, 8), recipe).shape == (0, 8, 8)


KEEP_WHITE_AND_BLACK = (
    *(Blur(share) for share in (0.005, 0.01, 0.033, 0.1)), *(Blur(pixels, "pixels") for pixels in (0.3, 1, 7)),
    *(Gamma(exponent) for exponent in (0.05, 0.5, 0.7, 1, 1.5, 2, 3, 10)), Grow(0.02), Grow(-0.02), Feather(0.02), FillHoles(),
    Threshold(0.5), Threshold(1.0), RegionWeights())


@pytest.mark.parametrize("step", KEEP_WHITE_AND_BLACK, ids=lambda step: step.describe())
def test_all_white_and_all_black_stay_exact(step: Step) -> None:
    batch = torch.cat([torch.zeros(1, 200, 130), torch.ones(1, 200, 130)])
    assert torch.equal(apply_recipe(batch, MaskRecipe((step,))), batch)


@pytest.mark.parametrize("blur", [0.004, 0.01, 0.05])
def test_white_and_black_far_from_an_edge_stay_exact_through_the_whole_recipe(blur: float) -> None:
    mask_BHW = torch.zeros(1, 200, 400)
    mask_BHW[..., 200:] = 1
    weight_BHW = apply_recipe(mask_BHW, simple_recipe(invert=True, blur=blur, gamma=0.7, floor=0.05))
    assert torch.equal(weight_BHW[..., :100], torch.ones(1, 200, 100))
    assert torch.equal(weight_BHW[..., 300:], torch.full((1, 200, 100), 0.05))


@pytest.mark.parametrize("floor", [i / 97 for i in range(98)])
def test_a_floor_keeps_white_at_exactly_one(floor: float) -> None:
    assert apply_recipe(flat(1.0), MaskRecipe((Floor(floor),))).max().item() == 1
    assert apply_recipe(flat(0.0), MaskRecipe((Floor(floor),))).max().item() == np.float32(floor)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_mask_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    mask_BHW = torch.zeros(2, 8, 8)
    mask_BHW[1, 3, 5] = bad
    with pytest.raises(ValueError, match=r"mask cats/two .*NaN or infinity"):
        apply_recipe(mask_BHW, simple_recipe(blur=0.01), names=["cats/one", "cats/two"])


@pytest.mark.parametrize(
    ("mask", "named"), [(torch.ones(4, 4), r"\(4, 4\)"), (torch.ones(1, 0, 4), r"\(1, 0, 4\)"), (torch.ones(1, 2, 2).int(), "int32")])
def test_a_mask_of_another_shape_or_type_is_refused(mask: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        apply_recipe(mask, MaskRecipe())


def test_names_must_be_as_many_as_masks() -> None:
    with pytest.raises(ValueError, match="2 masks but 1 names"):
        apply_recipe(torch.ones(2, 4, 4), MaskRecipe(), names=["a"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"gamma": 0}, "gamma: exponent is 0"), ({"gamma": -1.0}, "exponent is -1"), ({"gamma": float("nan")}, "exponent is nan"),
        ({"floor": 1.01}, "floor: weight is 1.01"), ({"floor": -0.1}, "weight is -0.1"),
        ({"blur": 0.2}, "blur: amount is 0.2; use 0 to 0.1"),
        ({"blur": -0.01}, "amount is -0.01"), ({"invert": 1}, "invert is 1"), ({"floor": "0.1"}, "weight is '0.1'"),
        ({"gamma": True}, "exponent is True"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        simple_recipe(**values)  # type: ignore[arg-type]


def test_a_recipe_is_frozen_and_holds_steps_only() -> None:
    recipe = simple_recipe(floor=0.1)
    with pytest.raises(FrozenInstanceError):
        recipe.steps = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        recipe.steps[0].weight = 0.2  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="'blur' is not a mask step"):
        MaskRecipe(("blur",))  # type: ignore[arg-type]
    assert hash(recipe) == hash(simple_recipe(floor=0.1))


def test_then_appends_and_leaves_the_first_recipe() -> None:
    first = simple_recipe(invert=True)
    assert first.then(Gamma(2), Floor(0.1)) == MaskRecipe((Invert(), Gamma(2), Floor(0.1)))
    assert first == MaskRecipe((Invert(),))


def test_simple_recipe_leaves_out_what_changes_nothing() -> None:
    assert simple_recipe() == MaskRecipe()
    assert simple_recipe(True, 0.02, 0.7, 0.05) == MaskRecipe((Invert(), Blur(0.02), Gamma(0.7), Floor(0.05)))


def test_description_has_the_steps_in_order() -> None:
    assert MaskRecipe().describe() == "as drawn"
    assert simple_recipe(True, 0.02, 0.7, 0.05).describe() == "inverted, blur 2.00% of the short side, gamma 0.7, floor 0.05"
    text = MaskRecipe(EVERY_STEP).describe()
    places = [text.index(step.describe()) for step in EVERY_STEP]
    assert all(a < b for a, b in pairwise(places))


def test_json_of_a_recipe() -> None:
    assert simple_recipe(blur=0.01, floor=1).to_json() == (
        '{"steps": [{"amount": 0.01, "op": "blur", "unit": "share"}, {"kind": "affine", "op": "floor", "weight": 1.0}], "version": 1}')
    assert MaskRecipe().to_json() == '{"steps": [], "version": 1}'


def test_json_keeps_every_step() -> None:
    assert {type(step) for step in EVERY_STEP} == set(STEPS.values())
    recipe = MaskRecipe(EVERY_STEP)
    again = MaskRecipe.from_json(recipe.to_json())
    assert again == recipe
    assert again.to_json() == recipe.to_json()


def test_equal_recipes_give_equal_text() -> None:
    pairs: list[tuple[Step, Step]] = [(Floor(1), Floor(1.0)), (Blur(0), Blur(-0.0)),
                                      (RegionWeights(((0, 0), (1, 1))), RegionWeights(((1.0, 1.0), (0.0, 0.0))))]
    for left, right in pairs:
        assert left == right
        assert MaskRecipe((left,)).to_json() == MaskRecipe((right,)).to_json()


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ('{"blur": 0.02, "floor": 0.05, "gamma": 0.7, "invert": true}', simple_recipe(True, 0.02, 0.7, 0.05)),
        ('{"blur": 0.0, "floor": 0.0, "gamma": 1.0, "invert": false}', MaskRecipe()),
        ('{"gamma": 2}', simple_recipe(gamma=2)),
    ],
)
def test_the_form_of_the_first_version_is_read(text: str, recipe: MaskRecipe) -> None:
    assert MaskRecipe.from_json(text) == recipe


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"), ("[]", "not an object"), ('{"sharpen": 1}', "'sharpen'"), ('{"gamma": 0}', "exponent is 0"),
        ('{"floor": null}', "weight is None"), ('{"steps": []}', "must hold a version"), ('{"steps": {}, "version": 1}', "list of steps"),
        ('{"steps": [], "version": 2}', "version 2"), ('{"steps": [], "version": true}', "version True"),
        ('{"steps": [], "version": 1, "x": 0}', "nothing else"), ('{"steps": ["blur"], "version": 1}', "the step 'blur'"),
        ('{"steps": [{"op": "sharpen"}], "version": 1}', "unknown step 'sharpen'"), ('{"steps": [{"op": []}], "version": 1}', "the step"),
        ('{"steps": [{"op": "__class__"}], "version": 1}', "unknown step '__class__'"),
        ('{"steps": [{"op": "blur", "sigma": 2}], "version": 1}', "blur has the unknown value 'sigma'"),
        ('{"steps": [{"op": "invert", "x": 2}], "version": 1}', "invert has the unknown value 'x'"),
        ('{"steps": [{"op": "blur", "unit": "miles"}], "version": 1}', "unit is 'miles'"),
        ('{"steps": [{"op": "blur", "unit": []}], "version": 1}', "unit is"),
        ('{"steps": [{"op": "blur", "amount": NaN}], "version": 1}', "amount is nan"),
        ('{"steps": [{"op": "floor", "kind": "soft"}], "version": 1}', "kind is 'soft'"),
        ('{"steps": [{"op": "threshold", "level": 0}], "version": 1}', "level is 0"),
        ('{"steps": [{"op": "blobs", "seed": 1.5}], "version": 1}', "seed is 1.5"),
        ('{"steps": [{"op": "region_weights", "levels": [[1, 2]]}], "version": 1}', "levels is"),
        ('{"steps": [{"op": "region_weights", "levels": "ab"}], "version": 1}', "levels is"),
    ],
)
def test_json_of_something_else_is_refused(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MaskRecipe.from_json(text)


def test_recipe_is_plain_json_for_other_tools() -> None:
    values = json.loads(MaskRecipe(EVERY_STEP).to_json())
    assert values["version"] == 1
    assert [step["op"] for step in values["steps"]][:3] == ["invert", "threshold", "gamma"]
    assert all(math.isfinite(v) for step in values["steps"] for v in step.values() if isinstance(v, float))
