"""Masked padding under every attention that ComfyUI can be started with on this machine, a process each."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# By ComfyUI's option: the function that it takes on a CPU, and the package that it needs.
BACKENDS = {
    "--use-pytorch-cross-attention": ("attention_pytorch", ""),
    "--use-split-cross-attention": ("attention_split", ""),
    "--use-quad-cross-attention": ("attention_sub_quad", ""),
    "--use-sage-attention": ("attention_sage", "sageattention"),
    "--use-flash-attention": ("attention_flash", "flash_attn"),
}
# As tests/conftest.py and tests/host/conftest.py set up.
PROGRAM = """
import importlib.util, os, sys
root = sys.argv.pop(1)
sys.path[:] = [os.environ["COMFYUI_PATH"]] + [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(root)]
spec = importlib.util.spec_from_file_location("pack", os.path.join(root, "__init__.py"), submodule_search_locations=[root])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
from pack.tests.host.attention_run import main
main()
"""


def run(root: Path, option: str) -> dict[str, Any]:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(root), "--cpu", option], capture_output=True, text=True, timeout=300,
                         env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("option", list(BACKENDS))
def test_presets_do_what_their_tools_do_and_hand_over_no_bool_mask(root: Path, option: str) -> None:
    """ComfyUI's models make 1 and 0 of a bool mask, and every attention adds these, which hides nothing."""
    name, package = BACKENDS[option]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"ComfyUI does not start with {option} without {package}")
    told = run(root, option)
    assert told["attention"] == name
    assert told["in T5"] == ("attention_pytorch" if "pytorch" in option else "attention_basic")
    assert max(told["errors"].values()) <= 1e-5, told["errors"]
    assert told["by mask"]["additive"] <= 1e-5
    assert told["by mask"]["bool"] > 1e-3
    assert told["masks"] == {"T5": ["float32"], "Flux": ["none"]}
