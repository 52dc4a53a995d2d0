"""A workflow reads pictures from ComfyUI's input directory and from nowhere else."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def folders(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """host/folders.py over a stand-in for ComfyUI's folder_paths."""
    (tmp_path / "input" / "people" / "anna").mkdir(parents=True)
    (tmp_path / "input" / "file.txt").write_text("", encoding="utf-8")
    (tmp_path / "input_secret").mkdir()
    host = ModuleType("folder_paths")
    host.get_input_directory = lambda: str(tmp_path / "input")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "folder_paths", host)
    spec = importlib.util.spec_from_file_location("folders_over_a_stand_in", root / "host" / "folders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["people", " people ", "people/anna", "people/../people", "./people"])
def test_folders_inside_are_found(folders: ModuleType, tmp_path: Path, name: str) -> None:
    assert folders.resolve_input_folder(name) == (tmp_path / "input" / name.strip()).resolve()


def test_absolute_folders_inside_are_found(folders: ModuleType, tmp_path: Path) -> None:
    inside = tmp_path / "input" / "people"
    assert folders.resolve_input_folder(str(inside)) == inside.resolve()


@pytest.mark.parametrize("name", ["..", "../input_secret", "people/../../input_secret", "/", "/etc", "people/../.."])
def test_places_outside_are_refused(folders: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match="lies outside ComfyUI's input directory; put the pictures into a folder inside"):
        folders.resolve_input_folder(name)


def test_an_absolute_neighbour_with_the_same_beginning_is_refused(folders: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies outside"):
        folders.resolve_input_folder(str(tmp_path / "input_secret"))


def test_a_link_that_leads_outside_is_refused(folders: ModuleType, tmp_path: Path) -> None:
    try:
        (tmp_path / "input" / "link").symlink_to(tmp_path / "input_secret", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let the user make links")
    with pytest.raises(ValueError, match="lies outside"):
        folders.resolve_input_folder("link")


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "no folder is named"), ("  ", "no folder is named"), ("missing", "is not a folder in"),
     ("file.txt", "is not a folder in"), ("a\0b", "is not a folder")],
)
def test_other_names_are_explained(folders: ModuleType, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        folders.resolve_input_folder(name)


def test_demo_is_the_bundled_folder(folders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "PACK_ROOT", tmp_path)
    with pytest.raises(ValueError, match="reinstall the pack"):
        folders.resolve_input_folder("demo")
    (tmp_path / "assets" / "pibo").mkdir(parents=True)
    assert folders.resolve_input_folder("demo") == tmp_path / "assets" / "pibo"
