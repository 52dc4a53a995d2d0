"""The pack's nodes: a schema and one call each."""
from __future__ import annotations

from comfy_api.latest import io

from .cache import EncodeTrainingSet
from .dataset import LoadFolder
from .demo import DemoModel
from .grid import CompareGrid
from .lora import ApplyLora, LoadLora, SaveLora
from .mask import EditMask, MaskRecipe, PreviewMask
from .text import TextEncode, TextPadding
from .train import MeasureDrift, Train

NODES: list[type[io.ComfyNode]] = [
    LoadFolder, MaskRecipe, EditMask, PreviewMask, EncodeTrainingSet, Train, MeasureDrift, SaveLora, LoadLora, ApplyLora,
    TextPadding, TextEncode, CompareGrid, DemoModel,
]
