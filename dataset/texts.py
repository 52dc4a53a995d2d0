"""Which texts a picture is trained on besides its caption: other orders of its tags, other captions, and what stands for a dropped one."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .item import Item
from .keys import content_key
from .words import counted

Lines = Literal["joined", "first", "random"]
KEEP_MARK = "|||"  # sd-scripts' usual keep_tokens_separator: what is before it, and behind a second one, stays in its place
TRIES = 8  # shuffles for each order that is wanted, as equal ones come up


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionSpec:
    """What to encode of each caption.

    lines: of a caption of several lines, or a metadata entry with a list of captions, all as one text (joined), the first, or each as
    a text of its own (random). orders: so many orders of the tags, the written one among them. kept: so many tags stay in front.
    dropped: texts that stand for a dropped caption; how often is the training's choice.
    """

    lines: Lines = "joined"
    orders: int = 1
    kept: int = 0
    separator: str = ","
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.lines not in get_args(Lines):
            raise ValueError(f"caption lines are {self.lines!r}; use one of {', '.join(get_args(Lines))}")
        if self.orders < 1:
            raise ValueError(f"orders is {self.orders}; use 1 (as written) or more")
        if self.kept < 0:
            raise ValueError(f"kept tags are {self.kept}; use 0 or more")
        if not self.separator:
            raise ValueError("the separator of tags is empty; use ',' or what your captions have between tags")

    def texts(self, item: Item) -> tuple[str, ...]:
        """Different texts, of which each draw shows one, each alike; the first is the plain one, for validation and measurements."""
        return tuple(dict.fromkeys(order for text in self._captions(item) for order in self._orders(text)))

    def _captions(self, item: Item) -> tuple[str, ...]:
        if self.lines == "joined":
            return (item.caption,)
        found = item.captions or tuple(line.strip() for line in item.caption.splitlines() if line.strip()) or ("",)
        return found[:1] if self.lines == "first" else found

    def _orders(self, text: str) -> list[str]:
        if self.orders == 1:
            return [text]
        front, tags, back = self._parts(text)
        found = dict.fromkeys([self._joined([*front, *tags, *back]) if KEEP_MARK in text else text])
        for number in range(1, TRIES * self.orders):  # few tags have fewer orders than are asked for
            if len(found) == self.orders:
                break
            found[self._joined([*front, *_shuffled(tags, f"{number} {text}"), *back])] = None
        return list(found)

    def _parts(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """Tags that stay in front, those that are shuffled, and those that stay behind."""
        if KEEP_MARK not in text:
            tags = self._tags(text)
            return tags[:self.kept], tags[self.kept:], []
        front, _, rest = text.partition(KEEP_MARK)
        middle, _, back = rest.partition(KEEP_MARK)
        return self._tags(front), self._tags(middle), self._tags(back)

    def _tags(self, text: str) -> list[str]:
        return [tag.strip() for tag in text.split(self.separator) if tag.strip()]

    def _joined(self, tags: list[str]) -> str:
        return f"{self.separator.strip()} ".join(tags)

    def describe(self) -> str:
        """In words, for reports; empty where captions are taken as they are."""
        lines = {"joined": "", "first": "the first line of each", "random": "each line, or member of a list, is a caption of its own"}
        first = f"{counted(self.kept, 'tag')}, or those" if self.kept else "those"
        orders = f"tags in {self.orders} orders, with {first} before {KEEP_MARK}, kept in front" if self.orders > 1 else ""
        dropped = f"for dropped captions {' or '.join(map(repr, self.dropped))}" if self.dropped else ""
        return "; ".join(filter(None, (lines[self.lines], orders, dropped)))


def _shuffled(tags: Sequence[str], salt: str) -> list[str]:
    """By hashes and not by a generator: equal captions give equal orders, and with them the same keys in the cache, for ever."""
    keys = [content_key("order", salt, str(place)) for place in range(len(tags))]
    return [tags[place] for place in sorted(range(len(tags)), key=keys.__getitem__)]
