"""The parts of web/js that need no page, tested in JavaScript by Node's own test runner."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))


def find_node() -> str:
    """Node.js on PATH, else the one inside the playwright package."""
    if node := shutil.which("node"):
        return node
    from playwright._impl._driver import compute_driver_executable

    return str(compute_driver_executable()[0])


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_in_node(file: Path) -> None:
    run = subprocess.run([find_node(), "--test", str(file)], capture_output=True, text=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# pass 0" not in run.stdout
