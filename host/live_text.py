"""A LoRA on CLIP-L and CLIP-G beside that on the diffusion model: captions are then encoded anew in every step, with gradients."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn

from ..dataset.cache import CachedExample
from ..trainer.adapter import LoraAdapter
from ..trainer.config import LoraSpec, choice
from .denoiser import ComfyDenoiser
from .frozen import frozen_layers
from .training import copy_input, resident, thaw
from .warm_start import warm_start_text

logger = logging.getLogger(__name__)
INJECTION_KEY = "masked_lora_text_training"
SAME = 1e-2  # of the embeddings' largest value: what another precision or device may change


class Encoders(str, Enum):
    BOTH = "CLIP-L and CLIP-G"
    CLIP_L = "CLIP-L"
    CLIP_G = "CLIP-G"


LAYERS = r"clip_[{}]\.transformer\.text_model\.encoder\.layers\..*"
TARGETS = {Encoders.BOTH: LAYERS.format("lg"), Encoders.CLIP_L: LAYERS.format("l"), Encoders.CLIP_G: LAYERS.format("g")}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextEncoderSpec:
    """`rate`: the text encoders' learning rate as a multiple of the diffusion model's."""

    clip: comfy.sd.CLIP
    rank: int = 16
    alpha: float = 16.0
    rate: float = 0.5
    encoders: Encoders = Encoders.BOTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoders", choice(Encoders, "text encoders to train", self.encoders))
        if not 0 < self.rate <= 100:
            raise ValueError(f"the text encoders' learning rate is {self.rate} times the model's; use a number above 0, such as 0.5")

    def lora(self) -> LoraSpec:
        return LoraSpec(rank=self.rank, alpha=self.alpha, targets=TARGETS[self.encoders])

    def describe(self) -> str:
        return f"LoRA rank {self.rank} alpha {self.alpha:g} on {self.encoders.value}, {self.rate:g} times the learning rate"


class LiveText:
    """The borrowed text encoders with their adapter. `model`: the trained model's patcher, which has to stay loaded beside them with
    `memory_required` bytes free for its forward pass.
    """

    def __init__(self, clip: comfy.sd.CLIP, adapter: LoraAdapter, spec: TextEncoderSpec, model: ModelPatcher, memory_required: float
                 ) -> None:
        self.clip, self.adapter, self.spec, self.model, self.memory_required = clip, adapter, spec, model, memory_required

    def load(self) -> None:
        """Together with the model: a preview may have put other users of the text encoders, or of the memory, in their place."""
        comfy.model_management.load_models_gpu([self.clip.patcher, self.model], memory_required=self.memory_required)

    def disabled(self) -> AbstractContextManager[None]:
        """Inside, captions are read as if nothing had been learned."""
        return self.adapter.disabled()

    def cond(self, caption: str, cached: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is cached of a caption, with what CLIP adds to it encoded anew; gradients reach the adapter where they are enabled.

        T5 is not trained: beside it CLIP-L gives the pooled vector alone (Flux).
        """
        self.load()
        tokens, network = self.clip.tokenize(caption), self.clip.cond_stage_model
        # As CLIP.encode_from_tokens, which would load the text encoders by themselves and may push the model out.
        network.reset_clip_options()
        if self.clip.layer_idx is not None:
            network.set_clip_options({"layer": self.clip.layer_idx})
        network.set_clip_options({"execution_device": self.clip.patcher.load_device})
        if "t5xxl" in tokens:
            return {**cached, "pooled_output": network.clip_l.encode_token_weights(tokens["l"])[1]}
        cross_attn, pooled = network.encode_token_weights(tokens)[:2]
        return {**cached, "cross_attn": cross_attn, "pooled_output": pooled}

    def check(self, cached: CachedExample) -> None:
        """Raises ValueError where these text encoders are not those that have encoded the training set."""
        with torch.no_grad(), self.disabled():
            fresh = self.cond(cached.caption, cached.cond)
        for name in ("cross_attn", "pooled_output"):
            old = cached.cond.get(name)
            if old is None:
                continue
            new = fresh[name].to(old)
            if new.shape != old.shape or (new - old).abs().max() > SAME * old.abs().max():
                raise ValueError(f"the CLIP of the text encoder LoRA reads the caption of {cached.name} otherwise than the one that has "
                                 "encoded the training set; connect the same CLIP to both")


@contextmanager
def borrow_text_encoder(spec: TextEncoderSpec, patcher: ModelPatcher, denoiser: ComfyDenoiser, seed: int,
                        memory_required: float = 0.0, start: str = "") -> Iterator[LiveText]:
    """Lend the text encoders' own weights with a fresh LoRA on them, and give them back as they were.

    Within `borrow_for_training` of `patcher`, with the same `memory_required`. `start`: a LoRA file to go on from, if it has a text
    encoder part. Raises ValueError for text encoders that are not CLIP, before anything is touched.
    """
    model = next(loaded for loaded in comfy.model_management.loaded_models() if loaded.is_clone(patcher))
    require_trainable(spec.clip)
    clip = spec.clip.clone()
    clip.patcher = resident(clip.patcher)
    clip.cond_stage_model = network = clip.patcher.model  # under dynamic VRAM the twin's
    flags = {name: p.requires_grad for name, p in network.named_parameters()}
    try:
        thaw(network)
        adapter = LoraAdapter(network, spec.lora(), seed)
        if words := warm_start_text(adapter, start):
            logger.info("Masked LoRA: %s", words)
        adapter.detach()
        text = LiveText(clip, adapter, spec, model, memory_required)
        clip.patcher.set_injections(INJECTION_KEY, [PatcherInjection(inject=lambda _: adapter.attach(), eject=lambda _: adapter.detach())])
        text.load()
        for parameter in adapter.parameters:
            parameter.data = parameter.data.to(clip.patcher.load_device)
            parameter.register_hook(lambda grad: grad / denoiser.gradient_scale)
        with ExitStack() as stack:
            stack.callback(adapter.detach)  # as in borrow_for_training
            stack.enter_context(right_gradients(network))
            yield text
    finally:
        clip.patcher.eject_model()
        comfy.model_management.unload_model_and_clones(clip.patcher)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(flags[name])


def require_trainable(clip: comfy.sd.CLIP) -> None:
    tokens: Mapping[str, object] = clip.tokenize("")
    pooled_alone = "t5xxl" in tokens and "l" in tokens and "g" not in tokens
    if not pooled_alone and not set(tokens) <= {"l", "g"}:
        raise ValueError(f"this text encoder reads {', '.join(sorted(tokens))}; a text encoder LoRA is for the CLIP-L and CLIP-G of SD 1.5 "
                         "and SDXL, and for the CLIP-L of Flux")
    if clip.patcher.forced_hooks is not None:
        raise ValueError("this CLIP carries hooks, whose schedule a text encoder LoRA cannot be trained under; connect it before the hooks")


@contextmanager
def right_gradients(network: nn.Module) -> Iterator[None]:
    """CLIP adds to its residual in place, behind the LayerNorm that needs the old value in the backward pass: it gets a copy."""
    with ExitStack() as stack:
        stack.enter_context(frozen_layers(network))
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                stack.callback(module.register_forward_pre_hook(copy_input).remove)
        yield
