"""Which size every picture gets: one square for all, or aspect-ratio buckets of about one area. Sizes are (width, height)."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from .augment import augmented, mirrored
from .bucket_report import bucket_report
from .crop import Box, centred_box, covering_size, mask_box
from .geometry import Placement
from .item import DataSet, Item

Shape = Literal["square", "buckets"]
Crop = Literal["centre", "mask"]
Small = Literal["enlarge", "own size"]
Size = tuple[int, int]
THREADS = 2  # masks are decoded outside of Python's lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """What size pictures get and which part of them is kept.

    side: the target area is side * side pixels. step: sides of buckets are multiples of it. multiple: what a latent cell
    times the model's patch size needs. longest: largest aspect ratio of a bucket, long side over short side. small: what
    happens to pictures that would have to be enlarged; "own size" cuts them to multiples of step, or of multiple when they
    are smaller than a step. flip, variants, rotation (degrees), zoom, shift, seed: see augment.py.
    Raises ValueError, with the remedy, for values that do not fit together.
    """

    side: int = 1024
    shape: Shape = "buckets"
    step: int = 64
    multiple: int = 16
    longest: float = 2.0
    crop: Crop = "centre"
    small: Small = "enlarge"
    flip: bool = False
    variants: int = 0
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, choices in (("shape", self.shape, Shape), ("crop", self.crop, Crop), ("small", self.small, Small)):
            if value not in get_args(choices):
                raise ValueError(f"{name} is {value!r}; set it to one of {', '.join(get_args(choices))}")
        self._check_sizes()
        for name, number, most in (("rotation", self.rotation, 180), ("zoom", self.zoom, 0.9), ("shift", self.shift, 1)):
            if not 0 <= number <= most:
                raise ValueError(f"{name} is {number}; set it to 0 to {most}")
        if self.variants < 0:
            raise ValueError(f"variants is {self.variants}; set it to 0 or more")

    def _check_sizes(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}; set it to 1 or more")
        if self.step < 1 or self.step % self.multiple:
            fits = _next_multiple(self.step, self.multiple)
            raise ValueError(f"step is {self.step}, but the VAE and the model need sides that are multiples of {self.multiple}; set "
                             f"step to {self.multiple}, the smallest that fits" + (f", or to {fits}" if fits > self.multiple else ""))
        if self.shape == "square" and (self.side < 1 or self.side % self.multiple):
            raise ValueError(f"size is {self.side}, but the VAE and the model need sides that are multiples of {self.multiple}; set "
                             f"size to {_next_multiple(self.side, self.multiple)}")
        if self.shape == "buckets" and self.side < self.step:
            raise ValueError(f"size is {self.side}, smaller than a step of {self.step}; set size to {self.step} or more")
        if not 1 <= self.longest < math.inf:
            raise ValueError(f"longest is {self.longest}; set it to 1 (square) or more")


def arrange(data_set: DataSet, arrangement: Arrangement, mask_of: Callable[[Item], Tensor | None],
            watch: Callable[[int, int], None] = lambda done, total: None) -> DataSet:
    """Gives every item its size and crop, adds mirrored and augmented copies after it, and tells about it in the report.

    mask_of: the mask (T, H, W) of an item without placement, or None; only asked for crop="mask", only where there is
    something to cut off, and from several threads. watch: called with how many of how many items are placed; may raise to stop.
    Copies keep the item's repeats: an epoch sees the picture and each of its copies that often. Nothing depends on the order of
    the items. Raises ValueError for an empty or already arranged set and for names that clash.
    """
    if not data_set.items:
        raise ValueError("the data set holds no items; load at least one picture")
    for item in data_set.items:
        if item.placement is not None:
            raise ValueError(f"{item.name} was arranged before; give the data set as it was loaded")
    sizes = bucket_sizes(arrangement)
    placed = _place_all(data_set.items, lambda item: _place(item, sizes, arrangement, mask_of), watch)
    items = tuple(copy for item in placed for copy in _with_copies(item, arrangement))
    _check_names(items)
    lines = bucket_report(placed, items, _describe(arrangement))
    return DataSet(items, "\n".join(part for part in (data_set.report, lines) if part))


def _place_all(items: Sequence[Item], place: Callable[[Item], Placement], watch: Callable[[int, int], None]) -> list[Item]:
    pool = ThreadPoolExecutor(THREADS)
    try:
        placed: list[Item] = []
        for item, placement in zip(items, pool.map(place, items), strict=True):
            placed.append(replace(item, placement=placement))
            watch(len(placed), len(items))
        return placed
    finally:
        pool.shutdown(cancel_futures=True)  # who stops does not wait for the rest


def bucket_sizes(arrangement: Arrangement) -> tuple[Size, ...]:
    """The sizes that pictures can get, sorted. Sides are multiples of step, areas at most side * side.

    As in sd-scripts there is one bucket for each short side, with the longest long side that fits the area, and the square.
    Where the area would allow more than the longest aspect ratio, one last bucket has that ratio.
    """
    side, step = arrangement.side, arrangement.step
    if arrangement.shape == "square":
        return ((side, side),)
    square = side // step * step
    sizes = {(square, square)}
    for short in range(square, 0, -step):
        by_area, by_aspect = side * side // short, math.floor(arrangement.longest * short + 1e-9)
        long = min(by_area, by_aspect) // step * step
        # Coarse steps may leave no more than a smaller square.
        if long > short:
            sizes |= {(short, long), (long, short)}
        if by_aspect <= by_area:
            break
    return tuple(sorted(sizes))


def nearest_bucket(size: Size, sizes: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest, measured as the logarithm of the ratio; of equal ones the larger area."""
    aspect = math.log(size[0] / size[1])
    errors = [abs(math.log(width / height) - aspect) for width, height in sizes]
    # A hair more, because a ratio and its inverse have logarithms that differ in the last digit.
    least = min(errors) + 1e-12
    nearest = [bucket for bucket, error in zip(sizes, errors, strict=True) if error <= least]
    return min(nearest, key=lambda bucket: (-bucket[0] * bucket[1], bucket))


def _place(item: Item, sizes: Sequence[Size], arrangement: Arrangement, mask_of: Callable[[Item], Tensor | None]) -> Placement:
    size = nearest_bucket(item.size, sizes)
    kept = covering_size(item.size, size)
    if arrangement.small == "own size" and (kept[0] < size[0] or kept[1] < size[1]):
        size = _own_size(item.size, arrangement)
        fits = size[0] <= item.size[0] and size[1] <= item.size[1]
        kept = size if fits else covering_size(item.size, size)
    return Placement(size, _crop(item, kept, arrangement, mask_of))


def _own_size(source: Size, arrangement: Arrangement) -> Size:
    """The source cut to multiples, and to the longest aspect ratio. Only a picture below `multiple` comes out larger."""
    width, height = source
    if arrangement.shape == "square":
        width = height = min(source)
    width, height = (min(length, math.floor(arrangement.longest * other)) for length, other in ((width, height), (height, width)))
    return _cut(width, arrangement), _cut(height, arrangement)


def _cut(length: int, arrangement: Arrangement) -> int:
    unit = arrangement.step if length >= arrangement.step else arrangement.multiple
    return max(unit, length // unit * unit)


def _crop(item: Item, kept: Size, arrangement: Arrangement, mask_of: Callable[[Item], Tensor | None]) -> Box:
    if arrangement.crop == "mask" and kept != item.size:
        mask_THW = mask_of(item)
        if mask_THW is not None:
            return mask_box(mask_THW.numpy(), kept)
    return centred_box(item.size, kept)


def _with_copies(item: Item, arrangement: Arrangement) -> list[Item]:
    copies = [augmented(item, variant, rotation=arrangement.rotation, zoom=arrangement.zoom, shift=arrangement.shift,
                        flip=arrangement.flip, seed=arrangement.seed) for variant in range(1, arrangement.variants + 1)]
    # After the others, so that switching it on renumbers none of them.
    return [item, *copies, *([mirrored(item, arrangement.variants + 1)] if arrangement.flip else [])]


def _check_names(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise ValueError(f"two items are named {item.name!r}, one of them a copy made here; rename the other's file")
        seen.add(item.name)


def _describe(arrangement: Arrangement) -> str:
    side = arrangement.side
    if arrangement.shape == "square":
        return f"arranged as squares of {side}x{side}; crop: {arrangement.crop}"
    return (f"arranged in buckets of about {side}x{side} pixels, sides multiples of {arrangement.step}, aspect ratio up to "
            f"{arrangement.longest:g}; crop: {arrangement.crop}")


def _next_multiple(length: int, unit: int) -> int:
    return max(1, -(-length // unit)) * unit
