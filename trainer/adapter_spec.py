"""Which adapter is trained on which layers, and how large it is there."""
from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from enum import Enum

from .config import LoraSpec, choice


class Kind(str, Enum):
    """ComfyUI's own loader reads every one of them back as it was trained."""

    LORA = "lora"
    RSLORA = "rslora"  # scaled by alpha / sqrt(rank), arXiv 2312.03732; saved with the alpha that gives the same by alpha / rank
    DORA = "dora"
    LOHA = "loha"
    LOKR = "lokr"
    OFT = "oft"


WITH_DROPOUT = (Kind.LORA, Kind.RSLORA, Kind.DORA)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec(LoraSpec):
    """`dropout`: share of each layer's ranks that is switched off for a picture (kohya's rank_dropout; the rest counts for it).

    `patterns`: (regular expression, rank, alpha) for layers whose full name matches it; the first that does counts. The rank of an
    OFT is the largest size of its blocks, and its alpha means nothing. `start`: the file of a LoRA to go on from, which whoever has
    the model reads; '' starts afresh.
    """

    kind: Kind = Kind.LORA
    dropout: float = 0.0
    patterns: tuple[tuple[str, int, float], ...] = ()
    start: str = ""

    def __post_init__(self) -> None:
        LoraSpec.__post_init__(self)
        object.__setattr__(self, "kind", choice(Kind, "kind of adapter", self.kind))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; use 0 (none) to less than 1")
        if self.dropout and self.kind not in WITH_DROPOUT:
            raise ValueError(f"dropout switches off ranks, which {self.kind.value} has none of to switch off; set it to 0, or choose "
                             f"{', '.join(k.value for k in WITH_DROPOUT)}")
        for pattern, rank, alpha in (*self.patterns, (self.targets, self.rank, self.alpha)):
            compiled(pattern)
            if rank < 1 or alpha <= 0:
                raise ValueError(f"{pattern!r} has rank {rank} and alpha {alpha}; use a rank of 1 or more and an alpha above 0")

    @classmethod
    def of(cls, spec: LoraSpec) -> AdapterSpec:
        """A plain LoRA, for a spec that says no more."""
        if isinstance(spec, AdapterSpec):
            return spec
        return cls(**{f.name: getattr(spec, f.name) for f in fields(spec)})

    def size(self, layer: str) -> tuple[int, float]:
        """Rank, and what its change is multiplied by."""
        rank, alpha = next(((r, a) for pattern, r, a in self.patterns if re.fullmatch(pattern, layer)), (self.rank, self.alpha))
        return rank, alpha / (math.sqrt(rank) if self.kind is Kind.RSLORA else rank)

    def describe(self) -> str:
        parts = [f"{self.kind.value} rank {self.rank}" + ("" if self.kind is Kind.OFT else f" alpha {self.alpha:g}")]
        if self.patterns:
            parts.append(f"{len(self.patterns)} patterns with sizes of their own")
        if self.dropout:
            parts.append(f"rank dropout {self.dropout:g}")
        if self.start:
            parts.append(f"starting from {self.start}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """For metadata: kind, rank, alpha and targets, and whatever else is not its default."""
        usual, own = asdict(AdapterSpec()), asdict(self) | {"kind": self.kind.value}
        return {k: v for k, v in own.items() if k in ("kind", "rank", "alpha", "targets") or v != usual[k]}


def compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def patterns_of(text: str) -> tuple[tuple[str, int, float], ...]:
    """Lines of 'regular expression = rank' or '... = rank, alpha'; without an alpha it is the rank."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        pattern, _, sizes = line.rpartition("=")
        try:
            rank, _, alpha = sizes.partition(",")
            found.append((pattern.strip(), int(rank), float(alpha or rank)))
        except ValueError as error:
            raise ValueError(f"{line!r} is no size of layers; write 'regular expression = rank, alpha', such as "
                             r"'.*attn.* = 32, 16'") from error
    return tuple(found)
