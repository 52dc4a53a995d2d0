"""The benchmark of padding modes runs at its smallest size, says what it promises, and estimates the work right."""
from __future__ import annotations

from pathlib import Path

import pytest

from .test_train_step_benchmark import BENCHMARKS, last_line

# Counts the matrix work of predictions that are really made, attention by its definition.
COUNT = """
import json, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import text_padding, _train_setup, torch
from torch.utils.flop_counter import FlopCounterMode

def attended(query, key, *rest, out_shape=None, **kwargs):
    return 4 * query[0] * query[1] * query[2] * key[2] * query[3]

mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attended}
setup, counted = _train_setup.Setup("flux", "tiny", 128, "fp32"), []
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "weights.safetensors"
    _train_setup.write_weights(setup, file)
    model = _train_setup.load_model(setup, file)
    for lengths in ((20,), (256,), (20, 5), (256, 256)):
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            text_padding.sampling(setup, model, 1, lengths)()
        counted.append([counter.get_total_flops(), sum(_train_setup.flop_of_picture(setup, n, training=False) for n in lengths)])
print(json.dumps(counted))
"""


def test_it_runs_and_its_last_line_has_every_ratio() -> None:
    said = last_line(BENCHMARKS / "text_padding.py", "--size", "tiny")
    assert set(said) == {"step_ratio", "train_ratio", "guided_ratio", "flop_ratio"}
    captions = (5, 20, 77, 200)
    assert set(said["step_ratio"]) == {f"{pixels}px_{tokens}tok" for pixels in (64, 128) for tokens in captions}
    assert set(said["train_ratio"]) == {f"64px_{tokens}tok" for tokens in captions}
    assert set(said["guided_ratio"]) == {"64px"}
    assert all(value > 0 for ratios in said.values() for value in ratios.values())
    work = [said["flop_ratio"][f"64px_{tokens}tok_step"] for tokens in captions]
    assert work == sorted(work)
    assert work[-1] < 1


def test_the_estimate_is_the_work_of_a_prediction() -> None:
    """Embeddings and modulation are left out of it."""
    for counted, estimated in last_line("-c", COUNT, BENCHMARKS):
        assert counted == pytest.approx(estimated, rel=0.06)


def test_the_sizes_of_the_docs_are_those_that_are_measured(root: Path) -> None:
    text = (root / "docs" / "text_padding.md").read_text(encoding="utf-8")
    assert all(f"\n| {pixels} px " in text for pixels in (256, 512, 1024))
