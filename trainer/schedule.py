"""How fast each step of a run may go: factors of the learning rate."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec:
    """A factor of the learning rate for each step, from the step's number alone, so that a resumed run needs no state.

    `name`: a row of SCHEDULES. `warmup`: steps that lead up to the full rate. `minimum`: share of the rate that the schedule ends at.
    `cycles`: of cosine with restarts. `power`: of polynomial. What the schedule would ignore is refused.
    """

    name: str = "constant"
    warmup: int = 0
    cycles: int = 1
    power: float = 1.0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"schedule is {self.name!r}; choose one of {', '.join(SCHEDULES)}")
        if self.warmup < 0:
            raise ValueError(f"warm-up is {self.warmup} steps; use 0 (none) or more")
        if self.cycles < 1:
            raise ValueError(f"cycles is {self.cycles}; use 1 or more")
        if not 0 < self.power < math.inf:
            raise ValueError(f"power is {self.power}; use a number above 0")
        if not 0 <= self.minimum < 1:
            raise ValueError(f"minimum is {self.minimum}; use a share of the learning rate, from 0 to below 1")
        for setting, usual, means in (("cycles", 1, ("cosine with restarts",)), ("power", 1.0, ("polynomial",)),
                                      ("minimum", 0.0, tuple(name for name in SCHEDULES if name != "constant"))):
            if getattr(self, setting) != usual and self.name not in means:
                raise ValueError(f"schedule {self.name} has no {setting}, got {getattr(self, setting)}; leave it at {usual} or choose "
                                 f"{' or '.join(means)}")

    def factor(self, step: int, steps: int) -> float:
        """Of `step`, counted from 1, in a run of `steps`. Step 1 is current_step 0 of transformers.get_scheduler: with a warm-up
        it has a factor of 0, and the last step is one short of the schedule's end.

        Warm-up: (step - 1) / warmup. Then minimum + (1 - minimum) shape(p), where p goes from 0 to 1.
        """
        done = step - 1
        if done < self.warmup:
            return done / self.warmup
        progress = min(1.0, (done - self.warmup) / max(1, steps - self.warmup))
        return self.minimum + (1 - self.minimum) * SCHEDULES[self.name](progress, self)


def cosine_with_restarts(progress: float, spec: ScheduleSpec) -> float:
    """(1 + cos(pi (cycles p mod 1))) / 2; 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * (spec.cycles * progress % 1))) if progress < 1 else 0.0


# What is left of the rate at a progress of 0..1. All as in transformers.get_scheduler (lr_end of polynomial is minimum times the
# rate), and REX of arXiv 2107.04197.
SCHEDULES: dict[str, Callable[[float, ScheduleSpec], float]] = {
    "constant": lambda p, spec: 1.0,
    "linear": lambda p, spec: 1 - p,
    "cosine": lambda p, spec: 0.5 * (1 + math.cos(math.pi * p)),
    "cosine with restarts": cosine_with_restarts,
    "polynomial": lambda p, spec: (1 - p) ** spec.power,
    "rex": lambda p, spec: (1 - p) / (1 - p / 2),
}
