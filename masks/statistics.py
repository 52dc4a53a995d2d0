"""Numbers about one mask and about a set of them, and which masks a person should look at first. White = learn.

Shapes: T frames (1 for a picture), H height, W width in pixels, h rows and w columns of the latent grid.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .detail import vanished_share
from .latent_grid import latent_weight

BINS = 20
SMALL, LARGE = 0.01, 0.5  # coverage below and above which a mask is remarked on
LOST = 0.1  # share of white pixels that may vanish at the latent grid before it is remarked on
UNMASKED = "no mask: learned everywhere"
WORST_FIRST = ("worst first: all black, no contrast, looks inverted, under 1% white, over 50% white, thin details lost, no mask, "
               "then the rest")


@dataclass(frozen=True, slots=True)
class Remark:
    """What a person should know about one mask. rank: 0 is the gravest kind; strength orders masks within a kind."""

    rank: int
    strength: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class MaskStatistics:
    """Of the weights (0..1) of one picture or clip, its recipe applied.

    coverage: share of pixels above 0.5. minimum, mean, maximum: over all pixels. histogram: latent cells in BINS equal steps of
    weight from 0 to 1. lost: share of the white pixels whose latent cell weighs less than 0.5. inverted: see
    inverted_by. masked: whether there is a mask at all.
    """

    coverage: float
    minimum: float
    mean: float
    maximum: float
    histogram: tuple[int, ...] = ()
    lost: float = 0.0
    inverted: float = 0.0
    masked: bool = True

    def describe(self) -> str:
        """One line for a person."""
        return (f"white (learn): {self.coverage:.1%} of pixels; weight mean {self.mean:.3f}, "
                f"from {self.minimum:.3f} to {self.maximum:.3f}")

    def remarks(self) -> list[Remark]:
        """What is unusual about the mask, the gravest first; empty for an ordinary one."""
        if not self.masked:
            return [Remark(6, 0, "no mask", UNMASKED)]
        if self.maximum == 0:
            return [Remark(0, 0, "all black", "all black: nothing is learned from this picture")]
        if self.minimum == self.maximum:
            return [Remark(1, self.mean, "no contrast", f"no contrast: every pixel is learned with weight {self.mean:.3g}")]
        found = []
        if self.inverted:
            found.append(Remark(2, self.inverted, "looks inverted", "looks inverted: white along the frame, black in the middle"))
        if self.coverage < SMALL:
            found.append(Remark(3, -self.coverage, "under 1% white", f"little is learned: {self.coverage:.2%} of pixels are white"))
        if self.coverage > LARGE:
            found.append(Remark(4, self.coverage, "over 50% white", f"most is learned: {self.coverage:.1%} of pixels are white"))
        if self.lost > LOST:
            found.append(Remark(5, self.lost, "thin details lost",
                                f"thin details: {self.lost:.1%} of the white pixels lie in latent cells of weight below 0.5; "
                                "Grow Mask for Latent Grid keeps them"))
        return found

    def badness(self) -> tuple[int, float]:
        """Smaller is worse: the rank of the gravest remark, then its strength; without remarks, the share of lost pixels."""
        remarks = self.remarks()
        return (remarks[0].rank, -remarks[0].strength) if remarks else (7, -self.lost)


NO_MASK = MaskStatistics(coverage=1.0, minimum=1.0, mean=1.0, maximum=1.0, histogram=(*[0] * (BINS - 1), 1), masked=False)


def statistics(weight_THW: Tensor, latent_THW: Tensor) -> MaskStatistics:
    """Counts over the pixels of one mask (T, H, W) and the cells that it becomes (frames, h, w).

    Raises ValueError for other shapes or an empty mask.
    """
    if weight_THW.ndim != 3 or latent_THW.ndim != 3 or not weight_THW.numel():
        raise ValueError(f"mask has shape {tuple(weight_THW.shape)}, its cells {tuple(latent_THW.shape)}; give frames, height, width")
    weight_THW = weight_THW.detach().float()
    minimum, maximum = (value.item() for value in torch.aminmax(weight_THW))
    # float64 sums: a float32 mean over a clip's pixels is off in the fourth digit.
    return MaskStatistics(coverage=(weight_THW > 0.5).sum().item() / weight_THW.numel(), minimum=minimum,
                          mean=weight_THW.sum(dtype=torch.float64).item() / weight_THW.numel(), maximum=maximum,
                          histogram=histogram(latent_THW),
                          lost=vanished_share(weight_THW, latent_weight(weight_THW, (latent_THW.shape[1], latent_THW.shape[2]))[:, 0]),
                          inverted=inverted_by(weight_THW))


def histogram(latent_THW: Tensor) -> tuple[int, ...]:
    """Counts of weights in BINS equal steps from 0 to 1; 1 belongs to the last."""
    index = (latent_THW.float() * BINS).long().clamp(0, BINS - 1)
    return tuple(torch.bincount(index.flatten().cpu(), minlength=BINS).tolist())


def inverted_by(weight_THW: Tensor) -> float:
    """How much a mask looks inverted, 0..1, by the rule of the folder check; 0 if it does not.

    At least three sides (their outer 4 %) have a mean of 0.75 or more, the middle half of the width and height one below 0.5. The
    value is by how much the third whitest side is whiter than the middle.
    """
    height, width = weight_THW.shape[-2:]
    rows, columns = max(1, round(0.04 * height)), max(1, round(0.04 * width))
    top, left = round(0.25 * height), round(0.25 * width)
    middle = weight_THW[:, top:height - top, left:width - left]
    sides = (weight_THW[:, :rows], weight_THW[:, -rows:], weight_THW[:, :, :columns], weight_THW[:, :, -columns:])
    third = sorted(side.mean(dtype=torch.float64).item() for side in sides)[1]
    if third < 0.75 or not middle.numel():
        return 0.0
    inside = middle.mean(dtype=torch.float64).item()
    return third - inside if inside < 0.5 else 0.0


def worst_first(found: Sequence[MaskStatistics]) -> list[int]:
    """Positions, the masks first that a person should look at: by kind of remark as in WORST_FIRST, then by strength; masks
    without remarks by how much of them vanishes at the latent grid. Equal ones keep their order.
    """
    return sorted(range(len(found)), key=lambda index: found[index].badness())


def summary(found: Sequence[MaskStatistics], recipe: str) -> list[str]:
    """Lines of totals for a set: counts, mean coverage, masks in tenths of coverage, remarks by kind."""
    masked = [numbers for numbers in found if numbers.masked]
    without = len(found) - len(masked)
    unmasked = f", {without} without a mask (learned everywhere)" if without else ""
    lines = [f"White = learn. {len(masked)} masks{unmasked}, recipe: {recipe}"]
    if masked:
        tenths = [0] * 10
        for numbers in masked:
            tenths[min(9, int(numbers.coverage * 10))] += 1
        shares = ", ".join(f"{10 * index}-{10 * index + 10}%: {count}" for index, count in enumerate(tenths) if count)
        mean = sum(numbers.coverage for numbers in masked) / len(masked)
        lines.append(f"White (learned) on average {mean:.1%} of the pixels; masks by share {shares}")
    kinds = sorted({(remark.rank, remark.kind) for numbers in masked for remark in numbers.remarks()})
    if kinds:
        counts = (f"{kind}: {sum(kind in {r.kind for r in n.remarks()} for n in masked)}" for _, kind in kinds)
        lines.append(f"To look at: {', '.join(counts)}")
    return lines
