"""dev.py demo: reading a finished run out of ComfyUI's history, and telling of a failed one."""
from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pack.tools.dev import console, demo, report, server

PADDING = {"max_length": 512, "pad_embedding": "encoded", "attend": "real", "keep_pads": 0, "encoder_masked": False}
OTHER_PADDING = {**PADDING, "attend": "all"}
TRAINED = {"steps": 200, "seconds_per_step": 1.25, "total_seconds": 251.0, "peak_rss_mb": 1810.5, "loss_inside_first": 0.5,
           "loss_inside_last": 0.25, "text_padding": PADDING}
PICTURE = {"filename": "a.png", "subfolder": "", "type": "output"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def text(value: Any) -> dict[str, Any]:
    return {"text": [json.dumps(value)]}


def history_entry() -> dict[str, Any]:
    """What GET /history gives of a quickstart that went well, ids and order as they happen to be."""
    prompt = {
        "3": node("SaveImage", filename_prefix="samples/before"),
        "7": node(report.TRAIN, steps=200),
        "9": node(report.SAVE),
        "12": node(report.APPLY),
        "20:1": node("SaveImage", filename_prefix="masked_lora/grid"),
        "21": node(report.LOSS_PLOT, filename_prefix="loss_graph"),
        "30": node(report.DRIFT),
        "31": node("PreviewImage"),
    }
    outputs = {
        "3": {"images": [{**PICTURE, "filename": "before.png"}]},
        "7": text(TRAINED),
        "9": text({"file": "loras/demo.safetensors", "metadata": {"text_padding": PADDING}}),
        "12": text({"text_padding": json.dumps(PADDING)}),
        "20:1": {"images": [{**PICTURE, "filename": "grid.png", "subfolder": "masked_lora"}]},
        "21": {"images": [{**PICTURE, "filename": "loss.png", "type": "temp"}], "animated": [False]},
        "30": text({"drift_inside": 0.2, "drift_outside": 0.02}),
    }
    return {"prompt": [0, "id", prompt, {}, ["9"]], "outputs": outputs, "status": {"status_str": "success", "messages": []}}


def write_lora(file: Path, metadata: dict[str, str]) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header)


class FakeServer:
    """Serves the files and facts that collect() asks a server for."""

    def __init__(self, output: Path) -> None:
        self.output = output

    def get_json(self, path: str) -> Any:
        return {"system": {"comfyui_version": "0.30.0", "pytorch_version": "2.11.0"}}

    def view(self, image: dict[str, str]) -> bytes:
        return f"{image['type']}/{image['subfolder']}/{image['filename']}".encode()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_lora(tmp_path / "output/loras/demo.safetensors", {"masked_lora.text_padding": json.dumps(PADDING)})
    return tmp_path / "output"


def test_collect_gathers_files_and_numbers(tmp_path: Path, output: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "stale.png").touch()
    results = demo.collect(FakeServer(output), history_entry(), folder)
    assert {file.name for file in folder.iterdir()} == {"lora.safetensors", "loss.png", "grid.png"}
    assert (folder / "grid.png").read_text() == "output/masked_lora/grid.png"
    assert (folder / "loss.png").read_text() == "temp//loss.png"
    assert results["host_version"] == "0.30.0"
    assert results["drift_inside"] == 0.2
    assert results["text_padding"] == {"train": PADDING, "inference": PADDING}
    assert {name: results[name] for name in report.TRAIN_NUMBERS} == {name: TRAINED[name] for name in report.TRAIN_NUMBERS}
    results["phases_seconds"] = {"set_up": 0.4, "workflow": 200.0}
    shown = demo.summary(results)
    for part in ("200 steps", "0.5000 -> 0.2500 (-50%)", "0.2000 inside", "workflow 3 min 20 s"):
        assert part in shown


def without(entry: dict[str, Any], key: str) -> None:
    del entry["outputs"][key]


def misname_file(entry: dict[str, Any]) -> None:
    entry["outputs"]["9"] = text({"file": "../../secret"})


def break_number(entry: dict[str, Any]) -> None:
    entry["outputs"]["7"] = text({**TRAINED, "loss_inside_last": float("nan")})


def forget_number(entry: dict[str, Any]) -> None:
    entry["outputs"]["30"] = text({"drift_inside": 0.2})


def second_training(entry: dict[str, Any]) -> None:
    entry["prompt"][2]["8"] = node(report.TRAIN)
    entry["outputs"]["8"] = text({**TRAINED, "steps": 100})


def other_inference(entry: dict[str, Any]) -> None:
    entry["outputs"]["12"] = text({"text_padding": OTHER_PADDING})


def no_padding(entry: dict[str, Any]) -> None:
    entry["outputs"]["12"] = text({"text_padding": None})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda entry: without(entry, "7"), "no MaskedLoRA_Train node reported"),
        (lambda entry: without(entry, "9"), "no MaskedLoRA_SaveLora node reported"),
        (lambda entry: without(entry, "12"), "no MaskedLoRA_ApplyLora node reported"),
        (lambda entry: without(entry, "30"), "no MaskedLoRA_MeasureDrift node reported"),
        (lambda entry: without(entry, "20:1"), "no SaveImage node with the prefix 'masked_lora/grid'"),
        (lambda entry: without(entry, "21"), "no LossGraphNode node gave an image"),
        (misname_file, "reported the file ../../secret"),
        (break_number, "loss_inside_last = nan"),
        (forget_number, "drift_outside = None"),
        (second_training, "2 different results"),
        (other_inference, 'the loader says {"max_length": 512, "pad_embedding": "encoded", "attend": "all"'),
        (no_padding, "MaskedLoRA_ApplyLora names no text padding"),
    ],
)
def test_collect_names_what_is_wrong(tmp_path: Path, output: Path, spoil: Any, message: str) -> None:
    entry = copy.deepcopy(history_entry())
    spoil(entry)
    with pytest.raises(console.DevError) as caught:
        demo.collect(FakeServer(output), entry, tmp_path / "demo")
    assert message in str(caught.value)


def test_collect_wants_the_padding_in_the_file(tmp_path: Path, output: Path) -> None:
    write_lora(output / "loras/demo.safetensors", {})
    with pytest.raises(console.DevError, match=r"metadata masked_lora\.text_padding names no text padding"):
        demo.collect(FakeServer(output), history_entry(), tmp_path / "demo")


def test_a_failed_prompt_is_told_in_the_nodes_words() -> None:
    details = {"node_id": "3", "node_type": "MaskedLoRA_Train", "exception_type": "ValueError", "exception_message": "no mask\n"}
    messages = [["execution_start", {}], ["execution_error", details]]
    failed = {"status": {"status_str": "error", "messages": messages}}
    assert report.failure(failed) == "MaskedLoRA_Train (node 3): ValueError: no mask"
    assert report.failure(history_entry()) == ""
    assert "error" in report.failure({"status": {"status_str": "error"}})


def test_comfy_cli_errors_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "server.log"
    log.write_text("\x1b[31m[ERROR]\x1b[0m line of the server\n    ~~~^^^\n")
    running = server.Server(1, tmp_path, log)
    error = {"code": "workflow_unknown_nodes", "message": "Workflow has 1 error", "hint": "node 1: Nope"}
    events = [{"type": "queued", "prompt_id": "p"}, {"type": "envelope", "ok": False, "error": error}]
    with pytest.raises(console.DevError) as caught:
        demo.prompt_id_of(events, 1, running, tmp_path / "none.log")
    assert str(caught.value) == "the workflow failed: Workflow has 1 error\nnode 1: Nope"
    shown = capsys.readouterr().out
    assert "line of the server" in shown
    assert "^^^" not in shown
    assert demo.prompt_id_of([events[0], {"type": "envelope", "ok": True}], 0, running, tmp_path / "none.log") == "p"
