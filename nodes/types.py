"""Socket types of this pack, each named once."""
from __future__ import annotations

from comfy_api.latest import io

TextPadding = io.Custom("MASKED_LORA_TEXT_PADDING")
MaskRecipe = io.Custom("MASKED_LORA_MASK_RECIPE")
DataSet = io.Custom("MASKED_LORA_DATA_SET")
Captions = io.Custom("MASKED_LORA_CAPTIONS")
TrainingSet = io.Custom("MASKED_LORA_TRAINING_SET")
Prior = io.Custom("MASKED_LORA_PRIOR")
Loss = io.Custom("MASKED_LORA_LOSS")
Noise = io.Custom("MASKED_LORA_NOISE")
Optimizer = io.Custom("MASKED_LORA_OPTIMIZER")
Adapter = io.Custom("MASKED_LORA_ADAPTER")
TextEncoderLora = io.Custom("MASKED_LORA_TEXT_ENCODER")
Checkpoints = io.Custom("MASKED_LORA_CHECKPOINTS")
Previews = io.Custom("MASKED_LORA_PREVIEWS")
Validation = io.Custom("MASKED_LORA_VALIDATION")
Logs = io.Custom("MASKED_LORA_LOGS")
MaskPlan = io.Custom("MASKED_LORA_MASK_PLAN")
BodyParser = io.Custom("MASKED_LORA_BODY_PARSER")
Sam = io.Custom("MASKED_LORA_SAM")
Detector = io.Custom("MASKED_LORA_DETECTOR")
ClipSeg = io.Custom("MASKED_LORA_CLIPSEG")
LoraModel = io.LoraModel
LossMap = io.LossMap
