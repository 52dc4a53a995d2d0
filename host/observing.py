"""What observers of a run share: marks on its time line, a folder each, and a look at the model that leaves no trace."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import torch
from latent_preview import MAX_PREVIEW_RESOLUTION

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from PIL import Image

    from .run import ActiveRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something that happened after `step`. `kind`: checkpoint, preview, preview failed, validation, base validation or resumed."""

    step: int
    kind: str
    values: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()


def marks_of(run: ActiveRun) -> list[Mark]:
    """What the run's observers have marked so far: those that keep a list `marks`."""
    found = [mark for observer in run.config.observers for mark in getattr(observer, "marks", ())]
    return sorted(found, key=lambda mark: mark.step)


def own_folder(run: ActiveRun, parent: Path, kind: str) -> Path:
    """`<parent>/<name>_<kind>`. A fresh run moves what an earlier one of this name left there to `earlier_<number>` inside."""
    folder = parent / f"{run.config.name}_{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [file for file in folder.iterdir() if not file.name.startswith("earlier_")]
    if files and not run.state.step:
        number = 1
        while (aside := folder / f"earlier_{number}").exists():
            number += 1
        aside.mkdir()
        for file in files:
            file.replace(aside / file.name)
    return folder


@contextmanager
def undisturbed(run: ActiveRun) -> Iterator[None]:
    """The model as its LoRA file would make it, without gradients. Torch's random numbers go on as if this had not been."""
    device = comfy.model_management.get_torch_device()
    forked = {"devices": [device], "device_type": device.type} if device.type in ("cuda", "xpu") else {"devices": []}
    with torch.random.fork_rng(**forked), torch.no_grad(), run.state.final_weights():
        yield


def borrowed_patcher(run: ActiveRun) -> ModelPatcher:
    """The clone that is lent to training and therefore loaded; ask while it is."""
    return next(loaded for loaded in comfy.model_management.loaded_models() if loaded.is_clone(run.patcher))


def show(run: ActiveRun, picture: Image.Image) -> None:
    """On the node that trains, in the size that ComfyUI was told for previews."""
    run.progress.bar.update_absolute(run.state.step, run.config.train.steps, ("JPEG", picture, MAX_PREVIEW_RESOLUTION))
