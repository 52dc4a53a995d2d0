"""Numbers in sentences."""
from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """"1 picture", "2 pictures"."""
    return f"{number} {noun}{'s' * (number != 1)}"
