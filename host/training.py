"""Borrow a diffusion model from ComfyUI for training, and give it back exactly as it was."""
from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ..dataset.cache import TrainingSet
from ..trainer.adapter import LoraAdapter
from ..trainer.adapter_spec import AdapterSpec, Kind
from ..trainer.config import LoraSpec, TrainConfig
from .architectures import require_backward
from .denoiser import ComfyDenoiser, raw_denoiser
from .frozen import frozen_layers
from .warm_start import warm_start

logger = logging.getLogger(__name__)
# Gradients of a mean square over 2**14 to 2**20 values reach the network at 1 to 0.01, some powers of two from either end of float16.
FLOAT16_SCALE = 2.0**13
INJECTION_KEY = "masked_lora_training"
# PyTorch's fused attention on CPUs, NVIDIA and AMD, and others. Its result is as small as a block's input, and slow to compute again.
KEPT_OPERATIONS = [torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
                   torch.ops.aten._scaled_dot_product_flash_attention.default,
                   torch.ops.aten._scaled_dot_product_efficient_attention.default,
                   torch.ops.aten._scaled_dot_product_cudnn_attention.default,
                   torch.ops.aten._scaled_dot_product_fused_attention_overrideable.default]


@contextmanager
def borrow_for_training(patcher: ModelPatcher, spec: LoraSpec, *, seed: int, checkpointing: bool,
                        memory_required: float = 0.0) -> Iterator[tuple[ComfyDenoiser, LoraAdapter]]:
    """Lend `patcher`'s own weights, with a fresh LoRA on them and right gradients, until the block is left in whatever way.

    No second copy of the weights is made, but see `resident`. `memory_required` in bytes is kept free on the device besides the
    weights. Raises ValueError for a model that cannot be trained, before anything is touched.
    """
    require_backward(patcher)
    require_own_norms(patcher, spec)
    patcher = resident(patcher)
    borrowed, denoiser = raw_denoiser(patcher)
    flags = {name: p.requires_grad for name, p in patcher.model.named_parameters()}
    with torch.inference_mode(False), torch.enable_grad(), differentiable_kernels():
        network = patcher.model.diffusion_model
        try:
            thaw(patcher.model)
            adapter = LoraAdapter(network, spec, seed)
            if words := warm_start(adapter, patcher):  # makes parameters of its own, so before any is moved or hooked
                logger.info("Masked LoRA: %s", words)
            adapter.detach()
            borrowed.set_injections(INJECTION_KEY, [PatcherInjection(
                inject=lambda _: adapter.attach(), eject=lambda _: adapter.detach())])
            comfy.model_management.load_models_gpu([borrowed], memory_required=memory_required)
            for parameter in adapter.parameters:
                parameter.data = parameter.data.to(borrowed.load_device)
            with ExitStack() as stack:
                stack.callback(adapter.detach)  # not by ComfyUI, where it unloaded the model while the adapter was disabled
                stack.enter_context(gradient_safe(network, checkpointing))
                stack.enter_context(above_underflow(denoiser, adapter))
                yield denoiser, adapter
        finally:
            borrowed.eject_model()
            comfy.model_management.unload_model_and_clones(borrowed)
            for name, parameter in patcher.model.named_parameters():
                parameter.requires_grad_(flags[name])


def training_memory(patcher: ModelPatcher, training_set: TrainingSet, train: TrainConfig) -> float:
    """Bytes that a forward pass of training takes besides the weights, as ComfyUI estimates them for sampling."""
    shapes = zip(training_set.latent_shapes(), training_set.reference_shapes(), strict=True)
    largest, references = max(shapes, key=lambda both: sum(map(math.prod, (both[0], *both[1]))))
    together = min(train.micro_batch or train.batch_size, train.batch_size)
    if not references:
        return float(patcher.memory_required([together, *largest]))
    shown = patcher.model.extra_conds_shapes(reference_latents=[torch.empty(1, *shape, device="meta") for shape in references])
    shown = {name: [[together, *shape[1:]]] for name, shape in shown.items()}
    return float(patcher.model.memory_required([together, *largest], cond_shapes=shown))


def require_own_norms(patcher: ModelPatcher, spec: LoraSpec) -> None:
    """ComfyUI divides a DoRA by the norms of whatever weights it is loaded on; under another LoRA those are not the model's own.

    Raises ValueError for a DoRA on a model whose weights are patched.
    """
    if AdapterSpec.of(spec).kind is Kind.DORA and (patcher.patches or patcher.weight_wrapper_patches):
        raise ValueError("this model carries a LoRA or another patch of its weights, and a DoRA is scaled by the norms of its own ones; "
                         "take the node that patches it away, save the patched model and load that, or choose another kind of adapter")


def resident(patcher: ModelPatcher) -> ModelPatcher:
    """`patcher`; under dynamic VRAM its twin with weights of its own in main memory, made by ComfyUI and released with the twin.

    Dynamic VRAM may take a weight off the device as soon as its layer is done, a backward pass needs it again, and its patcher can
    neither hold a model in place nor be asked what is loaded. Raises ValueError where ComfyUI cannot load the model a second time.
    """
    if not patcher.is_dynamic():
        return patcher
    if patcher.cached_patcher_init is None:
        raise ValueError("ComfyUI runs with dynamic VRAM, which does not hold weights in place for training, and this model was not loaded "
                         "by one of ComfyUI's own loaders, which could load it without; use one, or start ComfyUI with "
                         "--disable-dynamic-vram")
    logger.info("Masked LoRA: dynamic VRAM is on; training loads the weights a second time, %.1f GB of main memory",
                patcher.model_size() / 1e9)
    with torch.inference_mode(False):
        return patcher.clone(disable_dynamic=True)


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Ask ComfyUI for kernels with a backward; its fused inference kernels have none."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def thaw(model: nn.Module) -> None:
    """Turn weights that were loaded under inference_mode into ordinary tensors; autograd cannot save the others.

    One at a time, and by name: a list of the old ones would keep all of them beside the new ones.
    """
    for name in [name for name, parameter in model.named_parameters() if parameter.is_inference()]:
        comfy.utils.set_attr_param(model, name, comfy.utils.get_attr(model, name))
    for name in [name for name, buffer in model.named_buffers() if buffer.is_inference()]:
        comfy.utils.set_attr_buffer(model, name, comfy.utils.get_attr(model, name).clone())


@contextmanager
def gradient_safe(network: nn.Module, checkpointing: bool) -> Iterator[None]:
    """Make gradients right in networks that add to the residual stream in place (Flux, Chroma, HunyuanVideo).

    LayerNorm saves its input, which the next `x += ...` overwrites: backward raises, or under checkpointing goes on silently
    with wrong numbers. Each LayerNorm gets its own copy of its input, and each checkpointed block its own copy of its inputs.
    """
    with ExitStack() as stack:
        stack.enter_context(frozen_layers(network))
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                stack.callback(module.register_forward_pre_hook(copy_input).remove)
        if checkpointing:
            for block in checkpoint_blocks(network):
                block.forward = checkpointed(block.forward)  # type: ignore[method-assign]  # an instance attribute over the class's
                stack.callback(block.__dict__.pop, "forward", None)
        else:
            stack.enter_context(torch.autograd.graph.allow_mutation_on_saved_tensors())
        yield


@contextmanager
def above_underflow(denoiser: ComfyDenoiser, adapter: LoraAdapter) -> Iterator[None]:
    """In float16 a mean over a picture has gradients near the smallest numbers there are; a power of two carries them through the
    network, and the adapter's own gradients, in float32, are divided by it.
    """
    if denoiser.model.get_dtype_inference() != torch.float16:
        yield
        return
    handles = [p.register_hook(lambda grad: grad / FLOAT16_SCALE) for p in adapter.parameters]
    denoiser.gradient_scale = FLOAT16_SCALE
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copy_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].clone(), *args[1:])


def checkpoint_blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: the members of its lists of layers, and the parts of U-Net stages, which are sequences."""
    blocks: list[nn.Module] = []
    for layers in network.children():
        for block in layers if isinstance(layers, nn.ModuleList) else ():
            blocks += block.children() if isinstance(block, nn.Sequential) else [block]
    return blocks


def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` recomputed in the backward pass, all but its attention, from inputs that it cannot overwrite."""
    def copied(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) and value.is_floating_point() else value

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return forward(*(copied(v) for v in args), **{k: copied(v) for k, v in kwargs.items()})

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return create_selective_checkpoint_contexts(KEPT_OPERATIONS)

    return lambda *args, **kwargs: checkpoint(run, args, kwargs, use_reentrant=False, context_fn=contexts)
