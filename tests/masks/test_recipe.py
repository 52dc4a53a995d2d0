"""The recipe's steps, their order and their limits. Golden values were worked out by hand or come from other trainers."""
from __future__ import annotations

import math

import pytest
import torch
from pack.masks.recipe import MaskRecipe, apply_recipe
from torch import Tensor


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
        (MaskRecipe(gamma=2, floor=0.1), 0.5, 0.325),  # gamma first, then floor
        (MaskRecipe(invert=True), 0.25, 0.75),
        (MaskRecipe(invert=True, floor=0.1), 1.0, 0.1),  # a floor before the inversion would give 0
        (MaskRecipe(invert=True, gamma=2), 0.25, 0.5625),  # a gamma before the inversion would give 0.9375
        (MaskRecipe(gamma=0.7, floor=0.05), 80 / 255, 0.473),  # hair in a published guide, three digits
        (MaskRecipe(floor=1), 0.0, 1.0),
        (MaskRecipe(floor=0.2), 1.0, 1.0),
        (MaskRecipe(gamma=3), 0.0, 0.0),
        (MaskRecipe(), 1.7, 1.0),
        (MaskRecipe(), -0.2, 0.0),
    ],
)
def test_golden_values(recipe: MaskRecipe, grey: float, weight: float) -> None:
    tolerance = 1.5e-3 if weight == 0.473 else 1e-6
    assert apply_recipe(flat(grey), recipe).flatten()[0].item() == pytest.approx(weight, abs=tolerance)


@pytest.mark.parametrize("blur", [0.02, 0.05])
def test_blur_is_a_gaussian_whose_width_is_a_share_of_the_short_side(blur: float) -> None:
    mask_BHW = torch.cat([step_edge(), step_edge()], dim=2)[:, :, :150]  # short side 100
    blurred = apply_recipe(mask_BHW, MaskRecipe(blur=blur))[0, 50]
    for column in range(46, 54):
        distance = column + 0.5 - 50
        expected = 0.5 * (1 + math.erf(distance / (blur * 100) / math.sqrt(2)))
        assert blurred[column].item() == pytest.approx(expected, abs=5e-3)


def test_blur_comes_before_gamma() -> None:
    edge = apply_recipe(step_edge(), MaskRecipe(blur=0.03, gamma=2))[0, 50, 49:51].mean().item()
    assert edge == pytest.approx(0.25, abs=0.02)  # 0.5 to the power of 2; a blur of the squared step would leave 0.5


def test_blur_does_not_darken_what_touches_the_frame() -> None:
    assert torch.equal(apply_recipe(torch.ones(1, 40, 64), MaskRecipe(blur=0.1)), torch.ones(1, 40, 64))
    assert apply_recipe(step_edge(), MaskRecipe(blur=0.05))[0, :, -1].min().item() == pytest.approx(1, abs=1e-6)


def test_each_mask_of_a_batch_is_blurred_alone() -> None:
    batch = torch.cat([torch.zeros(1, 32, 32), torch.ones(1, 32, 32)])
    assert torch.equal(apply_recipe(batch, MaskRecipe(blur=0.1)), batch)


def test_the_result_is_a_new_float32_tensor_and_the_mask_stays() -> None:
    mask_BHW = torch.rand(2, 8, 8, dtype=torch.float64)
    kept = mask_BHW.clone()
    weight_BHW = apply_recipe(mask_BHW, MaskRecipe())
    weight_BHW.zero_()
    assert weight_BHW.dtype == torch.float32
    assert torch.equal(mask_BHW, kept)
    same_type = torch.rand(1, 4, 4)
    assert apply_recipe(same_type, MaskRecipe()).data_ptr() != same_type.data_ptr()


def test_inference_tensors_are_accepted() -> None:
    with torch.inference_mode():
        weight_BHW = apply_recipe(step_edge(), MaskRecipe(invert=True, blur=0.02, gamma=0.5, floor=0.1))
    assert 0.1 <= weight_BHW.min().item() <= weight_BHW.max().item() <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_mask_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        apply_recipe(flat(bad), MaskRecipe())


def test_a_mask_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        apply_recipe(torch.ones(4, 4), MaskRecipe())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"gamma": 0}, "gamma is 0"), ({"gamma": -1.0}, "gamma is -1"), ({"gamma": float("nan")}, "gamma is nan"),
        ({"floor": 1.01}, "floor is 1.01"), ({"floor": -0.1}, "floor is -0.1"), ({"blur": 0.2}, "blur is 0.2"),
        ({"blur": -0.01}, "blur is -0.01"), ({"invert": 1}, "invert is 1"), ({"floor": "0.1"}, "floor is '0.1'"),
        ({"gamma": True}, "gamma is True"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MaskRecipe(**values)  # type: ignore[arg-type]


def test_description_has_the_steps_in_order() -> None:
    assert MaskRecipe().describe() == "as drawn"
    text = MaskRecipe(invert=True, gamma=0.7, floor=0.05, blur=0.02).describe()
    assert [text.index(word) for word in ("inverted", "blur 2.00%", "gamma 0.7", "floor 0.05")] == sorted(
        text.index(word) for word in ("inverted", "blur 2.00%", "gamma 0.7", "floor 0.05"))


def test_json_keeps_the_recipe() -> None:
    recipe = MaskRecipe(invert=True, gamma=0.7, floor=0.05, blur=0.02)
    assert MaskRecipe.from_json(recipe.to_json()) == recipe
    assert recipe.to_json() == '{"blur": 0.02, "floor": 0.05, "gamma": 0.7, "invert": true}'


@pytest.mark.parametrize("text", ["", "[]", '{"sharpen": 1}', '{"gamma": 0}', '{"floor": null}'])
def test_json_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mask recipe|gamma|floor"):
        MaskRecipe.from_json(text)
