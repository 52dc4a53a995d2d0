"""What a person should know about the sizes that pictures got: buckets, dropped pixels, enlarged pictures."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from .geometry import Placement
from .item import Item

NAMED = 5  # so many names are told, worst first
LISTED = 30  # so many buckets; pictures that keep their own size can make hundreds


def bucket_report(placed: Sequence[Item], items: Sequence[Item], heading: str) -> str:
    """Lines of text. placed: the items themselves; items: with their copies. All have a placement."""
    counts = Counter(_placement(item).size for item in items)
    lines = [heading]
    copies = len(items) - len(placed)
    if copies:
        lines.append(f"mirrored and augmented copies: {copies}, so {len(items)} items of {len(placed)}; an epoch sees each of them "
                     "`repeats` times")
    lines.append(f"buckets: {len(counts)}")
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    lines += [f"  {size[0]}x{size[1]}: {count} ({count / len(items):.1%})" for size, count in ordered[:LISTED]]
    if len(ordered) > LISTED:
        rest = sum(count for _, count in ordered[LISTED:])
        lines.append(f"  {len(ordered) - LISTED} more: {rest} ({rest / len(items):.1%})")
    lines += _alone(placed) + _dropped(placed) + _enlarged(placed)
    return "\n".join(lines)


def _alone(placed: Sequence[Item]) -> list[str]:
    counts = Counter(_placement(item).size for item in placed)
    alone = [item for item in placed if counts[_placement(item).size] == 1]
    if not alone or len(placed) == 1:
        return []
    named = _names(alone, lambda item: "x".join(map(str, _placement(item).size)))
    return [f"buckets that hold a single picture: {len(alone)} (a batch there has no other to take): {named}"]


def _dropped(placed: Sequence[Item]) -> list[str]:
    shares = {item.name: 1 - _area(item) / (item.size[0] * item.size[1]) for item in placed}
    worst = sorted((item for item in placed if shares[item.name] > 0), key=lambda item: (-shares[item.name], item.name))
    mean = sum(shares.values()) / len(shares)
    line = f"pixels cut off: {mean:.1%} on average"
    return [line + (f"; most in {_names(worst, lambda item: f'{shares[item.name]:.1%}')}" if worst else "")]


def _enlarged(placed: Sequence[Item]) -> list[str]:
    factors = {item.name: enlargement(_placement(item)) for item in placed}
    worst = sorted((item for item in placed if factors[item.name] > 1), key=lambda item: (-factors[item.name], item.name))
    if not worst:
        return []
    named = _names(worst, lambda item: f"{factors[item.name]:.2f} times")
    return [f"enlarged, so blurred: {len(worst)}; most {named}"]


def enlargement(placement: Placement) -> float:
    """How many output pixels a source pixel becomes, along the axis where it is more."""
    left, top, right, bottom = placement.box
    return max(placement.size[0] / (right - left), placement.size[1] / (bottom - top))


def _names(items: Sequence[Item], value: Callable[[Item], str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(f"{item.name} ({value(item)})" for item in items[:NAMED]) + more


def _area(item: Item) -> int:
    left, top, right, bottom = _placement(item).box
    return (right - left) * (bottom - top)


def _placement(item: Item) -> Placement:
    assert item.placement is not None
    return item.placement
