"""Finish now, Cancel and resume through a real ComfyUI server."""
from __future__ import annotations

import json
import time
from typing import Any

import pytest
from safetensors import safe_open

from .defaults import new_graph
from .server import Comfy, Graph, Node, add_training, complaints

LONG = 100_000  # steps that no test waits for


@pytest.mark.parametrize(("body", "status"), [
    ({"prompt_id": "p", "node_id": "1"}, 404), ({}, 400), ({"prompt_id": 1, "node_id": "1"}, 400), ({"prompt_id": "p"}, 400),
    ({"prompt_id": "p", "node_id": "1" * 201}, 400), ({"prompt_id": "", "node_id": "1"}, 400), ([], 400), ("text", 400), (None, 400),
])
def test_what_is_no_running_training_is_refused(comfy: Comfy, body: Any, status: int) -> None:
    start = len(comfy.log())
    answered, answer = comfy.post("/masked_lora/finish", body)
    assert answered == status
    assert answer["error"]
    assert not complaints(comfy.log()[start:])


def training(comfy: Comfy, name: str, steps: int, *, checkpoints: bool) -> tuple[Graph, Node, Node]:
    graph = new_graph(comfy)
    made = add_training(graph, steps=steps, name=name)
    if checkpoints:
        node = graph.add("MaskedLoRA_Checkpoints", every=2, keep=2)
        graph.prompt[made.trained.id]["inputs"]["checkpoints"] = node[0]
    saved = graph.add("MaskedLoRA_SaveLora", lora=made.trained[0], filename=name)
    return graph, made.trained, saved


def test_finish_now_ends_after_the_step_and_the_graph_goes_on(comfy: Comfy) -> None:
    start = len(comfy.log())
    graph, trained, saved = training(comfy, "finished", LONG, checkpoints=False)
    prompt = comfy.submit(graph)
    comfy.wait_for_log("Masked LoRA: step 1/", start)
    assert comfy.post("/masked_lora/finish", {"prompt_id": "another", "node_id": trained.id})[0] == 404
    assert comfy.post("/masked_lora/finish", {"prompt_id": prompt, "node_id": saved.id})[0] == 404
    assert comfy.post("/api/masked_lora/finish", {"prompt_id": prompt, "node_id": trained.id}) == (200, {"finishing": True})
    run = comfy.wait(prompt, 60)
    assert not run.failure
    report = json.loads(run.text(trained))
    assert report["outcome"] == f"finished early at step {report['steps']} of {LONG}"
    assert report["outcome"] in comfy.log()[start:]
    file = comfy.server.output / json.loads(run.text(saved))["file"]
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["ss_steps"] == str(report["steps"])
    assert comfy.post("/masked_lora/finish", {"prompt_id": prompt, "node_id": trained.id})[0] == 404, "the training is over"
    assert not [file for file in comfy.loras.iterdir() if file.name.startswith("finished_stopped")]


def test_cancelled_run_goes_on_at_the_next_run(comfy: Comfy) -> None:
    start = len(comfy.log())
    graph, trained, _ = training(comfy, "cancelled", LONG, checkpoints=True)
    prompt = comfy.submit(graph)
    comfy.wait_for_log("Masked LoRA: step 5/", start)
    assert comfy.post("/interrupt", {})[0] == 200
    assert comfy.wait(prompt, 60).message("execution_interrupted")
    folder = comfy.server.output / "masked_lora" / "cancelled_checkpoints"
    deadline = time.monotonic() + 20
    while not (saved := sorted(folder.glob("step_*.safetensors"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    last = int(saved[-1].stem.removeprefix("step_"))
    steps = comfy.server.get_json("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"][0]
    listed = [name for name in steps if name.startswith("cancelled")]
    assert f"cancelled_stopped_at_step_{last:06d}.safetensors" in listed
    assert len([name for name in listed if "_step_" in name and "stopped" not in name]) <= 2
    graph.prompt[trained.id]["inputs"]["steps"] = last + 2
    run = comfy.run(graph)
    report = json.loads(run.text(trained))
    assert report["outcome"] == f"resumed at step {last} of {last + 2}"
    assert report["steps"] == last + 2
    assert f"resumed at step {last} of {last + 2}" in comfy.log()[start:]


def test_another_run_of_the_same_name_is_told_what_differs(comfy: Comfy) -> None:
    graph, trained, _ = training(comfy, "same", 2, checkpoints=True)
    comfy.run(graph)
    graph.prompt[trained.id]["inputs"] |= {"batch_size": 3, "steps": 4}
    message = comfy.error(graph, "MaskedLoRA_Train")
    assert "batch_size was 2 and is 3 now" in message
    assert "Give the run another name" in message
