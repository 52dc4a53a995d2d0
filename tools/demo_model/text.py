"""Train the small T5 and CLIP-L to tell captions apart; Flux then learns to draw from their frozen embeddings.

T5 must tell every property of a scene from its real tokens and, as large T5s do, also from what it writes into the
padding. CLIP only has to tell the background, so that what a picture shows reaches Flux through T5.
"""
from __future__ import annotations

import json
import random
from pathlib import Path

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import comfy.text_encoders.flux
import comfy.text_encoders.t5
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CONFIG, Trainer, generator
from .scenes import ALL_SCENES, BACKGROUND_COLOURS, KINDS, PATTERNS, POSITIONS, SUBJECT_COLOURS, Scene

PROPERTIES: dict[str, tuple[str, ...]] = {
    "colour": tuple(SUBJECT_COLOURS), "kind": KINDS, "position": tuple(POSITIONS),
    "pattern": PATTERNS, "background": tuple(BACKGROUND_COLOURS),
}
TEXT_ENCODERS = Path(comfy.text_encoders.t5.__file__).parent


def initialise(module: nn.Module, seed: int) -> nn.Module:
    gen = generator(seed)
    for name, p in module.named_parameters():
        if "norm" in name:
            nn.init.constant_(p, 0.0 if name.endswith("bias") else 1.0)
        elif p.ndim < 2:
            nn.init.zeros_(p)
        elif "shared" in name or "token_embedding" in name:
            nn.init.normal_(p, std=1.0, generator=gen)
        elif "position" in name or "relative" in name:
            nn.init.normal_(p, std=0.3, generator=gen)
        else:
            nn.init.normal_(p, std=p.shape[1] ** -0.5, generator=gen)
    return module


def new_t5() -> nn.Module:
    config = json.loads((TEXT_ENCODERS / "t5_config_xxl.json").read_text()) | CONFIG["t5xxl"]
    return initialise(comfy.text_encoders.t5.T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init), 3)


def new_clip_l() -> nn.Module:
    config = json.loads((TEXT_ENCODERS.parent / "sd1_clip_config.json").read_text()) | CONFIG["clip_l"]
    return initialise(comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init), 4)


class T5Task(nn.Module):
    """Mean cross entropy of every scene property, told from the real tokens and from the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.width = new_t5(), CONFIG["t5xxl"]["d_model"]
        self.heads = nn.ModuleDict({k: nn.Linear(self.width, len(v)) for k, v in PROPERTIES.items()})

    def loss(self, ids_BT: Tensor, labels: dict[str, Tensor]) -> Tensor:
        out_BTD, *_ = self.encoder(ids_BT, None)
        real_BT1 = (ids_BT != 0).float()[..., None]
        means = [(out_BTD * w).sum(1) / w.sum(1) for w in (real_BT1, 1 - real_BT1)]
        return torch.stack([F.cross_entropy(self.heads[k](mean), v) for mean in means for k, v in labels.items()]).mean()


class ClipTask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = new_clip_l()
        self.heads = nn.ModuleDict({k: nn.Linear(CONFIG["clip_l"]["hidden_size"], len(PROPERTIES[k])) for k in ("pattern", "background")})

    def loss(self, ids_BT: Tensor, labels: dict[str, Tensor]) -> Tensor:
        pooled_BD = self.encoder(ids_BT)[3]
        return torch.stack([F.cross_entropy(head(pooled_BD), labels[k]) for k, head in self.heads.items()]).mean()


def train_text_encoders(folder: Path, *, steps: int, batch: int = 48, device: str = "cpu") -> tuple[nn.Module, nn.Module]:
    tokenizer = comfy.text_encoders.flux.FluxTokenizer()
    trained = []
    for name, task, key in (("t5", T5Task(), "t5xxl"), ("clip_l", ClipTask(), "l")):
        task = initialise_heads(task).to(device)
        ids = {}

        def loss_of(step: int, task=task, key=key, ids=ids) -> Tensor:
            rng = random.Random(f"text {step}")
            scenes = [rng.choice(ALL_SCENES) for _ in range(batch)]
            for caption in (captions := [s.caption(rng.randrange(2)) for s in scenes]):
                if caption not in ids:
                    ids[caption] = torch.tensor([t for t, _ in tokenizer.tokenize_with_weights(caption)[key][0]])
            return task.loss(torch.stack([ids[c] for c in captions]).to(device), labels_of(scenes, device))

        trainer = Trainer(name, task, folder, steps=steps, lr=3e-3, decay=0.99, weight_decay=0.0)
        trainer.run(loss_of)
        trainer.use_average()
        trained.append(task.encoder.eval())
    return trained[0], trained[1]


def initialise_heads(task: nn.Module) -> nn.Module:
    for head in task.heads.values():
        nn.init.normal_(head.weight, std=0.1, generator=generator(5))
        nn.init.zeros_(head.bias)
    return task


def labels_of(scenes: list[Scene], device: str) -> dict[str, Tensor]:
    return {k: torch.tensor([values.index(getattr(s, k)) for s in scenes], device=device) for k, values in PROPERTIES.items()}
