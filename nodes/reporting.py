"""What a node shows of a report that went through several nodes."""
from __future__ import annotations


def own_first(report: str, before: str) -> str:
    """The lines that this node added to the report `before` it, and then those: a node shows a few lines, the rest is scrolled."""
    own = report.removeprefix(before).strip("\n")
    return "\n\n".join(part for part in (own, before) if part)
