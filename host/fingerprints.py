"""What identifies text encoders and VAEs in cache keys: every byte of their weights, as they are without patches, and the patches.

SHA-256, in each run anew, so that weights that were changed in memory are seen: about a second for each GB.
"""
from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator
from inspect import isfunction

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor, nn

from ..dataset.ahead import ReadAhead
from ..dataset.keys import content_key, hash_tensor
from .text import tokenizer_options
from .text_padding import TextPadding

logger = logging.getLogger(__name__)

THREADS, TENSORS_AHEAD = 2, 4  # a tensor on a GPU is copied to be read: few at a time


def vae_fingerprint(vae: comfy.sd.VAE, waiting: Callable[[], None] = lambda: None) -> str:
    """What decides a picture's latent: the weights, the kind of network, and the precision that it runs in."""
    return content_key(kind_of(vae.first_stage_model), weights_and_patches(vae.patcher, waiting), str(vae.vae_dtype))


def clip_fingerprint(clip: comfy.sd.CLIP, waiting: Callable[[], None] = lambda: None) -> str:
    """What decides the embeddings of a text: weights, patches, and the kind of encoder and tokenizer, which pads.

    The same in every session and whatever is loaded. `waiting` is called a few times a second.
    """
    options = repr(sorted(clip.tokenizer_options.items()))
    return content_key(weights_and_patches(clip.patcher, waiting), kind_of(clip.cond_stage_model), kind_of(clip.tokenizer),
                       str(clip.layer_idx), options)


def embeddings_of(caption: str, clip: comfy.sd.CLIP, padding: TextPadding) -> str:
    """What a caption that names textual inversions (embedding:x) reads from their files, as a hash; else nothing."""
    if "embedding:" not in caption:
        return ""
    tokens = clip.tokenize(caption, **tokenizer_options(padding))
    parts = [hash_tensor(token[0]) if isinstance(token[0], Tensor) else repr(token[0])
             for rows in tokens.values() for row in rows for token in row]
    return content_key(*parts)


def weights_and_patches(patcher: ModelPatcher, waiting: Callable[[], None]) -> str:
    """A hash of the weights without patches, and of the patches by value."""
    with ReadAhead(hash_named, unpatched_weights(patcher), threads=THREADS, depth=TENSORS_AHEAD) as hashing:
        lines = list(hashing.results(waiting))
    changes = (patcher.patches, patcher.object_patches, patcher.weight_wrapper_patches, patcher.injections)
    if any(changes):
        lines.append(described_or_unique(changes))
    return content_key(*lines)


def unpatched_weights(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by name. While a patched clone is loaded, the module holds the patched ones, and the patcher,
    which shares its backups with all clones, the original ones.
    """
    # The first backup of a weight is the original one; that of hooks may be made of a weight that has patches.
    originals: dict[str, Tensor] = {name: saved[0] for name, saved in patcher.hook_backup.items()}
    originals |= {name: saved.weight for name, saved in patcher.backup.items()} | patcher.backup_buffers
    saved_names = set(patcher.model.state_dict())
    for name, parameter in patcher.model.named_parameters(remove_duplicate=False):
        yield name, originals.get(name, parameter)
    for name, buffer in patcher.model.named_buffers(remove_duplicate=False):
        if name in saved_names:
            yield name, originals.get(name, buffer)


def hash_named(weight: tuple[str, Tensor]) -> str:
    return f"{weight[0]} {hash_weight(weight[1])}"


def hash_weight(tensor: Tensor) -> str:
    """Also of quantised tensors, which consist of several, and of those that were never loaded and have no values."""
    if tensor.is_meta:
        return f"no values {tuple(tensor.shape)} {tensor.dtype}"
    if hasattr(tensor, "__tensor_flatten__"):
        names, rest = tensor.__tensor_flatten__()
        return " ".join([repr(rest), *(f"{name} {hash_tensor(getattr(tensor, name))}" for name in names)])
    return hash_tensor(tensor)


def described_or_unique(changes: object) -> str:
    """A value that no other run has, where the changes cannot be compared: encoding again is slow, using what is wrong is worse."""
    try:
        return described(changes)
    except TypeError as error:
        logger.warning("Masked LoRA: the model has changes that cannot be told apart from others (%s), so nothing that was encoded with "
                       "it before is used", error)
        return uuid.uuid4().hex


def described(value: object) -> str:
    """A text that two values have in common where their contents are equal. Raises TypeError for what has no contents to compare."""
    if isinstance(value, Tensor):
        return hash_weight(value)
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(described(part) for part in value)})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(f'{described(key)}: {described(part)}' for key, part in value.items()))})"
    if isinstance(value, WeightAdapterBase):
        return f"{kind_of(value)} {described(value.weights)}"
    if isfunction(value) and not (value.__closure__ or value.__defaults__ or value.__kwdefaults__):
        return f"{value.__module__}.{value.__qualname__}"
    raise TypeError(kind_of(value))


def kind_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def weights_fingerprint(module: nn.Module) -> str:
    """A hash that tells base models apart without reading gigabytes: names, shapes, types and 16 values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().reshape(-1)
        values = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()[:32]
