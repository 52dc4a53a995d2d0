"""Load the pack as ComfyUI does, one package by file location, under the name `pack`: `from pack.masks.recipe import ...`.

The checkout must not be on sys.path, where `python -m pytest` puts it: its nodes/ would hide ComfyUI's nodes.py.
"""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_pack() -> None:
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])


load_pack()


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a Chromium; without one the test fails, unless dev.py was told --no-browser."""
    if os.environ.get("MASKED_LORA_NO_BROWSER"):
        pytest.skip("left out by --no-browser")
    path = os.environ.get("MASKED_LORA_BROWSER")
    if not path:
        pytest.fail("no Chromium or Chrome was found; install one, name it in MASKED_LORA_BROWSER, or use --no-browser")
    return path
