"""`dev.py test`: ruff, mypy on the pure packages, then pytest with the fast tests first. `dev.py bench`: one benchmark. `dev.py masks`."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import photographs, pillow_images
from .console import DevError, say, step
from .environment import Environment
from .paths import LOGS, ROOT
from .processes import foreground
from .server import child_variables

TESTS, BENCHMARKS = ROOT / "tests", ROOT / "benchmarks"
PURE_PACKAGES = ("masks", "dataset", "segmentation", "trainer")
SLOW_LAST = ("nodes", "host", "web")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def run_tests(environment: Environment, arguments: list[str], browser: bool) -> int:
    """Static checks, then every test; returns pytest's exit code. Nothing is printed after pytest's closing line."""
    variables = child_variables(environment)
    if browser:
        variables["MASKED_LORA_BROWSER"] = find_browser() or install_browser()
    else:
        variables["MASKED_LORA_NO_BROWSER"] = "1"
    # OpenMP's threads spin while they wait; beside another busy process a test of seconds then takes minutes.
    variables.setdefault("OMP_WAIT_POLICY", "passive")
    variables[pillow_images.VARIABLE] = str(pillow_images.pillow_images(environment.python))
    variables[photographs.VARIABLE] = str(photographs.photographs(environment.python))
    check_statically(environment.python)
    chosen = [] if names_tests(arguments) else [str(path.relative_to(ROOT)) for path in ordered_tests(TESTS)]
    command = [str(environment.python), "-m", "pytest", "--durations=15", *chosen, *arguments]
    say("Running the tests ...")
    return foreground(command, env=variables, cwd=ROOT)


def check_statically(python: Path) -> None:
    packages = [name for name in PURE_PACKAGES if any((ROOT / name).glob("*.py"))]
    checks = {
        "ruff": ["ruff", "check", "-q", "--output-format", "concise", "."],
        "mypy on the pure packages": ["mypy", *packages],
    }
    for title, command in checks.items():
        with step(f"Checking with {title}"):
            result = subprocess.run([python, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode:
            raise DevError(f"{title} found faults:\n{result.stdout}{result.stderr}")


def ordered_tests(folder: Path) -> list[Path]:
    """The test folders and files, the quick ones first: pure packages, single files, then what starts the host."""
    parts = [path for path in sorted(folder.iterdir()) if path.is_dir() or path.match("test_*.py")]

    def rank(path: Path) -> tuple[int, str]:
        if path.name in PURE_PACKAGES:
            return PURE_PACKAGES.index(path.name), ""
        if path.name in SLOW_LAST:
            return 100 + SLOW_LAST.index(path.name), ""
        return (50 if path.is_file() else 60), path.name

    return sorted((path for path in parts if path.is_file() or any(path.rglob("test_*.py"))), key=rank)


def names_tests(arguments: list[str]) -> bool:
    """Whether the person named test files or folders, so that ours are not added."""
    return any(not argument.startswith("-") and (ROOT / argument.split("::")[0]).exists() for argument in arguments)


def find_browser() -> str | None:
    """A Chromium or Chrome: MASKED_LORA_BROWSER, one on PATH, or where macOS and Windows install it."""
    usual = (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        os.path.expandvars(r"%ProgramFiles%\Google\Chrome\Application\chrome.exe"),
    )
    found = [os.environ.get("MASKED_LORA_BROWSER"), *map(shutil.which, BROWSERS), *filter(os.path.isfile, usual)]
    return next((path for path in found if path), None)


def install_browser() -> str:
    """Debian's chromium if this is root on a Debian; otherwise empty, and the person is told what will fail."""
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        with step("Installing Debian's chromium for the browser tests"):
            apt_get("update")
            apt_get("install", "-y", "--no-install-recommends", "chromium")
        if browser := find_browser():
            return browser
    say("No Chromium or Chrome was found: the tests in tests/web will fail. Install one, or leave them out with --no-browser.")
    return ""


def apt_get(*arguments: str) -> None:
    log = LOGS / "apt-get.log"
    with log.open("a", encoding="utf-8") as record:
        variables = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        result = subprocess.run(["apt-get", "-q", *arguments], stdout=record, stderr=record, env=variables, check=False)
    if result.returncode:
        say(f"  apt-get {arguments[0]} failed with code {result.returncode} ({log})")


def run_benchmark(environment: Environment, name: str, arguments: list[str]) -> int:
    file = BENCHMARKS / f"{name}.py"
    if not file.is_file():
        raise DevError(f"there is no benchmark {name!r}; {benchmark_list()}")
    return foreground([environment.python, file, *arguments], env=child_variables(environment), cwd=ROOT)


def run_masks(environment: Environment, arguments: list[str]) -> int:
    """tools/make_masks.py, with paths as the person at the keyboard means them."""
    return foreground([environment.python, ROOT / "tools" / "make_masks.py", *arguments], env=child_variables(environment), cwd=Path.cwd())


def benchmark_list() -> str:
    names = sorted(file.stem for file in BENCHMARKS.glob("*.py") if not file.name.startswith("_"))
    return f"benchmarks: {', '.join(names)}" if names else "no benchmark is there yet"
