"""CLIPSeg: soft masks from words alone, coarse and light. White = learn.

Shapes: H, W pixels of the picture; N phrases; h, w the network's own grid of logits.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .batches import in_batches
from .folder import load_processor, model_type
from .phrases import named, words_of
from .pretrained import all_loaded, transformers_class
from .segmenter import Ready, Regions

ADVICE = "take a folder of CLIPSeg (Hugging Face repository CIDAS/clipseg-rd64-refined)"
SINCE = "4.25"
MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True, eq=False)
class ClipSeg:
    module: nn.Module
    processor: Any
    name: str

    def masks(self, picture_HWC: Tensor, phrases: Sequence[str]) -> list[Tensor]:
        """One soft mask (H, W) float32 0..1 on the CPU for each phrase: the logits, stretched to the picture, through a sigmoid."""
        return in_batches(phrases, lambda some: self._masks(picture_HWC, some), MOST_AT_ONCE)

    @torch.no_grad()
    def _masks(self, picture_HWC: Tensor, phrases: Sequence[str]) -> list[Tensor]:
        weight = next(self.module.parameters())
        words = self.processor.tokenizer(list(phrases), padding=True, truncation=True, return_tensors="pt")
        # uint8, channels named: floats would be divided by 255 twice, and a picture of few pixels would be read sideways.
        picture = self.processor.image_processor(
            images=picture_HWC.permute(2, 0, 1), input_data_format="channels_first", return_tensors="pt")
        pixels = picture["pixel_values"].to(weight).expand(len(phrases), -1, -1, -1)
        logits_Nhw = self.module(pixel_values=pixels, input_ids=words["input_ids"].to(weight.device),
                                 attention_mask=words["attention_mask"].to(weight.device)).logits
        logits_Nhw = logits_Nhw.float().cpu().reshape(len(phrases), *logits_Nhw.shape[-2:])
        # One by one and in place: for all phrases at once a large picture would take twice the memory of its masks.
        return [nn.functional.interpolate(logits_hw[None, None], tuple(picture_HWC.shape[:2]), mode="bilinear")[0, 0].sigmoid_()
                for logits_hw in logits_Nhw]


@dataclass(frozen=True, slots=True, eq=False)
class ClipSegWords:
    """A soft mask for each of `words`; regions may overlap. Raises ValueError for no words.

    threshold: a phrase whose mask is below it everywhere was not found: CLIPSeg answers every phrase with some mask. from_caption:
    only the words that the picture's caption has (see `named`).
    """

    model: Ready[ClipSeg]
    model_name: str
    words: tuple[str, ...]
    threshold: float = 0.5
    from_caption: bool = False

    exclusive = False

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("there are no words to search for; write a line such as: face 1.0")

    @property
    def name(self) -> str:
        return self.model_name

    @property
    def reads_captions(self) -> bool:
        return self.from_caption

    def describe(self) -> dict[str, object]:
        return {"kind": "clipseg", "model": self.model_name, "words": list(self.words), "threshold": self.threshold,
                "from_caption": self.from_caption}

    def segment(self, picture_HWC: Tensor, caption: str = "") -> Regions:
        asked = named(self.words, caption) if self.from_caption else [word for word in self.words if words_of(word)]
        if not asked:
            return {}
        masks = self.model().masks(picture_HWC, asked)
        return {word: mask_HW for word, mask_HW in zip(asked, masks, strict=True) if mask_HW.max() >= self.threshold}


def load_clipseg(path: Path, dtype: torch.dtype) -> ClipSeg:
    """The model of a folder, on the CPU. Raises ValueError that says what is there instead."""
    kind = model_type(path, ADVICE)
    if kind != "clipseg":
        raise ValueError(f"{path} holds {kind or 'a model of an unnamed kind'}, not CLIPSeg; {ADVICE}")
    model, processor = transformers_class("CLIPSegForImageSegmentation", SINCE), transformers_class("CLIPSegProcessor", SINCE)
    return ClipSeg(all_loaded(model, path, dtype), load_processor(processor, path), f"clipseg {path.name}")
