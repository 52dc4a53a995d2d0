"""The losses of a run as a picture: faint as they are, strong as they tend. Marks show what else happened."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..masks.canvas import BACKGROUND, INK, MUTED, PANEL, Pixels, font, write
from ..trainer.example import StepReport
from .observing import Mark

Numbers = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
Point = tuple[float, float]

SIZE, SCALE = (1200, 720), 2  # drawn twice as large, then averaged: smooth lines
LEFT, RIGHT, TOP, MIDDLE, BOTTOM = 84, 28, 92, 128, 44  # margins; MIDDLE is the height of the lower panel
GRID = (46, 50, 60)
TEXT = 15
CURVES: dict[str, tuple[str, Colour]] = {"loss": ("loss", (236, 238, 241)), "loss_outside": ("outside the mask", (255, 159, 90)),
                                         "loss_inside": ("inside the mask", (94, 200, 255))}
VALIDATED: Colour = (140, 230, 130)
RATE: Colour = (190, 150, 255)
MARKS: dict[str, tuple[str, Colour]] = {"checkpoint": ("checkpoint", (255, 214, 90)), "preview": ("preview", (240, 120, 190)),
                                        "resumed": ("resumed", (157, 164, 175))}


@dataclass(frozen=True, slots=True)
class Panel:
    """A rectangle of the picture in pixels, and the numbers that its edges stand for."""

    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> Point:
        left, top, right, bottom = self.box
        (x0, x1), (y0, y1) = self.x, self.y
        return left + (right - left) * (x - x0) / (x1 - x0), bottom - (bottom - top) * (y - y0) / (y1 - y0)

    def points(self, x: Numbers, y: Numbers) -> list[Point]:
        """Clipped at the upper and lower edge."""
        return [self.at(a, b) for a, b in zip(x, np.clip(y, *self.y), strict=True)]


def loss_plot(reports: Sequence[StepReport], marks: Sequence[Mark]) -> Pixels:
    """uint8 RGB (H, W, C). Raises ValueError for a run without a step."""
    if not reports:
        raise ValueError("there is no step to plot yet")
    steps = np.array([r.step for r in reports], dtype=np.float64)
    curves = {name: np.array([getattr(r, name) if r.mean_weight > 0 else math.nan for r in reports]) for name in CURVES}
    smooth = {name: smoothed(values) for name, values in curves.items()}
    width, height = SIZE[0] * SCALE, SIZE[1] * SCALE
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = (0.0, max(float(steps[-1]), 1.0))
    split = height - (MIDDLE + BOTTOM) * SCALE
    right = width - RIGHT * SCALE
    upper = Panel((LEFT * SCALE, TOP * SCALE, right, split - 34 * SCALE), x, bounds(curves, smooth, marks))
    rates = np.array([r.learning_rate for r in reports])
    lower = Panel((LEFT * SCALE, split, right, height - BOTTOM * SCALE), x, (0.0, float(rates.max()) * 1.15 or 1.0))
    for panel, ticks in ((upper, 6), (lower, 2)):
        frame(draw, panel, ticks)
    draw_curves(sheet, upper, steps, curves, smooth)
    draw_validation(draw, upper, marks)
    line(draw, lower.points(*thinned(steps, rates)), RATE, 2)
    draw_marks(draw, upper, marks)
    draw_words(draw, upper, lower, smooth, marks)
    return np.array(sheet.resize(SIZE, Image.Resampling.LANCZOS))


def smoothed(values: Numbers) -> Numbers:
    """An exponential mean over about a fifteenth of the run and at least 10 steps, right from its first value on; nan is passed over."""
    keep, mean, weight, out = 1 - 2 / (max(10.0, len(values) / 15) + 1), 0.0, 0.0, np.full(len(values), math.nan)
    for i, value in enumerate(values.tolist()):
        if math.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out[i] = mean / weight if weight else math.nan
    return out


def bounds(curves: dict[str, Numbers], smooth: dict[str, Numbers], marks: Sequence[Mark]) -> tuple[float, float]:
    """Of the loss: all smooth values, and 98 of 100 of the others."""
    lines = np.concatenate([*smooth.values(), [m.values["inside"] for m in marks if "validation" in m.kind]])
    raw, lines = (values[np.isfinite(values)] for values in (np.concatenate(list(curves.values())), lines))
    if not len(raw):
        return 0.0, 1.0
    low, high = min(np.percentile(raw, 1), lines.min()), max(np.percentile(raw, 99), lines.max())
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return max(0.0, float(low - room)), float(high + room)


def thinned(x: Numbers, y: Numbers) -> tuple[Numbers, Numbers]:
    """At most two points for a pixel column, the lowest and the highest, so that a long run is quick to draw and keeps its peaks."""
    good = np.isfinite(y)
    x, y = x[good], y[good]
    columns = SIZE[0] * SCALE // 2
    if len(x) <= 2 * columns:
        return x, y
    kept = sorted({int(i) for part in np.array_split(np.arange(len(x)), columns) for i in (part[y[part].argmin()], part[y[part].argmax()])})
    return x[kept], y[kept]


def draw_curves(sheet: Image.Image, panel: Panel, steps: Numbers, curves: dict[str, Numbers], smooth: dict[str, Numbers]) -> None:
    for opacity, width, lines in ((0.22, 1, curves), (1.0, 3, smooth)):
        layer = sheet.copy()
        draw = ImageDraw.Draw(layer)
        for name, (_, colour) in CURVES.items():
            points = panel.points(*thinned(steps, lines[name]))
            line(draw, points, colour, width + 2 * (name == "loss" and width > 1))  # seen below a curve that is the same
            if len(points) == 1 and width > 1:
                dot(draw, points[0], colour, 4)
        sheet.paste(Image.blend(sheet, layer, opacity))


def draw_validation(draw: ImageDraw.ImageDraw, panel: Panel, marks: Sequence[Mark]) -> None:
    """Inside the masks of the held-out pictures: points, and a broken line at the model without the LoRA."""
    base = [m.values["inside"] for m in marks if m.kind == "base validation" and math.isfinite(m.values["inside"])]
    if base:
        (left, y), (right, _) = panel.at(panel.x[0], base[0]), panel.at(panel.x[1], base[0])
        for start in np.arange(left, right, 16 * SCALE):
            draw.line([(start, y), (min(start + 8 * SCALE, right), y)], VALIDATED, SCALE)
        write(draw, (right - 10 * SCALE, y - 6 * SCALE), "validation without the LoRA", TEXT * SCALE, VALIDATED, "rs")
    measured = [(m.step, m.values["inside"]) for m in marks if m.kind == "validation" and math.isfinite(m.values["inside"])]
    points = [panel.at(x, y) for x, y in measured]
    line(draw, points, VALIDATED, 1)
    for point in points:
        dot(draw, point, BACKGROUND, 6)
        dot(draw, point, VALIDATED, 4)


def draw_marks(draw: ImageDraw.ImageDraw, panel: Panel, marks: Sequence[Mark]) -> None:
    """Signs below the axis of the steps; a resumed run has a line up to the top."""
    _, top, _, bottom = panel.box
    for mark in marks:
        if mark.kind not in MARKS or not panel.x[0] <= mark.step <= panel.x[1]:
            continue
        x, _ = panel.at(mark.step, panel.y[0])
        if mark.kind == "resumed":
            for y in np.arange(top, bottom, 8 * SCALE):
                draw.line([(x, y), (x, y + 4 * SCALE)], MARKS["resumed"][1], SCALE)
        else:
            sign(draw, mark.kind, (x, bottom))


def sign(draw: ImageDraw.ImageDraw, kind: str, at: Point) -> None:
    (x, y), size, colour = at, 5 * SCALE, MARKS[kind][1]
    if kind == "checkpoint":
        draw.polygon([(x, y + 1 * SCALE), (x - size, y + 10 * SCALE), (x + size, y + 10 * SCALE)], colour)
    elif kind == "preview":
        draw.rectangle([x - size, y - 12 * SCALE, x + size, y - 3 * SCALE], outline=colour, width=2 * SCALE)
    else:
        draw.line([(x, y + 1 * SCALE), (x, y + 11 * SCALE)], colour, SCALE)


def frame(draw: ImageDraw.ImageDraw, panel: Panel, count: int) -> None:
    left, top, right, bottom = panel.box
    draw.rectangle(panel.box, PANEL)
    for value in ticks(*panel.y, count):
        _, y = panel.at(panel.x[0], value)
        draw.line([(left, y), (right, y)], GRID, SCALE)
        write(draw, (left - 10 * SCALE, y), f"{value:.6g}", TEXT * SCALE, MUTED, "rm")
    for value in whole_ticks(*panel.x):
        x, _ = panel.at(value, panel.y[0])
        draw.line([(x, top), (x, bottom)], GRID, SCALE)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between low and high, about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def whole_ticks(low: float, high: float) -> list[float]:
    return [value for value in ticks(low, high, 8) if value == round(value)]


def draw_words(draw: ImageDraw.ImageDraw, upper: Panel, lower: Panel, smooth: dict[str, Numbers], marks: Sequence[Mark]) -> None:
    left, _, right, bottom = lower.box
    for value in whole_ticks(*lower.x):
        write(draw, (lower.at(value, 0)[0], bottom + 8 * SCALE), f"{value:g}", TEXT * SCALE, MUTED, "ma")
    write(draw, (left, lower.box[1] - 6 * SCALE), "learning rate", TEXT * SCALE, RATE, "ls")
    write(draw, (LEFT * SCALE, 16 * SCALE), f"Loss after {upper.x[1]:g} steps" if upper.x[1] > 1 else "Loss", 22 * SCALE, INK)
    write(draw, (right, 22 * SCALE), "faint: each step, strong: smoothed", TEXT * SCALE, MUTED, "ra")
    x = float(LEFT * SCALE)
    for name, (label, colour) in reversed(CURVES.items()):
        finite = smooth[name][np.isfinite(smooth[name])]
        if len(finite):
            x = key(draw, x, f"{label} {finite[-1]:.4g}", colour, "line")
    validated = [m.values["inside"] for m in marks if m.kind == "validation" and math.isfinite(m.values["inside"])]
    if validated:
        x = key(draw, x, f"validation inside {validated[-1]:.4g}", VALIDATED, "dot")
    for kind, (label, colour) in MARKS.items():
        if any(m.kind == kind for m in marks):
            x = key(draw, x, label, colour, kind)


def key(draw: ImageDraw.ImageDraw, x: float, label: str, colour: Colour, kind: str) -> float:
    """One entry of the legend; returns where the next one starts."""
    y = 66 * SCALE
    if kind == "line":
        line(draw, [(x, y), (x + 22 * SCALE, y)], colour, 3)
    elif kind == "dot":
        dot(draw, (x + 11 * SCALE, y), colour, 4)
    else:
        sign(draw, kind, (x + 14 * SCALE, y + (7 if kind == "preview" else -6) * SCALE))
    write(draw, (x + 30 * SCALE, y), label, TEXT * SCALE, colour, "lm")
    return x + 52 * SCALE + font(TEXT * SCALE).getlength(label)


def line(draw: ImageDraw.ImageDraw, points: list[Point], colour: Colour, width: int) -> None:
    if len(points) > 1:
        draw.line(points, colour, width * SCALE, joint="curve")


def dot(draw: ImageDraw.ImageDraw, at: Point, colour: Colour, radius: int) -> None:
    (x, y), r = at, radius * SCALE
    draw.ellipse([x - r, y - r, x + r, y + r], colour)
