"""Single files out of packages: unpacked once, healed, and refused when they are others."""
from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from pack.tools.dev import package_files
from pack.tools.dev.console import DevError
from pack.tools.dev.package_files import PackageFiles, fetch

CONTENT = {"a/one.bin": b"one", "a/b/two.bin": b"two", "a/three.bin": b"three"}


def pinned(*paths: str, source: bool = False) -> PackageFiles:
    digests = {path: hashlib.sha256(CONTENT.get(path, b"")).hexdigest() for path in paths}
    return PackageFiles("some-package", "1.0", "some files", digests, source)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for pip; lists what was downloaded."""
    done: list[str] = []

    def downloaded(package: PackageFiles, python: Path, folder: Path) -> Path:
        done.append(package.name)
        if package.source:
            archive = folder / "some-package-1.0.tar.gz"
            with tarfile.open(archive, "w:gz") as source:
                for path, content in CONTENT.items():
                    member = tarfile.TarInfo(f"some-package-1.0/{path}")
                    member.size = len(content)
                    source.addfile(member, io.BytesIO(content))
            return archive
        archive = folder / "some_package-1.0-py3-none-any.whl"
        with zipfile.ZipFile(archive, "w") as wheel:
            for path, content in CONTENT.items():
                wheel.writestr(path, content)
        return archive

    monkeypatch.setattr(package_files, "_downloaded", downloaded)
    return done


@pytest.mark.parametrize("source", [False, True])
def test_wanted_files_are_fetched_once_and_healed(tmp_path: Path, downloads: list[str], source: bool) -> None:
    package, folder = pinned("a/one.bin", "a/b/two.bin", source=source), tmp_path / "files"
    for damage in (None, b"", b"other"):
        if damage is not None:
            (folder / "two.bin").write_bytes(damage)
        for _ in range(2):
            fetch(package, Path("python"), folder)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"one.bin": b"one", "two.bin": b"two"}
    assert len(downloads) == 3


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, downloads: list[str]) -> None:
    package = PackageFiles("some-package", "1.0", "some files", {"a/one.bin": "0" * 64})
    with pytest.raises(DevError, match=r"a/one\.bin in some_package-1\.0-py3-none-any\.whl is not the file that was pinned"):
        fetch(package, Path("python"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", [False, True])
def test_a_package_without_the_file_is_told(tmp_path: Path, downloads: list[str], source: bool) -> None:
    with pytest.raises(DevError, match="holds no a/four"):
        fetch(pinned("a/four", source=source), Path("python"), tmp_path)
