"""Downloads from a small hub on this machine into a models folder: whole, broken off, refused, cancelled."""
from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import huggingface_hub
import pytest
from huggingface_hub import constants
from pack.host.downloads import download
from pack.host.model_files import choices, find
from pack.host.progress import Progress
from pack.segmentation.catalogue import KNOWN

from .small_hub import SmallHub, serving

CLIPSEG = next(known for known in KNOWN if known.family == "clipseg")
SAPIENS = next(known for known in KNOWN if known.name == "sapiens 0.3b")
CHOICE = "clipseg (download)"
WEIGHTS = bytes(range(256)) * 400
FILES = {"config.json": json.dumps({"model_type": "clipseg"}).encode(), "vocab.txt": b"a\nb\n", "LICENSE": b"terms",
         "model.safetensors": WEIGHTS, "README.md": b"no", "pytorch_model.bin": b"no", "onnx/model.safetensors": b"no",
         "onnx/config.json": b"no"}
WANTED = {"config.json", "vocab.txt", "LICENSE", "model.safetensors"}
STEP = 10_000


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    return tmp_path / "models"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", STEP)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    with serving(SmallHub(dict(FILES))) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # what HF_ENDPOINT sets, once, at the library's import
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield hub


def fetched(family: str = "clipseg", choice: str = CHOICE) -> Path:
    return find(choice, (family,), True, None)


def inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_folder_arrives_whole_and_is_offered(models: Path, hub: SmallHub, tmp_path: Path) -> None:
    target = fetched()
    assert target == models / "clipseg" / "clipseg-rd64-refined"
    assert inside(models) == {"clipseg", "clipseg/clipseg-rd64-refined", *(f"clipseg/clipseg-rd64-refined/{name}" for name in WANTED)}
    assert {name: (target / name).read_bytes() for name in WANTED} == {name: FILES[name] for name in WANTED}
    assert choices("clipseg")[0] == "clipseg/clipseg-rd64-refined"
    assert not (tmp_path / "cache").exists()
    requests = len(hub.headers)
    assert find(CHOICE, ("clipseg",), False, None) == target  # there now: neither licence nor network
    assert len(hub.headers) == requests


def test_a_single_file_arrives(models: Path, hub: SmallHub) -> None:
    hub.files, hub.large = {SAPIENS.place: WEIGHTS, "README.md": b"no", "config.json": b"{}"}, (SAPIENS.place,)
    assert fetched("sapiens", "sapiens 0.3b (download)").read_bytes() == WEIGHTS
    assert inside(models) == {"sapiens", f"sapiens/{SAPIENS.place}"}


def test_it_goes_into_the_folder_that_was_registered(models: Path, hub: SmallHub, tmp_path: Path) -> None:
    folder_paths.add_model_folder_path("clipseg", str(tmp_path / "drive" / "clips"))
    assert fetched() == tmp_path / "drive" / "clips" / "clipseg-rd64-refined"


def test_a_broken_connection_is_taken_up_at_once(models: Path, hub: SmallHub) -> None:
    hub.files = {"model.safetensors": WEIGHTS, "config.json": FILES["config.json"]}
    hub.cut = [3 * STEP + 5]
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    assert [entry for entry in hub.sent if entry[0] == "model.safetensors"] == [
        ("model.safetensors", 0, 3 * STEP + 5), ("model.safetensors", 3 * STEP, len(WEIGHTS) - 3 * STEP)]


def break_off(hub: SmallHub, after: int) -> None:
    """A download that gives up after so many bytes of the weights."""
    hub.files = {"config.json": FILES["config.json"], "model.safetensors": WEIGHTS}
    hub.cut = [len(FILES["config.json"]), after, *[0] * 5]
    with pytest.raises(ValueError, match="goes on where it stopped") as raised:
        fetched()
    for part in (CLIPSEG.repo, CLIPSEG.link, "model*.safetensors", "config.json", str(Path("clipseg") / "clipseg-rd64-refined")):
        assert part in str(raised.value)
    assert hub.cut == []
    hub.sent.clear()


def test_a_broken_download_goes_on_another_time(models: Path, hub: SmallHub) -> None:
    break_off(hub, 4 * STEP + 1)
    assert choices("clipseg") == [CHOICE]  # half a model is none
    assert not (models / "clipseg" / "clipseg-rd64-refined").exists()
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.sent == [("model.safetensors", 4 * STEP, len(WEIGHTS) - 4 * STEP)]
    assert inside(models / "clipseg") == {CLIPSEG.place, f"{CLIPSEG.place}/config.json", f"{CLIPSEG.place}/model.safetensors"}


def test_a_new_revision_starts_anew(models: Path, hub: SmallHub) -> None:
    break_off(hub, 4 * STEP)
    hub.revision, hub.files["model.safetensors"] = "b" * 40, WEIGHTS[::-1]
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert inside(models / "clipseg") == {CLIPSEG.place, f"{CLIPSEG.place}/config.json", f"{CLIPSEG.place}/model.safetensors"}


def test_a_server_without_ranges_sends_it_whole_again(models: Path, hub: SmallHub) -> None:
    break_off(hub, 4 * STEP)
    hub.ignore_range = True
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_part_is_noticed_and_thrown_away(models: Path, hub: SmallHub) -> None:
    break_off(hub, 4 * STEP)
    [part] = (models / "clipseg").rglob("*.part")
    part.write_bytes(b"x" * part.stat().st_size)
    with pytest.raises(ValueError, match="SHA-256"):
        fetched()
    assert choices("clipseg") == [CHOICE]
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_part_that_is_too_long_is_thrown_away(models: Path, hub: SmallHub) -> None:
    break_off(hub, 4 * STEP)
    [part] = (models / "clipseg").rglob("*.part")
    part.write_bytes(WEIGHTS + b"more")
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_wrong_size_is_an_error(models: Path, hub: SmallHub, difference: int) -> None:
    hub.promised = {"vocab.txt": len(FILES["vocab.txt"]) + difference}
    with pytest.raises(ValueError, match=f"size|{len(FILES['vocab.txt'])}"):
        fetched()
    assert choices("clipseg") == [CHOICE]
    hub.promised = {}
    assert inside(fetched()) == WANTED


def test_a_wrong_sum_is_an_error(models: Path, hub: SmallHub) -> None:
    hub.wrong_sha = True
    with pytest.raises(ValueError, match="SHA-256"):
        fetched()
    assert choices("clipseg") == [CHOICE]
    assert list((models / "clipseg").rglob("*.safetensors*")) == []


@pytest.mark.parametrize(("status", "code"), [(401, "GatedRepo"), (403, "GatedRepo"), (403, "")])
def test_a_gated_repository_is_explained(models: Path, hub: SmallHub, status: int, code: str) -> None:
    hub.files, hub.refuse = {"config.json": b"{}", "model.safetensors": WEIGHTS}, (status, code)
    with pytest.raises(ValueError, match="facebook/sam3 is gated.*HF_TOKEN"):
        fetched("sam", "sam3 (download)")


def test_the_token_is_sent(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched()
    assert {headers.get("authorization") for headers in hub.headers} == {"Bearer hf_secret"}


def test_another_host_gets_the_range_but_not_the_token(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.redirect = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    break_off(hub, 4 * STEP)
    hub.headers.clear()
    fetched()
    [elsewhere] = [headers for headers in hub.headers if headers["host"].startswith("localhost")]
    assert elsewhere["range"] == f"bytes={4 * STEP}-"
    assert "hf_secret" not in str(elsewhere)


def test_an_unknown_repository_is_named(models: Path, hub: SmallHub) -> None:
    hub.missing = (CLIPSEG.repo,)
    with pytest.raises(ValueError, match=f"knows no {CLIPSEG.repo}"):
        fetched()


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_repository_without_the_needed_files_is_an_error(models: Path, hub: SmallHub, gone: str) -> None:
    del hub.files[gone]
    with pytest.raises(ValueError, match=r"has no (config.json|model\*.safetensors)"):
        fetched()
    assert hub.sent == []


def test_offline_is_respected(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        fetched()
    assert hub.headers == []
    assert not list(models.rglob("*.part"))


def test_an_unreachable_hub_is_named(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="http://127.0.0.1:9 did not deliver"):
        fetched()


def test_a_page_to_sign_in_is_no_hub(models: Path, hub: SmallHub) -> None:
    hub.html = True
    with pytest.raises(ValueError, match="did not deliver"):
        fetched()


@pytest.mark.parametrize("revision", ["main", "../../../../evil", ""])
def test_a_revision_names_no_other_folder(models: Path, hub: SmallHub, revision: str) -> None:
    hub.revision = revision
    with pytest.raises(ValueError, match="does not answer as the hub does"):
        fetched()
    assert not models.exists()


def test_names_that_lead_elsewhere_are_left_out(models: Path, hub: SmallHub) -> None:
    hub.files |= {"../evil.json": b"x", "..\\evil.json": b"x", "/evil.json": b"x"}
    assert inside(fetched()) == WANTED


def test_cancel_stops_between_chunks_and_keeps_what_arrived(models: Path, hub: SmallHub) -> None:
    hub.files = {"config.json": FILES["config.json"], "model.safetensors": WEIGHTS}

    class Cancelled(Progress):
        def update(self, done: int, total: int, text: str = "") -> None:
            if done > 3 * STEP:
                comfy.model_management.interrupt_current_processing()
            super().update(done, total, text)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        download(CLIPSEG, models / "clipseg" / CLIPSEG.place, Cancelled(None))
    [part] = (models / "clipseg").rglob("*.part")
    assert part.read_bytes() == WEIGHTS[:part.stat().st_size]
    assert 3 * STEP <= part.stat().st_size < 5 * STEP
    hub.sent.clear()
    assert (fetched() / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.sent[0][1] >= 3 * STEP


def test_the_node_shows_what_has_arrived(models: Path, hub: SmallHub) -> None:
    seen: list[tuple[int, int, str]] = []
    progress = SimpleNamespace(update=lambda *state: seen.append(state))
    download(CLIPSEG, models / "clipseg" / CLIPSEG.place, progress)  # type: ignore[arg-type]
    total = sum(len(FILES[name]) for name in WANTED)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[0][:2] == (0, total)
    assert seen[-1] == (total, total, "clipseg: 0.00 of 0.00 GB")
    assert len(seen) > len(WEIGHTS) // STEP


def test_too_little_room_is_said_before_anything_is_loaded(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5))
    with pytest.raises(ValueError, match="the disk is full"):
        fetched()
    assert hub.sent == []


def test_a_disk_that_fills_up_is_said(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match="the disk is full"):
        fetched()
    assert choices("clipseg") == [CHOICE]


def test_a_folder_counts_only_when_its_last_file_is_there(models: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {name: FILES[name] for name in ("config.json", "model.safetensors", "vocab.txt")}
    real = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == models / "clipseg" / CLIPSEG.place / "vocab.txt":
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        fetched()
    assert choices("clipseg") == [CHOICE]
    assert inside(fetched()) == set(hub.files)


def test_a_folder_made_by_hand_is_completed(models: Path, hub: SmallHub) -> None:
    half = models / "clipseg" / CLIPSEG.place
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (half / "notes.md").write_text("mine")
    assert inside(fetched()) == WANTED | {"notes.md"}
    assert (half / "config.json").read_bytes() == FILES["config.json"]


def test_a_folder_that_cannot_be_written_is_said(models: Path, hub: SmallHub) -> None:
    models.mkdir()
    (models / "clipseg").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match="could not be downloaded to"):
        fetched()


def test_without_the_licence_nothing_is_asked_of_the_hub(models: Path, hub: SmallHub) -> None:
    with pytest.raises(ValueError, match="accept_licence"):
        find(CHOICE, ("clipseg",), False, None)
    assert hub.headers == []
