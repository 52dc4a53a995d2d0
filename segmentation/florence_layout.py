"""Florence-2 folders as Microsoft publishes them (models/LLM/Florence-2-*), for transformers' own class."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detector import ReadFile
from .folder import load_processor
from .pretrained import all_loaded, first_line, load_faults, read_config, read_weights, transformers_class

SINCE = "4.56"
IMAGE_TOKENS = 577  # 24 x 24 places and their mean
# Microsoft's processor adds these to BART's tokenizer in this order; the folder's files do not have them.
TOKENS = ("<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{number}>" for number in range(1000)), "<cap>", "</cap>", "<ncap>", "</ncap>",
          "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>",
          "<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>", "<poly>", "</poly>", "<and>")
# transformers marks the picture's place with a token; Microsoft's has none to spare, but no task here writes this one.
PICTURE = "<and>"
ANSWERS = {"phrase_grounding": {"banned_grounding_tokens": ["it", "the image", "image", "images", "the", "a", "an", "this", "that", "one"]},
           "description_with_bboxes_or_polygons": {}}
RENAMES = tuple((re.compile(old), new) for old, new in (
    (r"^vision_tower\.convs\.(\d+)\.proj\.", r"model.vision_tower.convs.\1.conv."),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"\.(conv[12])\.fn\.dw\.", r".\1."),
    (r"\.(?:window_attn|channel_attn)\.norm\.", ".norm1."),
    (r"\.(window_attn|channel_attn)\.fn\.", r".\1."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".ffn."),
    (r"^image_proj_norm\.", "model.multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", "model.multi_modal_projector.visual_temporal_embed."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head.")))


def is_microsofts(config: Mapping[str, Any]) -> bool:
    return "dim_embed" in config.get("vision_config", {})


def load_microsofts(path: Path, dtype: torch.dtype, read_file: ReadFile) -> tuple[nn.Module, Any]:
    """Model and processor of a folder in Microsoft's layout."""
    config = read_config(path)
    try:
        processor = read_processor(path, int(config["text_config"]["vocab_size"]))
        settings = convert_config(config, processor.image_token_id)
    except load_faults() as error:
        raise ValueError(f"{path / 'config.json'} is not that of a Florence-2 ({type(error).__name__}: {first_line(error)}); "
                         "download the folder again") from error
    if (file := path / "model.safetensors").is_file():
        weights: Mapping[str, Tensor] = read_weights(file)
    elif (file := path / "pytorch_model.bin").is_file():
        weights = read_file(file)
    else:
        raise ValueError(f"{path} has neither model.safetensors nor pytorch_model.bin; download the folder again")
    module = all_loaded(_class("Florence2ForConditionalGeneration"), file, config=settings,
                        state_dict=convert_keys(weights), dtype=dtype)
    text = config["text_config"]
    module.generation_config = _class("GenerationConfig")(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=text.get("decoder_start_token_id", 2),
        forced_bos_token_id=text.get("forced_bos_token_id", 0), forced_eos_token_id=text.get("forced_eos_token_id", 2),
        no_repeat_ngram_size=text.get("no_repeat_ngram_size", 3), early_stopping=True)
    return module, processor


def _class(name: str) -> Any:
    return transformers_class(name, SINCE)


def read_processor(path: Path, vocabulary: int) -> Any:
    """transformers' processor with Microsoft's extra tokens. Raises ValueError where they do not fill the vocabulary."""
    tokenizer = load_processor(_class("BartTokenizer"), path)
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    if len(tokenizer) > vocabulary:
        raise ValueError(f"the tokenizer in {path} has {len(tokenizer)} tokens, the model {vocabulary}; download the folder again")
    tokenizer.image_token, tokenizer.image_token_id = PICTURE, tokenizer.convert_tokens_to_ids(PICTURE)
    pictures = load_processor(_class("CLIPImageProcessor"), path)
    if not hasattr(pictures, "image_seq_length"):
        pictures.image_seq_length = IMAGE_TOKENS
    return _class("Florence2Processor")(pictures, tokenizer, post_processor_config=ANSWERS)


def convert_config(config: Mapping[str, Any], image_token_id: int) -> Any:
    """transformers' config out of Microsoft's config.json."""
    sight, known = config["vision_config"], _class("BartConfig")().to_dict()
    text = {name: value for name, value in config["text_config"].items() if name in known and name not in ("model_type", "dtype")}
    same = ("depths", "patch_size", "patch_stride", "patch_padding", "patch_prenorm", "num_heads", "num_groups", "window_size",
            "projection_dim")
    return _class("Florence2Config")(
        text_config=_class("BartConfig")(**text | {"tie_word_embeddings": True}),
        vision_config=_class("Florence2VisionConfig")(
            **{name: sight[name] for name in same}, embed_dim=sight["dim_embed"],
            max_temporal_embeddings=sight["visual_temporal_embedding"]["max_temporal_embeddings"],
            max_position_embeddings=sight["image_pos_embed"]["max_pos_embeddings"]),
        image_token_id=image_token_id, tie_word_embeddings=True)


def convert_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names for Microsoft's."""
    converted = {}
    for name, value in weights.items():
        if name == "language_model.final_logits_bias":  # zero
            continue
        if name == "image_projection":
            name, value = "model.multi_modal_projector.image_projection.weight", value.T.contiguous()
        for old, new in RENAMES:
            name = old.sub(new, name)
        converted[name] = value
    return converted
