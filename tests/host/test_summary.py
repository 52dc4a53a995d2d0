"""What is said before the first step."""
from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.dataset.cache import TrainingSet
from pack.host.progress import Progress
from pack.host.run import run_training
from pack.masks.recipe import simple_recipe
from pack.trainer.adapter_spec import AdapterSpec
from pack.trainer.config import LossSpec, MaskUse, PriorSpec
from pack.trainer.ema import EmaSpec

from .test_training import loaded_in_prompt, run_config, training_set


@pytest.fixture
def said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    """The lines, by what they are about, of a run on four pictures: a half, a quarter, all black, and one without a mask."""
    caplog.set_level(logging.INFO)
    patcher, arch = loaded_in_prompt("sd3")
    first, second, third = training_set(arch, tokens=(7, 5, 7)).examples
    set_of = (first, second, replace(third, mask_THW=torch.zeros_like(third.mask_THW)),
              replace(third, name="p", mask_THW=None, regularisation=True))
    data = TrainingSet(set_of, first.text_padding, "")
    run = run_config(tmp_path, steps=2, batch_size=2, micro_batch=1, loss=LossSpec(error="huber", weighting="min-snr", damping=0.5),
                     mask=MaskUse(probability=0.9), prior=PriorSpec(weight=0.5), ema=EmaSpec(decay=0.9))
    run = replace(run, recipe=simple_recipe(floor=0.1), lora=AdapterSpec(rank=2, alpha=4.0))
    with torch.inference_mode():
        run_training(patcher, data, run, Progress(None))
    (text,) = [r.getMessage() for r in caplog.records if "will be trained" in r.getMessage()]
    head, *lines = text.splitlines()
    assert head == "Masked LoRA: 'test' will be trained on SD3"
    found = dict(line.strip().split(": ", 1) for line in lines)
    assert list(found) == ["pictures", "masks", "loss", "noise", "captions", "text padding", "batches", "trained", "steps", "memory"]
    return found


def test_pictures_and_masks_are_counted(said: dict[str, str]) -> None:
    assert said["pictures"] == "4, 3 with a mask and 1 without, which are learned everywhere; 1 for regularisation"
    # 0.1 + 0.9 x the mask: a half, a quarter, nothing, and everything where there is none
    coverage = 100 * (0.55 + 0.325 + 0.1 + 1) / 4
    assert said["masks"].startswith(f"white = learn; mean weight {coverage:.1f} %; recipe: ")


def test_settings_are_said(said: dict[str, str]) -> None:
    assert said["loss"] == ("huber, normalized per step, delta 0.1, noise levels weighted by min-snr, small masks damped by 0.5, "
                            "masks apply to 90 % of draws, plus 0.5 times the change outside the masks")
    assert "comfyui" in said["text padding"]
    assert said["batches"] == "2 kinds: 3 of 8x8 latent cells and 7 tokens, 1 of 8x8 latent cells and 5 tokens"
    assert said["steps"].startswith("2 of 2 pictures, at most 1 in a forward pass, 0.667 epochs of 3; seed 3")


def test_size_and_memory_are_said(said: dict[str, str]) -> None:
    found = re.match(r"lora rank 2 alpha 4 on (\d+) layers, ([\d,]+) parameters; adamw, .*decay of 0.9, rate 0.01$", said["trained"])
    assert found
    values = int(found[2].replace(",", ""))
    assert f"adapter and gradients {8 * values / 2**20:.1f} MB, optimizer {12 * values / 2**20:.1f} MB" in said["memory"]
    assert re.match(r"model [\d.]+ MB, .*activations [\d.]+ [MG]B .*free on cpu now", said["memory"])
