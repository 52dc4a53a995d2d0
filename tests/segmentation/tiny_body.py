"""Tiny body part models in the layouts that people have: as transformers saves them, Meta's single file, TorchScript."""
from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

SAPIENS1_FILE = "sapiens_0.3b_goliath_best_goliath_mIoU_7673_epoch_194_torchscript.pt2"
CELEB_A_MASK_HQ = [
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip", "hair", "hat",
    "ear_r", "neck_l", "neck", "cloth"]


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """A random uint8 picture (H, W, 3)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def save_sapiens2(folder: Path, *, size: tuple[int, int] = (64, 48), patch: int = 16, classes: int = 29) -> nn.Module:
    """Random Sapiens2 with 4 deconvolutions, as the released ones: 16 times as many logits as patches each way."""
    from transformers import Sapiens2Config, Sapiens2ForSemanticSegmentation, Sapiens2ImageProcessor

    torch.manual_seed(1)
    model: Any = Sapiens2ForSemanticSegmentation(Sapiens2Config(
        image_size=list(size), patch_size=patch, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads_per_layer=[4, 2, 2, 4], num_register_tokens=8, num_labels=classes,
        head_config={"upsample_out_channels": [16, 16, 8, 8], "conv_out_channels": [8, 8]})).eval()
    _decide(model.decode_head.predictor)
    model.save_pretrained(folder)
    Sapiens2ImageProcessor(size={"height": size[0], "width": size[1]}).save_pretrained(folder)
    return model


def save_sapiens2_file(file: Path) -> nn.Module:
    """Meta's layout: one file, whose names of weights save_pretrained writes too, for pictures of 1024 x 768."""
    folder = file.parent / "converted"
    model = save_sapiens2(folder, size=(1024, 768), patch=64)
    save_file(load_file(folder / "model.safetensors"), file)
    return model


def save_face_parsing(folder: Path, labels: list[str] | None = None) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(2)
    names = dict(enumerate(labels or CELEB_A_MASK_HQ))
    model: Any = SegformerForSemanticSegmentation(SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=len(names),
        id2label=names, label2id={name: number for number, name in names.items()})).eval()
    _decide(model.decode_head.classifier)
    model.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model


def _decide(head: nn.Module) -> None:
    """Logits of random weights hardly differ; these differ by tens."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) * 30)


def palette(classes: int) -> Tensor:
    """A colour for each class, (classes, 3) uint8, far from each other; the background is black."""
    levels = (0, 85, 170, 255)
    colours = [(r, g, b) for r in levels for g in levels for b in levels]
    return torch.tensor([colours[number * 2] for number in range(classes)], dtype=torch.uint8)


class Colours(nn.Module):
    """Names each pixel by the nearest colour of the palette. Reads what Sapiens 1 reads, (N, 3, 1024, 768), and gives its half size."""

    def __init__(self, classes: int, size: tuple[int, int] = (512, 384)) -> None:
        super().__init__()
        self.size = size
        self.conv_seg = nn.Conv2d(3, classes, 1)
        colours = palette(classes).float() / 255
        mean, std = torch.tensor([123.5, 116.5, 103.5]) / 255, torch.tensor([58.5, 57.0, 57.5]) / 255
        with torch.no_grad():  # 200 x (2 colour . pixel - |colour|^2), the pixel being mean + std x input
            self.conv_seg.weight.copy_((400 * colours * std)[..., None, None])
            self.conv_seg.bias.copy_(200 * (2 * colours @ mean - (colours**2).sum(1)))

    def forward(self, pixels: Tensor) -> Tensor:
        # Only two classes are likely between two areas; the first layer's own logits would be those of the colours between.
        return 20 * self.conv_seg(F.adaptive_avg_pool2d(pixels, self.size)).softmax(1)


def save_sapiens1(file: Path, classes: int = 28) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Colours(classes).eval(), torch.zeros(1, 3, 1024, 768)), str(file))


def paint(height: int, width: int, *areas: tuple[int, int, int, int, int], classes: int = 28) -> Tensor:
    """A black picture with areas (class, left, top, right, bottom) in the classes' colours."""
    picture_HWC = torch.zeros(height, width, 3, dtype=torch.uint8)
    for number, left, top, right, bottom in areas:
        picture_HWC[top:bottom, left:right] = palette(classes)[number]
    return picture_HWC
