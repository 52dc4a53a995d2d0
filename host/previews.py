"""Pictures in the middle of training, by ComfyUI's own sampler, of the model as it stands."""
from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sd
import numpy as np
import torch
from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..masks.canvas import Pixels, to_picture
from ..masks.comparison import comparison_grid, evenly
from ..trainer.example import StepReport
from .observing import Mark, borrowed_patcher, own_folder, show, undisturbed
from .references import first_with_references, with_references
from .sampling import Sampling, decode_first, sample_latent
from .text import Conditioning, encode_text
from .text_padding import TextPadding
from .training import thaw, training_memory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .run import ActiveRun

logger = logging.getLogger(__name__)
OUT_OF_MEMORY = (comfy.model_management.OOM_EXCEPTION, comfy.model_management.ACCELERATOR_ERROR)
GRID_ROWS = 12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreviewSpec:
    """`prompts`: one a line. `at_start`: also before the first step, as the model is without the LoRA."""

    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    prompts: str
    negative: str = ""
    every: int = 250
    width: int = 512
    height: int = 512
    steps: int = 20
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    seed: int = 0
    at_start: bool = True

    def __post_init__(self) -> None:
        if not self.lines:
            raise ValueError("there is no prompt to preview; write one or more, one a line")
        if self.every < 1:
            raise ValueError(f"preview every is {self.every}; use 1 or more")
        _ = self.sampling  # which refuses what means nothing

    @property
    def sampling(self) -> Sampling:
        return Sampling(steps=self.steps, cfg=self.cfg, sampler=self.sampler, scheduler=self.scheduler, width=self.width,
                        height=self.height)

    @property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.prompts.splitlines() if line.strip()]

    def observer(self, run_folder: Path) -> PreviewObserver:
        return PreviewObserver(self, run_folder)

    def parameters(self, prompt: str) -> str:
        """As AUTOMATIC1111 writes them, which ComfyUI and galleries read."""
        negative = f"\nNegative prompt: {self.negative}" if self.negative else ""
        return (f"{prompt}{negative}\nSteps: {self.steps}, Sampler: {self.sampler}, Schedule type: {self.scheduler}, "
                f"CFG scale: {self.cfg:g}, Seed: {self.seed}, Size: {self.width}x{self.height}")


@dataclass(slots=True, eq=False)
class PreviewObserver:
    """Writes `<name>_previews/step_000200_0.png`: the step, and which prompt. reference: the picture whose references are shown."""

    spec: PreviewSpec
    run_folder: Path
    marks: list[Mark] = field(default_factory=list)
    failed: int = 0
    reference: str = ""
    folder: Path = field(init=False)
    patcher: ModelPatcher = field(init=False)
    positive: list[Conditioning] = field(init=False)
    negative: Conditioning = field(init=False)

    def started(self, run: ActiveRun) -> None:
        """Texts are encoded once, under the training set's padding; then the text encoders leave the memory for good.

        Nothing here runs under inference_mode, which would be the mode of whatever weights ComfyUI moves to make room.
        """
        self.folder = own_folder(run, self.run_folder, "previews")
        self.patcher = borrowed_patcher(run)
        with undisturbed(run), in_place_again(run, self.patcher, self.spec.clip.patcher):
            thaw(self.spec.clip.cond_stage_model)
            self.encode(run)
            thaw(self.spec.vae.first_stage_model)
        if (shown := first_with_references(run.training_set)) is not None:
            self.reference = shown.name
            logger.info("Masked LoRA: previews show the model the reference pictures of %r, and their prompts to the text encoder alone",
                        shown.name)
        if self.spec.at_start and not run.state.step:
            self.preview(run, 0)

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if report.step % self.spec.every == 0 or report.step == run.config.train.steps:
            self.preview(run, report.step)

    def ended(self, run: ActiveRun, finished: bool) -> None:
        if (grid := self.grid()) is None:
            return
        picture = Image.fromarray(grid)
        try:
            picture.save(self.folder / "grid.png")
        except OSError:  # a full disk must not cost what was learned
            logger.exception("Masked LoRA: the grid of previews could not be written to %s", self.folder)
        if finished:
            show(run, picture)
        if self.failed:
            logger.warning("Masked LoRA: %d previews had no memory left and are missing in %s", self.failed, self.folder)

    def encode(self, run: ActiveRun) -> None:
        """A text encoder that is trained reads the prompts as it does at this step."""
        clip, padding = run.text.clip if run.text else self.spec.clip, TextPadding.from_json(run.training_set.text_padding)
        shown = first_with_references(run.training_set)
        *self.positive, self.negative = [with_references(encode_text(clip, text, padding), self.patcher, shown)
                                         for text in (*self.spec.lines, self.spec.negative)]

    def preview(self, run: ActiveRun, step: int) -> None:
        """One row of pictures. Training goes on without it where it needs more memory than there is."""
        files: list[Path] = []
        with undisturbed(run), in_place_again(run, self.patcher, self.spec.vae.patcher):
            try:
                if run.text:
                    self.encode(run)
                latents = [self.sample(run, number) for number in range(len(self.positive))]
                for number, latent in enumerate(latents):
                    files.append(self.keep(run, step, number, self.decode(latent)))
            except OSError:
                logger.exception("Masked LoRA: a preview could not be written to %s; training goes on without it", self.folder)
            except OUT_OF_MEMORY as error:
                comfy.model_management.raise_non_oom(error)
                self.failed += 1
                logger.warning("Masked LoRA: the preview after step %d needs more memory than there is; training goes on without it. Make "
                               "previews smaller than %d x %d, or preview less often", step, self.spec.width, self.spec.height)
            comfy.model_management.soft_empty_cache()
        self.marks.append(Mark(step=step, kind="preview" if len(files) == len(self.positive) else "preview failed", pictures=tuple(files)))

    def sample(self, run: ActiveRun, number: int) -> Tensor:
        spec, total = self.spec, run.config.train.steps

        def watched(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
            run.progress.update(run.state.step, total, f"preview {number + 1} of {len(self.positive)}: {step + 1}/{steps}")

        with as_sampled(run, self.patcher):
            return sample_latent(self.patcher, spec.sampling, spec.seed, self.positive[number], self.negative, watched)

    def decode(self, latent: Tensor) -> Image.Image:
        return to_picture(decode_first(self.spec.vae, latent))

    def keep(self, run: ActiveRun, step: int, number: int, picture: Image.Image) -> Path:
        prompt, told = self.spec.lines[number], PngInfo()
        if not args.disable_metadata:
            told.add_itxt("parameters", self.spec.parameters(prompt))
            facts = {"step": step, "lora": run.config.name, "text_padding": run.training_set.text_padding}
            told.add_itxt("masked_lora", json.dumps(facts | ({"references_of": self.reference} if self.reference else {})))
        file = self.folder / f"step_{step:06d}_{number}.png"
        picture.save(file, pnginfo=told)
        show(run, picture)
        return file

    def grid(self) -> Pixels | None:
        """All kept pictures, a row for a step and a column for a prompt; of many steps some, the first and the last among them."""
        steps = sorted({int(file.name.split("_")[1]) for file in self.folder.glob("step_*_*.png")})
        if not steps:
            return None
        steps = [steps[i] for i in evenly(len(steps), GRID_ROWS)]
        prompts = self.spec.lines
        rows = [[self.folder / f"step_{step:06d}_{number}.png" for number in range(len(prompts))] for step in steps]
        return comparison_grid([torch.stack([pixels_of(file, (self.spec.height, self.spec.width)) for file in row]) for row in rows],
                               [f"step {step}" for step in steps], prompts)


@contextmanager
def as_sampled(run: ActiveRun, patcher: ModelPatcher) -> Iterator[None]:
    """The borrowed model predicts the clean latent, as ComfyUI's samplers want it, in its own kernels; then the raw output again."""
    raw = patcher.get_model_object("model_sampling")
    handed_through, in_training = raw.calculate_denoised, comfy.model_management.in_training
    raw.calculate_denoised = run.model.sampling.calculate_denoised
    comfy.model_management.in_training = False
    try:
        yield
    finally:
        raw.calculate_denoised = handed_through
        comfy.model_management.in_training = in_training


@contextmanager
def in_place_again(run: ActiveRun, patcher: ModelPatcher, guest: ModelPatcher) -> Iterator[None]:
    """Afterwards the guest's memory is free and the trained model is back where ComfyUI had to make room, also after an error."""
    try:
        yield
    finally:
        comfy.model_management.unload_model_and_clones(guest)
        needed = training_memory(run.patcher, run.training_set, run.config.train)
        comfy.model_management.load_models_gpu([patcher], memory_required=needed)


def pixels_of(file: Path, size: tuple[int, int]) -> Tensor:
    """(H, W, C); black where a preview is missing, or was cut short as the process was killed."""
    try:
        with Image.open(file) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255
    except (OSError, SyntaxError):  # Pillow's for some broken files
        return torch.zeros(*size, 3)
