"""Encode pictures, masks and captions once, and keep the result on disk."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.sd
import torch
from torch import Tensor, nn

from ..dataset.cache import CachedExample, ExampleCache, TrainingSet, content_key
from ..masks.latent_grid import whole_cells
from .progress import Progress
from .text import encode_text
from .text_padding import TextPadding

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """image_1HWC float32 in 0..1; mask_HW float32, 1 = learn, same size."""

    name: str
    image_1HWC: Tensor
    mask_HW: Tensor
    caption: str


def pair_up(images: Sequence[Tensor], masks: Sequence[Tensor] | None, captions: Sequence[str],
            names: Sequence[str] | None) -> list[Picture]:
    """Pictures from ComfyUI lists of (B, H, W, C) images, (B, H, W) masks and captions; batches are taken apart.

    One caption serves all pictures; otherwise counts must agree, or ValueError tells both.
    """
    image_list = [image[i:i + 1] for image in images for i in range(len(image))]
    count = len(image_list)
    mask_list = [torch.ones(image.shape[1:3]) for image in image_list] if masks is None else [
        mask for group in masks for mask in group.reshape(-1, *group.shape[-2:])]
    caption_list = [captions[0]] * count if len(captions) == 1 else list(captions)
    name_list = list(names) if names else [f"picture {i}" for i in range(1, count + 1)]
    for what, got in (("masks", len(mask_list)), ("captions", len(caption_list)), ("names", len(name_list))):
        if got != count:
            raise ValueError(f"{count} pictures came with {got} {what}; connect lists of equal length (one caption may serve all)")
    return [Picture(*row) for row in zip(name_list, image_list, mask_list, caption_list, strict=True)]


def encode_training_set(pictures: Sequence[Picture], clip: comfy.sd.CLIP, vae: comfy.sd.VAE, padding: TextPadding,
                        cache_folder: Path, progress: Progress) -> TrainingSet:
    """Latents, raw masks and embeddings of all pictures. What was encoded before, by the same weights, comes from the cache.

    Raises ValueError, before anything is encoded, for a mask of another size than its picture.
    """
    for picture in pictures:
        check_picture(picture, vae.spacial_compression_encode())
    pictures = [cut_to_cells(picture, vae.spacial_compression_encode()) for picture in pictures]
    cache = ExampleCache(cache_folder)
    encoders = (weights_fingerprint(vae.first_stage_model), clip_fingerprint(clip))
    examples, hits = [], 0
    for i, picture in enumerate(pictures, start=1):
        key = content_key(*encoders, padding.to_json(), picture.caption, repr(tuple(picture.image_1HWC.shape)),
                          picture.image_1HWC.contiguous().numpy().tobytes(), picture.mask_HW.contiguous().numpy().tobytes())
        example = cache.get(key)
        hits += example is not None
        if example is None:
            example = encode_picture(picture, clip, vae, padding)
            cache.put(key, example)
        examples.append(replace(example, name=picture.name))  # the cache knows contents, and a file may have been renamed
        progress.update(i, len(pictures))
    report = f"{len(examples)} pictures: {hits} from the cache, {len(examples) - hits} encoded; text {padding.describe()}"
    logger.info("Masked LoRA: %s", report)
    return TrainingSet(tuple(examples), padding.to_json(), report)


def cut_to_cells(picture: Picture, cell: int) -> Picture:
    """The part of picture and mask that the VAE encodes; the VAE would cut the picture alone."""
    rows, columns = whole_cells(*picture.mask_HW.shape, cell)
    return replace(picture, image_1HWC=picture.image_1HWC[:, rows, columns], mask_HW=picture.mask_HW[rows, columns])


def check_picture(picture: Picture, cell: int) -> None:
    image, mask = tuple(picture.image_1HWC.shape[1:3]), tuple(picture.mask_HW.shape)
    if image != mask:
        raise ValueError(f"{picture.name}: the picture is {image[1]}x{image[0]} and its mask {mask[1]}x{mask[0]} pixels; "
                         "give both the same size, a stretched mask would teach the wrong pixels")
    if min(image) < cell:
        raise ValueError(f"{picture.name} is {image[1]}x{image[0]} pixels, less than the {cell} of one latent cell; use a larger picture")


def encode_picture(picture: Picture, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, padding: TextPadding) -> CachedExample:
    latent = vae.encode(picture.image_1HWC[..., :3])[0]
    if not torch.isfinite(latent).all():
        raise ValueError(f"{picture.name}: the VAE produced NaN; start ComfyUI with --fp32-vae")
    conditioning = encode_text(clip, picture.caption, padding)
    if len(conditioning) != 1:
        raise ValueError(f"{picture.name}: the CLIP is scheduled by hooks and gives {len(conditioning)} conditionings; "
                         "training takes one, use a CLIP without scheduled hooks")
    cross_attn, extra = conditioning[0]
    cond = {"cross_attn": cross_attn} | {k: v for k, v in extra.items() if isinstance(v, Tensor)}
    return CachedExample(picture.name, picture.caption, latent.float().cpu(), picture.mask_HW.float().cpu(),
                         {k: v.cpu() for k, v in cond.items()}, padding.to_json())


def clip_fingerprint(clip: comfy.sd.CLIP) -> str:
    """What decides the embeddings of a text: weights, patches, and the kind of encoder and tokenizer, which pads."""
    kinds = [f"{type(part).__module__}.{type(part).__qualname__}" for part in (clip.cond_stage_model, clip.tokenizer)]
    patches = str(clip.patcher.patches_uuid) if clip.patcher.patches else ""
    options = repr(sorted(clip.tokenizer_options.items()))
    return " ".join([weights_fingerprint(clip.cond_stage_model), *kinds, str(clip.layer_idx), options, patches])


def weights_fingerprint(module: nn.Module) -> str:
    """A hash that tells weights apart without reading gigabytes: names, shapes, types and 16 values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:32]
