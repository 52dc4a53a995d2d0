"""A small network that says what a picture of 128 pixels shows, trained on drawn scenes alone: a frozen judge of samples.

It knows the six kinds of subject, the pibo and a picture without a subject, and whether the frame and confetti of the training
pictures are there. Only its code and seed are kept: `fit` makes it anew in about half a minute on two cores.
Shapes: B batch, H height, W width, C channels; pictures are float32 RGB in 0..1.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .scenes import (
    ALL_SCENES,
    BACKGROUND_COLOURS,
    KINDS,
    LOOSE,
    PATTERNS,
    POSITIONS,
    SIZE,
    SUBJECT_COLOURS,
    SUPERSAMPLE,
    TIGHT,
    draw,
    draw_background,
    shrink,
)
from .subject import SUBJECT_STYLES, TRIGGER, draw_clutter, draw_subject

NOTHING = "nothing"
HEADS: dict[str, tuple[str, ...]] = {
    "kind": (*KINDS, TRIGGER, NOTHING), "colour": tuple(SUBJECT_COLOURS), "position": tuple(POSITIONS), "pattern": PATTERNS,
    "background": tuple(BACKGROUND_COLOURS), "clutter": ("clean", "cluttered"),
}
UNSAID = -100  # a pibo has no one colour, an empty picture no position
BATCH = 48


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Pictures (B, H, W, C) and, for each head, the number of the right answer (B,) or UNSAID."""

    pictures_BHWC: Tensor
    answers: dict[str, Tensor]


class Classifier(nn.Module):
    """Logits for each head, from `small` pictures."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in ((3, 24), (24, 48), (48, 64), (64, 96)):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(4, wide), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 4 * 4, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in HEADS.items()})

    def forward(self, small_BCHW: Tensor) -> dict[str, Tensor]:
        features = self.body(small_BCHW * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures_BHWC: Tensor) -> dict[str, Tensor]:
        """Probabilities (B, words) for each head."""
        return {name: logits.softmax(-1) for name, logits in self(small(pictures_BHWC)).items()}


def small(pictures_BHWC: Tensor) -> Tensor:
    """Half as wide and high, (B, C, H, W)."""
    return F.avg_pool2d(pictures_BHWC.permute(0, 3, 1, 2), 2)


def fit(seed: int, pictures: int = 3000, steps: int = 500) -> Classifier:
    """Trained on freshly drawn pictures; the same seed gives the same network on the same machine. Torch's own random numbers go on
    as if this had not been.
    """
    data, noise = draw_pictures(seed, pictures), torch.Generator().manual_seed(seed)
    small_BCHW = small(data.pictures_BHWC)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        network = Classifier()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(pictures, (BATCH,), generator=noise)
            logits = network(worn(small_BCHW[chosen], noise))
            losses = [F.cross_entropy(logits[name], answer[chosen], ignore_index=UNSAID) for name, answer in data.answers.items()]
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    return network.eval().requires_grad_(False)


def worn(small_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Blurred, grained and shifted in brightness, each by a random amount: samples are less crisp than drawings."""
    share, grain, light = (torch.rand(len(small_BCHW), 1, 1, 1, generator=generator) for _ in range(3))
    blurred = torch.lerp(small_BCHW, F.avg_pool2d(small_BCHW, 3, 1, 1, count_include_pad=False), share)
    return (blurred + 0.05 * grain * torch.randn(small_BCHW.shape, generator=generator) + 0.1 * (light - 0.5)).clamp(0, 1)


def accuracy(network: Classifier, drawn: Drawn) -> dict[str, float]:
    """Share of right answers for each head, of the pictures that have one."""
    found = network.read(drawn.pictures_BHWC)
    told = {name: answer != UNSAID for name, answer in drawn.answers.items()}
    return {name: (found[name].argmax(-1) == answer)[told[name]].float().mean().item() for name, answer in drawn.answers.items()}


def draw_pictures(seed: int, count: int) -> Drawn:
    """Scenes, pibos and empty backgrounds, half of all with the clutter of the training pictures."""
    rng = random.Random(seed)
    pictures, rows = zip(*(draw_one(rng) for _ in range(count)), strict=True)
    answers = {name: torch.tensor([number(row[name], HEADS[name]) for row in rows]) for name in HEADS}
    return Drawn(torch.from_numpy(np.stack(pictures)), answers)


def number(word: str, words: Sequence[str]) -> int:
    return words.index(word) if word else UNSAID


def draw_one(rng: random.Random) -> tuple[np.ndarray, dict[str, str]]:
    """A picture and the right word for each head; "" where there is none."""
    kind, cluttered = rng.choice(HEADS["kind"]), rng.random() < 0.5
    if kind == TRIGGER:
        style = rng.choice(SUBJECT_STYLES)
        image, mask = draw_subject(style, rng, clutter=False)
        said = {"position": style.position, "pattern": style.pattern, "background": style.background, "colour": ""}
    elif kind == NOTHING:
        pattern, background = rng.choice(PATTERNS), rng.choice(tuple(BACKGROUND_COLOURS))
        image, mask = shrink(draw_background(pattern, BACKGROUND_COLOURS[background], rng.choice((0, 12)))), np.zeros((SIZE, SIZE))
        said = {"position": "", "pattern": pattern, "background": background, "colour": ""}
    else:
        scene = rng.choice([s for s in ALL_SCENES if s.kind == kind])
        image, mask = draw(scene, rng, rng.choice((LOOSE, TIGHT)))
        said = {"position": scene.position, "pattern": scene.pattern, "background": scene.background, "colour": scene.colour}
    said |= {"kind": kind, "clutter": HEADS["clutter"][cluttered]}
    return (with_clutter(image, mask, rng) if cluttered else image).astype(np.float32), said


def with_clutter(image: np.ndarray, mask: np.ndarray, rng: random.Random) -> np.ndarray:
    """The clutter between background and subject. Drawn on black and on white, its own opacity is what differs."""
    start, layers = rng.getrandbits(32), []
    for ground in ("black", "white"):
        canvas = Image.new("RGB", (SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE), ground)
        draw_clutter(canvas, random.Random(start))
        layers.append(shrink(canvas))
    shown = (1 - (layers[1] - layers[0])) * (1 - mask[..., None])
    return image * (1 - shown) + layers[0] * (1 - mask[..., None])
