"""GroundingDINO and MM-GroundingDINO. Shapes: H, W pixels, C = 3 colours, Q candidate boxes, T text tokens."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .boxes import Box
from .detector import ReadFile, inside
from .folder import load_processor
from .pretrained import all_loaded, transformers_class

MODELS = {"grounding-dino": ("GroundingDinoForObjectDetection", "4.40"), "mm-grounding-dino": ("MMGroundingDinoForObjectDetection", "4.55")}
SAME_BOX = 0.8  # intersection over union, as Grounded-SAM's demo drops doubles
Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class GroundingDino:
    module: nn.Module
    processor: Any
    name: str

    @torch.no_grad()
    def find(self, picture_HWC: Tensor, phrases: Sequence[str], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
        weight = next(self.module.parameters())
        picture_HWC, (seen_height, seen_width) = at_least_a_strip(picture_HWC), picture_HWC.shape[:2]
        height, width = picture_HWC.shape[:2]
        # uint8, channels named: floats would be divided by 255 twice, and a picture of few pixels would be read sideways.
        picture = self.processor.image_processor(
            images=picture_HWC.permute(2, 0, 1), input_data_format="channels_first", return_tensors="pt")
        pixels, real = picture["pixel_values"].to(weight), picture["pixel_mask"].to(weight.device)
        boxes: list[Box] = []
        for asked, ids, spans in self._texts(phrases):
            tokens = torch.tensor([ids], device=weight.device)
            found = self.module(pixel_values=pixels, pixel_mask=real, input_ids=tokens, attention_mask=torch.ones_like(tokens),
                                token_type_ids=torch.zeros_like(tokens))
            for query, index, score in match(found.logits[0].float().cpu(), spans, threshold, text_threshold):
                x, y, w, h = found.pred_boxes[0, query].tolist()
                box = Box((x - w / 2) * width, (y - h / 2) * height, w * width, h * height, asked[index], score)
                if clipped := inside(box, seen_height, seen_width):
                    boxes.append(clipped)
        return without_doubles(boxes)

    def _texts(self, phrases: Sequence[str]) -> list[tuple[list[str], list[int], list[Span]]]:
        """Phrases in as many texts as the model's text length asks for: the phrases, token ids, and each phrase's span of tokens.

        A text is "[CLS] a person . hair . [SEP]", as the model was trained. Phrases of nothing but unknown signs are left out.
        """
        tokenizer = self.processor.tokenizer
        start, end, dot, unknown = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "[UNK]"])
        config: Any = self.module.config
        room = min(config.max_text_len, config.text_config.max_position_embeddings)
        texts: list[tuple[list[str], list[int], list[Span]]] = []
        for phrase in dict.fromkeys(phrases):
            tokens = tokenizer(plain(phrase), add_special_tokens=False)["input_ids"][:room - 3]
            if all(token == unknown for token in tokens):
                continue
            if not texts or len(texts[-1][1]) + len(tokens) + 2 > room:
                texts.append(([], [start], []))
            asked, ids, spans = texts[-1]
            asked.append(phrase)
            spans.append((len(ids), len(ids) + len(tokens)))
            ids += [*tokens, dot]
        for _, ids, _ in texts:
            ids.append(end)
        return texts


def load_grounding(path: Path, kind: str) -> GroundingDino:
    """In float32 always: boxes come as shares of the picture, which float16 rounds to half a pixel at 1024 pixels and 2 at 4096."""
    model = all_loaded(transformers_class(*MODELS[kind]), path, torch.float32)
    processor = load_processor(transformers_class("GroundingDinoProcessor", "4.40"), path)
    return GroundingDino(model, processor, f"{kind} {path.name}")


def load_grounding_file(file: Path, read_file: ReadFile) -> GroundingDino:
    from .grounding_file import load_file

    return GroundingDino(*load_file(file, read_file), f"grounding-dino {file.stem}")


def at_least_a_strip(picture_HWC: Tensor) -> Tensor:
    """The picture with black added to the right or below where one side is less than 1/32 of the other: resized, it would vanish."""
    height, width = picture_HWC.shape[:2]
    least = -(-max(height, width) // 32)
    return nn.functional.pad(picture_HWC, (0, 0, 0, max(least - width, 0), 0, max(least - height, 0)))


def plain(phrase: str) -> str:
    """A phrase without the signs that end one ("." and "?") and without brackets, which could spell a special token."""
    return " ".join(re.sub(r"[.?\[\]]", " ", phrase.lower()).split())


def match(logits_QT: Tensor, spans: Sequence[Span], threshold: float, text_threshold: float) -> list[tuple[int, int, float]]:
    """Candidate, phrase and score of what was found.

    A candidate belongs to the one phrase with the surest token: a box of a person in which a face is seen too is no face. It counts
    if that token's probability, its score, is above `threshold`, as in the reference, and above `text_threshold`, by which the
    reference picks the tokens of a label: the label would be empty. Other tokens of a phrase are not asked: in a long one most of
    them are hardly sure. Tokens outside of all phrases do not count.
    """
    if not spans:
        return []
    shares_QT = logits_QT.sigmoid()
    best_QP = torch.stack([shares_QT[:, first:end].amax(1) for first, end in spans], 1)
    score_Q, phrase_Q = best_QP.max(1)
    sure_Q = score_Q > max(threshold, text_threshold)
    return [(query, int(phrase_Q[query]), float(score_Q[query])) for query in torch.nonzero(sure_Q)[:, 0].tolist()]


def without_doubles(boxes: Sequence[Box]) -> list[Box]:
    """The surest first; of boxes of one label that lie almost on one another only the surest."""
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda one: -one.score):
        if all(box.label != other.label or overlap(box, other) <= SAME_BOX for other in kept):
            kept.append(box)
    return kept


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    left, top, right, bottom = one.corners
    left2, top2, right2, bottom2 = other.corners
    shared = max(min(right, right2) - max(left, left2), 0.0) * max(min(bottom, bottom2) - max(top, top2), 0.0)
    whole = one.width * one.height + other.width * other.height - shared
    return shared / whole if whole else 0.0
