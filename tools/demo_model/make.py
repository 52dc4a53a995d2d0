"""Make the demo model's weights from nothing: `python tools/demo_model/make.py WORKDIR [--device cuda]`.

Stages: autoencoder, text encoders, Flux with the padding dropped, Flux with the padding attended as in the released
Flux, a check of what it draws. Every stage resumes from its last checkpoint in WORKDIR; the finished weights go to assets/pico_flux.
COMFYUI_PATH names the ComfyUI whose architectures are trained.
"""
from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [os.environ["COMFYUI_PATH"], str(ROOT / "tools")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stage", choices=("autoencoder", "text", "base", "check", "all"), default="all")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    from comfy.cli_args import args

    args.cpu, args.use_pytorch_cross_attention = options.device == "cpu", True
    options.workdir.mkdir(parents=True, exist_ok=True)

    from demo_model import pipeline

    pipeline.make(options.workdir, ROOT / "assets", options.device, options.stage)


if __name__ == "__main__":
    main()
