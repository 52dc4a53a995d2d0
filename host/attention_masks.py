"""Where in a picture a diffusion model sees the words of a prompt: its own attention as a mask. White = learn.

Shapes: B batch, H height, W width in pixels, T text tokens, h rows and w columns of picture tokens.
"""
from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..masks.canvas import Pixels
from ..masks.word_map import (
    ALONE,
    BESIDE,
    OTSU,
    SOFT,
    Area,
    heat_picture,
    inside,
    otsu,
    overlap,
    require_others,
    separation,
    stretched,
    word_map,
)
from ..trainer.seeds import generator
from .attention_layout import KNOWN, layout_of
from .attention_watch import AttentionWatch
from .drift import borrow_for_prediction
from .encode import encode_picture
from .examples import model_cond
from .progress import Progress
from .prompt_words import PromptWords, prompt_words
from .prompts import encode_caption
from .text_padding import TextPadding


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """How the model is asked. level: of the noise, 0..1 of the schedule; draws: of noise, averaged; blocks: which attentions between
    picture and words, counted from 0, all if empty.
    """

    level: float = 0.5
    draws: int = 4
    seed: int = 0
    blocks: Collection[int] = ()


def parse_blocks(text: str) -> tuple[int, ...]:
    """"0-3, 7" to numbers; nothing for all."""
    blocks: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,4})(?:\s*-\s*(\d{1,4}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"blocks is {text!r}; write numbers from 0 and ranges such as 0-3, 7, or nothing for all")
        blocks.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(blocks))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is looked for. words: as in the prompt, several with commas; kind: of `MAPS`; edge: of `EDGES`."""

    prompt: str
    words: str
    kind: str = BESIDE
    edge: str = SOFT
    padding: TextPadding = field(default_factory=TextPadding)

    def phrases(self) -> list[str]:
        return [phrase.strip() for phrase in self.words.split(",") if phrase.strip()] or [""]


@dataclass(frozen=True, slots=True)
class WordFound:
    """attention: its mean over the picture. Beside a training mask: the share of it inside, and the map's `separation`,
    which a mask that is all white or all black has not.
    """

    word: str
    attention: float
    inside: float = math.nan
    separation: float = math.nan

    def line(self) -> str:
        within = "" if math.isnan(self.inside) else f", {self.inside:.0%} of it inside the mask"
        apart = "" if math.isnan(self.separation) else f", separation {self.separation:.2f}"
        return f"{self.word}: {self.attention:.3%} of the picture's attention{within}{apart}"


@dataclass(frozen=True, slots=True, eq=False)
class WordMask:
    """What was found in one picture. mask_HW: soft or of Otsu; soft_HW: always soft; training_HW: what it is compared with. found: the
    words asked for; words: all of the prompt.
    """

    image_HWC: Tensor
    mask_HW: Tensor
    soft_HW: Tensor
    training_HW: Tensor | None
    found: WordFound
    words: Sequence[WordFound]

    def heat(self) -> Pixels:
        return heat_picture(self.image_HWC, self.soft_HW, self.training_HW)

    def report(self) -> str:
        row, column = divmod(int(self.soft_HW.argmax()), self.soft_HW.shape[1])
        lines = [self.found.line(), f"peak at x {column}, y {row} in pixels"]
        if self.training_HW is not None:
            lines.append(f"mask: covers {self.training_HW.mean():.0%}, so much of the attention is inside by chance; overlap with the map "
                         f"cut by Otsu (intersection over union) {overlap(otsu(self.soft_HW), self.training_HW):.2f}")
        mean = sum(word.attention for word in self.words) / len(self.words)
        return "\n".join([*lines, f"mean of all words: {mean:.3%}", *("  " + word.line() for word in self.words)])


def attention_masks(patcher: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, image_BHWC: Tensor, question: Question, looks: Looks,
                    training_BHW: Tensor | None, progress: Progress) -> list[WordMask]:
    """One for each picture (H, W, 1 grey, 3 or more colours). training_BHW: masks to compare with, one for all pictures or one for each.

    Raises ValueError for no pictures, and for models, words and masks that do not fit.
    """
    if not len(image_BHWC):
        raise ValueError("there is no picture in the batch; connect at least one")
    image_BHWC = image_BHWC[..., :3].expand(-1, -1, -1, 3)
    training = per_picture(training_BHW, image_BHWC)
    cond = encode_caption(clip, question.prompt, question.padding)
    words = prompt_words(clip, question.prompt, question.padding, cond["cross_attn"].shape[1])
    places = sorted(set().union(*(words.positions(phrase) for phrase in question.phrases())))
    require_others(places, words.all(), question.kind)
    latents = [encode_picture(image_HWC[None], vae, f"picture {i + 1}")[None] for i, image_HWC in enumerate(image_BHWC)]
    require_channels(patcher, latents[0])
    attention = attention_to_words(patcher, cond, latents, looks, progress)
    cell = vae.spacial_compression_encode()
    return [word_mask(image_HWC.cpu(), mask_HW, attention_Thw, places, words, question,
                      Area((image_HWC.shape[0], image_HWC.shape[1]), (latent.shape[-2], latent.shape[-1]), cell))
            for image_HWC, mask_HW, latent, attention_Thw in zip(image_BHWC, training, latents, attention, strict=True)]


def word_mask(image_HWC: Tensor, training_HW: Tensor | None, attention_Thw: Tensor, places: Sequence[int], words: PromptWords,
              question: Question, area: Area) -> WordMask:
    every = words.all()

    def found(word: str, at: Sequence[int]) -> WordFound:
        alone_HW = area.spread(word_map(attention_Thw, at, every, ALONE))
        mean = alone_HW.mean().item()
        if training_HW is None:
            return WordFound(word, mean)
        map_HW = area.spread(word_map(attention_Thw, at, every, question.kind))
        return WordFound(word, mean, inside(alone_HW, training_HW), separation(map_HW, training_HW))

    soft_HW = stretched(area.spread(word_map(attention_Thw, places, every, question.kind)))
    mask_HW = otsu(soft_HW) if question.edge == OTSU else soft_HW
    asked = found(", ".join(question.phrases()), places)
    return WordMask(image_HWC, mask_HW, soft_HW, training_HW, asked, [found(*word) for word in every.items()])


def report_of(found: Sequence[WordMask]) -> str:
    """In words, picture by picture."""
    if len(found) == 1:
        return found[0].report()
    return "\n".join(f"picture {i + 1}\n{one.report()}" for i, one in enumerate(found))


def per_picture(training_BHW: Tensor | None, image_BHWC: Tensor) -> list[Tensor | None]:
    """Raises ValueError for masks of another size or number."""
    count, size = len(image_BHWC), tuple(image_BHWC.shape[1:3])
    if training_BHW is None:
        return [None] * count
    if training_BHW.shape[1:] != size or len(training_BHW) not in (1, count):
        masks = f"{len(training_BHW)} of {training_BHW.shape[2]}x{training_BHW.shape[1]}"
        raise ValueError(f"the masks to compare with are {masks} and the pictures {count} of {size[1]}x{size[0]}; give one mask of their "
                         "size for all of them, or one for each")
    return list(training_BHW.float().cpu().expand(count, *size))


def attention_to_words(patcher: ModelPatcher, cond: Mapping[str, Tensor], latents: Sequence[Tensor], looks: Looks,
                       progress: Progress) -> list[Tensor]:
    """For each latent, (1, C, [1,] H, W) as the VAE gives it, (T, h, w): how much of its attention each part of the picture pays to
    each token of the text, the mean over heads, blocks and draws of noise. cond: of `encode_caption`.
    """
    found, total = [], len(latents) * looks.draws
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        for i, latent in enumerate(latents):
            latent = patcher.model.process_latent_in(latent.clone()).float()
            told = model_cond(patcher, cond, latent)
            latent = latent.to(patcher.load_device)
            sigma = model.sigma(torch.full((1,), looks.level)).to(latent)
            maps = []
            for draw in range(looks.draws):
                progress.update(i * looks.draws + draw, total, f"look {i * looks.draws + draw + 1} of {total}")
                noise = torch.randn(latent.shape, generator=generator(looks.seed, "attention noise", draw)).to(latent)
                watch = AttentionWatch(layout_of(patcher, told, cond["cross_attn"].shape[1], latent), looks.blocks)
                model.transformer_options = {**model.transformer_options, "optimized_attention_override": watch}
                model(model.add_noise(latent, noise, sigma), sigma, [told])
                require_seen(watch, type(patcher.model).__name__)
                maps.append(watch.mean())
            found.append(torch.stack(maps).mean(0))
    return found


def require_channels(patcher: ModelPatcher, latent: Tensor) -> None:
    expected = patcher.model.latent_format.latent_channels
    if latent.shape[1] != expected:
        raise ValueError(f"{type(patcher.model).__name__} works on {expected} channels and the VAE gives {latent.shape[1]}; connect the "
                         "VAE that belongs to this model")


def require_seen(watch: AttentionWatch, name: str) -> None:
    if not watch.passed:
        raise ValueError(f"no attention between picture and words was seen in {name}; remove nodes that replace its attention or its "
                         f"blocks. Models that can be looked into: {KNOWN}")
    if missing := [block for block in watch.blocks if block >= watch.passed]:
        raise ValueError(f"{name} has {watch.passed} attentions between picture and words, 0 to {watch.passed - 1}, and no {missing}; "
                         "choose others, or nothing for all")
