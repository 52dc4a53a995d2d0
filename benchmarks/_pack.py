"""Import ComfyUI, and the pack as ComfyUI does: one package by file location, under the name `pack`."""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def load(cpu: bool = True) -> None:
    """COMFYUI_PATH names the host; `cpu` keeps it off a GPU. The checkout leaves sys.path: its nodes/ would hide ComfyUI's nodes.py."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.path.append(str(ROOT / "tools"))  # demo_model, which draws scenes
    from comfy.cli_args import args

    args.cpu = cpu
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{ROOT} is not a pack")
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])
