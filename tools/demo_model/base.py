"""Train the pico Flux as a rectified flow on drawn scenes, from the embeddings that its users will get."""
from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.ldm.flux.model
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .common import CONFIG, Trainer, batches, generator, logger
from .scenes import LOOSE, TIGHT, Scene, Spread, draw, split_scenes

GUIDANCE = 3.5
SHORT_TEXT = 20  # tokens kept in the first phase: the longest caption and a little padding
DROP_CAPTION = 0.1


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training: `stop` of a schedule of `steps`, on scenes of one spread.

    `shift` moves the logit-normal noise levels towards noise, where outlines are decided; `subject_weight` is what the loss
    on and around the subject counts for more than the background.
    """

    name: str
    seed: int
    spread: Spread
    steps: int
    stop: int
    batch: int
    text_length: int
    lr: float
    final_lr: float
    shift: float
    subject_weight: float


PHASES = (
    Phase("flux_short", 10, LOOSE, 5000, 2500, 48, SHORT_TEXT, 1.2e-3, 0.15, 1.0, 0.0),
    Phase("flux_kinds", 11, TIGHT, 2400, 1750, 48, SHORT_TEXT, 1.2e-3, 0.1, 2.5, 4.0),
    Phase("flux_full", 12, TIGHT, 600, 600, 24, 256, 4.0e-4, 0.02, 2.5, 4.0),
)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Latents in the model's own space (N, 16, 16, 16), the share of each latent cell that lies on or near the subject
    (N, 1, 16, 16), two captions each, and these as embeddings of the demo text encoders."""

    latent_NCHW: Tensor
    subject_N1HW: Tensor
    caption_N: list[tuple[str, str]]
    text_TD: dict[str, Tensor]
    pooled_D: dict[str, Tensor]


def new_flux(seed: int = 6) -> nn.Module:
    """ComfyUI's Flux with modulation and output starting at zero, so that every block begins as the identity."""
    model = comfy.ldm.flux.model.Flux(**CONFIG["flux"], dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    gen = generator(seed)
    for name, p in model.named_parameters():
        if name.endswith(".scale") or "norm" in name:
            nn.init.ones_(p)
        elif p.ndim < 2 or ("mod" in name and "lin" in name) or "adaLN" in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(p)
        else:
            nn.init.normal_(p, std=0.02 if "time_in" in name or "vector_in" in name else p.shape[1] ** -0.5, generator=gen)
    return model


def prepare_pictures(folder: Path, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, count: int, spread: Spread, seed: int = 8) -> Pictures:
    """Draw and encode `count` training scenes once; later runs read them back from `folder`."""
    trainable, _ = split_scenes()
    rng = random.Random(seed)
    scenes: list[Scene] = [rng.choice(trainable) for _ in range(count)]
    file = folder / f"pictures_{count}_{spread.radius[0]}.safetensors"
    if not file.exists():
        latents, subjects = [], []
        for part in batches(count, 64):
            drawn = [draw(scenes[i], random.Random(f"{seed} {i}"), spread) for i in part]
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(vae.encode(torch.stack([torch.from_numpy(image) for image, _ in drawn])).float())
            masks = torch.stack([torch.from_numpy(mask) for _, mask in drawn])[:, None]
            subjects.append(F.max_pool2d(F.avg_pool2d(masks, 8), 3, stride=1, padding=1))
            if part.start % 1024 == 0:
                logger.info("encoded %d of %d pictures", part.stop, count)
        save_file({"latent": ((torch.cat(latents) - 0.1159) * 0.3611).contiguous(), "subject": torch.cat(subjects)}, file)
    captions = [(s.caption(0), s.caption(1)) for s in scenes]
    text, pooled = {}, {}
    for caption in ["", *dict.fromkeys(c for pair in captions for c in pair)]:
        cond = clip.encode_from_tokens(clip.tokenize(caption), return_dict=True)
        text[caption], pooled[caption] = cond["cond"][0].clone(), cond["pooled_output"][0].clone()
    logger.info("%d pictures, %d captions", count, len(text))
    stored = load_file(file)
    return Pictures(stored["latent"], stored["subject"], captions, text, pooled)


def flow_loss(model: nn.Module, pictures: Pictures, phase: Phase, device: str, step: int) -> Tensor:
    rng, gen = random.Random(f"{phase.seed} {step}"), generator(phase.seed, step)
    picks = [rng.randrange(len(pictures.latent_NCHW)) for _ in range(phase.batch)]
    captions = ["" if rng.random() < DROP_CAPTION else pictures.caption_N[i][rng.random() < 0.2] for i in picks]
    latent = pictures.latent_NCHW[picks].to(device)
    noise = torch.randn(latent.shape, generator=gen).to(device)
    level = torch.randn(phase.batch, generator=gen).sigmoid().to(device)
    sigma = phase.shift * level / (1 + (phase.shift - 1) * level)
    text = torch.stack([pictures.text_TD[c][:phase.text_length] for c in captions]).to(device)
    pooled = torch.stack([pictures.pooled_D[c] for c in captions]).to(device)
    noisy = torch.lerp(latent, noise, sigma.view(-1, 1, 1, 1))
    with torch.autocast(latent.device.type, torch.bfloat16):
        flow = model(noisy, sigma, text, pooled, torch.full((phase.batch,), GUIDANCE, device=device))
    weight = 1 + phase.subject_weight * pictures.subject_N1HW[picks].to(device)
    return ((flow.float() - (noise - latent)).square() * weight).mean() / weight.mean()


def train_base(folder: Path, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, count: int, device: str = "cpu") -> nn.Module:
    """Learn to draw with the padding dropped, layout first, then with all 256 text tokens attended, as Flux was released."""
    model = new_flux().to(device)
    for phase in PHASES:
        trainer = Trainer(phase.name, model, folder, steps=phase.steps, lr=phase.lr, final_lr=phase.final_lr, decay=0.998)
        if trainer.step < phase.stop:
            with torch.no_grad():
                pictures = prepare_pictures(folder, clip, vae, count, phase.spread)
            comfy.model_management.in_training = True
            trainer.run(partial(flow_loss, model, pictures, phase, device), stop=phase.stop)
            comfy.model_management.in_training = False
        trainer.use_average()
    return model.eval()
