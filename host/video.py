"""How many frames of a clip the host's VAEs encode."""
from __future__ import annotations

import comfy.sd
from comfy.taesd.taehv import TAEHV


def usable_frames(vae: comfy.sd.VAE, frames: int, name: str = "the clip") -> int:
    """How many of a clip's first frames `vae` makes latents of; pictures and masks must be cut to them.

    VAEs for WAN 2.1 and 2.2, HunyuanVideo and LTX-Video leave the last ones out without a word: of 6 frames WAN takes 5
    (4 k + 1). What they take is what the host decodes again. A single picture is 1 frame.
    Raises ValueError for no frames, and for a clip when the VAE takes single pictures or groups frames unlike its model.
    """
    if frames < 1:
        raise ValueError(f"{name} has {frames} frames; give at least one")
    if frames == 1:
        return 1
    kind = type(vae.first_stage_model).__name__
    if vae.latent_dim != 3 or vae.not_video:
        raise ValueError(f"{name} has {frames} frames and needs a video VAE, and {kind} encodes pictures, not clips; load the model's own "
                         "VAE, or use a data set of pictures")
    if isinstance(vae.first_stage_model, TAEHV):
        # It puts frames 4 k .. 4 k + 3 into a latent frame and repeats the last one, the model's VAE 4 k - 3 .. 4 k.
        raise ValueError(f"{name} cannot be encoded for training with {kind}, a small VAE for previews: it groups frames unlike the "
                         "model's own VAE; load that one")
    return int(vae.upscale_ratio[0](vae.downscale_ratio[0](frames)))
