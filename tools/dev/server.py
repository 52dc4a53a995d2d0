"""Start the real ComfyUI server with the pack in it, talk to it, and always end it."""
from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import DevError, tail
from .environment import Environment
from .paths import DATA, LOGS
from .processes import child

ADDRESS = "127.0.0.1"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LEVEL = re.compile(r"^\[[A-Z]+\] ")
# The server is on this machine: a proxy from the environment must not get between.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True, slots=True)
class Server:
    """A running ComfyUI."""

    port: int
    data: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    @property
    def output(self) -> Path:
        return self.data / "output"

    def get(self, path: str) -> bytes:
        with _open(self.url + path, timeout=30) as response:
            content: bytes = response.read()
        return content

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def view(self, image: dict[str, str]) -> bytes:
        """The content of a file that a node reported as {filename, subfolder, type}."""
        return self.get("/view?" + urllib.parse.urlencode(image))


def server_command(environment: Environment, port: int, data: Path, extra: tuple[str, ...] = ()) -> list[str]:
    """The command line of ComfyUI; every folder that it writes to lies in `data`, other custom nodes stay out."""
    folders = {"output": data / "output", "input": data / "input", "user": data / "user", "temp": data}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    command = [str(environment.python), str(environment.comfyui.path / "main.py"), "--listen", ADDRESS, "--port", str(port)]
    command += [part for name, folder in folders.items() for part in (f"--{name}-directory", str(folder))]
    command += ["--database-url", f"sqlite:///{(data / 'user' / 'comfyui.db').as_posix()}", "--disable-auto-launch"]
    command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", environment.pack_name, "--disable-api-nodes"]
    # With dynamic VRAM the trainer would load most models a second time.
    return command + (["--disable-dynamic-vram"] if environment.cuda else ["--cpu"]) + list(extra)


def child_variables(environment: Environment) -> dict[str, str]:
    """The environment variables for a child; a user's own ComfyUI gets no __pycache__ from us."""
    variables = dict(os.environ, COMFYUI_PATH=str(environment.comfyui.path), PYTHONUNBUFFERED="1", DO_NOT_TRACK="1")
    if not environment.comfyui.ours:
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
    return variables


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running_server(
    environment: Environment,
    *,
    data: Path = DATA,
    log: Path = LOGS / "server.log",
    extra: tuple[str, ...] = (),
    patience: float = 240,
) -> Iterator[Server]:
    """A ComfyUI on a free port, ready for requests; ended with the block. DevError with the log's end if it dies early."""
    server = Server(free_port(), data, log)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = server_command(environment, server.port, data, extra)
    variables = child_variables(environment)
    with (
        log.open("w", encoding="utf-8") as record,
        child(command, stdout=record, stderr=subprocess.STDOUT, env=variables, cwd=data) as process,
    ):
        wait_until_ready(server, process, patience)
        yield server


def wait_until_ready(server: Server, process: subprocess.Popen[str], patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if process.poll() is not None:
            raise DevError(f"ComfyUI ended with code {process.returncode} while starting ({server.log}):\n{tail(server.log)}")
        try:
            server.get_json("/system_stats")
        except (urllib.error.URLError, OSError, json.JSONDecodeError):
            time.sleep(0.2)
        else:
            return
    raise DevError(f"ComfyUI did not answer within {patience:.0f} s ({server.log}):\n{tail(server.log)}")


def serve(environment: Environment, port: int, extra: tuple[str, ...]) -> int:
    """ComfyUI in the foreground until Ctrl-C."""
    with socket.socket() as probe:
        if probe.connect_ex((ADDRESS, port)) == 0:
            raise DevError(f"something already listens on port {port}; choose another with --port")
    with child(server_command(environment, port, DATA, extra), env=child_variables(environment), cwd=DATA) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 0


@contextmanager
def followed(log: Path, on_line: Callable[[str], None]) -> Iterator[None]:
    """Call `on_line` with each new line of a log, without colours and level, while the block runs."""
    done = threading.Event()

    def follow() -> None:
        unfinished = ""
        while True:
            last_look = done.is_set()
            *lines, unfinished = (unfinished + stream.read()).split("\n")
            for line in lines:
                on_line(plain(line))
            if last_look:
                return
            done.wait(0.2)

    with log.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        stream.seek(0, os.SEEK_END)
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def plain(line: str) -> str:
    """A log line without colours, log level and what a progress bar overwrote."""
    return LEVEL.sub("", COLOUR.sub("", line).rstrip().rpartition("\r")[2])
