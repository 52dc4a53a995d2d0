"""A run on disk: all that its next step needs in one safetensors file of tensors and JSON, written whole or not at all."""
from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import TrainConfig
from .example import StepReport
from .state import TrainingState

FORMAT_VERSION = "1"
PARTIAL = ".partial"
REPORTS = "reports"  # (steps, fields of StepReport) float64
# What a resumed run may be told anew. Length and speed are for its user to choose, and the split into forward passes changes no sum.
MAY_CHANGE = ("steps", "learning_rate", "schedule", "micro_batch")

Facts = Mapping[str, object]


class DamagedCheckpoint(ValueError):
    """A file whose contents are not what was written."""


def save_checkpoint(file: Path, state: TrainingState, reports: Sequence[StepReport], facts: Facts) -> None:
    """`facts`: what the run that resumes must share, by the names that a person knows them by. Raises OSError or SafetensorError."""
    tensors: dict[str, Tensor] = {}
    contents = pack(contents_of(state), "", tensors)
    tensors[REPORTS] = torch.tensor([astuple(r) for r in reports], dtype=torch.float64).reshape(-1, len(fields(StepReport)))
    metadata = {"masked_lora.checkpoint": FORMAT_VERSION, "contents": json.dumps(contents), "facts": json.dumps(plain(facts)),
                "step": str(state.step), "reports": json.dumps([f.name for f in fields(StepReport)])}
    metadata["crc32"] = checksum(tensors, metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + PARTIAL)
    save_file(tensors, partial, metadata)
    flush(partial)
    partial.replace(file)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        flush(file.parent)


def load_checkpoint(file: Path, state: TrainingState, facts: Facts) -> list[StepReport]:
    """Puts `state` where it was and returns the reports of its steps.

    Raises DamagedCheckpoint, or ValueError where `facts` are not those of the file; `state` is then as before.
    """
    tensors, metadata = read(file)
    if found := differences(json.loads(metadata["facts"]), plain(facts)):
        raise ValueError(f"{file.name} cannot be resumed: {'; '.join(found)}. Give the run another name, or go back to what it had")
    restore(state, unpack(json.loads(metadata["contents"]), tensors))
    names = json.loads(metadata["reports"])
    return [StepReport(**{n: int(v) if n == "step" else v for n, v in zip(names, row, strict=True)}) for row in tensors[REPORTS].tolist()]


def contents_of(state: TrainingState) -> dict[str, object]:
    return {"step": state.step, "parameters": [p.detach() for p in state.parameters], "optimizer": state.optimizer.state_dict(),
            "ema": {"average": list(state.ema.average), "moves": state.ema.moves} if state.ema else None}


@torch.no_grad()
def restore(state: TrainingState, contents: Mapping[str, Any]) -> None:
    for parameter, saved in zip(state.parameters, contents["parameters"], strict=True):
        parameter.copy_(saved)
    state.optimizer.load_state_dict(contents["optimizer"])
    keep_types(state.optimizer, contents["optimizer"]["state"])
    if state.ema:
        for average, saved in zip(state.ema.average, contents["ema"]["average"], strict=True):
            average.copy_(saved)
        state.ema.moves = contents["ema"]["moves"]
    state.step = contents["step"]


def keep_types(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """torch turns state into its parameter's type as it loads: bytes of an 8-bit optimizer would become floats."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved.items():
        own = optimizer.state[parameters[index]]
        for name, value in entries.items():
            if name in own:  # bitsandbytes wraps its state to save it, and unwraps it by itself
                own[name] = in_type_of(value, own[name])


def in_type_of(saved: Any, own: Any) -> Any:
    """`own`, on its device, with the types of `saved`; objects that an optimizer has made of plain tensors stay as they are."""
    if type(saved) is Tensor and type(own) is Tensor and saved.dtype != own.dtype:
        return saved.to(own.device)
    if isinstance(saved, list) and isinstance(own, list):
        return [in_type_of(a, b) for a, b in zip(saved, own, strict=True)]
    if isinstance(saved, dict) and isinstance(own, dict):
        return {key: in_type_of(value, own[key]) for key, value in saved.items()}
    return own


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')} now" for name in {**before, **now}
            if json.dumps(before.get(name)) != json.dumps(now.get(name))]  # as text, in which nan equals nan


def fixed_settings(config: TrainConfig) -> dict[str, object]:
    """The settings that a resumed run must share, one for each name, such as `loss error`."""
    return {name: value for name, value in flat(asdict(config)).items() if name.partition(" ")[0] not in MAY_CHANGE}


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in settings.items():
        found |= flat(value, f"{above}{name} ") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def plain(facts: Facts) -> dict[str, Any]:
    """As JSON gives it back."""
    loaded: dict[str, Any] = json.loads(json.dumps({k: v.value if isinstance(v, Enum) else v for k, v in facts.items()}))
    return loaded


def pack(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    """JSON for `value`, whose tensors go to `tensors` as copies on the CPU, because safetensors refuses what overlaps in memory."""
    if type(value) in (Tensor, nn.Parameter):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()  # type: ignore[attr-defined]  # a tensor by the line above
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [pack(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold; use an optimizer of plain tensors")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, inner), = value.items()
    if kind == "tensor":
        return tensors[inner]
    return tuple(unpack(inner, tensors)) if kind == "tuple" else {key: unpack(item, tensors) for key, item in inner}


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            # Copies, because Windows cannot replace a file that is still mapped.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, UnicodeDecodeError) as error:
        raise DamagedCheckpoint(f"{file.name} is damaged ({error})") from error
    version = metadata.get("masked_lora.checkpoint")
    if version is not None and version != FORMAT_VERSION:
        raise ValueError(f"{file.name} is of format {version}, this version of the pack reads {FORMAT_VERSION}; give the run another name")
    if metadata.pop("crc32", None) != checksum(tensors, metadata):
        raise DamagedCheckpoint(f"{file.name} is damaged (its checksum is wrong)")
    return tensors, metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    crc = zlib.crc32(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}:".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def flush(path: Path) -> None:
    """Until it is on the disk: after a power cut a file that was renamed too early may be empty."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
