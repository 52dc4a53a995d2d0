"""Does the demo model draw what the caption says? Sampled with ComfyUI's own sampler, judged without any learned model."""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.sample
import comfy.sd
import cv2
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw

from .scenes import BACKGROUND_COLOURS, KINDS, POSITIONS, SIZE, SUBJECT_COLOURS, Scene, outline

SHAPE = 48  # side of the box that found and expected shapes are compared in


@dataclass(frozen=True, slots=True)
class Verdict:
    colour: bool
    kind: bool
    position: bool
    background: bool

    @property
    def right(self) -> bool:
        """Colour and kind of the subject, found where it should be."""
        return self.colour and self.kind and self.position


def sample(model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, caption: str, seed: int, steps: int = 20,
           cfg: float = 1.0) -> np.ndarray:
    """One picture (SIZE, SIZE, 3) float32 in 0..1."""
    latent = torch.zeros(1, 16, SIZE // 8, SIZE // 8)
    noise = comfy.sample.prepare_noise(latent, seed)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (caption, ""))
    out = comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, latent, disable_pbar=True, seed=seed)
    return vae.decode(out)[0].numpy()


def subject_of(image: np.ndarray, background: str) -> tuple[str, np.ndarray]:
    """Name of the subject colour that fills the largest connected patch, and that patch as a boolean mask.

    A pixel belongs to the nearest of all subject colours and of the background's colour and its darker or lighter shade.
    """
    base = np.array(BACKGROUND_COLOURS[background], np.float32)
    shade = base * 0.72 if base.sum() > 200 else base + 46
    names = [*SUBJECT_COLOURS, "background", "background"]
    palette = np.array([*SUBJECT_COLOURS.values(), base, shade, ], np.float32) / 255
    nearest = ((image[..., None, :] - palette) ** 2).sum(-1).argmin(-1)
    best, area = ("", np.zeros(image.shape[:2], bool)), 0
    for i, name in enumerate(names[:len(SUBJECT_COLOURS)]):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((nearest == i).astype(np.uint8))
        for label in range(1, count):
            if stats[label, cv2.CC_STAT_AREA] > area:
                area, best = stats[label, cv2.CC_STAT_AREA], (name, labels == label)
    return best


def boxed(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    crop = mask[ys.min():ys.max() + 1, xs.min():xs.max() + 1].astype(np.float32)
    return cv2.resize(crop, (SHAPE, SHAPE), interpolation=cv2.INTER_AREA) > 0.5


def template(kind: str) -> np.ndarray:
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).polygon(outline(kind, (SIZE / 2, SIZE / 2), 40), fill=1)
    return boxed(np.asarray(image) > 0)


TEMPLATES = {kind: template(kind) for kind in KINDS}


def kind_of(mask: np.ndarray) -> str:
    """The kind whose outline overlaps the found patch best (intersection over union in a common box)."""
    found = boxed(mask)
    return max(KINDS, key=lambda kind: (found & TEMPLATES[kind]).sum() / (found | TEMPLATES[kind]).sum())


def judge(image: np.ndarray, scene: Scene) -> Verdict:
    colour, mask = subject_of(image, scene.background)
    if mask.sum() < 300:
        return Verdict(False, False, False, False)
    x = np.nonzero(mask)[1].mean()
    position = min(POSITIONS, key=lambda name: abs(POSITIONS[name] - x))
    rest = np.median(image[~cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)], axis=0) * 255
    background = min(BACKGROUND_COLOURS,
                     key=lambda name: min(np.abs(rest - s * np.array(BACKGROUND_COLOURS[name])).sum() for s in (1, 0.72)))
    return Verdict(colour == scene.colour, kind_of(mask) == scene.kind, position == scene.position, background == scene.background)


def check(model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, scenes: Sequence[Scene], seed: int = 0,
          cfg: float = 1.0) -> tuple[dict[str, float], list[np.ndarray]]:
    """Share of scenes that are right, in all and by property, and the pictures."""
    pictures = [sample(model, clip, vae, scene.caption(), seed + i, cfg=cfg) for i, scene in enumerate(scenes)]
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    scores = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in ("right", "colour", "kind", "position", "background")}
    wrong = Counter(s.kind for s, v in zip(scenes, verdicts, strict=True) if not v.right)
    return scores | {f"wrong_{kind}": float(n) for kind, n in wrong.items()}, pictures


def contact_sheet(pictures: Sequence[np.ndarray], scenes: Sequence[Scene], columns: int = 8) -> Image.Image:
    cell, label = SIZE + 8, 30
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + label)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, scene) in enumerate(zip(pictures, scenes, strict=True)):
        x, y = (i % columns) * cell + 4, (i // columns) * (cell + label) + 4
        sheet.paste(Image.fromarray((picture * 255).round().astype(np.uint8)), (x, y))
        colour = (0, 110, 0) if judge(picture, scene).right else (190, 0, 0)
        pen.text((x, y + SIZE + 2), f"{scene.colour} {scene.kind} {scene.position}\n{scene.pattern} {scene.background}", fill=colour)
    return sheet


def drawn_accuracy(count: int = 200, seed: int = 0) -> float:
    """How often the judge agrees with scenes as drawn: its own error, near 1.0."""
    from .scenes import ALL_SCENES, draw

    rng = random.Random(seed)
    scenes = [rng.choice(ALL_SCENES) for _ in range(count)]
    return float(np.mean([judge(draw(scene, rng)[0], scene).right for scene in scenes]))
