"""The virtual environment: made, filled with the pinned requirements, checked in a moment when it is already there."""
from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .comfyui import ComfyUI, find_comfyui, link_pack
from .console import DevError, say, step, tail
from .paths import DATA, LOGS, ROOT, VENV, venv_python
from .processes import child
from .source_package import helpful_lines, write_atomically

OUR_REQUIREMENTS = (ROOT / "requirements-dev.txt", ROOT / "requirements.txt")
STAMP = VENV / "installed.json"
STARTED = VENV / "installing"
# One module of each package that matters: a look at their names finds a gutted environment in a moment.
PROBED = ("pip", "torch", "torchvision", "torchaudio", "numpy", "cv2", "peft", "transformers", "aiohttp", "safetensors",
          "comfy_cli", "comfyui_frontend_package", "pytest", "ruff", "mypy", "playwright", "skimage")
PROBE = f"import importlib.util, sys; sys.exit(' '.join(n for n in {PROBED!r} if not importlib.util.find_spec(n)))"
LARGE_DOWNLOAD = re.compile(r"^\s*Downloading (\S+?)(?:\.metadata)? \((\d{3,}(?:\.\d+)? MB|[\d.]+ GB)\)")


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything the other commands need: a python that has it all, a ComfyUI with the pack in it."""

    python: Path
    comfyui: ComfyUI
    pack_name: str
    cuda: bool


def set_up(workspace: str | None = None) -> Environment:
    """Make or check the environment and ComfyUI. Quick when nothing changed; finishes a set-up that was cut off."""
    DATA.mkdir(exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    if STARTED.exists():
        say("The last installation was cut off: starting the virtual environment afresh")
    if STARTED.exists() or not works(venv_python()):
        make_venv()
    comfyui = find_comfyui(venv_python(), workspace)
    requirements = (*OUR_REQUIREMENTS, comfyui.path / "requirements.txt")
    cuda = install(requirements)
    return Environment(venv_python(), comfyui, link_pack(comfyui.path), cuda)


def works(python: Path) -> bool:
    try:
        return subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def remove_venv() -> None:
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)


def make_venv() -> None:
    with step(f"Making a virtual environment in {VENV.name} with Python {sys.version.split()[0]}"):
        remove_venv()
        result = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise DevError(f"python -m venv failed; Debian and Ubuntu need the package python3-venv.\n{result.stdout}{result.stderr}")


def install(requirements: tuple[Path, ...]) -> bool:
    """Bring the environment to the requirements unless its stamp says that it is there; returns whether CUDA works."""
    wanted = fingerprint(requirements)
    record = read_stamp()
    missing = missing_modules() if record.get("requirements") == wanted else None
    if missing == "":
        return bool(record["cuda"])
    if missing:
        say(f"The environment lost {missing}: starting it afresh")
        make_venv()
    STAMP.unlink(missing_ok=True)
    with step("Installing the requirements (PyTorch among them: up to 5 GB on disk, minutes on a slow line)"):
        pip("install", "--progress-bar", "off", *(argument for file in requirements for argument in ("-r", str(file))))
    if left := missing_modules():
        raise DevError(f"{left} is still missing after pip install; remove {VENV} and run again")
    if not cv2_starts():
        use_headless_opencv()
    cuda = has_cuda()
    write_atomically(STAMP, json.dumps({"requirements": wanted, "cuda": cuda}).encode())
    return cuda


def fingerprint(requirements: tuple[Path, ...]) -> str:
    """A hash of what decides the environment's content: the requirements' text, the Python version, the place."""
    texts = [file.read_text(encoding="utf-8") for file in requirements]
    return hashlib.sha256("\0".join([*texts, sys.version, str(VENV)]).encode()).hexdigest()


def read_stamp() -> dict[str, object]:
    try:
        record: dict[str, object] = json.loads(STAMP.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return record


def missing_modules() -> str:
    """The probed modules that the environment lacks, separated by blanks; imports none of them."""
    result = subprocess.run([venv_python(), "-c", PROBE], capture_output=True, text=True, check=False, cwd=VENV)
    return result.stderr.strip()


def cv2_starts() -> bool:
    return subprocess.run([venv_python(), "-c", "import cv2"], capture_output=True, check=False, cwd=VENV).returncode == 0


def use_headless_opencv() -> None:
    """Swap opencv-python, which wants the libraries of a desktop, for its twin without windows: the same `cv2`."""
    with step("This machine lacks the desktop libraries of opencv-python: installing opencv-python-headless instead"):
        pip("uninstall", "-y", "opencv-python")
        pip("install", "--progress-bar", "off", "--force-reinstall", "--no-deps", "opencv-python-headless")
    if not cv2_starts():
        raise DevError(f"OpenCV does not start; try {venv_python()} -c 'import cv2'")


def has_cuda() -> bool:
    check = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"
    result = subprocess.run([venv_python(), "-c", check], capture_output=True, text=True, check=False, cwd=VENV)
    if result.returncode not in (0, 3):
        raise DevError(f"PyTorch was installed but does not start:\n{result.stderr}")
    return result.returncode == 0


def pip(*arguments: str) -> None:
    """Run pip with its words in a log; only large downloads and failures are shown."""
    log = LOGS / "pip.log"
    command = [str(venv_python()), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    STARTED.touch()
    with (
        log.open("w", encoding="utf-8") as record,
        child(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None  # asked for above
        for line in process.stdout:
            record.write(line)
            if found := LARGE_DOWNLOAD.match(line):
                say(f"  downloading {found[1]} ({found[2]})")
            elif line.startswith("Installing collected packages"):
                say(f"  installing {line.count(',') + 1} packages")
        code = process.wait()
    # pip ended by itself, well or not, and has rolled back what failed; only a killed pip leaves half a package.
    STARTED.unlink()
    if code:
        raise DevError(f"pip failed (all of it is in {log}):\n{helpful_lines(tail(log, 15))}")
