"""ComfyUI's real page in Chromium. COMFYUI_PATH names the ComfyUI; `python3 dev.py test` sets it and finds the browser."""
from __future__ import annotations

import os
import sys
import warnings

import pytest

pytest.register_assert_rewrite(f"{__package__}.checks")

HOST = os.environ.get("COMFYUI_PATH")
if HOST:
    sys.path.insert(0, HOST)  # for the models that some workflows load
    from comfy.cli_args import args

    args.cpu = True

    from pack.tests.host.server import comfy  # noqa: F401 - a fixture

    from .page import chrome  # noqa: F401 - a fixture
else:
    collect_ignore_glob = ["test_*.py"]
    warnings.warn("COMFYUI_PATH is not set: tests/web has no ComfyUI to open; use `python3 dev.py test`", stacklevel=1)
