"""The demo: run the shipped quickstart workflow through a real ComfyUI with comfy-cli, keep and check what it made."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from . import report
from .console import DevError, duration, say, tail
from .environment import Environment
from .paths import DATA, LOGS, OUT, ROOT
from .processes import child
from .server import Server, child_variables, followed, plain, running_server

WORKFLOW = ROOT / "workflows" / "quickstart.json"
SILENCE_LIMIT = 900  # seconds without any event after which comfy-cli gives up
LOG_PREFIX = "Masked LoRA"


def demo(environment: Environment, set_up_seconds: float) -> None:
    """Run the quickstart and write out/demo: lora.safetensors, loss.png, grid.png, report.json."""
    if not WORKFLOW.is_file():
        raise DevError(f"{WORKFLOW} is missing")
    say(f"Starting ComfyUI ({environment.comfyui.path}, {'CUDA' if environment.cuda else 'CPU'}) ...")
    started = time.perf_counter()
    with running_server(environment) as server:
        ready = time.perf_counter()
        prompt_id = run_workflow(environment, server, WORKFLOW)
        ended = time.perf_counter()
        results = collect(server, finished(server, prompt_id), OUT / "demo")
    phases = {"set_up": set_up_seconds, "server_start": ready - started, "workflow": ended - ready}
    results["phases_seconds"] = {name: round(seconds, 2) for name, seconds in phases.items()}
    write_report(results, OUT / "demo" / "report.json")
    say(summary(results))


def run_workflow(environment: Environment, server: Server, workflow: Path) -> str:
    """Run a workflow file (UI or API form) with comfy-cli, showing progress; returns the prompt's id."""
    home = DATA / "comfy-cli-home"
    home.mkdir(parents=True, exist_ok=True)
    # comfy-cli keeps settings and job records in the home folder; the user's own stay as they are.
    variables = dict(child_variables(environment), HOME=str(home), USERPROFILE=str(home))
    command = [str(environment.python), "-m", "comfy_cli", "--workspace", str(environment.comfyui.path), "run", "--json"]
    command += ["--workflow", str(workflow), "--host", "127.0.0.1", "--port", str(server.port)]
    command += ["--wait", "--timeout", str(SILENCE_LIMIT)]
    complaints = LOGS / "comfy-cli.log"
    say(f"Running {workflow.relative_to(ROOT) if workflow.is_relative_to(ROOT) else workflow} with comfy-cli ...")
    with (
        followed(server.log, say_progress),
        complaints.open("w", encoding="utf-8") as stderr,
        child(command, stdout=subprocess.PIPE, stderr=stderr, env=variables, cwd=DATA) as process,
    ):
        assert process.stdout is not None  # asked for above
        events = [event for line in process.stdout if (event := shown_event(line))]
        code = process.wait()
    return prompt_id_of(events, code, server, complaints)


def say_progress(line: str) -> None:
    if line.startswith(LOG_PREFIX):
        say(f"  {line}")


def shown_event(line: str) -> dict[str, Any] | None:
    """One event of comfy-cli's stream; the start of each node is shown."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    if event.get("type") == "executing" and event.get("title"):
        say(f"  node: {event['title']}")
    return event


def prompt_id_of(events: list[dict[str, Any]], code: int, server: Server, complaints: Path) -> str:
    """The id of the prompt that ran; DevError in the node's own words if it failed."""
    envelope: dict[str, Any] = next((event for event in reversed(events) if event.get("type") == "envelope"), {})
    queued = next((event for event in events if event.get("type") == "queued"), {})
    if code or not envelope.get("ok"):
        error = envelope.get("error") or {"message": f"comfy-cli ended with code {code}: {tail(complaints, 10)}"}
        # For a node's own error the hint tells how to look at comfy-cli's records, which adds nothing to the log shown.
        hint = f"\n{error['hint']}" if error.get("hint") and error.get("code") != "execution_error" else ""
        raise failed(server, f"{error['message']}{hint}")
    if not queued.get("prompt_id"):
        raise DevError(f"comfy-cli reported success but no prompt id ({complaints})")
    return str(queued["prompt_id"])


def finished(server: Server, prompt_id: str) -> dict[str, Any]:
    """The history entry of a prompt that went well."""
    entry: dict[str, Any] | None = server.get_json(f"/history/{prompt_id}").get(prompt_id)
    if entry is None:
        raise DevError(f"ComfyUI's history does not know the prompt {prompt_id}")
    if problem := report.failure(entry):
        raise failed(server, problem)
    return entry


def failed(server: Server, problem: str) -> DevError:
    """Show the end of the server's log and return the error to raise, so that the cause is the last thing on screen."""
    lines = [plain(line) for line in tail(server.log).split("\n")]
    shown = "\n".join(f"  {line}" for line in lines if line.strip("^~ "))
    say(f"\nThe end of ComfyUI's log ({server.log}):\n{shown}")
    return DevError(f"the workflow failed: {problem}")


def collect(server: Server, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fetch the files of a finished demo into `folder` and return the report's content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lora, grid, loss = folder / "lora.safetensors", folder / "grid.png", folder / "loss.png"
    shutil.copyfile(report.saved_lora(entry, server.output), lora)
    grid.write_bytes(server.view(report.reported_image(entry, report.GRID, report.GRID_PREFIX)))
    loss.write_bytes(server.view(report.reported_image(entry, report.LOSS_PLOT)))
    system = server.get_json("/system_stats")["system"]
    return {
        "host_version": system["comfyui_version"],
        "torch_version": system["pytorch_version"],
        "cpu_count": os.cpu_count(),
        **report.numbers(report.reported(entry, report.TRAIN), report.TRAIN_NUMBERS, report.TRAIN),
        **report.numbers(report.reported(entry, report.DRIFT), report.DRIFT_NUMBERS, report.DRIFT),
        "text_padding": report.text_padding(entry, lora),
        "lora": relative(lora),
        "images": [relative(grid), relative(loss)],
    }


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.as_posix()


def write_report(results: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def summary(results: dict[str, Any]) -> str:
    """A report as a few lines for a person."""
    first, last = results["loss_inside_first"], results["loss_inside_last"]
    change = f" ({last / first - 1:+.0%})" if first else ""
    phases = ", ".join(f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in results["phases_seconds"].items())
    lines = [
        "",
        f"Trained {results['steps']} steps in {duration(results['total_seconds'])}, {results['seconds_per_step']:.2f} s a step"
        + (f", peak memory {results['peak_rss_mb']:.0f} MB" if results["peak_rss_mb"] is not None else ""),
        f"Loss inside the mask: {first:.4f} -> {last:.4f}{change}",
        f"Drift from the base model: {results['drift_inside']:.4f} inside the mask, {results['drift_outside']:.4f} outside",
        f"Text padding, the same in training and at inference: {json.dumps(results['text_padding']['train'])}",
        f"Time: {phases}",
        *(f"Wrote {file}" for file in (results["lora"], *results["images"], relative(OUT / "demo" / "report.json"))),
    ]
    return "\n".join(lines)
