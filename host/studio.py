"""Samples many single pictures under the same settings, one by one, for nodes that compare them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lora_padding import trained_padding
from .progress import Progress
from .sampling import Sampling, decode_first, sample_latent
from .text import Conditioning, encode_text
from .text_padding import TextPadding

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Settings:
    """`guidance`: that of guidance-distilled models such as Flux, as core's FluxGuidance sets it; others do not look at it."""

    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    sampling: Sampling
    negative: str = ""
    guidance: float = 3.5


@dataclass(slots=True, eq=False)
class Studio:
    """Texts are encoded before the first picture and pictures decoded after the last, so that big models take turns only twice.

    Latents are kept meanwhile, which are small. Raises ComfyUI's InterruptProcessingException after Cancel, between any two steps.
    """

    settings: Settings
    progress: Progress
    total: int
    latents: list[Tensor] = field(default_factory=list)

    def encode(self, text: str, padding: TextPadding, clip: comfy.sd.CLIP | None = None) -> Conditioning:
        """By the settings' text encoder, or another `clip`."""
        self.progress.update(0, 1, "encoding the prompts")
        encoded = encode_text(clip or self.settings.clip, text, padding)
        return [[cond, {**extra, "guidance": self.settings.guidance}] for cond, extra in encoded]

    def sample(self, patcher: ModelPatcher, positive: Conditioning, negative: Conditioning, seed: int) -> None:
        done, steps = len(self.latents), self.settings.sampling.steps

        def watched(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            self.progress.update(done * steps + step + 1, self.total * steps,
                                 f"picture {done + 1} of {self.total}: step {step + 1} of {total}")

        self.latents.append(sample_latent(patcher, self.settings.sampling, seed, positive, negative, watched))

    def pictures(self) -> Tensor:
        """All sampled so far, (B, H, W, C), in order."""
        steps, decoded = self.settings.sampling.steps, []
        for number, latent in enumerate(self.latents):
            self.progress.update(self.total * steps, self.total * steps, f"decoding picture {number + 1} of {self.total}")
            decoded.append(decode_first(self.settings.vae, latent).float().cpu())
        return torch.stack(decoded)


def chosen_padding(lora: Mapping[str, Tensor], patcher: ModelPatcher, padding: TextPadding | None) -> tuple[TextPadding, str]:
    """The padding that is connected, else that of the LoRA, and words for the report."""
    trained = trained_padding(lora, type(patcher.model).__name__)
    if padding is None or padding == trained.padding:
        return trained.padding, trained.sentence
    return padding, f"{padding.describe()}, as connected (the LoRA: {trained.sentence})"


def seeds_of(first: int, count: int) -> Sequence[int]:
    return range(first, first + count)
