"""steps.csv: one line a step, whole after a kill at any moment, and without a step twice after a resume."""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ..trainer.example import StepReport
from .observing import Mark

REPORT = tuple(f.name for f in fields(StepReport))
VALIDATION = ("everywhere", "inside", "outside")
COLUMNS = (*REPORT, *(f"validation_{name}" for name in VALIDATION), "events")


class StepTable:
    """`marks`: what the lines that were kept tell. A number that is not finite is an empty cell."""

    def __init__(self, file: Path, step: int) -> None:
        """Keeps the lines up to `step` of a file that is there: what came after them is done again."""
        rows = read(file, step)
        self.marks = [mark for row in rows for mark in marks_in(row)]
        self.last = int(rows[-1]["step"]) if rows else -1
        partial = file.with_name(file.name + ".partial")
        with partial.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(file)
        self.file = file.open("a", encoding="utf-8", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")

    def write(self, step: int, report: StepReport | None, marks: Iterable[Mark]) -> None:
        """One line, in the file when this returns; a step that is there already is left alone."""
        if step <= self.last:
            return
        numbers = {name: getattr(report, name) for name in REPORT} if report else {"step": step}
        for mark in marks:
            if mark.kind.endswith("validation"):
                numbers |= {f"validation_{name}": mark.values[name] for name in VALIDATION}
        events = "; ".join(mark.kind for mark in marks)
        self.writer.writerow([*(cell(numbers.get(name, math.nan)) for name in COLUMNS[:-1]), events])
        self.file.flush()
        self.last = step

    def close(self) -> None:
        self.file.close()


def cell(number: float) -> str:
    return repr(number) if math.isfinite(number) else ""


def read(file: Path, step: int) -> list[dict[str, str]]:
    """The lines up to a step; one that a kill has cut short has no line break and is left out."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    whole = csv.DictReader(io.StringIO(text[:text.rfind("\n") + 1]))
    return [row for row in whole if int(row["step"]) <= step]


def marks_in(row: dict[str, str]) -> list[Mark]:
    def mark(kind: str) -> Mark:
        validated = kind.endswith("validation")
        return Mark(step=int(row["step"]), kind=kind,
                    values={name: float(row[f"validation_{name}"] or "nan") for name in VALIDATION} if validated else {})

    return [mark(kind) for kind in row["events"].split("; ") if kind]
