"""What the training benchmark trains: random models of Flux and SDXL in three sizes, random pictures and captions, the work in a step."""
from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _pack
import torch

_pack.load(cpu=not torch.cuda.is_available())

import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
from comfy.ldm.flux.model import Flux  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from pack.dataset.cache import CachedExample, TrainingSet  # noqa: E402
from pack.host.text_padding import TextPadding  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

RANK, PICTURES = 16, 4
# Real tokens of the short captions. They differ, as captions do, so that ours needs a forward pass for each.
SHORT, PADDED, CLIP_TOKENS = (17, 19, 21, 23), 256, 77
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# hidden width, double blocks, single blocks, width of the text, pooled width
FLUX = {"tiny": (128, 1, 2, 64, 32), "mid": (512, 4, 8, 512, 768), "full": (3072, 19, 38, 4096, 768)}
SDXL: dict[str, Any] = {
    "use_checkpoint": False, "image_size": 32, "use_spatial_transformer": True, "legacy": False, "num_classes": "sequential",
    "adm_in_channels": 2816, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 1, 1], "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1], "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 1, "use_linear_in_transformer": True, "context_dim": 64, "use_temporal_resblock": False,
    "use_temporal_attention": False, "num_heads": -1, "num_head_channels": 32}


@dataclass(frozen=True)
class Setup:
    arch: str
    size: str
    pixels: int
    dtype: str

    @property
    def texts(self) -> tuple[str, ...]:
        """SDXL reads 77 tokens of every caption."""
        return ("short", "long") if self.arch == "flux" else ("long",)

    @property
    def latent(self) -> tuple[int, int, int]:
        return (16 if self.arch == "flux" else 4, self.pixels // 8, self.pixels // 8)

    def tokens(self, text: str) -> tuple[int, ...]:
        """Of each picture's caption, as ours gets it."""
        if self.arch == "sdxl":
            return (CLIP_TOKENS,) * PICTURES
        return SHORT if text == "short" else (PADDED,) * PICTURES

    def captions(self) -> tuple[int, int]:
        """Widths of the text and of the pooled text."""
        return FLUX[self.size][3:] if self.arch == "flux" else (SDXL["context_dim"], 1280)


def flux_config(size: str) -> dict[str, Any]:
    hidden, double, single, text, pooled = FLUX[size]
    return {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": pooled, "context_in_dim": text,
            "hidden_size": hidden, "mlp_ratio": 4.0, "num_heads": hidden // 128, "depth": double, "depth_single_blocks": single,
            "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}


def write_weights(setup: Setup, file: Path) -> None:
    """Random ones; norms near one. On disk, because core's trainer reads its second copy of the model from there."""
    kw = {"dtype": DTYPES[setup.dtype], "device": "meta", "operations": comfy.ops.disable_weight_init}
    network = Flux(**flux_config(setup.size), **kw) if setup.arch == "flux" else UNetModel(**SDXL, **kw)
    device = comfy.model_management.get_torch_device()
    generator, weights = torch.Generator(device).manual_seed(0), {}
    for name, value in network.state_dict().items():
        spread = value[0].numel() ** -0.5 if value.ndim > 1 else 0.02
        drawn = torch.randn(value.shape, generator=generator, device=device) * spread
        is_norm = value.ndim == 1 and name.endswith(("scale", "weight"))
        weights[name] = (drawn + is_norm).to("cpu", DTYPES[setup.dtype])
    save_file(weights, file)


def load_model(setup: Setup, file: Path) -> ModelPatcher:
    with torch.inference_mode():
        if setup.arch == "sdxl":
            return load_sdxl(str(file), setup.dtype)
        return comfy.sd.load_diffusion_model(str(file), model_options={"dtype": DTYPES[setup.dtype]})


def load_sdxl(file: str, dtype: str, disable_dynamic: bool = False) -> ModelPatcher:
    """ComfyUI's own loader knows an SDXL by its full width."""
    config = comfy.supported_models.SDXL(dict(SDXL))
    config.set_inference_dtype(DTYPES[dtype], None)
    weights = comfy.utils.load_torch_file(file)
    model = config.get_model(weights, "")
    model.load_model_weights(weights, "")
    patcher = ModelPatcher(model, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
    patcher.cached_patcher_init = (load_sdxl, (file, dtype))
    return patcher


def make_data(setup: Setup, text: str) -> TrainingSet:
    """Captions of which the padding is dropped ("short") or read."""
    return training_set(setup, setup.tokens(text), TextPadding(attend="real") if text == "short" else TextPadding())


def training_set(setup: Setup, lengths: Sequence[int], padding: TextPadding) -> TrainingSet:
    """A picture for each of `lengths`, the tokens of its caption; latents of the setup's size, masks that learn the left half."""
    generator, (width, pooled) = torch.Generator().manual_seed(1), setup.captions()
    mask_THW = torch.zeros(1, setup.pixels, setup.pixels)
    mask_THW[..., :setup.pixels // 2] = 1

    def example(number: int, tokens: int) -> CachedExample:
        latent = torch.randn(setup.latent, generator=generator)
        # Drawn at full length, so that both texts see the same numbers.
        caption = torch.randn(1, PADDED if setup.arch == "flux" else CLIP_TOKENS, width, generator=generator)[:, :tokens]
        cond = {"cross_attn": caption, "pooled_output": torch.randn(1, pooled, generator=generator)}
        return CachedExample(f"picture {number}", "", latent, mask_THW, cond, padding.to_json())

    return TrainingSet(tuple(example(i, n) for i, n in enumerate(lengths)), padding.to_json(), "")


def flop_of_step(setup: Setup, text: str, batch: int) -> float | None:
    """The least matrix work of one step of a LoRA on a frozen Flux: nothing is computed twice. None for SDXL."""
    if setup.arch == "sdxl":
        return None
    lengths = setup.tokens(text)
    return batch * sum(flop_of_picture(setup, tokens) for tokens in lengths) / len(lengths)


def flop_of_picture(setup: Setup, tokens: int, training: bool = True) -> float:
    """The matrix work of Flux on one picture with a caption of so many tokens: of a training step, or of a prediction alone.

    Each block's matrix of P weights does 2 P a token forward and 2 P backward to its input (a frozen weight has no gradient); the
    LoRA beside it, with p weights, 2 p forward and 4 p backward. Attention over N tokens of width h does 4 N^2 h forward and
    8 N^2 h backward in each block. Modulation and embeddings, once a picture or small, are left out.
    """
    hidden, double, single, *_ = FLUX[setup.size]
    count = (setup.pixels // 16) ** 2 + tokens
    stream = [(3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)]
    both = [(7 * hidden, hidden), (hidden, 5 * hidden)]
    weight, lora, attention = (4, 6 * RANK, 12) if training else (2, 0, 4)

    def linear(shapes: list[tuple[int, int]]) -> int:
        return sum(weight * rows * columns + lora * (rows + columns) for rows, columns in shapes)

    return double * linear(stream) * count + single * linear(both) * count + (double + single) * attention * count**2 * hidden


def matmul_rate(setup: Setup) -> float:
    """FLOP/s of a large square matrix product of the setup's dtype; the median of five."""
    device = comfy.model_management.get_torch_device()
    side = {"cuda": 8192}.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[setup.dtype]) for _ in range(2))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * math.pow(side, 3) / sorted(seconds[1:])[2]
