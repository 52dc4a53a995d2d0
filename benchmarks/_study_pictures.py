"""The study's grid of samples and its curves. `_pack.load()` comes first."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from _study_measures import Spread
from _study_plan import PADDING_ARMS, REGIMES, Cell, Plan
from pack.host.loss_plot import LEFT, RIGHT, SCALE, SIZE, TEXT, TOP, Panel, dot, frame, key, line, whole_ticks
from pack.masks.canvas import BACKGROUND, INK, MUTED, Pixels, write
from pack.masks.comparison import comparison_grid
from PIL import Image, ImageDraw
from torch import Tensor

COLOURS = ((255, 159, 90), (140, 230, 130), (94, 200, 255))
Curve = Mapping[int, float]


def grid(sheets: Mapping[Cell, Tensor], plan: Plan) -> Pixels:
    """Base model and the LoRAs of the first seed, from top to bottom; each prompt under the three regimes, from left to right."""
    shown = [next(i for i, prompt in enumerate(plan.prompts) if prompt.kind == kind) for kind in ("trigger", "rich", "unrelated")]
    rows, labels = [], []
    for arm in ("", *(arm.name for arm in PADDING_ARMS)):
        cells = [Cell(arm, plan.seeds[0], plan.steps, 1.0, sampled) if arm else Cell("", 0, 0, 1.0, sampled) for sampled in REGIMES]
        rows.append(torch.stack([sheets[cell][i, 0] for i in shown for cell in cells]))
        labels.append(f"trained {arm}" if arm else "base model")
    return comparison_grid(rows, labels, [f"{plan.prompts[i].text}: sampled {sampled}" for i in shown for sampled in REGIMES])


def curves(title: str, found: Mapping[str, Sequence[Curve]]) -> Pixels:
    """A strong line for the mean of each way to train, thin ones for its seeds, dots where it was measured."""
    values = [value for runs in found.values() for run in runs for value in run.values()]
    steps = sorted(next(iter(found.values()))[0])
    room = 0.06 * (max(values) - min(values)) or 1.0
    width, height = SIZE[0] * SCALE, SIZE[1] * SCALE
    panel = Panel((LEFT * SCALE, TOP * SCALE, width - RIGHT * SCALE, height - 60 * SCALE), (0.0, float(max(steps))),
                  (min(values) - room, max(values) + room))
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    frame(draw, panel, 6)
    x = float(LEFT * SCALE)
    for (name, runs), colour in zip(found.items(), COLOURS, strict=False):
        faint = tuple(round(0.4 * c + 0.6 * b) for c, b in zip(colour, BACKGROUND, strict=True))
        for run in runs:
            line(draw, [panel.at(step, run[step]) for step in steps], faint, 1)
        points = [panel.at(step, Spread.of([run[step] for run in runs]).mean) for step in steps]
        line(draw, points, colour, 3)
        for point in points:
            dot(draw, point, colour, 4)
        x = key(draw, x, name, colour, "line")
    for step in whole_ticks(*panel.x):
        write(draw, (panel.at(step, panel.y[0])[0], panel.box[3] + 8 * SCALE), f"{step:g}", TEXT * SCALE, MUTED, "ma")
    write(draw, (LEFT * SCALE, 16 * SCALE), title, 22 * SCALE, INK)
    return np.array(sheet.resize(SIZE, Image.Resampling.LANCZOS))
