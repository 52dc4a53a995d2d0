"""Tiny random VAEs for video, built by ComfyUI's own classes, and which frames they look at."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.sd
import torch
from torch import Tensor, nn

from .tiny import random_weights


def tiny_wan_vae() -> comfy.sd.VAE:
    """WAN 2.1's VAE as ComfyUI's loader makes it, with 8 channels where the real one has 96."""
    from comfy.ldm.wan.vae import WanVAE

    return comfy.sd.VAE(sd=random_weights(WanVAE(dim=8, z_dim=16, temperal_downsample=[False, True, True])), dtype=torch.float32)


@dataclass(frozen=True)
class VideoEncoder:
    """encode: (1, 3, T, H, W) to a latent (1, C, T', H', W'). stride: frames to a latent frame after the first. cell: pixels."""

    encode: Callable[[Tensor], Tensor]
    stride: int
    cell: int


def wan() -> VideoEncoder:
    vae = tiny_wan_vae()
    return VideoEncoder(lambda x: vae.encode(x[0].movedim(0, -1) / 2 + 0.5), 4, 8)


def wan22() -> VideoEncoder:
    from comfy.ldm.wan.vae2_2 import WanVAE

    return VideoEncoder(ready(WanVAE(dim=8, dec_dim=8, z_dim=16, temperal_downsample=[False, True, True])).encode, 4, 16)


def hunyuan_autoencoder() -> nn.Module:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 1, 1],
              "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, "conv3d": True, "time_compress": 4}
    return only_convolutions(AutoencoderKL(ddconfig=config, embed_dim=4))


def hunyuan_video15() -> VideoEncoder:
    from comfy.ldm.hunyuan_video.vae_refiner import Encoder

    network = Encoder(in_channels=3, z_channels=4, block_out_channels=[32] * 5, num_res_blocks=1, ffactor_spatial=16, ffactor_temporal=4)
    return VideoEncoder(only_convolutions(network), 4, 16)


def ltx_video() -> VideoEncoder:
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    config = {"dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
              "blocks": [["res_x", 1], *[["compress_all", 1]] * 3, ["res_x", 1]], "encoder_base_channels": 8, "decoder_base_channels": 8}
    return VideoEncoder(ready(VideoVAE(config=config)).encode, 8, 32)


def cogvideox() -> VideoEncoder:
    from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX

    network = AutoencoderKLCogVideoX(block_out_channels=(32, 32, 32, 32), latent_channels=4, layers_per_block=1)
    return VideoEncoder(only_convolutions(network).encode, 4, 8)


def cosmos() -> VideoEncoder:
    from comfy.ldm.cosmos.vae import CausalContinuousVideoTokenizer

    config = {"z_channels": 16, "latent_channels": 16, "z_factor": 1, "resolution": 1024, "in_channels": 3, "out_channels": 3,
              "channels": 8, "channels_mult": [2, 4, 4], "num_res_blocks": 1,
              "attn_resolutions": [32], "dropout": 0.0, "patch_size": 4, "num_groups": 1,
              "temporal_compression": 8, "spacial_compression": 8}
    return VideoEncoder(ready(CausalContinuousVideoTokenizer(**config)).encode, 8, 8)


def mochi() -> VideoEncoder:
    from comfy.ldm.genmo.vae.model import Encoder

    network = Encoder(in_channels=15, base_channels=32, channel_multipliers=[1, 2, 3, 4], num_res_blocks=[1] * 5, latent_dim=12,
                      temporal_reductions=[1, 2, 3], spatial_reductions=[2, 2, 2], prune_bottlenecks=[False] * 5,
                      has_attentions=[False] * 5, affine=True, bias=True, input_is_conv_1x1=True, padding_mode="replicate")
    encoder = only_convolutions(network)
    return VideoEncoder(lambda x: encoder(x).mode(), 6, 8)


VIDEO_ENCODERS: dict[str, Callable[[], VideoEncoder]] = {
    "wan 2.1": wan, "wan 2.2": wan22, "hunyuan video 1.5": hunyuan_video15, "ltx video": ltx_video, "cogvideox": cogvideox,
    "cosmos": cosmos, "mochi": mochi,
}


def ready(network: nn.Module) -> nn.Module:
    network.load_state_dict(random_weights(network))
    return network.eval()


def only_convolutions(network: nn.Module) -> nn.Module:
    """Without group norms and the attention in the middle, which mix all frames whatever the compression."""
    network = ready(network)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm) or type(child).__name__ == "GroupNormSpatial" or name == "attn_1":
                setattr(module, name, nn.Identity())
    return network


def frames_read(encode: Callable[[Tensor], Tensor], frames: int, side: int) -> list[list[int]]:
    """For each latent frame the frames of the clip that change it."""
    clip = torch.rand(1, 3, frames, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        latent = encode(clip)
        read: list[list[int]] = [[] for _ in range(latent.shape[2])]
        for t in range(frames):
            changed = clip.clone()
            changed[:, :, t] *= -1
            for k, difference in enumerate((encode(changed) - latent).abs().amax((0, 1, 3, 4))):
                if difference > 1e-6:
                    read[k].append(t)
    return read
