"""U2-Net's small network behind the protocol of our segmenters: a second opinion on where a person is, for tests and benchmarks.

It finds what stands out, person or not, was made and trained by others than MediaPipe's, and comes with no pack of ours.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

SIZE = 320
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class U2Net:
    """Region "subject". The steps before and after the network are rembg's."""

    network: Any
    name: str = "u2netp"
    exclusive: bool = True

    @classmethod
    def read(cls, file: Path) -> U2Net:
        return cls(cv2.dnn.readNetFromONNX(str(file)))

    def describe(self) -> dict[str, object]:
        return {"segmenter": self.name}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> dict[str, Tensor]:
        height, width = picture_HWC.shape[:2]
        small_HWC = cv2.resize(picture_HWC.numpy(), (SIZE, SIZE), interpolation=cv2.INTER_LANCZOS4).astype(np.float32)
        input_HWC = (small_HWC / max(small_HWC.max(), 1e-6) - MEAN) / DEVIATION
        self.network.setInput(np.ascontiguousarray(input_HWC.transpose(2, 0, 1)[None]))
        share_HW = self.network.forward(self.network.getUnconnectedOutLayersNames()[0])[0, 0]
        share_HW = (share_HW - share_HW.min()) / max(share_HW.max() - share_HW.min(), 1e-6)
        return {"subject": torch.from_numpy(cv2.resize(share_HW, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1))}
