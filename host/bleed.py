"""How much of a change between two batches of pictures lies outside of a mask, in words and as JSON. White = learn = inside."""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..masks.change import Change, picture_sums


@dataclass(frozen=True, slots=True)
class Bleed:
    """`all`: over every pixel of every picture alike."""

    each: Sequence[Change]
    all: Change

    def words(self) -> str:
        lines = [f"White = learn = inside. Bleed {score(self.all)}: {parts(self.all)}"]
        return "\n".join([*lines, *(f"picture {i + 1}: bleed {score(change)}, {parts(change)}" for i, change in enumerate(self.each))])

    def json(self) -> str:
        return json.dumps({**numbers(self.all), "pictures": [numbers(change) for change in self.each]})


def bleed_score(base_BHWC: Tensor, changed_BHWC: Tensor, mask_BHW: Tensor) -> Bleed:
    """Raises ValueError for batches and a mask that do not fit."""
    sums = picture_sums(base_BHWC.cpu(), changed_BHWC.cpu(), mask_BHW.cpu())
    return Bleed([Change.of([s]) for s in sums], Change.of(sums))


def score(change: Change) -> str:
    return f"{change.bleed:.3f}" if math.isfinite(change.bleed) else "without limit (only the outside changed)"


def parts(change: Change) -> str:
    return f"change outside {change.outside:.4f}, inside {change.inside:.4f} (root mean square, 0 to 1)"


def numbers(change: Change) -> dict[str, float | None]:
    """JSON has no infinity: null."""
    return {"change_inside": change.inside, "change_outside": change.outside,
            "bleed": change.bleed if math.isfinite(change.bleed) else None}
