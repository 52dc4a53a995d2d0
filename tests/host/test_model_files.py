"""Which models the dropdowns offer and which file stands behind a choice, with ComfyUI's own folder tables."""
from __future__ import annotations

import json
import os
from pathlib import Path

import folder_paths
import pytest
from pack.host.model_files import choices, find, folders
from pack.segmentation.catalogue import KNOWN, PLACES, KnownModel


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder; what other packs have registered is put back after the test."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    return tmp_path / "models"


def file(path: Path, text: str = "weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def model_folder(path: Path, model_type: str, weights: str = "model.safetensors") -> Path:
    file(path / "config.json", json.dumps({"model_type": model_type}))
    file(path / weights)
    return path


def local(*families) -> list[str]:
    return [name for name in choices(*families) if not name.endswith("(download)")]


def test_files_and_folders_of_every_pack_are_offered(models: Path) -> None:
    file(models / "sams" / "sam_vit_b_01ec64.pth")
    file(models / "sam2" / "kijai" / "sam2.1_hiera_tiny.safetensors")
    model_folder(models / "sam3" / "facebook" / "sam3", "sam3_video")
    assert local("sam") == ["sam2/kijai/sam2.1_hiera_tiny.safetensors", "sam3/facebook/sam3", "sams/sam_vit_b_01ec64.pth"]
    assert find("sam3/facebook/sam3", ("sam",), False, None) == models / "sam3" / "facebook" / "sam3"
    assert find("sams/sam_vit_b_01ec64.pth", ("sam",), False, None) == models / "sams" / "sam_vit_b_01ec64.pth"


def test_a_folder_is_offered_to_the_family_that_its_configuration_names(models: Path) -> None:
    model_folder(models / "LLM" / "Florence-2-base", "florence2", "pytorch_model.bin")
    model_folder(models / "LLM" / "Llama", "llama")
    model_folder(models / "RMBG" / "segformer_face", "segformer")
    model_folder(models / "RMBG" / "BiRefNet", "birefnet")
    assert local("detector") == ["LLM/Florence-2-base"]
    assert local("face parsing") == ["rmbg/segformer_face"]
    assert local("sapiens", "face parsing") == ["rmbg/segformer_face"]


def test_what_is_no_model_is_not_offered(models: Path) -> None:
    file(models / "sams" / "readme.md")
    file(models / "sams" / ".hidden.pth")
    file(models / "sam2" / "half" / "config.json", '{"model_type": "sam2"}')  # no weights yet
    model_folder(models / "sam2" / ".sam2.1-hiera-tiny.download", "sam2")
    (models / "sam2" / "broken").mkdir()
    (models / "sam2" / "broken" / "config.json").write_bytes(b"\xff{")
    (models / "sam2" / "dangling.pth").symlink_to(models / "nowhere.pth")
    (models / "sam2" / "loop").symlink_to(models / "sam2")
    file(models / "sam2" / "much" / "too" / "far" / "down" / "a.pth")
    (models / "sam3").write_text("a file where a folder should be")
    assert local("sam") == []


@pytest.mark.parametrize(("family", "folder", "kind"), [
    ("face parsing", "face_parsing", "segformer"), ("clipseg", "clipseg", "clipseg"), ("sam", "sam3", "sam3_video")])
def test_a_folder_that_is_a_model_itself_is_offered(models: Path, family, folder: str, kind: str) -> None:
    model_folder(models / folder, kind)
    assert local(family) == [folder]
    assert find(folder, (family,), False, None) == models / folder


def test_a_cache_of_the_hub_is_offered(models: Path) -> None:
    cache = models / "clipseg" / "models--CIDAS--clipseg-rd64-refined"
    for name, text in (("config.json", '{"model_type": "clipseg"}'), ("model.safetensors", "weights")):
        file(cache / "blobs" / f"0{name[0]}", text)
        (cache / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
        (cache / "snapshots" / "abc" / name).symlink_to(f"../../blobs/0{name[0]}")
    [name] = local("clipseg")
    assert name == "clipseg/models--CIDAS--clipseg-rd64-refined/snapshots/abc"
    assert find(name, ("clipseg",), False, None) == cache / "snapshots" / "abc"


def test_registered_folders_come_first_and_stay_as_they_are(models: Path, tmp_path: Path) -> None:
    extra = file(tmp_path / "drive" / "sapiens" / "a.safetensors")
    folder_paths.add_model_folder_path("sapiens", str(extra.parent))  # as extra_model_paths.yaml does
    before = {key: (list(paths), extensions) for key, (paths, extensions) in folder_paths.folder_names_and_paths.items()}
    file(models / "sapiens" / "a.safetensors")
    file(models / "sapiens" / "b.pt2")
    assert local("sapiens") == ["sapiens/a.safetensors", "sapiens/b.pt2"]
    assert find("sapiens/a.safetensors", ("sapiens",), False, None) == extra
    assert folders("sapiens", "sapiens") == [extra.parent, models / "sapiens"]
    assert {key: (list(paths), extensions) for key, (paths, extensions) in folder_paths.folder_names_and_paths.items()} == before


def test_listing_creates_nothing(models: Path) -> None:
    assert local(*PLACES) == []
    assert not models.exists()


def test_known_models_are_always_offered(models: Path) -> None:
    names = [f"{known.name} (download)" for known in KNOWN if known.family == "clipseg"]
    assert choices("clipseg") == names
    there = model_folder(models / "clipseg" / "clipseg-rd64-refined", "clipseg")
    assert choices("clipseg") == ["clipseg/clipseg-rd64-refined", *names]
    assert find(names[0], ("clipseg",), False, None) == there


@pytest.mark.parametrize("name", [
    "sams/../secret.pth", "sams/../../models/secret.pth", "sams//etc/passwd", "/etc/passwd", "sams/notes.txt",
    "sams/a\0b", "checkpoints/secret.pth", "sams/..\\secret.pth", "", "sams", "sams/", "sams/."])
def test_no_name_leads_out_of_the_folders(models: Path, name: str) -> None:
    file(models / "checkpoints" / "secret.pth")
    file(models / "secret.pth")
    file(models / "sams" / "notes.txt")
    with pytest.raises(ValueError):
        find(name, ("sam",), True, None)


def test_links_to_files_and_folders_of_models_are_followed(models: Path, tmp_path: Path) -> None:
    real = file(tmp_path / "drive" / "sam_vit_b.pth")
    models.mkdir()
    (models / "sams").symlink_to(real.parent)
    (models / "sam2").mkdir()
    (models / "sam2" / "mine.pth").symlink_to(real)
    assert local("sam") == ["sam2/mine.pth", "sams/sam_vit_b.pth"]
    for choice in local("sam"):
        assert os.path.samefile(find(choice, ("sam",), False, None), real)


def test_a_link_that_leads_back_lists_nothing_again(models: Path, tmp_path: Path) -> None:
    file(models / "sams" / "sam_vit_b.pth")
    (models / "sams" / "loop").symlink_to(models / "sams")
    file(tmp_path / "elsewhere" / "sam_vit_l.pth")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    for name in ("mine", "yours"):  # two names of one folder: a workflow may have either
        (models / "sams" / name).symlink_to(tmp_path / "elsewhere")
    assert local("sam") == ["sams/mine/sam_vit_l.pth", "sams/sam_vit_b.pth", "sams/yours/sam_vit_l.pth"]


def test_an_absent_file_names_the_folders_searched(models: Path) -> None:
    with pytest.raises(ValueError, match="gone.pth") as raised:
        find("sams/gone.pth", ("sam",), False, None)
    for key in ("sams", "sam2", "sam3"):
        assert str(models / key) in str(raised.value)


def test_a_missing_known_model_states_its_terms(models: Path) -> None:
    with pytest.raises(ValueError) as raised:
        find("sapiens 0.3b (download)", ("sapiens",), False, None)
    repo = "facebook/sapiens-seg-0.3b-torchscript"
    for part in ("CC BY-NC 4.0", "https://creativecommons.org/licenses/by-nc/4.0/", "Non-commercial", "1.36 GB", repo,
                 f"https://huggingface.co/{repo}", str(models / "sapiens"), "accept_licence", "_torchscript.pt2"):
        assert part in str(raised.value)
    assert not models.exists()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_every_model_states_its_terms_in_a_readable_sentence(models: Path, known: KnownModel) -> None:
    with pytest.raises(ValueError) as raised:
        find(f"{known.name} (download)", (known.family,), False, None)
    text = str(raised.value)
    assert known.licence.limits in text
    assert known.link in text
    assert "  " not in text
    assert ("gated" in text) is known.gated


def test_a_model_of_another_family_is_not_found(models: Path) -> None:
    with pytest.raises(ValueError, match="no model"):
        find("clipseg (download)", ("sam",), True, None)
