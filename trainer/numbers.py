"""Lists of numbers as people type them."""
from __future__ import annotations

import math


def numbers(text: str, what: str, example: str) -> tuple[float, ...]:
    """Finite numbers with commas or spaces between them; raises ValueError, with what they are and an example, for anything else."""
    try:
        found = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{what} {text!r}; give numbers with commas between them, such as {example!r}")
    return found
