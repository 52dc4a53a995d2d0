"""A linear layer with something learned beside it, one class for each kind of adapter.

What a class computes is what ComfyUI makes of the saved tensors (comfy/weight_adapter), so that a picture is sampled with what was
trained. The tensors keep the names of the LyCORIS and peft files. Shapes: B examples of a forward pass, O outputs, I inputs, R rank.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

Tensors = dict[str, Tensor]


class Adapted(nn.Module):
    """`base` is only borrowed: it is called as it is, whatever its weights are stored as. Parameters are float32."""

    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, base: Any, tensors: Mapping[str, Tensor], scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        for name, tensor in tensors.items():
            self.register_parameter(name.removesuffix(".weight"), nn.Parameter(tensor.detach().float().clone()))

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        """Tensors that change nothing yet."""
        raise NotImplementedError

    @classmethod
    def continued(cls, base: Any, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapted:
        """From a file's tensors, scaled as ComfyUI scales them: by alpha / rank, without an alpha by 1."""
        layer = cls(base, tensors, 1.0)
        layer.scale = 1.0 if alpha is None else alpha / layer.rank
        return layer

    def learned(self) -> dict[str, nn.Parameter]:
        """By their names in a file."""
        own = {name: getattr(self, name.removesuffix(".weight"), None) for name in (*self.required, *self.optional)}
        return {name: value for name, value in own.items() if value is not None}

    @property
    def rank(self) -> int:
        return next(iter(self.learned().values())).shape[0]

    @property
    def alpha(self) -> float:
        return self.scale * self.rank

    @property
    def weight(self) -> Tensor:
        """The base's: models ask their layers for its dtype."""
        weight: Tensor = self.base.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base.bias
        return bias


class LoRA(Adapted):
    """W + scale B A (arXiv 2106.09685). `keep_BR` weights the ranks of each example; None keeps them all."""

    required: ClassVar[tuple[str, ...]] = ("lora_A.weight", "lora_B.weight")
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    keep_BR: Tensor | None = None

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        inputs, outputs = base.in_features, base.out_features
        return {"lora_A.weight": kaiming(rank, inputs, draw), "lora_B.weight": torch.zeros(outputs, rank)}

    def forward(self, x: Tensor) -> Tensor:
        return added(self.base(x), self.change(x.to(self.lora_A.dtype)))

    def change(self, x: Tensor) -> Tensor:
        inner = linear(x, self.lora_A)
        if self.keep_BR is not None:
            if len(inner) != len(self.keep_BR):
                raise ValueError(f"a layer was called with a first dimension of {len(inner)} for {len(self.keep_BR)} pictures, so "
                                 "that their ranks cannot be told apart; set dropout to 0")
            inner = inner * self.keep_BR.view(len(inner), *[1] * (inner.ndim - 2), -1)
        return linear(self.scale * inner, self.lora_B)


class DoRA(LoRA):
    """m (W + scale B A) / norm, with one norm for each input (arXiv 2402.09353), as OneTrainer and LyCORIS have it by default.

    ComfyUI divides a magnitude for each output, which peft learns, by the norm of W alone. The norm has no gradient (section 4.3).
    """

    required = ("lora_A.weight", "lora_B.weight", "dora_scale")
    dora_scale: nn.Parameter

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        return {**LoRA.first(base, rank, draw), "dora_scale": norm_of_inputs(plain_weight(base))}

    @classmethod
    def continued(cls, base: Any, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapted:
        if tensors["dora_scale"].shape != (1, base.in_features):
            raise ValueError(f"a DoRA with magnitudes {tuple(tensors['dora_scale'].shape)} cannot be trained on; only (1, inputs) can, one "
                             "for each input, OneTrainer's and LyCORIS' default")
        return super().continued(base, tensors, alpha)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            norm_1I = norm_of_inputs(plain_weight(self.base).to(self.lora_A) + self.scale * self.lora_B @ self.lora_A)
        scaled = x.to(self.lora_A.dtype) * (self.dora_scale / norm_1I)[0]
        return added(self.base(scaled.to(x.dtype)), self.change(scaled))


class LoHa(Adapted):
    """W + scale (w1_a w1_b) * (w2_a w2_b), element by element (arXiv 2108.06098); first values as in LyCORIS."""

    required = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    hada_w1_a: nn.Parameter
    hada_w1_b: nn.Parameter
    hada_w2_a: nn.Parameter
    hada_w2_b: nn.Parameter

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        inputs, outputs = base.in_features, base.out_features
        return {"hada_w1_a": 0.1 * torch.randn(outputs, rank, generator=draw), "hada_w1_b": torch.randn(rank, inputs, generator=draw),
                "hada_w2_a": torch.zeros(outputs, rank), "hada_w2_b": torch.randn(rank, inputs, generator=draw)}

    @property
    def rank(self) -> int:
        return self.hada_w1_b.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        change_OI = self.scale * (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)
        return added(self.base(x), linear(x.to(change_OI.dtype), change_OI))


class LoKr(Adapted):
    """W + scale kron(w1, w2), where w2 = w2_a w2_b unless the rank reaches half of its size, as in LyCORIS. Then scale is 1."""

    required = ("lokr_w1",)
    optional = ("lokr_w2", "lokr_w2_a", "lokr_w2_b")
    lokr_w1: nn.Parameter

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        inner, outer = smaller_factor(base.in_features), smaller_factor(base.out_features)
        inputs, outputs = base.in_features // inner, base.out_features // outer
        first = {"lokr_w1": kaiming(outer, inner, draw)}
        if rank >= max(inputs, outputs) / 2:
            return {**first, "lokr_w2": torch.zeros(outputs, inputs)}
        return {**first, "lokr_w2_a": kaiming(outputs, rank, draw), "lokr_w2_b": torch.zeros(rank, inputs)}

    @classmethod
    def continued(cls, base: Any, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapted:
        whole = "lokr_w2" in tensors
        return cls(base, tensors, 1.0) if whole or alpha is None else super().continued(base, tensors, alpha)

    def __init__(self, base: Any, tensors: Mapping[str, Tensor], scale: float) -> None:
        super().__init__(base, tensors, 1.0 if "lokr_w2" in tensors else scale)

    @property
    def rank(self) -> int:
        learned = self.learned()
        return learned["lokr_w2_b"].shape[0] if "lokr_w2_b" in learned else 1

    def forward(self, x: Tensor) -> Tensor:
        learned = self.learned()
        w2 = learned["lokr_w2"] if "lokr_w2" in learned else learned["lokr_w2_a"] @ learned["lokr_w2_b"]
        # kron(w1, w2) x without the product: x as a matrix with one row for each column of w1.
        rows = x.to(w2.dtype).reshape(*x.shape[:-1], self.lokr_w1.shape[1], w2.shape[1])
        return added(self.base(x), self.scale * (self.lokr_w1 @ linear(rows, w2)).flatten(-2))


class OFT(Adapted):
    """Blocks of W's outputs turned by orthogonal matrices (arXiv 2306.07280), Cayley's (1 + Q)(1 - Q)^-1 with Q = blocks - blocks^T.

    LyCORIS' diag-oft, which is what ComfyUI loads; peft turns the inputs instead. Unconstrained: ComfyUI reads an alpha as a limit.
    """

    required = ("oft_blocks",)
    oft_blocks: nn.Parameter

    @staticmethod
    def first(base: Any, rank: int, draw: torch.Generator) -> Tensors:
        size = smaller_factor(base.out_features, rank)
        if size == 1:
            raise ValueError(f"a layer of {base.out_features} outputs cannot be cut into blocks of 2 to {rank}; "
                             "raise the rank, or leave the layer out of the targets")
        return {"oft_blocks": torch.zeros(base.out_features // size, size, size)}

    @classmethod
    def continued(cls, base: Any, tensors: Mapping[str, Tensor], alpha: float | None) -> Adapted:
        if alpha:
            raise ValueError(f"an OFT with the constraint {alpha:g} cannot be trained on; only unconstrained ones can")
        return cls(base, tensors, 1.0)

    @property
    def rank(self) -> int:
        return self.oft_blocks.shape[1]

    @property
    def alpha(self) -> float:
        return 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        unit = torch.eye(self.rank, device=x.device, dtype=self.oft_blocks.dtype)
        skew = self.oft_blocks - self.oft_blocks.transpose(1, 2)
        turn = torch.linalg.solve(unit - skew, unit + skew) - unit  # both factors are functions of Q, so that their order is free
        own = out.to(unit.dtype) - (0 if self.bias is None else self.bias.to(unit))  # the bias is no row of the weight, and stays
        blocks = own.reshape(*own.shape[:-1], *turn.shape[:2])
        return added(out, torch.einsum("knm,...kn->...km", turn, blocks).flatten(-2))


def added(out: Tensor, change: Tensor) -> Tensor:
    """In the precision of the finer one, then rounded once."""
    return (out + change).to(out.dtype)


def kaiming(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    """Kaiming-uniform as in the LoRA paper's code (a = sqrt 5), from the run's own seed on any device."""
    bound = columns ** -0.5
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=draw)


def smaller_factor(size: int, limit: int | None = None) -> int:
    """The largest divisor that is at most `limit` and not the larger one of its pair: 3072 = 48 x 64."""
    return max(d for d in range(1, min(limit or size, math.isqrt(size)) + 1) if size % d == 0)


def plain_weight(base: Any) -> Tensor:
    weight: Tensor = base.weight.detach()
    if weight.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"DoRA needs the norms of the weights, which are stored as {weight.dtype}; choose LoRA for a quantized model")
    return weight.float() if weight.dtype.itemsize < 4 else weight


def norm_of_inputs(weight_OI: Tensor) -> Tensor:
    """(1, I), with the small number that ComfyUI adds."""
    norm_1I: Tensor = torch.linalg.vector_norm(weight_OI, dim=0, keepdim=True)
    return norm_1I + torch.finfo(torch.float32).eps
