"""Small networks in TensorFlow Lite files, run by OpenCV on the CPU."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def read_network(file: Path) -> Any:
    """A cv2.dnn.Net. Raises ValueError for a file that is not there and for an OpenCV that cannot read such files."""
    import cv2

    if not file.is_file():
        raise ValueError(f"{file} is missing; reinstall the pack to get the networks of the quick masks back")
    if not hasattr(cv2.dnn, "readNetFromTFLite"):
        raise ValueError(f"OpenCV {cv2.__version__} cannot read {file.name}; update it with: pip install -U opencv-python")
    # OpenCV 5 has a new engine that keeps only the last output of such a file; the classic one is all that OpenCV 4 has.
    engine = [cv2.dnn.ENGINE_CLASSIC] if hasattr(cv2.dnn, "ENGINE_CLASSIC") else []
    return cv2.dnn.readNetFromTFLite(str(file), *engine)


def run(network: Any, picture_HWC: Floats) -> list[Floats]:
    """All outputs for one picture, the smallest first: their names and order are not the same in every version of OpenCV."""
    network.setInput(np.ascontiguousarray(picture_HWC.transpose(2, 0, 1)[None]))
    outputs: list[Floats] = list(network.forward(network.getUnconnectedOutLayersNames()))
    return sorted(outputs, key=lambda output: output.size)
