"""SAM 3: points and boxes by its tracker, words by its detector.

Shapes: H height, W width in pixels, C = 3 colours, Q the detector's queries, h, w of its masks.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .sam import PointSam, preprocess
from .sam_prompt import Prompt

SURE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Sam3:
    """network: all weights. points: the tracker. detector: Sam3Model of transformers; tokenizer: its CLIPTokenizer. Either half may be
    missing; where both are there they share one image encoder."""

    name: str
    network: Any
    image_processor: Any
    points: PointSam | None = None
    detector: Any = None
    tokenizer: Any = None

    @property
    def reads_text(self) -> bool:
        return self.detector is not None

    @property
    def module(self) -> nn.Module:
        """All weights."""
        module: nn.Module = self.network
        return module

    def masks(self, picture_HWC: Tensor, prompts: Sequence[Prompt]) -> list[Tensor]:
        """See sam_prompt.Sam."""
        if not prompts:
            return []
        if self.points is None:
            raise ValueError(f"{self.name} holds SAM 3's detector alone, which takes words; for points and boxes use the whole SAM 3")
        return self.points.masks(picture_HWC, prompts)

    def from_text(self, picture_HWC: Tensor, phrase: str) -> list[Tensor]:
        """See sam_prompt.Sam."""
        [masks] = self.from_texts(picture_HWC, [phrase])
        return masks

    @torch.no_grad()
    def from_texts(self, picture_HWC: Tensor, phrases: Sequence[str], most: int | None = None, cut: bool = False
                   ) -> Iterator[list[Tensor]]:
        """See sam_prompt.Sam."""
        if self.detector is None:
            raise ValueError(f"{self.name} holds SAM 3's tracker alone, which reads no text; use the whole SAM 3")
        parameter = next(self.detector.parameters())
        asked = [self._words(phrase, cut, parameter.device) for phrase in phrases]
        pixels = preprocess(self.image_processor, picture_HWC)["pixel_values"].to(parameter.device, parameter.dtype)
        seen = self.detector.get_vision_features(pixels)
        for words in asked:
            yield _instances(self.detector(vision_embeds=seen, **words), picture_HWC.shape[:2], most)

    def _words(self, phrase: str, cut: bool, device: torch.device) -> dict[str, Tensor]:
        most = self.detector.config.text_config.max_position_embeddings
        words = self.tokenizer(phrase, padding="max_length", max_length=most, truncation=cut, return_tensors="pt")
        if words["input_ids"].shape[1] > most:
            raise ValueError(f"{phrase!r} is {words['input_ids'].shape[1]} tokens long, SAM 3 reads {most}; name one thing in few words")
        return {name: words[name].to(device) for name in ("input_ids", "attention_mask")}


def embed_for_tracker(tracker: Any, pixels: Tensor) -> list[Tensor]:
    """What the tracker's mask decoder reads of a picture, finest first.

    Its own get_image_embeddings (transformers 5.23) adds "no memory" to a fourth level that it then drops; Meta's code and the video
    model add it to the third.
    """
    fine, middle, coarse = tracker.vision_encoder(pixels).fpn_hidden_states[:3]
    decoder = tracker.mask_decoder
    return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + tracker.no_memory_embedding.reshape(1, -1, 1, 1)]


def _instances(answer: Any, size_HW: Sequence[int], most: int | None) -> list[Tensor]:
    """Soft masks (H, W) of at most `most` things, the surest first. The threshold is that of ComfyUI's SAM3 Detect."""
    sure_Q = answer.pred_logits[0].float().sigmoid() * answer.presence_logits[0].float().sigmoid()
    found = [int(query) for query in sure_Q.argsort(descending=True) if sure_Q[query] > SURE]
    return [_enlarge(answer.pred_masks[0, query], size_HW) for query in found[:most]]


def _enlarge(logits_hw: Tensor, size_HW: Sequence[int]) -> Tensor:
    # The sigmoid comes first, as in the reference's post-processing.
    share_11hw = logits_hw.float().sigmoid()[None, None]
    return nn.functional.interpolate(share_11hw, tuple(size_HW), mode="bilinear", align_corners=False)[0, 0].cpu()
