"""Frozen layers that ask ComfyUI for their weight again in the backward pass instead of keeping a cast copy of it.

ComfyUI casts, dequantizes or fetches a weight when a layer is called, and may reuse that memory once the layer is done: an autograd
graph that kept it would keep a second, uncompressed model, or read another layer's weight. Only the gradient of the input is needed.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..trainer.linear import is_linear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@contextmanager
def frozen_layers(network: nn.Module) -> Iterator[None]:
    """Until the block is left, ComfyUI's own layers in `network` keep no weights for the backward pass.

    Layers of other packs (GGUF) are left alone: theirs make a new weight on every call.
    """
    with ExitStack() as stack:
        for module in network.modules():
            if is_own(module) and (replacement := frozen_forward(module)) is not None:
                module.forward = replacement  # type: ignore[method-assign]  # an instance attribute over the class's
                stack.callback(module.__dict__.pop, "forward", None)
        yield


def is_own(module: nn.Module) -> bool:
    """Whether ComfyUI's own `cast_bias_weight` makes this layer's weight, and nobody (a bypass LoRA) has put a forward of his own there."""
    forward = getattr(type(module), "forward_comfy_cast_weights", None)
    return (isinstance(module, comfy.ops.CastWeightBiasOp) and getattr(forward, "__module__", "") == comfy.ops.__name__
            and "forward" not in module.__dict__)


def frozen_forward(module: Any) -> Callable[..., Tensor] | None:
    """What to call instead of `module.forward`; None for a layer that needs nothing."""
    plain = module.forward
    if is_linear(module):
        return lambda x: frozen_linear(x, module, plain)
    if isinstance(module, CONVOLUTIONS):
        function: Any = FrozenConvolution
    elif isinstance(module, NORMS) and module.weight is not None:
        function = FrozenNorm
    else:
        return None
    return lambda x, *args, **kwargs: (
        function.apply(x, plain) if is_cast(module) and not args and not kwargs else plain(x, *args, **kwargs))


def is_cast(module: Any) -> bool:
    """ComfyUI's own condition for making the weight anew; otherwise the parameter itself is used, and may be kept."""
    return bool(module.comfy_cast_weights or module.weight_function or module.bias_function)


def frozen_linear(x: Tensor, module: Any, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """In two dimensions, where the output is no view: networks add to it in place, which autograd forbids on views made inside."""
    out: Tensor = FrozenLinear.apply(x.reshape(-1, x.shape[-1]), module, plain)  # type: ignore[no-untyped-call]
    return out.reshape(*x.shape[:-1], out.shape[-1])


class FrozenLinear(torch.autograd.Function):
    """x W^T + b as the sampler computes it, quantized kernels included; backward multiplies by the dequantized W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any, plain: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.module, ctx.dtype = module, x.dtype
        # A copy where the kernel clamps its input in place (--fast fp8_matrix_mult).
        return plain(x.detach().clone() if isinstance(module, comfy.ops.fp8_ops.Linear) else x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        module = ctx.module
        weight, bias, stream = comfy.ops.cast_bias_weight(module, grad, offloadable=True, compute_dtype=grad.dtype)
        full = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        grad_x = grad.matmul(full.to(grad.dtype))
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)
        if (scale := getattr(module, "pre_quant_scale", None)) is not None:
            grad_x = grad_x * comfy.model_management.cast_to_device(scale, grad.device, grad.dtype)
        return grad_x.to(ctx.dtype), None, None


class FrozenConvolution(torch.autograd.Function):
    """The gradient of an affine map is the same everywhere, so that its input need not be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.plain, ctx.like = plain, torch.empty_like(x, device="meta")
        return plain(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return pulled_back(ctx.plain, torch.zeros_like(ctx.like, device=grad.device), grad), None


class FrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.plain = plain
        ctx.save_for_backward(x)
        return plain(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return pulled_back(ctx.plain, ctx.saved_tensors[0], grad), None


def pulled_back(forward: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Tensor:
    """The gradient at `x`, of a forward pass that is made again for it. It works on copies: the layer hands its weight back before."""
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda kept: kept):
        x = x.detach().requires_grad_()
        (grad_x,) = torch.autograd.grad(forward(x), x, grad)
    return grad_x
