"""Child processes that never outlive dev.py, however it ends."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

Command = Sequence[str | Path]


def end_children_on_termination() -> None:
    """Let SIGTERM unwind the program as Ctrl-C does, so that every `finally` ends its child."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def stop(process: subprocess.Popen[str], patience: float = 15) -> None:
    """End a process if it still runs: politely, then by force."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def child(
    command: Command,
    *,
    stdout: IO[str] | int | None = None,
    stderr: IO[str] | int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A running process with text streams; what still runs at the end of the block is stopped."""
    process = subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, errors="replace", env=env, cwd=cwd)
    try:
        yield process
    finally:
        stop(process)


def foreground(command: Command, *, env: Mapping[str, str], cwd: Path) -> int:
    """Run a program in our terminal and return its exit code; at Ctrl-C it gets the time to clean up after itself."""
    with child(command, env=env, cwd=cwd) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            wait_briefly(process)  # the terminal has sent it Ctrl-C too
            raise
        except SystemExit:
            if os.name != "nt":
                process.send_signal(signal.SIGINT)  # pytest ends its own children at this signal only
                wait_briefly(process)
            raise


def wait_briefly(process: subprocess.Popen[str]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
