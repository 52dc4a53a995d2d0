"""What the text encoder is given for a data set, and what comes of it."""
from __future__ import annotations

from collections.abc import Sequence

import comfy.sd
import torch
from torch import Tensor

from ..dataset.item import Item
from ..dataset.refs import RefTable
from ..dataset.texts import CaptionSpec
from ..dataset.words import counted
from .references import ReferenceUse, encode_with_pictures
from .text import encode_text
from .text_padding import TextPadding

Prompt = tuple[str, tuple[Item, ...]]  # a caption, and the reference pictures that its text encoder reads


def shown_to_encoder(item: Item, use: ReferenceUse) -> tuple[Item, ...]:
    """The reference pictures, where the text encoder reads them too."""
    return item.references if use.read else ()


def prompts_of(items: Sequence[Item], captions: CaptionSpec, use: ReferenceUse) -> list[Prompt]:
    """All that the text encoder is given for a set, each once."""
    return list(dict.fromkeys((text, shown_to_encoder(item, use)) for item in items for text in (*captions.texts(item), *captions.dropped)))


def encode_caption(clip: comfy.sd.CLIP, caption: str, padding: TextPadding, pictures: Sequence[Item] = ()) -> dict[str, Tensor]:
    conditioning = encode_with_pictures(clip, caption, padding, pictures) if pictures else encode_text(clip, caption, padding)
    if len(conditioning) != 1:
        raise ValueError(f"caption {caption[:60]!r}: the CLIP is scheduled by hooks and gives {len(conditioning)} conditionings; "
                         "training takes one, use a CLIP without scheduled hooks")
    cross_attn, extra = conditioning[0]
    cond = {"cross_attn": cross_attn} | {k: v for k, v in extra.items() if isinstance(v, Tensor)}
    if not all(torch.isfinite(v).all() for v in cond.values()):
        raise ValueError(f"caption {caption[:60]!r}: the text encoder produced NaN; start ComfyUI with --fp32-text-enc")
    return {k: v.cpu() for k, v in cond.items()}


def text_lines(refs: RefTable, captions: CaptionSpec) -> list[str]:
    """What there is besides each example's caption, and how often it comes."""
    if not (said := captions.describe()):
        return []
    more = sum(len(ref.alternatives) for ref in refs)
    each = f"; {counted(len(refs), 'example')} with {counted(len(refs) + more, 'text')}, of which a draw shows one, each alike"
    return [f"captions: {said}" + (each if more else "")]
