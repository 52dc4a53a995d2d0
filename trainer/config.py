"""What a training run is asked to do. Frozen, checked on creation, printable."""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from .ema import EmaSpec
from .noise import NoiseLevels
from .optimizer import OPTIMIZERS, Optimization, OptimizerSpec
from .schedule import ScheduleSpec


class Normalization(str, Enum):
    """How masked errors become one number per optimizer step."""

    STEP = "step"  # sum of weighted errors / sum of weights over the whole step: every learned pixel counts the same
    IMAGE = "image"  # the same per image, then the mean: every image counts the same (OneTrainer, normalized)
    NONE = "none"  # plain mean over all pixels: a small mask teaches less (sd-scripts, diffusion-pipe, SimpleTuner)


class ErrorKind(str, Enum):
    """How far a prediction is off, for each value."""

    MSE = "mse"
    L1 = "l1"
    HUBER = "huber"  # d (sqrt(e^2 + d^2) - d), the pseudo-Huber of sd-scripts: squares near 0, straight lines far out
    SMOOTH_L1 = "smooth l1"  # e^2 / 2d where |e| < d, |e| - d/2 beyond


class Weighting(str, Enum):
    """What a noise level counts. It multiplies every term and stays out of denominators."""

    NONE = "none"
    MIN_SNR = "min-snr"  # arXiv 2303.09556: min(snr, gamma) in x0, carried over to whatever the network predicts
    DEBIASED = "debiased"  # arXiv 2310.08442 as sd-scripts has it: 1 / sqrt(min(snr, 1000)), for v 1 / (snr + 1)
    SIGMA_SQRT = "sigma sqrt"  # flow, SD3's code: sigma^-2
    COSMAP = "cosmap"  # flow, SD3's code: 2 / (pi (1 - 2 sigma + 2 sigma^2))


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSpec:
    """`delta`: the bend of Huber and smooth L1. `gamma`: of min-SNR. `damping`: b in mean(weight)**b, which makes tiny masks count
    less under STEP and IMAGE; 0 not at all, 1 as much as under NONE.
    """

    error: ErrorKind = ErrorKind.MSE
    delta: float = 0.1
    weighting: Weighting = Weighting.NONE
    gamma: float = 5.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "error", choice(ErrorKind, "error", self.error))
        object.__setattr__(self, "weighting", choice(Weighting, "weighting", self.weighting))
        for name in ("delta", "gamma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping is {self.damping}; use 0 (none) to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskUse:
    """`probability`: share of draws that the mask applies to, the rest learns every pixel (OneTrainer's unmasked probability is the
    rest). `threshold`: cells from this weight on count fully and the others not at all (SimpleTuner's segmentation). `level_cap`:
    masked draws see noise up to this level, because pure noise does not show where the subject will be (StableTuner).
    """

    probability: float = 1.0
    threshold: float | None = None
    level_cap: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"mask probability is {self.probability}; use 0 (never) to 1 (always)")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"mask threshold is {self.threshold}; use a number above 0, at most 1")
        if not 0 < self.level_cap <= 1:
            raise ValueError(f"noise cap of masked pictures is {self.level_cap}; use a number above 0, at most 1 (none)")


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorSpec:
    """Outside the mask the model is held to what it predicts without the adapter: `weight` times a mean of its own.

    Outside is 1 - weight, or with a `threshold` every cell below it, fully, which then is not learned at all. Only at noise levels
    in `minimum`..`maximum` and every `every` steps, because it costs a forward pass.
    """

    weight: float = 0.0
    threshold: float | None = None
    minimum: float = 0.0
    maximum: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"prior weight is {self.weight}; use 0 (off) or more")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"prior threshold is {self.threshold}; use a number above 0, at most 1")
        if not 0 <= self.minimum < self.maximum <= 1:
            raise ValueError(f"prior noise levels run from {self.minimum} to {self.maximum}; use two numbers in 0..1, smaller one first")
        if self.every < 1:
            raise ValueError(f"the prior comes every {self.every} steps; use 1 or more")


E = TypeVar("E", bound=Enum)


def choice(kind: type[E], name: str, value: object) -> E:
    """The member that `value` is or names; raises ValueError with the choices."""
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(str(member.value) for member in kind)}") from error


# Attention and feed-forward layers of the numbered blocks. Modulation, timestep and text embedders steer the whole picture:
# a LoRA on them changes what no mask can protect.
BLOCK_LAYERS = r"(?!.*(mod|adaLN|norm|emb|guidance|txt_in)).*\.\d+\..*"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """A LoRA on the linear layers whose full name matches `targets`, a regular expression."""

    rank: int = 16
    alpha: float = 16.0
    targets: str = BLOCK_LAYERS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}; alpha / rank scales the LoRA")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One run. `batch_size` images share an optimizer step, `micro_batch` of them a forward pass (0 = all that fit together).
    A gradient longer than `max_grad_norm` is cut to it (0 = never). `caption_dropout`: share of draws, also of regularisation, that see
    an example's text for a dropped caption.
    """

    steps: int
    batch_size: int = 1
    micro_batch: int = 0
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    normalization: Normalization = Normalization.STEP
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    ema: EmaSpec | None = None
    loss: LossSpec = field(default_factory=LossSpec)
    mask: MaskUse = field(default_factory=MaskUse)
    prior: PriorSpec = field(default_factory=PriorSpec)
    noise: NoiseLevels = field(default_factory=NoiseLevels)
    caption_dropout: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "normalization", choice(Normalization, "normalization", self.normalization))  # a name counts too
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("micro_batch", "max_grad_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout is {self.caption_dropout}; use 0 (never) to 1 (always)")
        self.optimization()
        kind = OPTIMIZERS[self.optimizer.name]
        if self.learning_rate < kind.least_rate:
            raise ValueError(f"learning_rate is {self.learning_rate:g}, by which {self.optimizer.name} learns next to nothing; "
                             f"it wants {kind.rate}")
        if self.schedule.warmup >= self.steps:
            raise ValueError(f"the warm-up takes {self.schedule.warmup} of {self.steps} steps; leave some for the full learning rate")

    def optimization(self) -> Optimization:
        """How the adapter is moved. Raises ValueError where its parts do not go together."""
        return Optimization(optimizer=self.optimizer, schedule=self.schedule, ema=self.ema)
