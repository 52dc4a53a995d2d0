"""What a run has done, in numbers."""
from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from .architectures import unproven
from .text_padding import TextPadding

if TYPE_CHECKING:
    from .run import ActiveRun


def report_of(run: ActiveRun, seconds: float) -> dict[str, object]:
    """What the node shows and the demo's report carries; first and last are means over a tenth of the steps. seconds: since the run
    was started or resumed.
    """
    reports, padding = run.reports, TextPadding.from_json(run.training_set.text_padding)
    tenth = max(1, len(reports) // 10)
    new_steps = run.state.step - run.resumed

    def mean(values: list[float]) -> float | None:
        finite = [v for v in values if math.isfinite(v)]
        return sum(finite) / len(finite) if finite else None

    parts = {"first": reports[:tenth], "last": reports[-tenth:]}
    return {
        "steps": run.state.step, "seconds_per_step": seconds / new_steps if new_steps else None, "total_seconds": seconds,
        "peak_rss_mb": peak_rss_mb(), "outcome": run.outcome(),
        "warning": unproven(run.patcher) or "",
        **{f"loss_{where}_{name}": mean([getattr(r, f"loss_{where}") for r in part])
           for where in ("inside", "outside") for name, part in parts.items()},
        "mean_weight": mean([r.mean_weight for r in reports]),
        "text_padding": asdict(padding), "says": padding.describe(),
    }


def peak_rss_mb() -> float | None:
    """The process's peak resident memory in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
