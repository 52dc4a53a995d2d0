"""The pack's nodes: a schema and one call each."""
from __future__ import annotations

from comfy_api.latest import io

from .arrange import Arrange
from .cache import CleanCache, EncodeTrainingSet, OpenTrainingSet
from .combine import CombineMasks, RandomBlobs, RegionMask
from .dataset import CombineDataSets, LoadFolder
from .demo import DemoModel
from .grid import CompareGrid
from .lists import DataSetFromLists, DataSetFromVideo, DataSetToLists, UseMasks
from .lora import ApplyLora, LoadLora, SaveLora
from .mask import GrowForLatentGrid, PreviewMask
from .options import LossOptions, Noise, Prior
from .recipe import EditMask, MaskPreset, MaskRecipe, MaskStep, StepMask
from .text import TextEncode, TextPadding
from .train import MeasureDrift, Train

NODES: list[type[io.ComfyNode]] = [
    LoadFolder, DataSetFromLists, DataSetFromVideo, UseMasks, CombineDataSets, DataSetToLists, Arrange,
    MaskRecipe, MaskStep, MaskPreset, EditMask, StepMask, CombineMasks, RegionMask, RandomBlobs, PreviewMask, GrowForLatentGrid,
    EncodeTrainingSet, OpenTrainingSet, CleanCache, Train, Prior, LossOptions, Noise, MeasureDrift,
    SaveLora, LoadLora, ApplyLora, TextPadding, TextEncode, CompareGrid, DemoModel,
]
