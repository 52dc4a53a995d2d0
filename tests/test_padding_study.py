"""The padding study's questions and arithmetic, and the classifier that reads its samples. No ComfyUI."""
from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Study:
    plan: ModuleType
    measures: ModuleType
    report: ModuleType
    classifier: ModuleType
    scenes: ModuleType


@pytest.fixture(scope="module")
def study(root: Path) -> Iterator[Study]:
    """benchmarks/ and tools/ are programs and no part of the pack."""
    before = list(sys.path)
    sys.path[:0] = [str(root / "benchmarks"), str(root / "tools")]
    yield Study(*(importlib.import_module(name) for name in (
        "_study_plan", "_study_measures", "_study_report", "demo_model.classifier", "demo_model.scenes")))
    sys.path[:] = before
    for name in [n for n in sys.modules if n.partition(".")[0] == "demo_model" or n.startswith("_study_")]:
        del sys.modules[name]


def test_the_classifier_reads_pictures_that_it_never_saw(study: Study) -> None:
    """Small, so that it is quick: the study's own has four times the pictures and twice the steps."""
    network = study.classifier.fit(1, pictures=700, steps=200)
    right = study.classifier.accuracy(network, study.classifier.draw_pictures(2, 200))
    assert right["kind"] >= 0.8
    assert min(right[head] for head in ("colour", "position", "pattern", "background", "clutter")) >= 0.95
    assert not any(p.requires_grad for p in network.parameters())


def test_the_same_seed_gives_the_same_classifier(study: Study) -> None:
    torch.manual_seed(5)
    one = study.classifier.fit(3, pictures=20, steps=2).state_dict()
    goes_on = torch.rand(1)
    two, other = (study.classifier.fit(seed, pictures=20, steps=2).state_dict() for seed in (3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), goes_on)


def test_clutter_lies_between_background_and_subject(study: Study) -> None:
    import random

    image = np.full((128, 128, 3), 0.5, np.float32)
    mask = np.zeros((128, 128), np.float32)
    mask[40:90, 40:90] = 1
    cluttered = study.classifier.with_clutter(image, mask, random.Random(0))
    assert np.allclose(cluttered[2, 4], np.array([230, 20, 200]) / 255, atol=0.01)  # the frame's first piece is magenta
    assert np.array_equal(cluttered[40:90, 40:90], np.zeros((50, 50, 3)) + image[40:90, 40:90])
    assert 0.05 < np.any(np.abs(cluttered - image) > 0.1, axis=-1).mean() < 0.5


def test_prompts_were_not_trained(study: Study, root: Path) -> None:
    trained = {file.read_text(encoding="utf-8").strip() for file in (root / "assets" / "pibo").glob("*.txt")}
    assert len(trained) == study.plan.TRAINING_PICTURES[0] == 12
    prompts = study.plan.Plan().prompts
    kinds = [prompt.kind for prompt in prompts]
    assert kinds == ["trigger", "blank", *["rich"] * 4, *["unrelated"] * 4]
    assert prompts[0].text == "a pibo"
    assert prompts[1].text == ""
    for prompt in prompts:
        parts = frozenset(prompt.text.split(", "))
        assert parts not in {frozenset(caption.split(", ")) for caption in trained}
        assert all(word in prompt.text for word in prompt.asked.values())
    base_saw = {scene.caption() for scene in study.scenes.split_scenes()[0]}
    assert not base_saw & {prompt.text for prompt in prompts}


def test_every_lora_is_sampled_every_way(study: Study) -> None:
    plan = study.plan.Plan()
    cells = list(plan.cells())
    assert len({cell.name for cell in cells}) == len(cells) == 3 + len(SEEDS) * (3 * 3 * 4 + 2)
    assert len(plan.seeds) >= 3
    whole = {(c.arm, c.sampled) for c in cells if c.step == plan.steps and c.strength == 1.0 and c.arm in study.plan.REGIMES}
    weak = {(c.arm, c.sampled) for c in cells if c.strength == 0.5}
    assert whole == weak == {(a, b) for a in study.plan.REGIMES for b in study.plan.REGIMES}


def test_mean_and_spread_are_numpys(study: Study) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    found = study.measures.spreads([dict(zip("abc", row, strict=True)) for row in rows.tolist()])
    for column, name in enumerate("abc"):
        assert found[name].mean == pytest.approx(rows[:, column].mean(), rel=1e-12)
        assert found[name].deviation == pytest.approx(rows[:, column].std(ddof=1), rel=1e-12)
    assert math.isnan(study.measures.Spread.of([1.0]).deviation)


@pytest.mark.parametrize(("differences", "said"), [
    ([0.3, 0.31, 0.29], "yes"), ([-0.3, -0.31, -0.29], "no, the other way round"), ([0.3, -0.3, 0.1], "not told apart"),
    ([0.0, 0.0, 0.0], "not told apart"), ([0.2, 0.2, 0.2], "yes"), ([1.0], "not told apart")])
def test_a_difference_counts_beyond_its_error(study: Study, differences: list[float], said: str) -> None:
    assert study.measures.verdict(differences) == said


def test_when_a_curve_reaches_a_goal(study: Study) -> None:
    curve = {0: 1.0, 40: 0.6, 80: 0.2}
    assert study.measures.reached(curve, 0.4) == pytest.approx(60)
    assert study.measures.reached(curve, 1.5) == 0
    assert math.isinf(study.measures.reached(curve, 0.1))


class FakeClassifier:
    """Reads its answers out of the corner of a picture: red is the kind's number, green the pattern's, blue clutter, all in tenths."""

    def __init__(self, heads: dict[str, tuple[str, ...]]) -> None:
        self.heads = heads

    def read(self, pictures_BHWC: Tensor) -> dict[str, Tensor]:
        corner = (pictures_BHWC[:, 0, 0] * 10).round().long()
        numbers = {"kind": corner[:, 0], "pattern": corner[:, 1], "clutter": corner[:, 2]}
        zeros = torch.zeros(len(corner), dtype=torch.long)
        return {head: torch.nn.functional.one_hot(numbers.get(head, zeros), len(words)).float() for head, words in self.heads.items()}


def sheet(answers: list[list[tuple[int, int, int]]], level: float = 0.0) -> Tensor:
    """(prompts, noise seeds, H, W, C) of one grey with the answers in the corners."""
    pictures = torch.full((len(answers), len(answers[0]), 128, 128, 3), level)
    pictures[:, :, 0, 0] = torch.tensor(answers) / 10
    return pictures


def test_measures_of_a_sheet(study: Study) -> None:
    plan = study.plan.Plan(noise_seeds=(1, 2, 3), rich=1, unrelated=1)
    heads = study.classifier.HEADS
    pibo, star = heads["kind"].index("pibo"), heads["kind"].index("star")
    rich, unrelated = plan.prompts[2], plan.prompts[3]
    pattern = heads["pattern"].index(rich.asked["pattern"])
    wanted = [heads["kind"].index(unrelated.asked["kind"]), heads["pattern"].index(unrelated.asked["pattern"])]
    after = sheet([[(pibo, 0, 1), (star, 0, 0), (star, 0, 0)], [(0, 0, 0)] * 3,
                   [(pibo, pattern, 0), (pibo, pattern, 0), (pibo, (pattern + 1) % 3, 1)],
                   [(*wanted, 0), (pibo, wanted[1], 0), (pibo, wanted[1], 0)]], 0.5)
    before = after - 0.25
    found = study.measures.measures(after, before, before - 0.125, plan, FakeClassifier(heads))
    assert found["subject"] == pytest.approx(4 / 6)
    assert found["clutter"] == pytest.approx(2 / 6)
    assert found["leak"] == pytest.approx(2 / 3)
    others = {head for head in rich.asked if head != "pattern" and heads[head].index(rich.asked[head]) == 0}  # the fake says the first
    assert found["followed_rich"] == pytest.approx((3 * len(others) + 2) / (3 * len(rich.asked)))
    others = {head for head in unrelated.asked if head not in ("kind", "pattern") and heads[head].index(unrelated.asked[head]) == 0}
    assert found["followed_unrelated"] == pytest.approx((3 * len(others) + 4) / (3 * len(unrelated.asked)))
    assert found["drift_unrelated"] == pytest.approx(0.25, abs=1e-6)
    assert found["drift_plain"] == pytest.approx(0.375, abs=1e-6)
    assert found["drift_blank"] == pytest.approx(0.25, abs=1e-6)


def test_a_sheet_is_read_as_it_was_written(study: Study, tmp_path: Path) -> None:
    plan = study.plan.Plan(noise_seeds=(1, 2), rich=1, unrelated=1)
    pixels = np.random.default_rng(0).integers(0, 256, (4 * 128, 2 * 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sheet.png")
    read = study.measures.read_sheet(tmp_path / "sheet.png", plan)
    assert read.shape == (4, 2, 128, 128, 3)
    assert torch.equal((read[3, 1] * 255).round().byte(), torch.from_numpy(pixels[384:, 128:]))
    Image.fromarray(pixels[:-1]).save(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="256x511 pixels and not 256x512; remove it"):
        study.measures.read_sheet(tmp_path / "cut.png", plan)


def findings(study: Study) -> Any:
    """Random numbers in every cell and record."""
    rng, plan = np.random.default_rng(3), study.plan.Plan()
    names = (*study.report.CELL_COLUMNS, "subject_probability")
    cells = {cell: dict(zip(names, rng.random(len(names)).tolist(), strict=True)) for cell in plan.cells()}
    steps = range(0, plan.steps + 1, plan.validate_every)

    def record() -> dict[str, Any]:
        curve = {str(s): {"inside": 1 - s / 1000 + 0.01 * rng.random(), "outside": rng.random()} for s in steps}
        return {"validation": curve, "drift_inside": rng.random(), "drift_outside": rng.random(),
                "sample_drift": {regime: rng.random() for regime in study.plan.REGIMES}}

    records = {(arm.name, seed): record() for seed in plan.seeds for arm in study.plan.ARMS}
    reads = {"drawn": dict.fromkeys(study.classifier.HEADS, 0.99), "through": dict.fromkeys(study.classifier.HEADS, 0.98)}
    return study.report.Findings(plan, cells, records, reads)


def test_tables_hold_the_means_of_their_own_cells(study: Study) -> None:
    found = findings(study)
    text = study.report.to_markdown(found, "the command")
    part = text.split("## Trained with, sampled with")[1].split("##")[0]
    row = next(line for line in part.splitlines() if line.startswith("| zero | mask |"))
    values = [[found.cells[study.plan.Cell("zero", seed, 240, 1.0, "mask")][name] for seed in SEEDS] for name in study.report.CELL_COLUMNS]
    assert row.removesuffix(" |").split(" | ")[2:] == [f"{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for v in values]
    assert "| **mask** | **mask** |" in part
    for line in text.splitlines():  # whole tables
        assert not line.startswith("|") or line.endswith("|")


def test_claims_are_paired_by_seed(study: Study) -> None:
    found = findings(study)
    answer = study.report.claims(found)["zero leaks more into unrelated prompts than none (drift of pictures)"]
    drift = {regime: np.array([found.cells[study.plan.Cell(regime, seed, 240, 1.0, regime)]["drift_unrelated"] for seed in SEEDS])
             for regime in ("zero", "none")}
    difference = drift["zero"] - drift["none"]
    assert answer["difference"] == pytest.approx([difference.mean(), difference.std(ddof=1)])


def test_a_lower_curve_converges_sooner(study: Study) -> None:
    found = findings(study)
    for seed in SEEDS:
        for arm, slope in (("none", 1), ("zero", 0.5), ("mask", 2)):
            curve = {step: {"inside": 1 - slope * int(step) / 1000, "outside": 0.0} for step in found.records[arm, seed]["validation"]}
            found.records[arm, seed]["validation"].update(curve)
    answers = study.report.claims(found)
    assert answers["mask converges sooner than none (steps saved)"] == {"difference": pytest.approx([120, 0]), "verdict": "yes"}
    assert answers["zero converges sooner than none (steps saved)"]["verdict"] == "no, the other way round"
    line = next(line for line in study.report.curve_table(found).splitlines() if line.startswith("| mask |"))
    assert line.endswith("| 120 ± 0 |")
    assert "| not always |" in study.report.curve_table(found)


def test_overfitting_is_no_convergence(study: Study) -> None:
    """The plain LoRA is as good as the others at its best, and worse at its end."""
    found = findings(study)
    for seed in SEEDS:
        for arm in ("none", "zero", "mask"):
            steps = sorted(found.records[arm, seed]["validation"], key=int)
            errors = {step: 1 - int(step) / 1000 for step in steps}
            if arm == "none":
                errors[steps[-1]] = errors[steps[1]]
                errors[steps[-2]] = 1 - int(steps[-1]) / 1000
            found.records[arm, seed]["validation"].update({step: {"inside": error, "outside": 0.0} for step, error in errors.items()})
    answers = study.report.claims(found)
    assert answers["mask converges sooner than none (steps saved)"]["verdict"] == "no, the other way round"


def test_json_has_no_nan(study: Study) -> None:
    import json

    found = findings(study)
    found.records["mask", 0]["validation"].update({step: {"inside": 9.0, "outside": 9.0} for step in map(str, range(0, 241, 40))})
    text = json.dumps(study.report.to_json(found), allow_nan=False)
    assert len(json.loads(text)["cells"]) == 3 * 3 * 4 + 2
    assert json.loads(study.report.last_line(found))["subject"].keys() == {f"{a} sampled {b}" for a in study.plan.REGIMES
                                                                            for b in study.plan.REGIMES}
