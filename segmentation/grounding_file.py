"""GroundingDINO's original files (models/grounding-dino/groundingdino_swint_ogc.pth and swinb_cogcoor), for transformers' own class."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .detector import ADVICE, ReadFile
from .folder import VOCABULARIES, load_processor
from .pretrained import all_loaded, transformers_class

TEXT_MODEL = "bert-base-uncased"
SINCE = "4.56"
SWIN = "model.backbone.conv_encoder.model."
# Names as transformers' convert_grounding_dino_to_hf.py gives them.
RENAMES = tuple((re.compile(old), new) for old, new in (
    (r"^backbone\.0\.patch_embed\.proj\.", SWIN + "embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", SWIN + "embeddings.norm."),
    (r"^backbone\.0\.norm(\d)\.", lambda found: f"{SWIN}hidden_states_norms.stage{int(found[1]) + 1}."),
    (r"^backbone\.0\.layers\.", SWIN + "encoder.layers."),
    (r"(\.blocks\.\d+\.)norm1\.", r"\1layernorm_before."),
    (r"(\.blocks\.\d+\.)norm2\.", r"\1layernorm_after."),
    (r"(\.blocks\.\d+\.)attn\.proj\.", r"\1attention.output.dense."),
    (r"(\.blocks\.\d+\.)attn\.", r"\1attention.self."),
    (r"(\.blocks\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(\.blocks\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"(deformable_layer\.)norm1\.", r"\1self_attn_layer_norm."),
    (r"(deformable_layer\.)norm2\.", r"\1final_layer_norm."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"(text_enhancer_layer\.)norm1\.", r"\1layer_norm_before."),
    (r"(text_enhancer_layer\.)norm2\.", r"\1layer_norm_after."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"(fusion_layer\.)gamma_v$", r"\1vision_param"),
    (r"(fusion_layer\.)gamma_l$", r"\1text_param"),
    (r"(fusion_layer\.(?:layer_norm_|attn\.(?:values_|out_)?))v(?=[._])", r"\1vision"),
    (r"(fusion_layer\.(?:layer_norm_|attn\.(?:values_|out_)?))l(?=[._])", r"\1text"),
    (r"^transformer\.decoder\.layers\.", "model.decoder.layers."),
    (r"(decoder\.layers\.\d+\.)cross_attn\.", r"\1encoder_attn."),
    (r"(decoder\.layers\.\d+\.)norm1\.", r"\1encoder_attn_layer_norm."),
    (r"(decoder\.layers\.\d+\.)ca_text\.", r"\1encoder_attn_text."),
    (r"(decoder\.layers\.\d+\.)catext_norm\.", r"\1encoder_attn_text_layer_norm."),
    (r"(decoder\.layers\.\d+\.)norm2\.", r"\1self_attn_layer_norm."),
    (r"(decoder\.layers\.\d+\.)norm3\.", r"\1final_layer_norm."),
    (r"(coder\.layers\.\d+\.(?:\w+_layer\.)?)linear([12])\.", r"\1fc\2."),
    (r"^bert\.", "model.text_backbone."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.decoder\.bbox_embed\.", "model.decoder.bbox_embed."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.enc_output", "model.enc_output"),
    (r"^transformer\.level_embed$", "model.level_embed"),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings.")))
# Counted anew by transformers, or for the training alone.
UNUSED = re.compile(r"relative_position_index$|position_ids$|attn_mask$|^label_enc\.|^bert\.pooler\.")
JOINED = re.compile(r"(attention\.self|self_attn|encoder_attn_text)\.(?:qkv\.|in_proj_)(weight|bias)$")


def load_file(file: Path, read_file: ReadFile) -> tuple[nn.Module, Any]:
    """Model, in float32, and processor. The words' vocabulary comes from a folder bert-base-uncased beside the file or its folder.

    Raises ValueError for another file, and where that folder is missing.
    """
    weights = {name.removeprefix("module."): value for name, value in read_file(file).items()}
    if "backbone.0.patch_embed.proj.weight" not in weights or "transformer.tgt_embed.weight" not in weights:
        raise ValueError(f"{file} is no GroundingDINO; {ADVICE}")
    tokenizer = load_processor(transformers_class("BertTokenizer", SINCE), _vocabulary(file))
    model = all_loaded(transformers_class("GroundingDinoForObjectDetection", SINCE), file, config=config_of(weights),
                       state_dict=convert_keys(weights), dtype=torch.float32)
    pictures = transformers_class("GroundingDinoImageProcessor", SINCE)()
    return model, transformers_class("GroundingDinoProcessor", SINCE)(pictures, tokenizer)


def _vocabulary(file: Path) -> Path:
    places = [folder / TEXT_MODEL for folder in (file.parent, file.parent.parent)]
    for place in places:
        if any((place / name).is_file() for name in VOCABULARIES):
            return place
    raise ValueError(f"{file.name} needs the vocabulary of {TEXT_MODEL}: put {VOCABULARIES[0]} or {VOCABULARIES[1]} of "
                     f"https://huggingface.co/google-bert/{TEXT_MODEL} into {places[-1]}; or {ADVICE}")


def convert_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names for the original ones, with queries, keys and values apart."""
    converted: dict[str, Tensor] = {}
    for name, value in weights.items():
        if UNUSED.search(name):
            continue
        for old, new in RENAMES:
            name = old.sub(new, name)
        if found := JOINED.search(name):
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                converted[f"{name[:found.start()]}{found[1]}.{part}.{found[2]}"] = piece.contiguous()
        else:
            converted[name] = value
    return converted


def config_of(weights: Mapping[str, Tensor]) -> Any:
    """transformers' config out of the weights' shapes; what they do not tell is as in both published files."""
    def count(pattern: str) -> int:
        return 1 + max(int(found[1]) for name in weights if (found := re.match(pattern, name)))

    stages = count(r"backbone\.0\.layers\.(\d+)\.")
    tables = [weights[f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in range(stages)]
    swin = transformers_class("SwinConfig", SINCE)(
        image_size=384, embed_dim=weights["backbone.0.patch_embed.proj.weight"].shape[0], num_heads=[table.shape[1] for table in tables],
        depths=[count(rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)],
        window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2, out_indices=[2, 3, 4])
    vocabulary, hidden = weights["bert.embeddings.word_embeddings.weight"].shape
    text = transformers_class("BertConfig", SINCE)(
        vocab_size=vocabulary, hidden_size=hidden, num_attention_heads=max(hidden // 64, 1),
        num_hidden_layers=count(r"bert\.encoder\.layer\.(\d+)\."),
        intermediate_size=weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=weights["bert.embeddings.position_embeddings.weight"].shape[0])
    queries, width = weights["transformer.tgt_embed.weight"].shape
    return transformers_class("GroundingDinoConfig", SINCE)(
        backbone_config=swin, text_config=text, d_model=width, num_queries=queries,
        encoder_layers=count(r"transformer\.encoder\.layers\.(\d+)\."), decoder_layers=count(r"transformer\.decoder\.layers\.(\d+)\."),
        encoder_ffn_dim=weights["transformer.encoder.layers.0.linear1.weight"].shape[0],
        decoder_ffn_dim=weights["transformer.decoder.layers.0.linear1.weight"].shape[0])
