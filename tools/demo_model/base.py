"""Train the pico Flux as a rectified flow on drawn scenes, from the embeddings that its users will get."""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import comfy.ldm.flux.model
import comfy.model_management
import comfy.ops
import comfy.sd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .common import CONFIG, Trainer, batches, generator, logger
from .scenes import Scene, draw, split_scenes

GUIDANCE = 3.5
SHORT_TEXT = 20  # tokens kept in the first phase: the longest caption and a little padding
DROP_CAPTION = 0.1


@dataclass(frozen=True, slots=True)
class Pictures:
    """Latents in the model's own space (N, 16, 16, 16) with two captions each, as embeddings of the demo text encoders."""
    latent_NCHW: Tensor
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


def prepare_pictures(folder: Path, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, count: int, seed: int = 8) -> Pictures:
    """Draw and encode `count` training scenes once; later runs read them back from `folder`."""
    trainable, _ = split_scenes()
    rng = random.Random(seed)
    scenes: list[Scene] = [rng.choice(trainable) for _ in range(count)]
    file = folder / f"pictures_{count}.safetensors"
    if not file.exists():
        latents = []
        for part in batches(count, 64):
            images = torch.stack([torch.from_numpy(draw(scenes[i], random.Random(f"{seed} {i}"))[0]) for i in part])
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(vae.encode(images).float())
            if part.start % 1024 == 0:
                logger.info("encoded %d of %d pictures", part.stop, count)
        save_file({"latent": ((torch.cat(latents) - 0.1159) * 0.3611).float().contiguous()}, file)
    captions = [(s.caption(0), s.caption(1)) for s in scenes]
    text, pooled = {}, {}
    for caption in ["", *dict.fromkeys(c for pair in captions for c in pair)]:
        cond = clip.encode_from_tokens(clip.tokenize(caption), return_dict=True)
        text[caption], pooled[caption] = cond["cond"][0].clone(), cond["pooled_output"][0].clone()
    logger.info("%d pictures, %d captions", count, len(text))
    return Pictures(load_file(file)["latent"], captions, text, pooled)


def flow_loss(model: nn.Module, pictures: Pictures, step: int, batch: int, text_length: int, seed: int, device: str) -> Tensor:
    rng, gen = random.Random(f"{seed} {step}"), generator(seed, step)
    picks = [rng.randrange(len(pictures.latent_NCHW)) for _ in range(batch)]
    captions = ["" if rng.random() < DROP_CAPTION else pictures.caption_N[i][rng.random() < 0.2] for i in picks]
    latent = pictures.latent_NCHW[picks].to(device)
    noise = torch.randn(latent.shape, generator=gen).to(device)
    sigma = torch.randn(batch, generator=gen).sigmoid().to(device)
    text = torch.stack([pictures.text_TD[c][:text_length] for c in captions]).to(device)
    pooled = torch.stack([pictures.pooled_D[c] for c in captions]).to(device)
    noisy = torch.lerp(latent, noise, sigma.view(-1, 1, 1, 1))
    with torch.autocast(latent.device.type, torch.bfloat16):
        flow = model(noisy, sigma, text, pooled, torch.full((batch,), GUIDANCE, device=device))
    return (flow.float() - (noise - latent)).square().mean()


def train_base(folder: Path, pictures: Pictures, *, short_steps: int, full_steps: int, device: str = "cpu") -> nn.Module:
    """Learn to draw with the padding dropped, then with all 256 text tokens attended, as Flux was released."""
    comfy.model_management.in_training = True
    model = new_flux().to(device)
    phases = (
        ("flux_short", short_steps, 48, SHORT_TEXT, 1.2e-3, 0.15),
        ("flux_full", full_steps, 32, 256, 2.0e-4, 0.02),
    )
    for seed, (name, steps, batch, length, lr, final_lr) in enumerate(phases, start=10):
        trainer = Trainer(name, model, folder, steps=steps, lr=lr, final_lr=final_lr, decay=0.998)
        trainer.run(lambda step: flow_loss(model, pictures, step, batch, length, seed, device))  # noqa: B023 (runs at once)
        trainer.use_average()
    comfy.model_management.in_training = False
    return model.eval()
