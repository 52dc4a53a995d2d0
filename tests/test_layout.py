"""The pack's shape: which package may import what, what no product code does, and how the pack loads anywhere."""
from __future__ import annotations

import ast
import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pack
import pytest

ROOT = Path(__file__).resolve().parent.parent
PURE = ("masks", "dataset", "segmentation", "trainer")
OWN = (*PURE, "host", "nodes")
# Which of our packages each may import besides itself; "" is the pack's own __init__.py, "train" the headless entry.
MAY_IMPORT = {**dict.fromkeys(PURE, ()), "host": PURE, "nodes": (*PURE, "host"), "": ("nodes",), "train": (*PURE, "host")}
MAY_USE_COMFYUI = ("host", "nodes", "")
COMFYUI = ("comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "comfyui_version", "app",
           "execution", "folder_paths", "latent_preview", "node_helpers", "nodes", "server")
HEAVY = ("cv2", "diffusers", "matplotlib", "peft", "scipy", "skimage", "torchvision", "transformers")
NO_PICKLE = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "subprocess")
NO_CALLS = ("print", "eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "numpy.load", "np.load")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: ours by its path from the checkout ("masks.recipe"), anybody else's by its name."""

    module: str
    ours: bool
    line: int
    star: bool


def module_path(file: PurePosixPath) -> tuple[str, ...]:
    """("masks", "recipe") of masks/recipe.py, ("masks",) of masks/__init__.py, () of the pack's __init__.py."""
    return file.parent.parts if file.name == "__init__.py" else (*file.parent.parts, file.stem)


def imports(file: PurePosixPath, tree: ast.AST, *, at_load: bool = False) -> Iterator[Import]:
    """Every import of a file; `at_load` leaves out those that do not run when the module is imported."""
    for node in loaded(tree) if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, False, node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                package = file.parent.parts
                assert node.level - 1 <= len(package), f"{file}:{node.lineno} imports from outside the pack"
                base = [*package[: len(package) - node.level + 1], *base]
            for alias in node.names:  # a name may be a submodule: `from . import recipe`
                yield Import(".".join([*base, alias.name]), bool(node.level), node.lineno, alias.name == "*")


def loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not the bodies of functions, not `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if deferred or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            continue
        yield child
        yield from loaded(child)


def within(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def product_files(root: Path) -> dict[PurePosixPath, ast.AST]:
    files = [root / "__init__.py", root / "train.py", *(file for name in OWN for file in sorted((root / name).rglob("*.py")))]
    return {PurePosixPath(f.relative_to(root).as_posix()): ast.parse(f.read_text(encoding="utf-8")) for f in files if f.is_file()}


def wrong_directions(files: dict[PurePosixPath, ast.AST]) -> list[str]:
    """Imports against the direction of the design."""
    faults = []
    for file, tree in files.items():
        here = (module_path(file) or ("",))[0]
        for found in imports(file, tree):
            top = found.module.partition(".")[0]
            if found.ours:
                wrong = top in OWN and top != here and top not in MAY_IMPORT[here] or top in ("tools", "tests", "dev")
            else:
                comfyui = within(found.module, COMFYUI)
                wrong = (comfyui and here not in MAY_USE_COMFYUI) or (not comfyui and top in (*OWN, "tools", "tests"))
            if wrong:
                faults.append(f"{file}:{found.line} imports {found.module}")
    return faults


def wrong_words(files: dict[PurePosixPath, ast.AST]) -> list[str]:
    """Star imports, prints, pickles, subprocesses, and code from strings."""
    faults = []
    for file, tree in files.items():
        for found in imports(file, tree):
            if found.star or (not found.ours and within(found.module, (*NO_PICKLE, "torch.load"))):
                faults.append(f"{file}:{found.line} imports {found.module}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in NO_CALLS:
                faults.append(f"{file}:{node.lineno} calls {ast.unparse(node.func)}")
    return faults


def heavy_at_load(files: dict[PurePosixPath, ast.AST]) -> list[str]:
    """Heavy libraries that loading the nodes would import, directly or through our own modules; each with its way."""
    by_module = {module_path(file): file for file in files}
    faults: list[str] = []
    queue = [(file, (str(file),)) for file in files if module_path(file)[:1] in ((), ("nodes",))]
    seen = {file for file, _ in queue}
    while queue:
        file, way = queue.pop()
        for found in imports(file, files[file], at_load=True):
            if not found.ours:
                names = (*HEAVY, "comfy.sd") if module_path(file)[:1] == ("nodes",) else HEAVY
                if within(found.module, names):
                    faults.append(f"{' -> '.join(way)}:{found.line} imports {found.module}")
                continue
            parts = tuple(found.module.split("."))
            for length in range(1, len(parts) + 1):  # importing a.b runs a/__init__.py first
                target = by_module.get(parts[:length])
                if target is not None and target not in seen:
                    seen.add(target)
                    queue.append((target, (*way, str(target))))
    return faults


PRODUCT = product_files(ROOT)


def test_imports_point_one_way() -> None:
    assert wrong_directions(PRODUCT) == []


def test_no_print_pickle_eval_or_star_import() -> None:
    assert wrong_words(PRODUCT) == []


def test_loading_the_nodes_imports_nothing_heavy() -> None:
    assert heavy_at_load(PRODUCT) == []


def sources(**texts: str) -> dict[PurePosixPath, ast.AST]:
    return {PurePosixPath(name.replace("__", "/", 1) + ".py"): ast.parse(text) for name, text in texts.items()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("masks__a", "import comfy.utils"),
        ("masks__a", "def f():\n    from comfy.sd import VAE"),
        ("dataset__a", "import folder_paths"),
        ("dataset__a", "import nodes"),
        ("trainer__a", "from ..masks import recipe"),
        ("trainer__a", "from .. import masks"),
        ("trainer__a", "from masks.recipe import MaskRecipe"),
        ("segmentation__a", "from ..host import training"),
        ("host__a", "from ..nodes import types"),
        ("host__a", "from ..tools.dev import paths"),
        ("nodes__a", "import tests.conftest"),
        ("train", "import comfy.sd"),
    ],
)
def test_a_wrong_direction_is_found(name: str, text: str) -> None:
    assert len(wrong_directions(sources(**{name: text}))) == 1


def test_right_directions_are_let_through() -> None:
    files = sources(
        masks__a="import torch\nfrom . import recipe\nfrom .recipe import MaskRecipe",
        host__a="import comfy.sd\nfrom ..trainer.loop import train",
        nodes__a="import nodes\nfrom ..host import training\nfrom ..masks.recipe import MaskRecipe\nfrom .types import X",
        train="from .trainer import loop",
    )
    assert wrong_directions(files) == []


@pytest.mark.parametrize(
    "text",
    ["from torch import *", "from .a import *", "print(1)", "import pickle", "from pickle import loads", "from torch import load",
     "def f():\n    torch.load('x')", "eval('1')", "exec('1')", "import subprocess", "os.system('ls')", "np.load('x')"],
)
def test_a_wrong_word_is_found(text: str) -> None:
    assert len(wrong_words(sources(trainer__a=text))) == 1


def test_eval_mode_is_no_eval() -> None:
    assert wrong_words(sources(trainer__a="model.eval()\nre.compile('x')\nsafetensors.torch.load_file('x')")) == []


def test_heavy_imports_are_found_through_our_own_modules() -> None:
    files = sources(
        nodes__a="from ..masks.recipe import MaskRecipe\nimport comfy.sd",
        nodes__b="def execute():\n    import peft\n    from ..host import late",
        masks__recipe="from . import blur",
        masks__blur="try:\n    import cv2\nexcept ImportError:\n    cv2 = None",
        host__late="import peft",
    )
    assert sorted(heavy_at_load(files)) == [
        "nodes/a.py -> masks/recipe.py -> masks/blur.py:2 imports cv2",
        "nodes/a.py:2 imports comfy.sd",
    ]


def test_versions_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{pack.__version__}"\n' in project
    assert f'\nrequires-comfyui = ">={pack.OLDEST_HOST}"\n' in project


def test_dependencies_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE)
    assert listed
    assert re.findall(r'"([^"]+)"', listed[1]) == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


@pytest.mark.parametrize("folder", ["ComfyUI-Masked LoRA-x", "masked.lora"])
def test_pytest_works_in_a_checkout_of_any_name(tmp_path: Path, folder: str) -> None:
    copy = tmp_path / folder
    skipped = shutil.ignore_patterns(".*", "out", "assets", "*.json", "*.safetensors", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=skipped)
    variables = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    # One test is run and not only collected: before the first one pytest imports the pack's __init__.py, as no package.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_layout.py", "-k", "versions_agree"]
    run = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


@pytest.mark.parametrize(
    ("version", "fits"),
    [("0.30.0", True), ("0.30.1", True), ("0.31", True), ("v1.0.0-3-gabc", True), ("0.30.0rc1", True), ("nightly", True),
     ("unknown", True), ("0.3.64", False), ("0.8.0", False), ("0.29.9", False), ("v0.3.64", False)],
)
def test_which_hosts_are_too_old(version: str, fits: bool) -> None:
    assert (pack.too_old(version) == "") is fits


class FakeExtension:
    """Stands for comfy_api.latest.ComfyExtension."""


def fake_host(monkeypatch: pytest.MonkeyPatch, version: str | None, schema_fields: Iterable[str]) -> None:
    """A ComfyUI of which only what the entry point looks at exists."""
    schema = dataclass(type("Schema", (), {"__annotations__": dict.fromkeys(schema_fields, str)}))
    latest = types.ModuleType("comfy_api.latest")
    latest.ComfyExtension, latest.io = FakeExtension, types.SimpleNamespace(Schema=schema)
    nodes = types.ModuleType("pack.nodes")
    nodes.NODES = [int]
    modules = {"comfy_api": types.ModuleType("comfy_api"), "comfy_api.latest": latest, "pack.nodes": nodes}
    modules["comfyui_version"] = None  # type: ignore[assignment]  # None makes its import fail
    if version is not None:
        modules["comfyui_version"] = types.ModuleType("comfyui_version")
        modules["comfyui_version"].__version__ = version
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def loaded_nodes() -> list[type]:
    extension = asyncio.run(pack.comfy_entrypoint())
    assert isinstance(extension, FakeExtension)
    nodes: list[type] = asyncio.run(extension.get_node_list())
    return nodes


@pytest.mark.parametrize("version", ["0.30.0", "0.45.2", None])
def test_a_new_host_gets_the_nodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str | None
) -> None:
    fake_host(monkeypatch, version, pack.NEEDED_SCHEMA_FIELDS)
    assert loaded_nodes() == [int]
    assert caplog.records == []


@pytest.mark.parametrize("version", ["0.3.64", "0.8.0"])
def test_an_old_host_gets_one_line_and_no_nodes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    fake_host(monkeypatch, version, ["node_id", "not_idempotent"])
    sys.modules["pack.nodes"] = None  # type: ignore[assignment]  # importing the nodes there would crash
    assert loaded_nodes() == []
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("Masked LoRA", pack.__version__, version, pack.OLDEST_HOST, "Update ComfyUI"):
        assert part in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_fork_without_the_api_gets_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fake_host(monkeypatch, "0.30.0", ["node_id", "not_idempotent"])
    assert loaded_nodes() == []
    assert [record.getMessage() for record in caplog.records] == [
        f"Masked LoRA {pack.__version__} loads no nodes: this ComfyUI's node API has no Schema.search_aliases. "
        f"Update ComfyUI to {pack.OLDEST_HOST} or newer."
    ]
