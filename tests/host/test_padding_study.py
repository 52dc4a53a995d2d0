"""The padding study on the demo model: what it trains and samples is what the nodes would."""
from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pack.host.lora_format import load_lora
from pack.host.lora_padding import trained_padding
from pack.host.text_padding import PRESETS
from PIL import Image


@pytest.fixture(scope="module")
def modules(root: Path) -> Iterator[tuple[ModuleType, ModuleType]]:
    """benchmarks/ and tools/ are programs and no part of the pack."""
    before = list(sys.path)
    sys.path[1:1] = [str(root / "benchmarks"), str(root / "tools")]
    yield importlib.import_module("_study_plan"), importlib.import_module("_study_runs")
    sys.path[:] = before
    for name in [n for n in sys.modules if n.partition(".")[0] == "demo_model" or n.startswith("_study_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def studio(modules: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two steps of training with the padding masked, the quickest of the three."""
    plan, runs = modules
    small = plan.Plan(steps=2, checkpoints=(1, 2), validate_every=2, seeds=(0,), noise_seeds=(5,), rich=1, unrelated=1, sampling_steps=1)
    studio = runs.Studio(small, tmp_path_factory.mktemp("study"))
    with torch.inference_mode():
        studio.train(plan.Arm("mask", "mask"), 0)
    return studio


def sheet(studio: Any, cell: Any) -> np.ndarray:
    with torch.inference_mode():
        studio.sample(cell)
    with Image.open(studio.sheet_file(cell)) as picture:
        return np.asarray(picture)


def test_a_training_leaves_its_checkpoints_and_a_record(modules, studio) -> None:
    plan, _ = modules
    arm = plan.Arm("mask", "mask")
    assert studio.finished(arm, 0)
    assert not studio.finished(arm, 1)
    for step in (1, 2):
        lora = load_lora(studio.folder / "loras" / f"mask_0_step_{step:04d}.safetensors")
        assert trained_padding(lora).padding == PRESETS["comfyui-mask"]
        assert lora.metadata["ss_steps"] == str(step)
    record = json.loads(studio.record_file(arm, 0).read_text(encoding="utf-8"))
    assert len(record["losses"]) == 2
    assert set(record["validation"]) == {"0", "2"}
    assert set(record["sample_drift"]) == {"none", "zero", "mask"}
    assert min(record["drift_inside"], *record["sample_drift"].values()) > 0


def test_strength_zero_is_the_base_model(modules, studio) -> None:
    plan, _ = modules
    base = sheet(studio, plan.Cell("", 0, 0, 1.0, "mask"))
    assert base.shape == (4 * 128, 128, 3)
    assert np.array_equal(sheet(studio, plan.Cell("mask", 0, 2, 0.0, "mask")), base)
    assert not np.array_equal(sheet(studio, plan.Cell("mask", 0, 2, 8.0, "mask")), base)
    assert not np.array_equal(sheet(studio, plan.Cell("", 0, 0, 1.0, "none")), base)


def test_a_prior_beside_an_unmasked_loss_changes_nothing(modules, studio) -> None:
    """Why the study does not train unmasked with prior: no pixel is outside."""
    plan, _ = modules
    unmasked = plan.Arm("unmasked", "mask", masked=False)
    with torch.inference_mode():
        plain, kept = (studio.run(arm, 0).lora for arm in (unmasked, replace(unmasked, prior=0.5)))
    masked = load_lora(studio.folder / "loras" / "mask_0_step_0002.safetensors")
    assert all(torch.equal(plain[key], kept[key]) for key in plain)
    assert not all(torch.equal(plain[key], masked[key]) for key in plain)


def test_results_of_other_settings_are_not_mixed_in(modules, studio, tmp_path: Path) -> None:
    plan, runs = modules
    runs.require_same_plan(plan.QUICK, tmp_path)
    runs.require_same_plan(plan.QUICK, tmp_path)
    with pytest.raises(ValueError, match="of a study with other settings; name another folder with --out"):
        runs.require_same_plan(plan.Plan(), tmp_path)


def test_settings_are_those_of_the_quickstart(modules, root: Path) -> None:
    _, runs = modules
    workflow = json.loads((root / "workflows" / "quickstart.json").read_text(encoding="utf-8"))
    _, batch, _, rate, rank, alpha, normalization, shift, *_ = next(
        node["widgets_values"] for node in workflow["nodes"] if node["type"] == "MaskedLoRA_Train")
    assert (batch, rate, rank, alpha, shift) == (runs.BATCH, runs.RATE, runs.RANK, runs.RANK, runs.SHIFT)
    assert normalization == "step"  # TrainConfig's own
