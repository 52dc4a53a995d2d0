"""What a training run is asked to do. Frozen, checked on creation, printable."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Normalization(str, Enum):
    """How masked errors become one number per optimizer step."""

    STEP = "step"  # sum of weighted errors / sum of weights over the whole step: every learned pixel counts the same
    IMAGE = "image"  # the same per image, then the mean: every image counts the same (OneTrainer, normalized)
    NONE = "none"  # plain mean over all pixels: a small mask teaches less (sd-scripts, diffusion-pipe, SimpleTuner)


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
    """One run. `batch_size` images share an optimizer step, `micro_batch` of them a forward pass (0 = all that fit together)."""

    steps: int
    batch_size: int = 1
    micro_batch: int = 0
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    normalization: Normalization = Normalization.STEP
    seed: int = 0

    def __post_init__(self) -> None:
        choices = [choice.value for choice in Normalization]
        if self.normalization not in choices:
            raise ValueError(f"normalization is {self.normalization!r}; choose one of {', '.join(choices)}")
        object.__setattr__(self, "normalization", Normalization(self.normalization))  # a name counts as its member
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("micro_batch", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
