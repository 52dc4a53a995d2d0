"""The benchmark beside ComfyUI's own trainer runs at its smallest size, says what it promises, and counts its work right."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Counts the matrix work of a step that is really made, attention by its definition; the formula's attention has no recomputation.
COUNT = """
import json, sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import _train_setup, _train_sides, torch
from torch.utils.flop_counter import FlopCounterMode

def matmuls(number, first):
    def flop(*shapes, out_shape=None, **kwargs):
        (pictures, heads, queries, width), (_, _, keys, _) = shapes[first], shapes[first + 1]
        return number * 2 * pictures * heads * queries * keys * width
    return flop

attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
setup = _train_setup.Setup("flux", "tiny", 64, "fp32")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "weights.safetensors"
    _train_setup.write_weights(setup, file)
    model, counts = _train_setup.load_model(setup, file), {}
    for checkpointing in (False, True):
        run = _train_sides.runner(_train_sides.Case("ours", 4, "long", checkpointing), setup, model, Path(folder))
        mapping = {attention: matmuls(2, 0), backward: matmuls(4, 1)}
        with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            run(1)
        by_operation = counter.get_flop_counts()["Global"]
        counts[str(checkpointing)] = [counter.get_total_flops(), by_operation[attention]]
print(json.dumps([counts, _train_setup.flop_of_step(setup, "long", 4)]))
"""


def last_line(*command: object) -> object:
    done = subprocess.run([sys.executable, "-W", "ignore", *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("arch", "texts"), [("flux", ("short", "long")), ("sdxl", ("long",))])
def test_it_runs_and_its_last_line_has_every_number(arch: str, texts: tuple[str, ...]) -> None:
    said = last_line(BENCHMARKS / "train_step.py", "--arch", arch, "--size", "tiny", "--pixels", 64, "--rounds", 1, "--batches", 1)
    assert set(said) == {"ratios", "extra_memory_ratio", "seconds_per_step", "floor_fraction"}
    seconds = said["seconds_per_step"]
    assert said["ratios"] == {f"{text}_b1": pytest.approx(seconds["core_b1"] / seconds[f"ours_{text}_b1"], rel=0.02) for text in texts}
    assert {f"ours_{text}_b1{kind}" for text in texts for kind in ("", "_checkpointed", "_everywhere")} < set(seconds)
    assert said["extra_memory_ratio"] is None if sys.platform != "linux" else said["extra_memory_ratio"] > 0
    assert said["floor_fraction"] is None if arch == "sdxl" else 0 < said["floor_fraction"] < 1


def test_the_floor_is_the_work_of_a_step_that_computes_nothing_twice() -> None:
    """The formula leaves embeddings out and counts the first block's gradient to its input, which nobody needs."""
    counts, floor = last_line("-c", COUNT, BENCHMARKS)
    (kept, attention), (checkpointed, attention_checkpointed) = counts["False"], counts["True"]
    assert kept == pytest.approx(floor, rel=0.03)
    assert 1.2 * kept < checkpointed < 1.5 * kept
    assert attention_checkpointed == attention > 0  # checkpointing keeps its result
