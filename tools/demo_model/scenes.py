"""Captioned scenes drawn from nothing: one subject on a background, for training and checking the demo model.

Pixels are float32 RGB in 0..1, masks float32 in 0..1 with 1 on the subject; both (H, W[, 3]) at `SIZE` pixels.
"""
from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
SUPERSAMPLE = 3
SUBJECT_COLOURS = {
    "red": (224, 36, 36), "green": (30, 160, 60), "blue": (36, 70, 224),
    "yellow": (250, 220, 40), "purple": (140, 40, 170), "white": (250, 250, 250),
}
BACKGROUND_COLOURS = {
    "grey": (130, 130, 130), "black": (22, 22, 26), "orange": (240, 140, 40), "cyan": (80, 200, 215), "pink": (245, 160, 185),
}
PATTERNS = ("plain", "striped", "dotted")
POSITIONS = {"left": 34, "middle": 64, "right": 94}
KINDS = ("circle", "square", "triangle", "star", "heart", "cross")


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a subject may lie from where its caption puts it, in pixels, and how large it may be (radius)."""

    x: float
    y: float
    radius: tuple[float, float]


# Layout is learned on loose scenes; kinds of subject, whose outline is a small share of the loss, on large and tight ones.
LOOSE, TIGHT = Spread(4, 8, (25, 29)), Spread(2, 3, (31, 33))


@dataclass(frozen=True, slots=True)
class Scene:
    colour: str
    kind: str
    position: str
    pattern: str
    background: str

    def caption(self, variant: int = 0) -> str:
        subject = f"{self.colour} {self.kind} on the {self.position}"
        background = f"{self.pattern} {self.background} background"
        return f"a {subject}, {background}" if variant == 0 else f"{background}, a {subject}"


ALL_SCENES = tuple(Scene(*row) for row in product(SUBJECT_COLOURS, KINDS, POSITIONS, PATTERNS, BACKGROUND_COLOURS))


def split_scenes(seed: int = 0, held_out: int = 160) -> tuple[list[Scene], list[Scene]]:
    """Split all scenes into those that may be trained on and those that no training step of the Flux ever sees."""
    order = list(ALL_SCENES)
    random.Random(seed).shuffle(order)
    return order[held_out:], order[:held_out]


def outline(kind: str, centre: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    """The polygon of a subject kind, in pixels; every kind fills about the same box of 2 x radius."""
    x, y = centre
    if kind == "circle":
        unit = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 64, endpoint=False)]
    elif kind == "square":
        unit = [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    elif kind == "triangle":
        unit = [(0, -1), (1, 0.85), (-1, 0.85)]
    elif kind == "star":
        unit = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate((1.15, 0.46) * 5)]
    elif kind == "heart":
        turns = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        unit = [(math.sin(t) ** 3 * 1.05, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15.5)
                for t in turns]
    elif kind == "cross":
        a, b = 0.34, 1.0
        unit = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    else:
        raise ValueError(f"unknown kind of subject {kind!r}; choose one of {', '.join(KINDS)}")
    return [(x + u * radius, y + v * radius) for u, v in unit]


def draw_background(pattern: str, colour: tuple[int, int, int], phase: int = 0) -> Image.Image:
    """A background at SIZE x SUPERSAMPLE pixels; patterns are a lighter or darker shade of the same colour."""
    side, k = SIZE * SUPERSAMPLE, SUPERSAMPLE
    shade = tuple(int(c * 0.72) if sum(colour) > 200 else c + 46 for c in colour)
    image = Image.new("RGB", (side, side), colour)
    pen = ImageDraw.Draw(image)
    if pattern == "striped":
        for y in range(-24 + phase % 24, SIZE, 24):
            pen.rectangle([0, y * k, side, (y + 11) * k], fill=shade)
    elif pattern == "dotted":
        for row, y in enumerate(range(-24 + phase % 24, SIZE + 24, 24)):
            for x in range(-24 + 12 * (row % 2), SIZE + 24, 24):
                pen.ellipse([(x - 5) * k, (y - 5) * k, (x + 5) * k, (y + 5) * k], fill=shade)
    elif pattern != "plain":
        raise ValueError(f"unknown pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    return image


def shrink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32) / 255


def draw(scene: Scene, rng: random.Random, spread: Spread = TIGHT) -> tuple[np.ndarray, np.ndarray]:
    """Draw one variation of a scene: image (SIZE, SIZE, 3) and subject mask (SIZE, SIZE), 1 = subject."""
    k = SUPERSAMPLE
    image = draw_background(scene.pattern, BACKGROUND_COLOURS[scene.background], rng.choice((0, 12)))
    centre = (POSITIONS[scene.position] + rng.uniform(-spread.x, spread.x), SIZE / 2 + rng.uniform(-spread.y, spread.y))
    points = [(x * k, y * k) for x, y in outline(scene.kind, centre, rng.uniform(*spread.radius))]
    mask = Image.new("L", image.size)
    for pen, fill in ((ImageDraw.Draw(image), SUBJECT_COLOURS[scene.colour]), (ImageDraw.Draw(mask), 255)):
        pen.polygon(points, fill=fill)
    return shrink(image), shrink(mask)
