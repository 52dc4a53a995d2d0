"""Flux in plain PyTorch, written from Black Forest Labs' reference, to compare ComfyUI's with: nothing here is ComfyUI's or ours.

Shapes: B batch, T tokens (text first, then the picture), D channels, C latent channels.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PlainFlux:
    weights: dict[str, Tensor]
    heads: int
    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0

    def velocity(self, x_BCHW: Tensor, sigma_B: Tensor, text_BTD: Tensor, pooled_BD: Tensor, guidance_B: Tensor,
                 mask: Tensor | None = None) -> Tensor:
        """`mask` goes to PyTorch's attention as it is: bool (True = attended) or an additive float, (B, 1, 1, T)."""
        batch, channels, height, width = x_BCHW.shape
        rows, columns = height // 2, width // 2
        patches = x_BCHW.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        picture, text = self.linear("img_in", patches), self.linear("txt_in", text_BTD)
        vec = self.mlp("time_in", sinusoids(sigma_B)) + self.mlp("guidance_in", sinusoids(guidance_B)) + self.mlp("vector_in", pooled_BD)
        turns = self.turns(text.shape[1], rows, columns)
        for block in self.blocks("double_blocks"):
            picture, text = self.double(block, picture, text, vec, turns, mask)
        both = torch.cat([text, picture], dim=1)
        for block in self.blocks("single_blocks"):
            both = self.single(block, both, vec, turns, mask)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", F.silu(vec))[:, None].chunk(2, dim=-1)
        out = self.linear("final_layer.linear", normed(both[:, text.shape[1]:]) * (1 + scale) + shift)
        return out.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.out_layer", F.silu(self.linear(f"{name}.in_layer", x)))

    def blocks(self, kind: str) -> list[str]:
        return sorted({".".join(key.split(".")[:2]) for key in self.weights if key.startswith(kind)})

    def turns(self, text: int, rows: int, columns: int) -> Tensor:
        """Rotary positions as complex numbers, (T, head size / 2): all text at the origin, the picture at its row and column."""
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([torch.zeros_like(y), y, x], dim=-1).reshape(-1, 3)
        places = torch.cat([torch.zeros(text, 3, dtype=places.dtype), places]).double()
        parts = [places[:, [i]] / self.theta ** (torch.arange(0, size, 2).double() / size) for i, size in enumerate(self.axes)]
        angles = torch.cat(parts, dim=-1)
        return torch.polar(torch.ones_like(angles), angles)

    def heads_of(self, qkv: Tensor, name: str) -> list[Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return [rms(q, self.weights[f"{name}.query_norm.weight"]), rms(k, self.weights[f"{name}.key_norm.weight"]), v]

    def attention(self, q: Tensor, k: Tensor, v: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(turned(q, turns), turned(k, turns), v, attn_mask=mask).transpose(1, 2).flatten(2)

    def double(self, block: str, picture: Tensor, text: Tensor, vec: Tensor, turns: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        streams, modulation, qkv = {"txt": text, "img": picture}, {}, []
        for name, x in streams.items():
            modulation[name] = self.linear(f"{block}.{name}_mod.lin", F.silu(vec))[:, None].chunk(6, dim=-1)
            shift, scale = modulation[name][:2]
            qkv.append(self.heads_of(self.linear(f"{block}.{name}_attn.qkv", normed(x) * (1 + scale) + shift), f"{block}.{name}_attn.norm"))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*qkv, strict=True))
        attended = self.attention(q, k, v, turns, mask).split([text.shape[1], picture.shape[1]], dim=1)
        for name, seen in zip(streams, attended, strict=True):
            _, _, gate, shift, scale, gate_of_mlp = modulation[name]
            x = streams[name] + gate * self.linear(f"{block}.{name}_attn.proj", seen)
            hidden = self.linear(f"{block}.{name}_mlp.0", normed(x) * (1 + scale) + shift)
            streams[name] = x + gate_of_mlp * self.linear(f"{block}.{name}_mlp.2", F.gelu(hidden, approximate="tanh"))
        return streams["img"], streams["txt"]

    def single(self, block: str, x: Tensor, vec: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate = self.linear(f"{block}.modulation.lin", F.silu(vec))[:, None].chunk(3, dim=-1)
        both, size = self.linear(f"{block}.linear1", normed(x) * (1 + scale) + shift), x.shape[-1]
        q, k, v = self.heads_of(both[..., :3 * size], f"{block}.norm")
        seen = self.attention(q, k, v, turns, mask)
        return x + gate * self.linear(f"{block}.linear2", torch.cat([seen, F.gelu(both[..., 3 * size:], approximate="tanh")], dim=-1))


def sinusoids(value_B: Tensor, size: int = 256) -> Tensor:
    steps = torch.exp(-math.log(10000) * torch.arange(size // 2) / (size // 2))
    angles = 1000 * value_B[:, None] * steps
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def turned(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).float()
