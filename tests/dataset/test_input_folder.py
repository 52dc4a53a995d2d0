"""A workflow reads pictures from ComfyUI's input directory and from nowhere else."""
from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pack.dataset.spec import parse_colour


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


@pytest.mark.parametrize(("name", "place"), [("demo", "pibo"), ("demo cutouts", "pibo_cutouts"), ("demo clips", "pibo_clips")])
def test_bundled_folders_are_there(folders: ModuleType, root: Path, name: str, place: str) -> None:
    folders.PACK_ROOT = root
    assert folders.resolve_input_folder(name) == root / "assets" / place


@pytest.fixture
def people(folders: ModuleType, tmp_path: Path) -> Path:
    """Mask folders below the pictures, beside them and outside of the input directory."""
    for place in ("input/people/masks", "input/people/deep/cut outs", "input/masks/anna", "input/other", "input_secret/masks"):
        (tmp_path / place).mkdir(parents=True)
    return folders.resolve_input_folder("people")


@pytest.mark.parametrize(
    ("name", "below", "elsewhere"),
    [("masks", "masks", None), (" masks ", "masks", None), ("", "", None), ("anna", "anna", None), ("deep/cut outs", "deep/cut outs", None),
     ("other", "masks", "other"), ("masks/anna", "masks", "masks/anna"), ("people/masks", "masks", "people/masks"),
     ("./other", "masks", "other")])
def test_mask_folders(folders: ModuleType, people: Path, tmp_path: Path, name: str, below: str, elsewhere: str | None) -> None:
    root = (tmp_path / "input").resolve()
    assert folders.resolve_mask_folder(people, name) == (below, root / elsewhere if elsewhere else None)


def test_the_default_never_means_masks_of_another_set(folders: ModuleType, people: Path) -> None:
    (people / "masks").rmdir()
    assert folders.resolve_mask_folder(people, "masks") == ("masks", None)


def test_absolute_mask_folders_inside_are_found(folders: ModuleType, people: Path) -> None:
    assert folders.resolve_mask_folder(people, str(people / "masks")) == ("masks", None)
    assert folders.resolve_mask_folder(people, str(people.parent / "other")) == ("masks", people.parent / "other")


@pytest.mark.parametrize(
    ("name", "said"),
    [("../../input_secret/masks", "lies outside ComfyUI's input directory"), ("/etc", "lies outside"), ("..", "lies outside"),
     ("nowhere", "is neither a sub-folder of"), ("file.txt", "is neither a sub-folder of"), (".", "is neither a sub-folder of"),
     ("a\0b", "is not a folder name")])
def test_other_mask_folders_are_refused(folders: ModuleType, people: Path, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        folders.resolve_mask_folder(people, name)


def test_a_mask_folder_by_a_link_to_the_outside_is_refused(folders: ModuleType, people: Path, tmp_path: Path) -> None:
    (tmp_path / "input" / "away").symlink_to(tmp_path / "input_secret", target_is_directory=True)
    with pytest.raises(ValueError, match="lies outside"):
        folders.resolve_mask_folder(people, "away/masks")


@pytest.mark.parametrize(
    ("text", "colour"), [("#808080", (128, 128, 128)), ("ff0A01", (255, 10, 1)), (" #fa0 ", (255, 170, 0)), ("#000000", (0, 0, 0))])
def test_colours(text: str, colour: tuple[int, int, int]) -> None:
    assert parse_colour(text) == colour


@pytest.mark.parametrize("text", ["", "red", "#12345", "#gggggg", "128,128,128", "##808080", "#80808080"])
def test_other_colours_are_explained(text: str) -> None:
    with pytest.raises(ValueError, match="write it as #rrggbb, such as #808080"):
        parse_colour(text)
