"""Read a finished demo out of ComfyUI's history: find what the nodes reported, check it, write the report.

Lookup goes by node class, because ids differ from file to file; whatever is missing or contradicts itself is an error
that names it. `entry` is one value of GET /history: {"prompt": [..], "outputs": {..}, "status": {..}}.
"""
from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .console import DevError

TRAIN, DRIFT = "MaskedLoRA_Train", "MaskedLoRA_MeasureDrift"
SAVE, APPLY = "MaskedLoRA_SaveLora", "MaskedLoRA_ApplyLora"
GRID, GRID_PREFIX, LOSS_PLOT = "SaveImage", "masked_lora/grid", "LossGraphNode"
TRAIN_NUMBERS = ("steps", "seconds_per_step", "total_seconds", "peak_rss_mb", "loss_inside_first", "loss_inside_last")
DRIFT_NUMBERS = ("drift_inside", "drift_outside")
MAY_BE_NULL = ("peak_rss_mb",)  # Python has no standard way to ask for it on Windows

Entry = Mapping[str, Any]


def outputs_of(entry: Entry, class_type: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The (inputs, ui output) of every node of a class that reported something."""
    prompt = entry["prompt"][2]
    for node_id, output in entry["outputs"].items():
        node = prompt.get(node_id)
        if node and node["class_type"] == class_type:
            yield node["inputs"], output


def reported(entry: Entry, class_type: str) -> dict[str, Any]:
    """The JSON object that the nodes of a class put on themselves; several nodes must agree."""
    texts = [text for _, output in outputs_of(entry, class_type) for text in output.get("text", ())]
    if not texts:
        raise DevError(f"no {class_type} node reported anything: is it in the workflow, and did it run?")
    found = [parsed(text, class_type) for text in texts]
    if any(other != found[0] for other in found[1:]):
        raise DevError(f"{class_type} reported {len(found)} different results; the demo needs one: {found}")
    return found[0]


def parsed(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DevError(f"{source} reported text that is not JSON ({error}): {text!r}") from error
    if not isinstance(value, dict):
        raise DevError(f"{source} reported {value!r} where a JSON object belongs")
    return value


def reported_image(entry: Entry, class_type: str, prefix: str = "") -> dict[str, str]:
    """The first image of the node of a class (and file name prefix), as {filename, subfolder, type}."""
    for inputs, output in outputs_of(entry, class_type):
        if str(inputs.get("filename_prefix", "")).startswith(prefix) and output.get("images"):
            image: dict[str, str] = output["images"][0]
            return {key: image[key] for key in ("filename", "subfolder", "type")}
    wanted = f"{class_type} node with the prefix {prefix!r}" if prefix else f"{class_type} node"
    raise DevError(f"no {wanted} gave an image: is it in the workflow, and did it run?")


def numbers(values: Mapping[str, Any], names: tuple[str, ...], source: str) -> dict[str, float | None]:
    """The named finite numbers out of a node's report."""
    for name in names:
        value = values.get(name)
        if value is None and name in MAY_BE_NULL and name in values:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DevError(f"{source} reported {name} = {value!r}; a finite number belongs there")
    return {name: values[name] for name in names}


def padding(value: Any, source: str) -> dict[str, Any]:
    """A text padding spec given as an object or as its JSON text."""
    if isinstance(value, str):
        value = parsed(value, source)
    if not isinstance(value, dict) or not value:
        raise DevError(f"{source} names no text padding, but {value!r}")
    return value


def lora_metadata(file: Path) -> dict[str, str]:
    """The metadata in the header of a safetensors file, read without any library."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size < 2**27:
            raise DevError(f"{file} is no safetensors file: its header would have {size} bytes")
        header = json.loads(stream.read(size))
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata


def text_padding(entry: Entry, lora: Path) -> dict[str, dict[str, Any]]:
    """How the captions were padded in training and at inference; DevError if file, trainer and loader disagree."""
    key = "masked_lora.text_padding"
    specs = {
        "the trainer": padding(reported(entry, TRAIN).get("text_padding"), TRAIN),
        "the LoRA file": padding(lora_metadata(lora).get(key), f"{lora.name}, metadata {key}"),
        "the loader": padding(reported(entry, APPLY).get("text_padding"), APPLY),
    }
    if len({json.dumps(spec, sort_keys=True) for spec in specs.values()}) > 1:
        raise DevError("the text padding differs: " + "; ".join(f"{who} says {json.dumps(spec)}" for who, spec in specs.items()))
    return {"train": specs["the trainer"], "inference": specs["the loader"]}


def saved_lora(entry: Entry, output: Path) -> Path:
    """The LoRA file that the workflow saved, somewhere in ComfyUI's output folder."""
    name = reported(entry, SAVE).get("file")
    if not isinstance(name, str) or not name:
        raise DevError(f"{SAVE} reported file = {name!r}; the saved file's path in the output folder belongs there")
    file = (output / name).resolve()
    if not file.is_relative_to(output.resolve()) or not file.is_file():
        raise DevError(f"{SAVE} reported the file {name}, which is not in {output}")
    return file


def failure(entry: Entry) -> str:
    """What went wrong in a prompt, for a person: the node and its own words; empty if all went well."""
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return ""
    for kind, details in status.get("messages", ()):
        if kind == "execution_error":
            node = f"{details.get('node_type')} (node {details.get('node_id')})"
            return f"{node}: {details.get('exception_type')}: {str(details.get('exception_message')).strip()}"
        if kind == "execution_interrupted":
            return f"{details.get('node_type')} (node {details.get('node_id')}) was interrupted"
    return f"the workflow ended with the status {status.get('status_str')!r}"
