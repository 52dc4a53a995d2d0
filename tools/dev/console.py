"""What dev.py says, and the error that ends it without a traceback."""
from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DevError(Exception):
    """Something that the person at the keyboard can mend; the message names it and the remedy."""


def say(text: str) -> None:
    print(text, flush=True)


def duration(seconds: float) -> str:
    """`7.2 s`, or `3 min 05 s` from two minutes on."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and, when it went well, say how long it took."""
    say(f"{title} ...")
    start = time.perf_counter()
    yield
    say(f"  done in {duration(time.perf_counter() - start)}")


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log, for an error message; empty if there is no log."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
