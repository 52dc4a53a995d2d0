"""Mirrored and seeded random copies of items. Copies share the item's files; only name, variant number and placement differ."""
from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from .geometry import Placement
from .item import Item


def mirrored(item: Item, variant: int) -> Item:
    """The item as in a mirror, as one more item."""
    placement = _placement(item)
    return replace(item, name=f"{item.name} (mirrored)", placement=replace(placement, flip=not placement.flip), variant=variant,
                   references=_mirrored_references(item))


def augmented(item: Item, variant: int, *, rotation: float, zoom: float, shift: float, flip: bool, seed: int) -> Item:
    """A random copy of an item, drawn from (seed, name, variant) alone: the same on every machine and in any order.

    rotation: the angle lies within so many degrees either way. zoom: the box loses up to this share of its width and height.
    shift: the box moves by up to this share of the margin that is free on that side; it never leaves the picture. flip:
    mirrored for every second copy or so. Raises ValueError for a rotation of a picture with references, which are not turned.
    """
    if item.references and rotation:
        raise ValueError(f"{item.name} has reference pictures, which do not turn with it; set rotation to 0")
    placement = _placement(item)

    def draw(what: str) -> float:
        return _uniform(seed, item.name, variant, what)

    left, top, right, bottom = placement.box
    kept = 1 - zoom * draw("zoom")
    spans = [_moved(*ends, end, kept, shift * (2 * draw(f"shift {axis}") - 1))
             for axis, ends, end in zip("xy", ((left, right), (top, bottom)), item.size, strict=True)]
    flipped = flip and draw("flip") < 0.5
    moved = Placement(
        size=placement.size,
        box=(spans[0][0], spans[1][0], spans[0][1], spans[1][1]),
        flip=placement.flip ^ flipped,
        angle=placement.angle + rotation * (2 * draw("rotation") - 1),
    )
    references = _mirrored_references(item) if flipped else item.references
    return replace(item, name=f"{item.name} (variant {variant})", placement=moved, variant=variant, references=references)


def _moved(low: int, high: int, end: int, kept: float, shift: float) -> tuple[int, int]:
    """One axis of a box inside 0..end: shortened about its middle, then moved by a share (-1..1) of the margin on that side."""
    length = max(1, round((high - low) * kept))
    start = low + (high - low - length) // 2
    start += round(shift * (end - length - start if shift > 0 else start))
    return start, start + length


def _uniform(*key: str | int) -> float:
    """A number in [0, 1) that depends on nothing but the key."""
    # JSON keeps (1, "1 2") and ("1 1", 2) apart, and has one spelling for every name.
    digest = hashlib.sha256(json.dumps(key).encode("ascii")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _mirrored_references(item: Item) -> tuple[Item, ...]:
    return tuple(replace(one, placement=replace(_placement(one), flip=not _placement(one).flip)) for one in item.references)


def _placement(item: Item) -> Placement:
    return item.placement or Placement(item.size, (0, 0, *item.size))
