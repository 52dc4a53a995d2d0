"""Florence-2, in transformers' own layout and in Microsoft's. Shapes: H height, W width in pixels, C = 3 colours."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .batches import in_batches
from .boxes import Box
from .detector import ReadFile, inside
from .folder import load_processor
from .phrases import words_of
from .pretrained import all_loaded, read_config, transformers_class

FLORENCE = "florence2"
SINCE = "4.56"
DETECT, GROUND = "<OPEN_VOCABULARY_DETECTION>", "<CAPTION_TO_PHRASE_GROUNDING>"
MOST_AT_ONCE = 8
LONGEST_ANSWER = 1024  # tokens, as in Microsoft's examples
TASK_WORDS = 48  # tokens for a task's own words, also with a tokenizer that spells them


@dataclass(frozen=True, slots=True, eq=False)
class Florence:
    """It gives no scores: every box has 1, and thresholds do not count. It often finds something, also where there is nothing."""

    module: nn.Module
    processor: Any
    name: str

    def find(self, picture_HWC: Tensor, phrases: Sequence[str], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
        asked = [phrase for phrase in dict.fromkeys(phrases) if words_of(phrase)]
        answers = in_batches(asked, lambda some: self._answers(picture_HWC, DETECT, some), MOST_AT_ONCE)
        return [box for phrase, answer in zip(asked, answers, strict=True) for box in self._boxes(answer, DETECT, picture_HWC, phrase)]

    def ground(self, picture_HWC: Tensor, caption: str) -> list[Box]:
        """Boxes of what the caption names; a label that does not stand in the caption is the model's slip and left out."""
        words = words_of(caption)
        if not words:
            return []
        boxes = self._boxes(self._answers(picture_HWC, GROUND, [caption])[0], GROUND, picture_HWC)
        return [box for box in boxes if _stands_in(words_of(box.label), words)]

    def _answers(self, picture_HWC: Tensor, task: str, texts: Sequence[str]) -> list[str]:
        """What the model says to each text, with its location tokens."""
        # uint8, channels named: floats would be divided by 255 twice, and a picture of few pixels would be read sideways.
        inputs = self.processor(
            text=[task + self._short(text) for text in texts], images=[picture_HWC.permute(2, 0, 1)] * len(texts), padding=True,
            input_data_format="channels_first", return_tensors="pt").to(next(self.module.parameters()).device)
        inputs["pixel_values"] = inputs["pixel_values"].to(next(self.module.parameters()).dtype)
        longest = min(LONGEST_ANSWER, self._positions) - 1
        tokens: Tensor = self.module.generate(**inputs, max_new_tokens=longest, num_beams=3, do_sample=False)  # type: ignore[operator]
        return list(self.processor.batch_decode(tokens, skip_special_tokens=False))

    def _short(self, text: str) -> str:
        """As much of a text as the model reads; without brackets, which could spell a task or a location."""
        tokenizer = self.processor.tokenizer
        room = self._positions - self.processor.image_processor.image_seq_length - TASK_WORDS
        tokens = tokenizer(" ".join(text.replace("<", " ").replace(">", " ").split()), add_special_tokens=False)["input_ids"]
        return str(tokenizer.decode(tokens[:room])) if len(tokens) > room else tokenizer.decode(tokens)

    @property
    def _positions(self) -> int:
        return int(self.module.config.text_config.max_position_embeddings)  # type: ignore[union-attr, arg-type]

    def _boxes(self, answer: str, task: str, picture_HWC: Tensor, label: str = "") -> list[Box]:
        height, width = picture_HWC.shape[:2]
        found = self.processor.post_process_generation(answer, task=task, image_size=(width, height))[task]
        corners = list(zip(found["bboxes"], found.get("bboxes_labels", found.get("labels", ())), strict=True))
        for pieces, text in zip(found.get("polygons", ()), found.get("polygons_labels", ()), strict=True):
            points = [value for piece in pieces for value in piece]
            if points:
                corners.append(([min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])], text))
        boxes = [inside(Box(left, top, right - left, bottom - top, label or text), height, width)
                 for (left, top, right, bottom), text in corners if not is_junk(text)]
        return [box for box in boxes if box]


def is_junk(label: str) -> bool:
    """Whether a label is a piece of a location, as the model writes when it loses its thread."""
    return "loc_" in label or "<" in label or ">" in label


def _stands_in(words: list[str], text: list[str]) -> bool:
    return bool(words) and any(text[start:start + len(words)] == words for start in range(len(text) - len(words) + 1))


def load_florence(path: Path, dtype: torch.dtype, read_file: ReadFile) -> Florence:
    from .florence_layout import is_microsofts, load_microsofts

    name = f"{FLORENCE} {path.name}"
    if is_microsofts(read_config(path)):
        return Florence(*load_microsofts(path, dtype, read_file), name)
    model, processor = transformers_class("Florence2ForConditionalGeneration", SINCE), transformers_class("Florence2Processor", SINCE)
    return Florence(all_loaded(model, path, dtype), load_processor(processor, path), name)
