"""How fast a mask recipe is: apply_recipe on 16 masks of 1024 x 1024 beside plain OpenCV and numpy doing the same operations.

Ends with one JSON line {"masks_per_second": {...}, "ours_over_plain": {...}}; a ratio of 1.2 means 20 % more time than plain code.
"""
from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import _pack

_pack.load()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from pack.masks.recipe import MaskRecipe, apply_recipe  # noqa: E402

COUNT, SIDE, ROUNDS = 16, 1024, 5
RECIPES = {
    "as drawn": MaskRecipe(),
    "gamma and floor": MaskRecipe(gamma=0.7, floor=0.05),
    "invert, blur 1 %": MaskRecipe(invert=True, blur=0.01),
    "all": MaskRecipe(invert=True, gamma=2.0, floor=0.1, blur=0.01),
}


def plain(masks: NDArray[np.float32], recipe: MaskRecipe) -> NDArray[np.float32]:
    """The same operations as one would write them by hand, with the blur in float32."""
    out = np.empty_like(masks)
    for i, mask in enumerate(masks):
        weight = np.clip(mask, 0, 1)
        if recipe.invert:
            weight = 1 - weight
        if recipe.blur:
            weight = cv2.GaussianBlur(weight, (0, 0), recipe.blur * min(weight.shape), borderType=cv2.BORDER_REFLECT)
        out[i] = weight**recipe.gamma * (1 - recipe.floor) + recipe.floor
    return out


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    masks = np.random.default_rng(0).random((COUNT, SIDE, SIDE), dtype=np.float32)
    tensor = torch.from_numpy(masks)
    rate, ratio = {}, {}
    print(f"{COUNT} masks of {SIDE} x {SIDE}, {torch.get_num_threads()} torch and {cv2.getNumThreads()} OpenCV threads")
    for name, recipe in RECIPES.items():
        difference = np.abs(apply_recipe(tensor, recipe).numpy() - plain(masks, recipe)).max()
        if difference > 1e-4:
            raise RuntimeError(f"{name}: apply_recipe and plain code differ by {difference}")
        pairs = [(timed(lambda r=recipe: apply_recipe(tensor, r)), timed(lambda r=recipe: plain(masks, r))) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        rate[name], ratio[name] = round(COUNT / ours, 1), round(ours / theirs, 3)
        print(f"  {name:20s} {COUNT / ours:8.1f} masks/s, plain {COUNT / theirs:8.1f}, time ratio {ours / theirs:5.2f}")
    print(json.dumps({"masks_per_second": rate, "ours_over_plain": ratio}))


if __name__ == "__main__":
    main()
