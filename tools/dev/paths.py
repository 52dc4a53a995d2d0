"""Where things lie in the checkout; everything made by dev.py is git-ignored."""
from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
HOST = ROOT / ".host"
DATA = ROOT / ".host-data"
LOGS = DATA / "logs"
OUT = ROOT / "out"
PACK_NAME = "masked-lora"


def venv_python() -> Path:
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"
