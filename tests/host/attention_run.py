"""A program that compares presets with their tools under the attention that ComfyUI was started with, and prints JSON.

Run by test_attention_backends.py in a process of its own, because ComfyUI chooses its attention once, from its command line.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import comfy.options

comfy.options.enable_args_parsing()

import comfy.ldm.modules.attention as attention  # noqa: E402
import comfy.text_encoders.t5 as t5  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from . import regimes  # noqa: E402
from .test_text import errors_of_masks  # noqa: E402
from .test_text_regimes import PROMPTS, compare  # noqa: E402


def main() -> None:
    masks: dict[str, list[str]] = {"T5": [], "Flux": []}
    choose = t5.optimized_attention_for_device

    def noting(function: Callable[..., Tensor], reader: str) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any) -> Tensor:
            masks[reader].append("none" if mask is None else str(mask.dtype).removeprefix("torch."))
            return function(q, k, v, heads, mask=mask, **options)
        return attend

    t5.optimized_attention_for_device = lambda *args, **options: (
        lambda q, k, v, heads, mask=None: noting(choose(*args, **options), "T5")(q, k, v, heads, mask))
    override = {"optimized_attention_override": lambda function, *args, **options: noting(function, "Flux")(*args, **options)}
    errors = {tool: max(compare(tool, PROMPTS["a caption"], **override)) for tool in regimes.REGIMES}
    with torch.no_grad():
        by_mask = errors_of_masks()
    json.dump({"attention": attention.optimized_attention.__name__, "in T5": choose("cpu", small_input=True).__name__, "errors": errors,
               "by mask": by_mask, "masks": {reader: sorted(set(found)) for reader, found in masks.items()}}, sys.stdout)
