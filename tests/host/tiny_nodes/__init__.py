"""A ComfyUI pack of the tests: text encoders of SDXL and WAN, random and thin, as core's loaders give them, and a mask plan.

Core's loaders make them from fixed configurations of hundreds of millions of weights and more, whatever a file has.
"""
from __future__ import annotations

import io
import math
import sys
from types import SimpleNamespace
from typing import Any

import comfy.sd
import torch

WORDS = ("a pibo stands still", "a pibo walks to the right along a beach", "static, blurry, low quality", "the quick brown fox jumps over")
CLIP_LAYERS = {"num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 2}
T5_LAYERS = {"num_layers": 1, "d_ff": 16, "d_kv": 8, "num_heads": 2, "vocab_size": 64}


def sdxl() -> comfy.sd.CLIP:
    from comfy import sdxl_clip

    target = SimpleNamespace(params={}, clip=sdxl_clip.SDXLClipModel, tokenizer=sdxl_clip.SDXLTokenizer)
    options = {"clip_l_model_config": CLIP_LAYERS, "clip_g_model_config": CLIP_LAYERS, "dtype": torch.float32}
    return comfy.sd.CLIP(target, model_options=options)


def wan() -> comfy.sd.CLIP:
    """With a vocabulary of its own, learned from a few captions."""
    import sentencepiece
    from comfy.text_encoders import wan

    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(WORDS * 20), model_writer=vocabulary, vocab_size=40, pad_id=0, eos_id=1,
                                             unk_id=2, bos_id=-1, minloglevel=2)
    target = SimpleNamespace(params={}, clip=wan.te(), tokenizer=wan.WanT5Tokenizer)
    pieces = torch.frombuffer(bytearray(vocabulary.getvalue()), dtype=torch.uint8).clone()
    return comfy.sd.CLIP(target, tokenizer_data={"spiece_model": pieces},
                         model_options={"umt5xxl_model_config": T5_LAYERS, "dtype": torch.float32})


def randomize(clip: comfy.sd.CLIP) -> comfy.sd.CLIP:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in clip.cond_stage_model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1 / math.sqrt(parameter.shape[-1]), generator=generator)
        elif "logit_scale" not in name:
            parameter.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
    return clip


class TinyTextEncoder:
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": (["sdxl", "wan"],)}}

    def make(self, kind: str) -> tuple[comfy.sd.CLIP]:
        return (randomize({"sdxl": sdxl, "wan": wan}[kind]()),)


class Brightness:
    """A segmenter: "bright" is how bright a pixel is, absent from dark pictures."""

    name, exclusive = "brightness", False

    def describe(self) -> dict[str, object]:
        return {"name": self.name}

    def segment(self, picture_HWC: torch.Tensor, caption: str = "") -> dict[str, torch.Tensor]:
        bright_HW = picture_HWC.float().mean(-1) / 255
        return {"bright": bright_HW} if bright_HW.max() > 0.25 else {}


class TinyMaskPlan:
    RETURN_TYPES = ("MASKED_LORA_MASK_PLAN",)
    FUNCTION = "make"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"weight": ("FLOAT", {"default": 1.0})}}

    def make(self, weight: float) -> tuple[object]:
        pack = next(module for name, module in sys.modules.items() if name.endswith(".nodes.plan_inputs"))
        return (pack.joined(Brightness(), {"bright": weight}, None, "max", None),)


NODE_CLASS_MAPPINGS = {"TinyTextEncoder": TinyTextEncoder, "TinyMaskPlan": TinyMaskPlan}
