"""Tiny random models of real architectures, built by ComfyUI's own classes."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models as supported
import torch
from torch import Tensor, nn

OPS = comfy.ops.disable_weight_init
KW = {"dtype": torch.float32, "device": "cpu", "operations": OPS}


@dataclass(frozen=True)
class Architecture:
    config_class: type
    network: Callable[[], nn.Module]
    config: dict[str, Any]
    latent: tuple[int, ...]
    text: int
    extra: dict[str, int] = field(default_factory=dict)


def flux_config(hidden: int = 128, context: int = 64, depth: int = 1, single: int = 1) -> dict[str, Any]:
    return {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": context,
            "hidden_size": hidden, "mlp_ratio": 4.0, "num_heads": hidden // 128, "depth": depth, "depth_single_blocks": single,
            "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}


def flux() -> Architecture:
    from comfy.ldm.flux.model import Flux

    c = flux_config(depth=2, single=2)
    return Architecture(supported.Flux, lambda: Flux(**KW, **c), c, (16, 8, 8), 64, {"pooled_output": 32})


def chroma() -> Architecture:
    from comfy.ldm.chroma.model import Chroma

    c = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0,
         "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
         "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 1, "txt_ids_dims": [], "vec_in_dim": None}
    return Architecture(supported.Chroma, lambda: Chroma(**KW, **c), c, (16, 8, 8), 64)


def sd3() -> Architecture:
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper as MMDiT

    c = {"in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 32,
         "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}}, "num_patches": 36,
         "pos_embed_max_size": 6, "pos_embed_scaling_factor": None, "qk_norm": "rms", "x_block_self_attn_layers": []}
    return Architecture(supported.SD3, lambda: MMDiT(**KW, **c), c, (16, 8, 8), 64, {"pooled_output": 32})


def wan() -> Architecture:
    from comfy.ldm.wan.model import WanModel

    c = {"image_model": "wan2.1", "model_type": "t2v", "dim": 128, "out_dim": 16, "num_heads": 1, "ffn_dim": 64, "num_layers": 2,
         "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
         "in_dim": 16, "text_dim": 64}
    return Architecture(supported.WAN21_T2V, lambda: WanModel(**KW, **c), c, (16, 2, 8, 8), 64)


def hunyuan_video() -> Architecture:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    c = {"image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 768,
         "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1,
         "depth": 1, "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
         "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
    return Architecture(supported.HunyuanVideo, lambda: HunyuanVideo(**KW, **c), c, (16, 2, 8, 8), 64, {"pooled_output": 768})


def qwen_image() -> Architecture:
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel as Qwen

    c = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 128, "num_attention_heads": 1,
         "joint_attention_dim": 64, "axes_dims_rope": (16, 56, 56)}
    return Architecture(supported.QwenImage, lambda: Qwen(**KW, **c), c, (16, 1, 8, 8), 64)


def z_image() -> Architecture:
    from comfy.ldm.lumina.model import NextDiT

    c = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": 64, "n_layers": 1, "qk_norm": True,
         "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
         "ffn_dim_multiplier": 8.0 / 3.0, "z_image_modulation": True, "time_scale": 1000.0,
         "pad_tokens_multiple": 32, "n_refiner_layers": 1}
    return Architecture(supported.ZImage, lambda: NextDiT(**KW, **c), c, (16, 8, 8), 64)


def sdxl() -> Architecture:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth, mult = [0, 0, 1, 1, 1, 1], [1, 2, 4]
    c = {"use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "num_classes": "sequential",
         "adm_in_channels": 2816, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
         "transformer_depth": depth, "transformer_depth_output": [d for d in depth[::2] for _ in range(3)], "channel_mult": mult,
         "transformer_depth_middle": 1, "use_linear_in_transformer": True, "context_dim": 64, "use_temporal_resblock": False,
         "use_temporal_attention": False, "num_heads": -1, "num_head_channels": 32}
    return Architecture(supported.SDXL, lambda: UNetModel(**KW, **c), c, (4, 8, 8), 64, {"pooled_output": 1280})


def sd15() -> Architecture:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    depth = [1, 1, 0, 0]
    c = {"use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
         "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2], "transformer_depth": depth,
         "transformer_depth_output": [1, 1, 1, 0, 0, 0], "channel_mult": [1, 2], "transformer_depth_middle": 1,
         "use_linear_in_transformer": False, "context_dim": 64, "use_temporal_resblock": False, "use_temporal_attention": False,
         "num_heads": 8, "num_head_channels": -1}
    return Architecture(supported.SD15, lambda: UNetModel(**KW, **c), c, (4, 8, 8), 64)


ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "flux": flux, "chroma": chroma, "sd3": sd3, "wan": wan, "hunyuan_video": hunyuan_video, "qwen_image": qwen_image,
    "z_image": z_image, "sdxl": sdxl, "sd15": sd15,
}


def random_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a sane size: norms near one, matrices keep the variance of what they multiply."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            weights[name] = value.clone()
        elif value.ndim <= 1:
            weights[name] = torch.randn(value.shape, generator=generator) * 0.02 + (1.0 if "norm" in name and "weight" in name else 0.0)
        else:
            weights[name] = torch.randn(value.shape, generator=generator) / math.sqrt(value[0].numel())
    return weights


def tiny_patcher(name: str) -> tuple[comfy.model_patcher.ModelPatcher, Architecture]:
    """A ModelPatcher as ComfyUI's loaders make it, without `cached_patcher_init`, as for GGUF and state-dict models."""
    arch = ARCHITECTURES[name]()
    weights = random_weights(arch.network())
    model_config = arch.config_class(dict(arch.config))
    for key in model_config.unet_extra_config:
        model_config.unet_config[key] = arch.config.get(key, model_config.unet_config[key])
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model(weights, "")
    model.load_model_weights(dict(weights), "")
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=comfy.model_management.unet_offload_device())
    return patcher, arch
