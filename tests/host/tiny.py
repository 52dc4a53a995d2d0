"""Tiny random models of real architectures, built by ComfyUI's own classes."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    masked: bool = False  # its text encoder always hands over an attention mask

    def cond(self, tokens: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """What a text encoder gives for a caption of so many tokens, random."""
        cond = {"cross_attn": torch.randn(1, tokens, self.text, generator=generator)}
        cond |= {k: torch.randn(1, v, generator=generator) for k, v in self.extra.items()}
        return cond | ({"attention_mask": torch.ones(1, tokens, dtype=torch.long)} if self.masked else {})


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


def wan_network(config: dict[str, Any]) -> nn.Module:
    from comfy.ldm.wan.model import WanModel

    return WanModel(**KW, **config)


def wan() -> Architecture:
    c = {"image_model": "wan2.1", "model_type": "t2v", "dim": 128, "out_dim": 16, "num_heads": 1, "ffn_dim": 64, "num_layers": 2,
         "patch_size": (1, 2, 2), "freq_dim": 256, "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
         "in_dim": 16, "text_dim": 64}
    return Architecture(supported.WAN21_T2V, lambda: wan_network(c), c, (16, 2, 8, 8), 64)


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

def flux2() -> Architecture:
    """Also Klein, which is Flux2 without guidance."""
    from comfy.ldm.flux.model import Flux

    c = {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 64, "hidden_size": 128,
         "mlp_ratio": 3.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [32, 32, 32, 32], "theta": 2000,
         "patch_size": 1, "qkv_bias": False, "guidance_embed": True, "txt_ids_dims": [3],
         "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0}
    return Architecture(supported.Flux2, lambda: Flux(**KW, **c), c, (128, 4, 4), 64)


def chroma_radiance() -> Architecture:
    """Pixels instead of latents."""
    from comfy.ldm.chroma_radiance.model import ChromaRadiance

    c = chroma().config | {"image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 16,
                           "nerf_mlp_ratio": 4, "nerf_depth": 2, "nerf_max_freqs": 8, "nerf_tile_size": 512,
                           "nerf_final_head_type": "conv", "nerf_embedder_dtype": None, "use_x0": False,
                           "use_sequential_txt_ids": False}
    return Architecture(supported.ChromaRadiance, lambda: ChromaRadiance(**KW, **c), c, (3, 64, 64), 64)


def wan22_5b() -> Architecture:
    c = wan().config | {"out_dim": 48, "in_dim": 48}
    return replace(wan(), config_class=supported.WAN22_T2V, network=lambda: wan_network(c), config=c, latent=(48, 2, 8, 8))


def hunyuan_video_15() -> Architecture:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    c = hunyuan_video().config | {"in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "byt5": True,
                                  "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True, "guidance_embed": False}
    return Architecture(supported.HunyuanVideo15, lambda: HunyuanVideo(**KW, **c), c, (32, 2, 4, 4), 64)


def hunyuan_image() -> Architecture:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    c = hunyuan_video().config | {"in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [64, 64], "vec_in_dim": None,
                                  "byt5": True}
    return Architecture(supported.HunyuanImage21, lambda: HunyuanVideo(**KW, **c), c, (64, 4, 4), 64)


def lumina2() -> Architecture:
    from comfy.ldm.lumina.model import NextDiT

    c = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 192, "cap_feat_dim": 64, "n_layers": 1, "qk_norm": True,
         "n_heads": 2, "n_kv_heads": 1, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0,
         "ffn_dim_multiplier": 4.0, "n_refiner_layers": 1}
    return Architecture(supported.Lumina2, lambda: NextDiT(**KW, **c), c, (16, 8, 8), 64)


def omnigen2() -> Architecture:
    from comfy.ldm.omnigen.omnigen2 import OmniGen2Transformer2DModel as OmniGen2

    c = {"image_model": "omnigen2", "axes_dim_rope": [40, 40, 40], "axes_lens": [64, 64, 64], "ffn_dim_multiplier": None,
         "hidden_size": 120, "in_channels": 16, "multiple_of": 64, "norm_eps": 1e-5,
         "num_attention_heads": 1, "num_kv_heads": 1, "num_layers": 1, "num_refiner_layers": 1,
         "out_channels": None, "patch_size": 2, "text_feat_dim": 64, "timestep_scale": 1000.0}
    return Architecture(supported.Omnigen2, lambda: OmniGen2(**KW, **c), c, (16, 8, 8), 64, masked=True)


def krea2() -> Architecture:
    from comfy.ldm.krea2.model import SingleStreamDiT

    c = {"image_model": "krea2", "features": 128, "channels": 16, "patch": 2, "layers": 4, "heads": 1, "kvheads": 1, "txtlayers": 2,
         "txtdim": 64, "txtheads": 2, "txtkvheads": 2}
    return Architecture(supported.Krea2, lambda: SingleStreamDiT(**KW, **c), c, (16, 1, 8, 8), 128)


def auraflow() -> Architecture:
    from comfy.ldm.aura.mmdit import MMDiT

    c = {"in_channels": 4, "out_channels": 4, "patch_size": 2, "dim": 128, "n_layers": 2, "n_double_layers": 1, "n_heads": 1,
         "global_conddim": 128, "cond_seq_dim": 64, "max_seq": 64}
    return Architecture(supported.AuraFlow, lambda: MMDiT(**KW, **c), c, (4, 8, 8), 64)


def cosmos_predict2() -> Architecture:
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    c = {"image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 8, "in_channels": 16, "out_channels": 16,
         "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "concat_padding_mask": True, "crossattn_emb_channels": 64,
         "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "pos_emb_interpolation": "crop", "min_fps": 1, "max_fps": 30,
         "use_adaln_lora": True, "adaln_lora_dim": 16, "num_blocks": 2, "num_heads": 1, "extra_per_block_abs_pos_emb": False}
    return Architecture(supported.CosmosT2IPredict2, lambda: MiniTrainDIT(**KW, **c), c, (16, 1, 8, 8), 64)


ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "flux": flux, "chroma": chroma, "sd3": sd3, "wan": wan, "hunyuan_video": hunyuan_video, "qwen_image": qwen_image,
    "z_image": z_image, "sdxl": sdxl, "sd15": sd15, "flux2": flux2, "chroma_radiance": chroma_radiance, "wan22_5b": wan22_5b,
    "hunyuan_video_15": hunyuan_video_15, "hunyuan_image": hunyuan_image, "lumina2": lumina2, "omnigen2": omnigen2, "krea2": krea2,
    "auraflow": auraflow,
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
    return patcher_of(arch), arch


def patcher_of(arch: Architecture) -> comfy.model_patcher.ModelPatcher:
    weights = random_weights(arch.network())
    model_config = arch.config_class(dict(arch.config))
    for key in model_config.unet_extra_config:
        model_config.unet_config[key] = arch.config.get(key, model_config.unet_config[key])
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model(weights, "")
    model.load_model_weights(dict(weights), "")
    return comfy.model_patcher.CoreModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=comfy.model_management.unet_offload_device())
