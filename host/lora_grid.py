"""One prompt and seed by several LoRA files, or the checkpoints of a run, at several strengths."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import folder_paths
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..masks.canvas import Pixels
from ..masks.comparison import comparison_grid, evenly
from ..trainer.numbers import numbers
from .lora_format import LoraWeights, load_lora
from .lora_loading import put_on
from .peft_files import scaled_as_trained
from .progress import Progress
from .studio import Settings, Studio, chosen_padding
from .text import Conditioning
from .text_padding import TextPadding


@dataclass(frozen=True, slots=True)
class Row:
    """A LoRA and what the grid calls it; without a file it is one of the graph."""

    label: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sampled of every LoRA."""

    prompt: str
    seed: int
    strengths: Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class LoraGrid:
    """`pictures`: (rows * strengths, H, W, C), row by row. `chosen`: each row's text padding and words about it. `notes`: how rows
    were scaled, and what of them found no place.
    """

    pictures: Tensor
    rows: Sequence[Row]
    plan: Plan
    chosen: Sequence[tuple[TextPadding, str]]
    notes: Sequence[str] = ()

    def grid(self) -> Pixels:
        return comparison_grid(self.pictures.split(len(self.plan.strengths)), [row.label for row in self.rows],
                               [f"strength {strength:g}" for strength in self.plan.strengths])

    def words(self) -> str:
        strengths = ", ".join(f"{strength:g}" for strength in self.plan.strengths)
        return "\n".join([f"{len(self.rows)} LoRAs at strengths {strengths}, seed {self.plan.seed}: {len(self.pictures)} pictures",
                          *(f"Text padding: {words}" for words in dict.fromkeys(words for _, words in self.chosen)),
                          *self.notes])

    def json(self) -> str:
        rows = [{"label": row.label, "text_padding": asdict(spec)} for row, (spec, _) in zip(self.rows, self.chosen, strict=True)]
        return json.dumps({"prompt": self.plan.prompt, "seed": self.plan.seed, "strengths": list(self.plan.strengths), "rows": rows})


def strengths_of(text: str) -> tuple[float, ...]:
    """Numbers with commas or spaces between them; raises ValueError for anything else and for none."""
    if not text.replace(",", "").strip():
        raise ValueError("strengths are empty; give numbers with commas between them, such as '0.5, 0.75, 1'")
    return numbers(text, "strengths are", "0.5, 0.75, 1")


def rows_of(text: str, most: int) -> list[Row]:
    """One LoRA a line, as ComfyUI lists it (with or without .safetensors). The name of a run stands for the LoRAs beside its
    checkpoints, at most `most` of them. Raises ValueError for a name that is neither; nothing outside of the LoRA folders is read.
    """
    listed = {name.replace("\\", "/"): name for name in folder_paths.get_filename_list("loras")}
    rows = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if found := next((name for name in (line, f"{line}.safetensors") if name in listed), None):
            rows.append(Row(found.removesuffix(".safetensors"), path_of(listed[found])))
            continue
        steps = {int(match[1]): name for name in listed if (match := re.fullmatch(rf"{re.escape(line)}_step_(\d+)\.safetensors", name))}
        if not steps:
            raise ValueError(f"{line!r} is neither a LoRA that ComfyUI lists nor a run that left LoRAs beside its checkpoints; "
                             "look at the name, or give the run Checkpoints and Resume")
        numbers = sorted(steps)
        rows += [Row(f"{line} step {numbers[i]}", path_of(listed[steps[numbers[i]]])) for i in evenly(len(numbers), most)]
    return rows


def path_of(listed: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise("loras", listed))


def lora_grid(patcher: ModelPatcher, rows: Sequence[Row], lora: Mapping[str, Tensor] | None, plan: Plan, settings: Settings,
              padding: TextPadding | None, progress: Progress) -> LoraGrid:
    """`lora`: what the row without a file stands for. One LoRA file is in memory at a time. Raises ValueError without rows."""
    if not rows:
        raise ValueError("there is no LoRA for the grid; name one or more in loras, one a line, or connect lora")
    studio = Studio(settings, progress, total=len(rows) * len(plan.strengths))
    chosen: list[tuple[TextPadding, str]] = []
    notes: list[str] = []
    encoded: dict[TextPadding, list[Conditioning]] = {}
    for row in rows:
        weights, scaled = scaled_as_trained(load_lora(row.file), row.file) if row.file else (lora or LoraWeights({}, {}), "")
        spec, words = chosen_padding(weights, patcher, padding)
        chosen.append((spec, words))
        for strength in plan.strengths:
            loaded = put_on(patcher, settings.clip, weights, strength, strength)
            if loaded.text:
                texts = [studio.encode(text, spec, loaded.clip) for text in (plan.prompt, settings.negative)]
            elif spec in encoded:
                texts = encoded[spec]
            else:
                texts = encoded[spec] = [studio.encode(text, spec) for text in (plan.prompt, settings.negative)]
            studio.sample(loaded.model, *texts, plan.seed)
        notes += [f"{row.label}: {note}" for note in (scaled, *loaded.notes) if note]
    return LoraGrid(studio.pictures(), rows, plan, chosen, notes)
