"""Pillow's own test pictures, many of them broken on purpose, out of its pinned source package: tests/dataset reads them all."""
from __future__ import annotations

from pathlib import Path, PurePosixPath

from .paths import HOST
from .source_package import SourcePackage, unpacked

VARIABLE = "MASKED_LORA_PILLOW_IMAGES"
PILLOW = SourcePackage(
    name="pillow",
    version="13.0.0",
    sha256="cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510",
    title="the test pictures of Pillow 13.0.0 (47 MB)",
    inside=PurePosixPath("Tests/images"),
)
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")


def pillow_images(python: Path, folder: Path = HOST) -> Path:
    """The folder of those of Pillow's test pictures that have an ending we read; downloaded and unpacked once."""
    home = folder / "pillow-images"
    return unpacked(PILLOW, python, home, home / PILLOW.version, lambda name: name.lower().endswith(ENDINGS))
