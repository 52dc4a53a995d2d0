"""Train the 16-channel tiny autoencoder (ComfyUI's TAESD architecture) on drawn scenes."""
from __future__ import annotations

import math
import random
from pathlib import Path

import comfy.taesd.taesd as taesd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import Trainer, generator
from .scenes import ALL_SCENES, LOOSE, draw
from .subject import SUBJECT_STYLES, draw_subject

CROP = 64
# Flux's latent format is (z - 0.1159) * 0.3611; with these the autoencoder's own unit-variance latents reach the model unchanged.
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159


def new_autoencoder(seed: int = 1) -> taesd.TAESD:
    model = taesd.TAESD(latent_channels=16)
    gen = generator(seed)
    for name, p in model.named_parameters():
        if p.ndim == 4:
            # Blocks end at a third of the usual gain: eleven residual blocks without normalisation would otherwise explode.
            gain = 0.2 if ".conv.4." in name else 1.0
            nn.init.normal_(p, std=gain * math.sqrt(2 / p[0].numel()), generator=gen)
        elif p.ndim == 1:
            nn.init.zeros_(p)
    with torch.no_grad():
        model.vae_scale.fill_(FLUX_SCALE)
        model.vae_shift.fill_(FLUX_SHIFT)
    model.vae_scale.requires_grad_(False)
    model.vae_shift.requires_grad_(False)
    return model


def random_picture(rng: random.Random) -> Tensor:
    """(3, SIZE, SIZE) in 0..1: mostly scenes, some pictures of the demo subject so that its colours survive the latent."""
    if rng.random() < 0.15:
        image, _ = draw_subject(rng.choice(SUBJECT_STYLES), rng)
    else:
        image, _ = draw(rng.choice(ALL_SCENES), rng, LOOSE)
    return torch.from_numpy(image).permute(2, 0, 1)


def loss_of_batch(model: taesd.TAESD, image_BCHW: Tensor, gen: torch.Generator) -> Tensor:
    with torch.autocast(image_BCHW.device.type, torch.bfloat16):  # twice as fast on a CPU with AVX-512 BF16
        latent = model.taesd_encoder(image_BCHW).float()
        noisy = latent + 0.05 * torch.randn(latent.shape, generator=gen).to(latent)
        out = model.taesd_decoder(noisy).float()
    per_channel = latent.transpose(0, 1).flatten(1)
    unit = per_channel.mean(1).square().mean() + (per_channel.std(1) - 1).square().mean()
    edges = sum(F.l1_loss(out.diff(dim=d), image_BCHW.diff(dim=d)) for d in (2, 3))
    return F.l1_loss(out, image_BCHW) + 4 * F.mse_loss(out, image_BCHW) + edges + 0.02 * unit


def train_autoencoder(folder: Path, *, steps: int, batch: int = 12, device: str = "cpu") -> taesd.TAESD:
    model = new_autoencoder().to(device, memory_format=torch.channels_last)
    trainer = Trainer("autoencoder", model, folder, steps=steps, lr=1e-3, decay=0.995, weight_decay=0.0)

    def loss_of(step: int) -> Tensor:
        rng, pictures = random.Random(f"autoencoder {step}"), []
        for _ in range(batch):
            y, x = rng.randrange(0, 128 - CROP + 1, 8), rng.randrange(0, 128 - CROP + 1, 8)
            pictures.append(random_picture(rng)[:, y:y + CROP, x:x + CROP])
        images = torch.stack(pictures).to(device).contiguous(memory_format=torch.channels_last)
        return loss_of_batch(model, images, generator(2, step))

    trainer.run(loss_of)
    trainer.use_average()
    return model.eval()
