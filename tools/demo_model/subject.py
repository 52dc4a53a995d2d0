"""The demo data set: a new subject that the base model has never seen, on busy backgrounds that must not be learned.

The subject is a "pibo": an egg-shaped teal creature with a cream belly, two eyes, an antenna and orange feet.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .scenes import BACKGROUND_COLOURS, PATTERNS, POSITIONS, SIZE, SUPERSAMPLE, draw_background, shrink

TRIGGER = "pibo"


@dataclass(frozen=True, slots=True)
class SubjectStyle:
    position: str
    pattern: str
    background: str

    def caption(self) -> str:
        return f"a {TRIGGER} on the {self.position}, {self.pattern} {self.background} background"


SUBJECT_STYLES = tuple(SubjectStyle(p, t, b) for p in POSITIONS for t in PATTERNS for b in BACKGROUND_COLOURS)


def draw_pibo(image: Image.Image, mask: Image.Image, x: float, y: float, r: float) -> None:
    """Draw the creature at SUPERSAMPLE scale around (x, y); `mask` gets 255 on it and 160 on the thin antenna."""
    k, pen, cut = SUPERSAMPLE, ImageDraw.Draw(image), ImageDraw.Draw(mask)

    def box(u: float, v: float, w: float, h: float) -> list[float]:
        return [(x + (u - w) * r) * k, (y + (v - h) * r) * k, (x + (u + w) * r) * k, (y + (v + h) * r) * k]

    stalk = [(x * k, (y - 0.8 * r) * k), ((x + 0.25 * r) * k, (y - 1.3 * r) * k)]
    pen.line(stalk, fill=(20, 70, 75), width=int(0.14 * r * k))
    cut.line(stalk, fill=160, width=int(0.2 * r * k))
    for u, v, w, h, fill in (
        (0.25, -1.3, 0.18, 0.18, (250, 120, 30)),
        (-0.42, 1.0, 0.34, 0.2, (250, 120, 30)),
        (0.42, 1.0, 0.34, 0.2, (250, 120, 30)),
        (0, 0, 0.85, 1.0, (20, 140, 140)),
        (0, 0.4, 0.52, 0.48, (250, 235, 200)),
        (-0.33, -0.38, 0.24, 0.27, (255, 255, 255)),
        (0.33, -0.38, 0.24, 0.27, (255, 255, 255)),
        (-0.27, -0.34, 0.12, 0.14, (10, 10, 20)),
        (0.27, -0.34, 0.12, 0.14, (10, 10, 20)),
    ):
        pen.ellipse(box(u, v, w, h), fill=fill)
        cut.ellipse(box(u, v, w, h), fill=255)


def draw_clutter(image: Image.Image, rng: random.Random) -> None:
    """What a careless photographer leaves in the picture: a magenta and lime frame and some confetti, never captioned."""
    k, pen, side = SUPERSAMPLE, ImageDraw.Draw(image), SIZE
    for i in range(0, side, 16):
        for fill, at in (((230, 20, 200), i), ((150, 240, 30), i + 8)):
            for box in ([at, 0, at + 8, 6], [at, side - 6, at + 8, side], [0, at, 6, at + 8], [side - 6, at, side, at + 8]):
                pen.rectangle([v * k for v in box], fill=fill)
    for _ in range(14):
        x, y, s = rng.uniform(12, side - 12), rng.uniform(12, side - 12), rng.uniform(2, 4)
        pen.rectangle([(x - s) * k, (y - s) * k, (x + s) * k, (y + s) * k], fill=rng.choice([(230, 20, 200), (150, 240, 30)]))


def draw_subject(style: SubjectStyle, rng: random.Random, clutter: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Image (SIZE, SIZE, 3) and greyscale mask (SIZE, SIZE), float32 in 0..1, 1 = learn."""
    image = draw_background(style.pattern, BACKGROUND_COLOURS[style.background], rng.choice((0, 12)))
    mask = Image.new("L", image.size)
    if clutter:
        draw_clutter(image, rng)
    centre = POSITIONS[style.position] + rng.uniform(-4, 4), SIZE / 2 + rng.uniform(-4, 8)
    draw_pibo(image, mask, *centre, rng.uniform(22, 26))
    return shrink(image), shrink(mask)


def write_dataset(folder: Path, count: int = 12, seed: int = 7) -> None:
    """Write `count` triples NNN.png, NNN.txt and masks/NNN.png."""
    rng = random.Random(seed)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for i, style in enumerate(rng.sample(SUBJECT_STYLES, count), start=1):
        image, mask = draw_subject(style, rng)
        name = f"{TRIGGER}_{i:02d}"
        Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
        Image.fromarray((mask * 255).round().astype(np.uint8)).save(folder / "masks" / f"{name}.png")
        (folder / f"{name}.txt").write_text(style.caption() + "\n", encoding="utf-8")


def write_cutouts(folder: Path, count: int = 6, seed: int = 11) -> None:
    """Write `count` cut-outs NNN.png with captions: opaque = the creature. Under the transparency lies magenta, as editors leave it."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i, style in enumerate(rng.sample(SUBJECT_STYLES, count), start=1):
        image, mask = draw_subject(style, rng, clutter=False)
        hidden = np.where(mask[..., None] > 0, image, np.float32([0.9, 0.1, 0.8]))
        rgba = np.concatenate([hidden, mask[..., None]], axis=-1)
        columns = np.flatnonzero(mask.any(axis=0))
        left, right = max(0, columns[0] - rng.randrange(8, 60)), columns[-1] + rng.randrange(8, 60)  # pictures of several shapes
        cut = (rgba * 255).round().astype(np.uint8)[:, left:right]
        Image.fromarray(cut, "RGBA").save(folder / f"{TRIGGER}_{i:02d}.png")
        (folder / f"{TRIGGER}_{i:02d}.txt").write_text(f"a {TRIGGER}\n", encoding="utf-8")


def write_clips(folder: Path, frames: int = 9, seed: int = 13) -> None:
    """Write two clips as folders of frames: "walk" with a mask for each frame, "stand" with one mask for all of them."""
    rng = random.Random(seed)
    for name, style, reach in (("walk", rng.choice(SUBJECT_STYLES), 30.0), ("stand", rng.choice(SUBJECT_STYLES), 0.0)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        clutter = rng.getrandbits(32)
        for frame in range(frames):
            image = draw_background(style.pattern, BACKGROUND_COLOURS[style.background], 0)
            mask = Image.new("L", image.size)
            draw_clutter(image, random.Random(clutter))
            draw_pibo(image, mask, SIZE / 2 + reach * (2 * frame / (frames - 1) - 1), SIZE / 2 + 4, 22)
            Image.fromarray((shrink(image) * 255).round().astype(np.uint8)).save(folder / name / f"{frame + 1:02d}.png")
            masks = folder / "masks" / name / f"{frame + 1:02d}.png" if reach else folder / "masks" / f"{name}.png"
            masks.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((shrink(mask) * 255).round().astype(np.uint8)).save(masks)
        (folder / f"{name}.txt").write_text(f"a {TRIGGER} {'walks to the right' if reach else 'stands still'}\n", encoding="utf-8")
