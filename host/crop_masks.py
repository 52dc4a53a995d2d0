"""Which masks decide a crop: the raw ones, with the recipe that training will use."""
from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..dataset.item import Item
from ..dataset.load import load_mask
from ..masks.recipe import MaskRecipe, apply_recipe


def recipe_mask(recipe: MaskRecipe | None) -> Callable[[Item], Tensor | None]:
    """An item's whole mask (T, H, W), the recipe applied; None for an item without one."""
    def mask_of(item: Item) -> Tensor | None:
        mask_THW = load_mask(item)
        return mask_THW if mask_THW is None or recipe is None else apply_recipe(mask_THW, recipe, [item.name] * len(mask_THW))

    return mask_of
