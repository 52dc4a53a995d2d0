"""From the names of weights in Meta's files of SAM 1 and SAM 2/2.1 to those of transformers, and the networks' sizes.

Sources: facebookresearch/segment-anything, facebookresearch/sam2 (its yaml files), transformers' own models.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["sam", "sam2"]
POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"

BOTH = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.norm(\d?|_final_attn)\.", r".layer_norm\1."),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head|obj_ptr_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head|obj_ptr_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head|obj_ptr_proj)\.layers\.2\.", r"\1.proj_out."),
)
SAM1 = (
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^vision_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^vision_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^vision_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^vision_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
)
SAM2 = (
    (r"^vision_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^vision_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.pix_feat_proj\.", ".feature_projection."),
    (r"\.mask_downsampler\.encoder\.12\.", ".mask_downsampler.final_conv."),
    (r"\.fuser\.", ".memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
)
DOWNSAMPLER = re.compile(r"\.mask_downsampler\.encoder\.(\d+)\.")

HIERA: Mapping[int, Mapping[str, Any]] = {
    12: {},
    16: {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    24: {"hidden_size": 112, "embed_dim_per_stage": [112, 224, 448, 896], "num_attention_heads": 2,
         "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 3, 16, 3], "global_attention_blocks": [12, 16, 20],
         "window_positional_embedding_background_size": [14, 14]},
    48: {"hidden_size": 144, "embed_dim_per_stage": [144, 288, 576, 1152], "num_attention_heads": 2,
         "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 6, 36, 4], "global_attention_blocks": [23, 33, 43],
         # Some packs leave this out and run the large model with other windows, which shifts its masks.
         "window_positional_embedding_background_size": [7, 7], "window_size_per_stage": [8, 4, 16, 8]},
}
"""SAM 2's image encoders tiny, small, base+ and large, by their number of blocks; tiny is what transformers builds by default."""


def rename(weights: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Meta's weights under transformers' names."""
    renamed = {_rename(name, kind): value for name, value in weights.items() if name not in ("pixel_mean", "pixel_std")}
    if POSITIONS in renamed:
        renamed["shared_image_embedding.positional_embedding"] = renamed[POSITIONS]
    points = [f"prompt_encoder.point_embed.{index}.weight" for index in range(4)]
    if kind == "sam2" and all(name in renamed for name in points):
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([renamed.pop(name) for name in points])
    return renamed


def _rename(name: str, kind: Kind) -> str:
    for pattern, replacement in (*BOTH, *(SAM1 if kind == "sam" else SAM2)):
        name = re.sub(pattern, replacement, name)
    if found := DOWNSAMPLER.search(name):  # convolution, norm and activation take turns
        layer, part = divmod(int(found[1]), 3)
        name = name.replace(found[0], f".mask_downsampler.layers.{layer}.{('conv', 'layer_norm')[part]}.")
    return name


def sam1_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """SamConfig's values of a SAM 1 file with Meta's names (ViT-B, L, H and pruned ones), told by shapes."""
    width, _, patch, _ = weights["image_encoder.patch_embed.proj.weight"].shape
    blocks = [weights[f"image_encoder.blocks.{block}.attn.rel_pos_h"].shape for block in range(_count(weights, "image_encoder.blocks."))]
    reach = [length for length, _ in blocks]
    out, side = weights["image_encoder.neck.0.weight"].shape[0], weights["image_encoder.pos_embed"].shape[1] * patch
    vision = {
        "hidden_size": width, "output_channels": out, "image_size": side, "patch_size": patch, "num_hidden_layers": len(blocks),
        "num_attention_heads": width // blocks[0][1], "mlp_dim": weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        "num_pos_feats": weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[1],
        # Each block knows its relative positions: few within a window, all in the blocks that see the whole picture.
        "window_size": (min(reach) + 1) // 2,
        "global_attn_indexes": [block for block, length in enumerate(reach) if length > min(reach)],
    }
    prompt = {"hidden_size": out, "image_size": side, "patch_size": patch,
              "mask_input_channels": weights["prompt_encoder.mask_downscaling.3.weight"].shape[0]}
    decoder = {"hidden_size": out, "mlp_dim": weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
               "num_hidden_layers": _count(weights, "mask_decoder.transformer.layers."),
               "iou_head_hidden_dim": weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]}
    return {"vision_config": vision, "prompt_encoder_config": prompt, "mask_decoder_config": decoder}


def sam2_config(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Values of Sam2VideoConfig, or of Sam2Config for a file without a memory of frames, of a SAM 2 or 2.1 file with Meta's names.

    Raises ValueError that names the file for an unknown size.
    """
    blocks = _count(weights, "image_encoder.trunk.blocks.")
    if blocks not in HIERA:
        raise ValueError(f"{file} is a SAM 2 of {blocks} blocks; those known (tiny, small, base+, large) have {', '.join(map(str, HIERA))}")
    widths = HIERA[blocks].get("embed_dim_per_stage", [96, 192, 384, 768])
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA[blocks]}, "backbone_channel_list": widths[::-1]}
    if "maskmem_tpos_enc" not in weights:
        return {"vision_config": vision}
    return {"vision_config": vision,  # 2.1 has what these switch on, 2.0 does not
            "enable_occlusion_spatial_embedding": "no_obj_embed_spatial" in weights,
            "enable_temporal_pos_encoding_for_object_pointers": "obj_ptr_tpos_proj.weight" in weights}


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbered modules there are."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
