"""Reference pictures of edit models, as ComfyUI's own nodes hand them to the VAE and to the text encoder."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy.text_encoders.flux import FluxTokenizer
from comfy.text_encoders.krea2 import Krea2Tokenizer
from comfy.text_encoders.qwen_image import QwenImageTokenizer
from comfy_extras.nodes_flux import FluxKontextImageScale
from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus
from node_helpers import conditioning_set_values
from torch import Tensor

from ..dataset.cache import REFERENCES, CachedExample, TrainingSet
from ..dataset.item import Item
from ..dataset.load import load_item
from .architectures import READ_REFERENCES, reference_method
from .examples import natural
from .text import SPEC_KEY, Conditioning
from .text_padding import TextPadding

MEGAPIXEL = 1024 * 1024
SEEN_AT_ONCE = 3  # pictures that TextEncodeQwenImageEditPlus takes


@dataclass(frozen=True, slots=True)
class ReferenceUse:
    """How references reach a model. scale: of (1, H, W, 3), before the VAE; name: the ComfyUI node that scales so, for cache keys and
    reports. read: the text encoder is shown them too, by TextEncodeQwenImageEditPlus.
    """

    name: str
    scale: Callable[[Tensor], Tensor]
    read: bool = False


def kontext(image_BHWC: Tensor) -> Tensor:
    scaled: Tensor = FluxKontextImageScale.execute(image_BHWC)[0]
    return scaled


def megapixel(method: str, step: int) -> Callable[[Tensor], Tensor]:
    """To one megapixel, sides rounded to multiples of `step` pixels, by the formula that ComfyUI repeats in its nodes."""
    def scale(image_BHWC: Tensor) -> Tensor:
        by = math.sqrt(MEGAPIXEL / math.prod(image_BHWC.shape[1:3]))
        height, width = (round(side * by / step) * step for side in image_BHWC.shape[1:3])
        scaled: Tensor = comfy.utils.common_upscale(image_BHWC.movedim(-1, 1), width, height, method, "disabled").movedim(1, -1)
        return scaled

    return scale


KONTEXT = ReferenceUse("FluxKontextImageScale", kontext)
QWEN = ReferenceUse("TextEncodeQwenImageEditPlus (1 megapixel, sides multiples of 8)", megapixel("area", 8), read=True)
OTHERS = ReferenceUse("ImageScaleToTotalPixels (1 megapixel, lanczos)", megapixel("lanczos", 1))


def reference_use(clip: comfy.sd.CLIP) -> ReferenceUse:
    """What the text encoder tells of the model: Kontext has a node of its own, Qwen-Image-Edit and Krea2 share one, and ComfyUI's
    workflows for the others, such as Flux2, scale to one megapixel.
    """
    if isinstance(clip.tokenizer, FluxTokenizer):
        return KONTEXT
    return QWEN if isinstance(clip.tokenizer, QwenImageTokenizer | Krea2Tokenizer) else OTHERS


def encode_with_pictures(clip: comfy.sd.CLIP, text: str, padding: TextPadding, pictures: Sequence[Item]) -> Conditioning:
    """As TextEncodeQwenImageEditPlus encodes a text about pictures. Raises ValueError for more of them than it takes."""
    if len(pictures) > SEEN_AT_ONCE:
        raise ValueError(f"{pictures[0].name} is one of {len(pictures)} reference pictures of one picture, and the text encoder takes "
                         f"{SEEN_AT_ONCE} (TextEncodeQwenImageEditPlus); give fewer")
    if padding != TextPadding():
        raise ValueError("this text encoder does not read T5, so padding modes mean nothing to it; use the preset 'comfyui'")
    images = [load_item(picture).image_THWC for picture in pictures]
    conditioning: Conditioning = TextEncodeQwenImageEditPlus.execute(clip, text, None, *images)[0]
    return [[cond, {**extra, SPEC_KEY: padding.to_json()}] for cond, extra in conditioning]


def reference_lines(items: Sequence[Item], use: ReferenceUse) -> list[str]:
    """How the references of a data set reach the model, in words."""
    if not any(item.references for item in items):
        return []
    reader = "the text encoder reads them too" if use.read else "the model gets their latents, the text encoder does not read them"
    return [f"reference pictures are scaled as by {use.name}, whole and without masks; {reader}"]


def beside(shapes: Sequence[tuple[int, ...]]) -> str:
    """The references of one kind of batch, in words, with a comma before; empty for none."""
    return f", references of {' and '.join(f'{shape[-1]}x{shape[-2]}' for shape in shapes)} cells" if shapes else ""


def counts_of(training_set: TrainingSet) -> dict[int, int]:
    """How many examples have so many references; empty where none has any."""
    counts = Counter(map(len, training_set.reference_shapes()))
    return dict(sorted(counts.items())) if any(counts) else {}


def describe(training_set: TrainingSet, architecture: str) -> str:
    """What a run learns from references, in words; empty for none."""
    counts = counts_of(training_set)
    said = ", ".join(f"{pictures} of {sum(counts.values())} pictures with {count}" for count, pictures in counts.items() if count)
    if not said:
        return ""
    sure = "" if architecture in READ_REFERENCES else f"; it is not proven that {architecture} reads them: look at the first previews"
    return f"{said}; their latents go to the model as ReferenceLatent hands them over{sure}"


def first_with_references(training_set: TrainingSet) -> CachedExample | None:
    """Whose references previews are made of."""
    place = next((i for i, shapes in enumerate(training_set.reference_shapes()) if shapes), None)
    return None if place is None else training_set.examples[place]


def with_references(conditioning: Conditioning, patcher: ModelPatcher, example: CachedExample | None) -> Conditioning:
    """The conditioning with an example's reference latents, as ReferenceLatent adds them; itself without an example."""
    if example is None:
        return conditioning
    latents = [example.cond[name].clone() for name in sorted(example.cond, key=natural) if name.startswith(f"{REFERENCES}.")]
    changed: Conditioning = conditioning_set_values(conditioning, {REFERENCES: latents, **reference_method(patcher)})
    return changed
