"""Tests against the real ComfyUI, in this process and as a server. COMFYUI_PATH names it; `python3 dev.py test` sets it."""
from __future__ import annotations

import os
import sys
import warnings

import pytest

HOST = os.environ.get("COMFYUI_PATH")
if HOST:
    sys.path.insert(0, HOST)
    from comfy.cli_args import args

    args.cpu = True

    from .server import comfy  # noqa: F401 - a fixture
else:
    collect_ignore_glob = ["test_*.py"]
    warnings.warn("COMFYUI_PATH is not set: tests/host has no ComfyUI to run against; use `python3 dev.py test`", stacklevel=1)


@pytest.fixture(autouse=True)
def unload_models():
    """Every test starts with nothing loaded."""
    yield
    import comfy.model_management

    comfy.model_management.unload_all_models()
