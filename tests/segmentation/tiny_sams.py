"""Tiny random SAMs of every kind, in every layout that people have. Their masks have an inside and an outside."""
from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file
from torch import Tensor, nn

SIDE, SIDE2, SIDE3, PATCH3 = 64, 128, 112, 14
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]


def lively(network: nn.Module, seed: int = 0) -> Any:
    """The network with weights that keep the size of what passes, and with its things in sight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weights = network.state_dict()  # with buffers, such as the random positions
        for name, value in weights.items():
            noise = torch.randn(value.shape, generator=generator)
            if "positional_embedding" in name:
                value.copy_(noise)
            elif value.ndim > 1:
                strength = 0.3 if "hypernetworks" in name and "proj_out" in name else 1.5
                value.copy_(noise * strength / value[0].numel() ** 0.5)
            if name.endswith("pred_obj_score_head.proj_out.bias"):
                value.fill_(30.0)
            if "iou_prediction_head.proj_out" in name:  # which mask is trusted most must not turn on a last digit
                value.copy_(torch.linspace(-1, 1, len(value)) if value.ndim == 1 else value * 0.1)
        for name, value in weights.items():
            if "shared_image_embedding" in name:  # one and the same in all trained models
                value.copy_(weights[name.replace("shared_image_embedding", "prompt_encoder.shared_embedding")])
    return network.eval()


def sam1(seed: int = 0) -> Any:
    return lively(hf.SamModel(hf.SamConfig(
        vision_config={"hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32,
                       "image_size": SIDE, "patch_size": 16, "num_pos_feats": 16, "window_size": 2, "global_attn_indexes": [1]},
        prompt_encoder_config={"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 1, "iou_head_hidden_dim": 32})), seed)


def sam1_processor() -> Any:
    square = {"height": SIDE, "width": SIDE}
    return hf.SamProcessor(hf.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square))


def sam2_parts(hidden: int) -> dict[str, Any]:
    """Settings that Sam2Config and Sam2VideoConfig share."""
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [SIDE2, SIDE2],
                "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 2, 4, 2], "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [2, 2]}
    return {
        "vision_config": {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": hidden,
                          "backbone_feature_sizes": [[SIDE2 // shrunk] * 2 for shrunk in (4, 8, 16)]},
        "prompt_encoder_config": {"hidden_size": hidden, "image_size": SIDE2, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {"hidden_size": hidden, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                                "iou_head_hidden_dim": hidden},
    }


def video_parts() -> dict[str, Any]:
    """Sam2VideoConfig: the memory needs 64 channels, the rest more than that."""
    return sam2_parts(128) | {
        "image_size": SIDE2, "memory_attention_hidden_size": 128, "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32, "memory_attention_rope_feat_sizes": [SIDE2 // 16] * 2,
        "memory_encoder_hidden_size": 128, "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": 128,
        "memory_fuser_num_layers": 1, "memory_fuser_embed_dim": 128, "memory_fuser_intermediate_dim": 32,
        "max_object_pointers_in_encoder": 3}


def sam2(seed: int = 0) -> Any:
    return lively(hf.Sam2Model(hf.Sam2Config(**sam2_parts(32))), seed)


def sam2_video(seed: int = 0, **settings: Any) -> Any:
    return lively(hf.Sam2VideoModel(hf.Sam2VideoConfig(**video_parts() | settings)), seed)


def sam2_processor() -> Any:
    return hf.Sam2Processor(hf.Sam2ImageProcessor(size={"height": SIDE2, "width": SIDE2}))


def sam2_video_processor() -> Any:
    size = {"height": SIDE2, "width": SIDE2}
    return hf.Sam2VideoProcessor(hf.Sam2ImageProcessor(size=size), hf.Sam2VideoVideoProcessor(size=size))


def sam3_vision() -> dict[str, Any]:
    grid = SIDE3 // PATCH3
    backbone = {"model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": SIDE3, "patch_size": PATCH3, "window_size": 4, "global_attn_indexes": [1],
                "pretrain_image_size": 56}
    return {"backbone_config": backbone, "fpn_hidden_size": 128, "backbone_feature_sizes": [[grid * times] * 2 for times in (4, 2, 1)]}


def clip_tokenizer() -> Any:
    """Every byte is a token; what stands for bytes that are no visible sign is shifted, as CLIP has it."""
    signs = [chr(byte) for byte in BYTES] + [chr(256 + number) for number in range(256 - len(BYTES))]
    tokens = [*signs, *(f"{sign}</w>" for sign in signs), "<|startoftext|>", "<|endoftext|>"]
    return hf.CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=32)


def detector_parts(tokenizer: Any) -> dict[str, Any]:
    small = {"hidden_size": 128, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {"vision_config": sam3_vision(), "text_config": text, "geometry_encoder_config": small, "detr_encoder_config": small,
            "detr_decoder_config": small | {"num_queries": 10}, "mask_decoder_config": {"hidden_size": 128, "num_attention_heads": 2}}


def sam3_whole() -> Any:
    """As facebook/sam3 lies on the hub: detector and tracker in one Sam3VideoModel."""
    prompt = {"hidden_size": 128, "image_size": SIDE3, "patch_size": PATCH3, "mask_input_channels": 4}
    tracker = video_parts() | {"vision_config": sam3_vision(), "prompt_encoder_config": prompt, "image_size": SIDE3,
                               "memory_attention_rope_feat_sizes": [SIDE3 // PATCH3] * 2}
    config = hf.Sam3VideoConfig(detector_config=detector_parts(clip_tokenizer()), tracker_config=tracker)
    return lively(hf.Sam3VideoModel(config))


def sam3_processor() -> Any:
    return hf.Sam3Processor(hf.Sam3ImageProcessor(size={"height": SIDE3, "width": SIDE3}), clip_tokenizer())


def sam3_tracker() -> Any:
    prompt = {"hidden_size": 128, "image_size": SIDE3, "patch_size": PATCH3, "mask_input_channels": 4}
    decoder = video_parts()["mask_decoder_config"]
    return lively(hf.Sam3TrackerModel(hf.Sam3TrackerConfig(
        vision_config=sam3_vision(), prompt_encoder_config=prompt, mask_decoder_config=decoder)))


def sam3_detector() -> Any:
    return lively(hf.Sam3Model(hf.Sam3Config(**detector_parts(clip_tokenizer()))))


def save(folder: Path, network: Any, processor: Any) -> Path:
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_meta(file: Path, network: Any, kind: str) -> Path:
    """The network with Meta's names: .safetensors as other packs have it, .pt and .pth as Meta."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = meta_weights(network.state_dict(), kind)
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
    else:
        torch.save({"model": weights} if file.suffix == ".pt" else weights, file)
    return file


def meta_weights(weights: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """transformers' weights under Meta's names; points' embeddings come apart, copies go away."""
    result = {}
    for name, value in weights.items():
        if name == "shared_image_embedding.positional_embedding":
            continue
        if kind == "sam2" and name == "prompt_encoder.point_embed.weight":
            result |= {f"sam_prompt_encoder.point_embeddings.{index}.weight": value[index : index + 1] for index in range(4)}
        else:
            result[meta_name(name, kind)] = value.clone()
    return result


PARTS = {
    "shared_embedding.positional_embedding": "pe_layer.positional_encoding_gaussian_matrix", "point_embed": "point_embeddings",
    "patch_embed.projection": "patch_embed.proj", "layer_norm_final_attn": "norm_final_attn",
    "mask_embed.conv1": "mask_downscaling.0", "mask_embed.layer_norm1": "mask_downscaling.1", "mask_embed.conv2": "mask_downscaling.3",
    "mask_embed.layer_norm2": "mask_downscaling.4", "mask_embed.conv3": "mask_downscaling.6",
    "upscale_conv1": "output_upscaling.0", "upscale_layer_norm": "output_upscaling.1", "upscale_conv2": "output_upscaling.3",
}
PARTS1 = {"vision_encoder.layers": "image_encoder.blocks", "neck.conv1": "neck.0", "neck.layer_norm1": "neck.1", "neck.conv2": "neck.2",
          "neck.layer_norm2": "neck.3"}
PARTS2 = {
    "vision_encoder.backbone": "image_encoder.trunk", "mlp.proj_in": "mlp.layers.0", "mlp.proj_out": "mlp.layers.1",
    "memory_encoder.projection": "memory_encoder.out_proj", "feature_projection": "pix_feat_proj", "memory_fuser": "fuser",
    "depthwise_conv": "dwconv", "pointwise_conv1": "pwconv1", "pointwise_conv2": "pwconv2", "scale": "gamma",
    "temporal_positional_encoding_projection_layer": "obj_ptr_tpos_proj", "memory_temporal_positional_encoding": "maskmem_tpos_enc",
    "no_object_pointer": "no_obj_ptr", "occlusion_spatial_embedding_parameter": "no_obj_embed_spatial",
    "no_memory_embedding": "no_mem_embed", "no_memory_positional_encoding": "no_mem_pos_enc", "o_proj": "out_proj",
    "prompt_encoder": "sam_prompt_encoder", "mask_decoder": "sam_mask_decoder", "final_conv": "encoder.12",
    "layers.0.conv": "encoder.0", "layers.0.layer_norm": "encoder.1", "layers.1.conv": "encoder.3", "layers.1.layer_norm": "encoder.4",
    "layers.2.conv": "encoder.6", "layers.2.layer_norm": "encoder.7", "layers.3.conv": "encoder.9", "layers.3.layer_norm": "encoder.10",
}
HEADS = ("output_hypernetworks_mlps", "iou_prediction_head", "pred_obj_score_head", "object_pointer_proj")


def meta_name(name: str, kind: str) -> str:
    """Meta's name of one of transformers' weights, by whole parts of the name."""
    if any(head in name for head in HEADS):  # three layers, which transformers calls proj_in, layers.0, proj_out
        name = name.replace("layers.0", "layers.1").replace("proj_in", "layers.0").replace("proj_out", "layers.2")
    within_memory = "mask_downsampler" in name
    for ours, meta in (PARTS | (PARTS1 if kind == "sam" else PARTS2)).items():
        if not re.match(r"(layers|final)", ours) or within_memory:
            name = re.sub(rf"(?<![\w]){re.escape(ours)}(?![\w])", meta, name)
    name = re.sub(r"(?<![\w])layer_norm(\d?)(?![\w])", r"norm\1", name)
    name = re.sub(r"neck\.convs\.(\d)\.", r"neck.convs.\1.conv.", name)
    return name.replace("object_pointer_proj", "obj_ptr_proj").replace("vision_encoder", "image_encoder")


def meta_names(file: str) -> set[str]:
    """All names in one of Meta's files, as Meta's own code has them; {a,b} in the list stands for a and b."""
    lines = (Path(__file__).parent / "meta_names" / f"{file}.txt").read_text(encoding="utf-8").split()
    names = set()
    for line in lines:
        parts = [part.split(",") if number % 2 else [part] for number, part in enumerate(re.split(r"[{}]", line))]
        names |= {"".join(chosen) for chosen in itertools.product(*parts)}
    return names
