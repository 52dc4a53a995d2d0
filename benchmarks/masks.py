"""How fast mask recipes are: apply_recipe on 16 masks of 1024 x 1024 beside a loop of plain OpenCV and numpy, in one run.

The full recipe is invert, blur 1 %, gamma, floor. Every other step has a row of its own, with what one would call by hand beside it
where there is such a call. Ends with one JSON line {"recipe_ratio": our time over plain OpenCV, "masks_per_second": x} for the
full recipe; a ratio of 1.2 means 20 % more time than plain code.
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
from pack.masks.blobs import blob_mask  # noqa: E402
from pack.masks.operations import (  # noqa: E402
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
from pack.masks.recipe import MaskRecipe, apply_recipe, simple_recipe  # noqa: E402

Plane = NDArray[np.float32]
COUNT, SIDE, ROUNDS = 16, 1024, 7
BLUR, GAMMA, FLOOR = 0.01, 0.7, 0.05
FULL = simple_recipe(invert=True, blur=BLUR, gamma=GAMMA, floor=FLOOR)
RADIUS = 10


def full_by_hand(mask: Plane) -> Plane:
    weight = cv2.GaussianBlur(1 - mask, (0, 0), BLUR * SIDE, borderType=cv2.BORDER_REFLECT)
    cv2.pow(weight, GAMMA, dst=weight)
    weight *= 1 - FLOOR
    weight += FLOOR
    return weight


def feather_by_hand(mask: Plane) -> Plane:
    distance = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip((distance - 0.5) / RADIUS, 0, 1) * mask


def holes_by_hand(mask: NDArray[np.bool_]) -> Plane:
    outside = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return (outside[1:-1, 1:-1] != 2).astype(np.float32)


DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RADIUS + 1, 2 * RADIUS + 1))
ByHand = Callable[[Plane], Plane]
ROWS: dict[str, tuple[MaskRecipe, ByHand | None]] = {
    "full recipe": (FULL, full_by_hand),
    "as drawn": (MaskRecipe(), np.copy),
    "invert": (MaskRecipe((Invert(),)), lambda mask: 1 - mask),
    "blur 1 %": (MaskRecipe((Blur(BLUR),)), lambda mask: cv2.GaussianBlur(mask, (0, 0), BLUR * SIDE, borderType=cv2.BORDER_REFLECT)),
    "gamma": (MaskRecipe((Gamma(GAMMA),)), lambda mask: cv2.pow(mask, GAMMA)),
    "floor, affine": (MaskRecipe((Floor(FLOOR),)), lambda mask: mask * np.float32(1 - FLOOR) + np.float32(FLOOR)),
    "floor, clamp": (MaskRecipe((Floor(FLOOR, "clamp"),)), lambda mask: cv2.max(mask, FLOOR)),
    "threshold": (MaskRecipe((Threshold(0.5),)), lambda mask: (mask >= 0.5).astype(np.float32)),
    "grow 10 px": (MaskRecipe((Grow(RADIUS, "pixels"),)), lambda mask: cv2.dilate(mask, DISC)),
    "shrink 10 px": (MaskRecipe((Grow(-RADIUS, "pixels"),)), lambda mask: cv2.erode(mask, DISC)),
    "grow 100 px": (MaskRecipe((Grow(100, "pixels"),)), None),
    "feather 10 px": (MaskRecipe((Feather(RADIUS, "pixels"),)), feather_by_hand),
    "fill holes, grey": (MaskRecipe((FillHoles(),)), None),
    "fill holes, black and white": (MaskRecipe((Threshold(0.5), FillHoles())), lambda mask: holes_by_hand(mask >= 0.5)),
    "region weights": (MaskRecipe((RegionWeights(),)), None),
    "random blobs": (MaskRecipe((Blobs(),)), None),
    "random disc": (MaskRecipe((CircularShrink(),)), None),
}


def plain(masks: NDArray[np.float32], by_hand: ByHand) -> NDArray[np.float32]:
    out = np.empty_like(masks)
    for mask, weight in zip(masks, out, strict=True):
        weight[:] = by_hand(mask)
    return out


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(masks: NDArray[np.float32], recipe: MaskRecipe, by_hand: ByHand | None) -> tuple[float, float]:
    """Median seconds of ours and of plain code (not a number if there is none), taken in turns."""
    tensor = torch.from_numpy(masks)
    if by_hand is None:
        return statistics.median(timed(lambda: apply_recipe(tensor, recipe)) for _ in range(ROUNDS)), float("nan")
    pairs = [(timed(lambda: apply_recipe(tensor, recipe)), timed(lambda: plain(masks, by_hand))) for _ in range(ROUNDS)]
    return statistics.median(ours for ours, _ in pairs), statistics.median(theirs for _, theirs in pairs)


def main() -> None:
    masks = np.stack([cv2.GaussianBlur(blob_mask(SIDE, SIDE, 0.4, 0.2, 0, str(i)), (0, 0), 2) for i in range(COUNT)]).clip(0, 1)
    difference = np.abs(apply_recipe(torch.from_numpy(masks), FULL).numpy() - plain(masks, full_by_hand)).max()
    if difference > 1e-5:
        raise RuntimeError(f"apply_recipe and plain code differ by {difference}")
    megabytes = 2 * masks.nbytes / 1e6
    copying = statistics.median(timed(masks.copy) for _ in range(ROUNDS))
    print(f"{COUNT} masks of {SIDE} x {SIDE}, float32; {torch.get_num_threads()} torch and {cv2.getNumThreads()} OpenCV threads")
    print(f"floor: reading every mask and writing every weight once moves {megabytes:.0f} MB; copying them takes {copying * 1e3:.1f} ms, "
          f"{COUNT / copying:.0f} masks/s")
    results = {}
    for name, (recipe, by_hand) in ROWS.items():
        ours, theirs = results[name] = measure(masks, recipe, by_hand)
        beside = f", by hand {COUNT / theirs:8.1f}, time ratio {ours / theirs:5.2f}" if by_hand else ""
        print(f"  {name:28s}{COUNT / ours:8.1f} masks/s{beside}")
    ours, theirs = results["full recipe"]
    print(json.dumps({"recipe_ratio": round(ours / theirs, 3), "masks_per_second": round(COUNT / ours, 1)}))


if __name__ == "__main__":
    main()
