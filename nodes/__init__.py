"""The pack's nodes: a schema and one call each."""
from __future__ import annotations

from comfy_api.latest import io

from .adapter import Adapter, TextEncoderLora
from .arrange import Arrange
from .bleed import BleedScore, DriftMap
from .cache import CleanCache, EncodeTrainingSet, OpenTrainingSet
from .captions import CaptionOptions
from .check import CheckPadding
from .checkpoints import Checkpoints
from .combine import CombineMasks, RandomBlobs, RegionMask
from .core_masks import CoreFaceMasks, CoreSubjectMasks, InsightFaceMasks
from .dataset import CombineDataSets, LoadFolder
from .demo import DemoModel
from .grid import CompareGrid
from .lists import DataSetFromLists, DataSetFromVideo, DataSetToLists, UseMasks
from .lora import ApplyLora, LoadLora, SaveLora
from .make_masks import MakeMasks, WriteMasks
from .mask import GrowForLatentGrid, PreviewMask
from .optimizer import Optimizer
from .options import LossOptions, Noise, Prior
from .quick import QuickMasks
from .recipe import EditMask, MaskPreset, MaskRecipe, MaskStep, StepMask
from .text import SetTextPadding, TextEncode, TextPadding
from .train import MeasureDrift, Train
from .verify import CompareLora, LoraGrid
from .watching import Logs, Previews, Validation

NODES: list[type[io.ComfyNode]] = [
    LoadFolder, DataSetFromLists, DataSetFromVideo, UseMasks, CombineDataSets, DataSetToLists, Arrange,
    MaskRecipe, MaskStep, MaskPreset, EditMask, StepMask, CombineMasks, RegionMask, RandomBlobs, PreviewMask, GrowForLatentGrid,
    MakeMasks, WriteMasks,
    CaptionOptions, EncodeTrainingSet, OpenTrainingSet, CleanCache,
    Train, Adapter, TextEncoderLora, Optimizer, Prior, LossOptions, Noise, Checkpoints, Previews, Validation, Logs,
    SaveLora, LoadLora, ApplyLora, TextPadding, TextEncode, SetTextPadding, CheckPadding,
    QuickMasks, CoreFaceMasks, CoreSubjectMasks, InsightFaceMasks,
    MeasureDrift, CompareLora, DriftMap, BleedScore, LoraGrid, CompareGrid, DemoModel,
]
