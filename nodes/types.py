"""Socket types of this pack, each named once."""
from __future__ import annotations

from comfy_api.latest import io

TextPadding = io.Custom("MASKED_LORA_TEXT_PADDING")
MaskRecipe = io.Custom("MASKED_LORA_MASK_RECIPE")
TrainingSet = io.Custom("MASKED_LORA_TRAINING_SET")
LoraModel = io.LoraModel
LossMap = io.LossMap
