"""The state of torchao's 8-bit optimizers without objects: what a checkpoint can hold as tensors and JSON."""
from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

PARTS = ("codes", "scale", "qmap")


def keep_state_plain(optimizer: Optimizer) -> Optimizer:
    """torchao keeps packed tensors and its learning rates as tensors; state_dict() and load_state_dict() shall not show them."""
    optimizer.register_state_dict_post_hook(unpack)
    optimizer.register_load_state_dict_pre_hook(pack)
    return optimizer


def unpack(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return {"signed": value.signed, **{part: getattr(value, part) for part in PARTS}} if hasattr(value, "codes") else value

    return {"state": {i: {k: plain(v) for k, v in of.items()} for i, of in state["state"].items()},
            "param_groups": [{k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in state["param_groups"]]}


def pack(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    packed: Any = importlib.import_module("torchao.optim.subclass_8bit")

    def restored(value: Any) -> Any:
        return packed.OptimState8bit(*(value[part] for part in PARTS), value["signed"]) if isinstance(value, dict) else value

    return {"state": {i: {k: restored(v) for k, v in of.items()} for i, of in state["state"].items()},
            "param_groups": [{**group, "lr": torch.tensor(group["lr"])} for group in state["param_groups"]]}
