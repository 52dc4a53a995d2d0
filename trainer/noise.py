"""How often each noise level is trained. A level runs from 0 (clean) to 1 (noise); the model turns it into its own sigma."""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Distribution = Literal["logit-normal", "uniform", "mode", "cosmap", "beta", "curve"]
FLUX_SHIFT = ((256, 0.5), (4096, 1.15))  # log of the shift at so many image tokens; between and beyond on a straight line


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLevels:
    """A distribution over levels, moved by `shift` and then squeezed into minimum..maximum.

    logit-normal: sigmoid(mean + std z), z standard normal (SD3, arXiv 2403.03206, eq. 19). uniform: all alike.
    mode: 1 - u - scale (cos(pi u / 2)^2 - 1 + u), u uniform (eq. 20); cosmap: 1 - 1 / (tan(pi u / 2) + 1) (eq. 21).
    beta: Beta(alpha, beta). curve: density through `curve`, numbers at equal distances from level 0 to level 1.
    shift: level' = s level / (1 + (s - 1) level); above 1 trains layout more, below 1 detail. `flux_shift` multiplies it by
    e^mu, mu from the number of image tokens as Flux samples: larger pictures need more noise.
    """

    distribution: Distribution = "logit-normal"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29
    alpha: float = 1.0
    beta: float = 1.0
    curve: tuple[float, ...] = (1.0, 1.0)
    shift: float = 1.0
    flux_shift: bool = False
    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in get_args(Distribution):
            raise ValueError(f"noise distribution is {self.distribution!r}; choose one of {', '.join(get_args(Distribution))}")
        for name in ("std", "shift", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"noise {name} is {getattr(self, name)}; use a number above 0")
        if not 0 <= self.minimum < self.maximum <= 1:
            raise ValueError(f"noise levels run from {self.minimum} to {self.maximum}; use two numbers in 0..1, the smaller one first")
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(f"mode scale is {self.scale}; use -1 to {2 / (math.pi - 2):.2f}, others give a level twice (arXiv 2403.03206)")
        if len(self.curve) < 2 or min(self.curve) < 0 or not max(self.curve) > 0:
            raise ValueError(f"noise curve is {self.curve}; give two or more numbers, none negative and not all 0")

    def levels(self, normal_B: Tensor, latent_cells: int) -> Tensor:
        """Levels (B,) float32 in 0..1 from standard normal draws (B,). latent_cells: rows times columns of the latent."""
        level_B = self._shape(normal_B.double())
        shift = self.shift * (math.exp(flux_mu(latent_cells / 4)) if self.flux_shift else 1.0)
        level_B = shift * level_B / (1 + (shift - 1) * level_B)
        return (self.minimum + (self.maximum - self.minimum) * level_B).float()

    def _shape(self, normal_B: Tensor) -> Tensor:
        if self.distribution == "logit-normal":
            return (self.mean + self.std * normal_B).sigmoid()
        uniform_B: Tensor = torch.special.ndtr(normal_B)
        if self.distribution == "mode":
            bent_B: Tensor = 1 - uniform_B - self.scale * ((math.pi / 2 * uniform_B).cos().square() - 1 + uniform_B)
            return bent_B
        if self.distribution == "cosmap":
            return 1 - 1 / ((math.pi / 2 * uniform_B).tan() + 1)
        if self.distribution == "beta":
            from scipy.special import betaincinv  # torch has no inverse; ComfyUI brings SciPy

            return torch.from_numpy(np.atleast_1d(betaincinv(self.alpha, self.beta, uniform_B.numpy())))
        if self.distribution == "curve":
            return _from_density(uniform_B, self.curve)
        return uniform_B

    def describe(self) -> str:
        own = {"logit-normal": f" (mean {self.mean:g}, std {self.std:g})", "mode": f" ({self.scale:g})",
               "beta": f" ({self.alpha:g}, {self.beta:g})", "curve": f" {self.curve}"}.get(self.distribution, "")
        parts = [self.distribution + own]
        if self.shift != 1:
            parts.append(f"shift {self.shift:g}")
        if self.flux_shift:
            parts.append("shifted with the picture's size as Flux")
        if (self.minimum, self.maximum) != (0, 1):
            parts.append(f"from {self.minimum:g} to {self.maximum:g}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """For metadata: the distribution and whatever is not its default."""
        default = asdict(NoiseLevels())
        return {k: v for k, v in asdict(self).items() if k == "distribution" or v != default[k]}


def flux_mu(image_tokens: float) -> float:
    """The logarithm of the shift that Flux samples with: 0.5 at 256 image tokens, 1.15 at 4096 (black-forest-labs/flux, sampling.py)."""
    (x0, y0), (x1, y1) = FLUX_SHIFT
    return y0 + (y1 - y0) * (image_tokens - x0) / (x1 - x0)


def _from_density(uniform_B: Tensor, curve: tuple[float, ...]) -> Tensor:
    """Inverse of the distribution whose density is piecewise linear through `curve`."""
    density = np.asarray(curve)
    steps = 1 / (len(density) - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * steps)])
    target = uniform_B.numpy() * cumulative[-1]
    part = np.clip(np.searchsorted(cumulative, target, side="right") - 1, 0, len(density) - 2)
    left, slope, rest = density[part], (density[part + 1] - density[part]) / steps, target - cumulative[part]
    # Solves slope/2 x^2 + left x = rest in the form that stays exact for a slope of 0.
    x = 2 * rest / np.maximum(left + np.sqrt(np.maximum(left**2 + 2 * slope * rest, 0)), 1e-300)
    return torch.from_numpy(np.atleast_1d(np.clip(part * steps + x, 0, 1)))
