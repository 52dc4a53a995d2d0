"""Where the picture and the words stand in a diffusion model's attention, for every architecture that is known."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

Conds = Mapping[str, Any]


def nothing(network: nn.Module, conds: Conds) -> tuple[int, int]:
    return 0, 0


def registers(network: nn.Module, conds: Conds) -> tuple[int, int]:
    tokens: Tensor = network.register_tokens
    return tokens.shape[1], 0


def quoted_first(network: nn.Module, conds: Conds) -> tuple[int, int]:
    """What the prompt has in quotes, read by ByT5."""
    return (conds["txt_byt5"].cond.shape[1] if "txt_byt5" in conds else 0), 0


def quoted_last(network: nn.Module, conds: Conds) -> tuple[int, int]:
    return 0, quoted_first(network, conds)[0]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of network. `joint`: words and picture are one sequence, words first; else the picture asks and the words answer.
    `around`: how many tokens stand before the words and how many between them and the picture. `filled`: the host fills a short text
    up in front.
    """

    joint: bool = True
    filled: bool = False
    around: Callable[[nn.Module, Conds], tuple[int, int]] = nothing


JOINT, CROSS = Family(), Family(joint=False)
# Class names in comfy.model_base. Klein is Flux2, Z-Image is Lumina2, Wan 2.2 14B is WAN21, SD 1 and 2 are BaseModel.
FAMILIES: dict[str, Family] = {
    "AuraFlow": Family(around=registers), "BaseModel": CROSS, "Chroma": JOINT, "ChromaRadiance": JOINT, "Flux": JOINT,
    "Flux2": Family(filled=True),
    "HunyuanImage21": Family(around=quoted_last), "HunyuanVideo": JOINT, "HunyuanVideo15": Family(around=quoted_first), "Krea2": JOINT,
    "Lumina2": JOINT, "Omnigen2": JOINT, "QwenImage": JOINT, "SD3": JOINT, "SDXL": CROSS, "WAN21": CROSS, "WAN22": CROSS,
}
KNOWN = "SD 1.5, " + ", ".join(sorted(FAMILIES.keys() - {"BaseModel"}))


@dataclass(frozen=True, slots=True)
class Seen:
    """Attention between a picture of `rows` by `columns` tokens and words: the picture's queries and the words' keys."""

    rows: int
    columns: int
    picture: slice
    words: slice


@dataclass(slots=True)
class Layout:
    """Tells attention between picture and words from all other attention of one forward pass.

    words: tokens of the text. before, after: tokens before it, and between it and the picture. multiple: text and picture are each
    filled up to a multiple of so many tokens. cells: rows and columns of the latent. patch: its cells to the side of a picture token;
    None for a U-Net, which says its size at every step.
    """

    joint: bool
    words: int
    before: int
    after: int
    multiple: int
    cells: tuple[int, int]
    patch: int | None
    words_next: bool = False

    def of(self, queries: int, keys: int, options: Mapping[str, Any]) -> Seen | None:
        """None for attention of another kind. To be called for every attention of a pass, in order."""
        rows, columns = options["activations_shape"][-2:] if self.patch is None else (math.ceil(side / self.patch) for side in self.cells)
        picture = rows * columns
        if self.joint:
            start = whole(self.before + self.words + self.after, self.multiple)
            if queries != keys or queries != start + whole(picture, self.multiple):
                return None
            return Seen(rows, columns, slice(start, start + picture), slice(self.before, self.before + self.words))
        if queries != picture or keys != self.words or not self._crosses(picture):
            return None
        return Seen(rows, columns, slice(0, picture), slice(0, self.words))

    def _crosses(self, picture: int) -> bool:
        """A picture of as many tokens as the text looks at itself first, and then at the text."""
        if picture != self.words:
            return True
        self.words_next = not self.words_next
        return not self.words_next


def whole(tokens: int, multiple: int) -> int:
    return -(-tokens // multiple) * multiple


def layout_of(patcher: ModelPatcher, conds: Conds, words: int, latent_BCHW: Tensor) -> Layout:
    """conds: what the model is told; words: tokens of the conditioning. Raises ValueError for a model whose attention is not known."""
    name, network = type(patcher.model).__name__, patcher.model.diffusion_model
    family, unet = FAMILIES.get(name), isinstance(network, UNetModel)
    if family is None or (name == "BaseModel" and not unet):
        raise ValueError(f"where the words stand in the attention of {name} ({type(network).__name__}) is not known; "
                         f"models that can be looked into: {KNOWN}")
    if getattr(network, "img_emb", None) is not None:
        raise ValueError(f"{name} with CLIP vision reads a picture among its words (image to video); load the text to video model")
    filling = conds["c_crossattn"].cond.shape[1] - words
    if filling and not family.filled:
        raise ValueError(f"{name} was told {words + filling} tokens and the text has {words}, so that words cannot be told apart")
    before, after = family.around(network, conds)
    return Layout(family.joint, words, before + filling, after, getattr(network, "pad_tokens_multiple", None) or 1,
                  (latent_BCHW.shape[-2], latent_BCHW.shape[-1]), None if unet else patch_of(network))


def patch_of(network: nn.Module) -> int:
    patch: int | list[int] | tuple[int, ...] = getattr(network, "patch_size", None) or network.patch  # type: ignore[assignment]
    return patch if isinstance(patch, int) else patch[-1]
