"""Sapiens2 body parts with transformers: a directory with config.json, or Meta's single file of weights."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .body_parser import BodyParser
from .body_tables import SAPIENS2
from .folder import load_image_processor
from .pretrained import all_loaded, read_config, read_weights, transformers_class

NEEDS = "5.10"
SIZE = (1024, 768)
"""Rows and columns of what the released networks read; a file of weights does not tell."""


def load_sapiens2_folder(folder: Path, dtype: torch.dtype) -> BodyParser:
    """A directory with config.json and model.safetensors. Raises ValueError for another network than 29 body parts, and for damage."""
    network = transformers_class("Sapiens2ForSemanticSegmentation", NEEDS)
    processor_class = transformers_class("Sapiens2ImageProcessor", NEEDS)
    holds = read_config(folder).get("architectures") or [network.__name__]
    if network.__name__ not in holds:
        raise ValueError(f"{folder} holds {holds[0]}; body parts need Sapiens2's seg model ({network.__name__})")
    model = all_loaded(network, folder, dtype=dtype)
    if (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file():
        processor = load_image_processor(processor_class, folder)
    else:
        rows, columns = model.config.image_size
        processor = processor_class(size={"height": rows, "width": columns})
    return _parser(folder.name, model, processor)


def load_sapiens2_file(file: Path, dtype: torch.dtype) -> BodyParser:
    """Meta's sapiens2_*_seg.safetensors: the network's sizes are read off its weights. Raises ValueError for any other file."""
    network = transformers_class("Sapiens2ForSemanticSegmentation", NEEDS)
    processor_class = transformers_class("Sapiens2ImageProcessor", NEEDS)
    weights = read_weights(file)
    config = transformers_class("Sapiens2Config", NEEDS)(**config_of(weights, file))
    model = all_loaded(network, file, config=config, state_dict=weights, dtype=dtype)
    return _parser(file.stem, model, processor_class(size={"height": SIZE[0], "width": SIZE[1]}))


def config_of(weights: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Arguments of Sapiens2Config that fit the weights. Raises ValueError for weights of something else."""
    try:
        patch = weights["backbone.patch_embed.projection.weight"]
        head_size = len(weights["backbone.blocks.0.attn.q_norm.weight"])
        layers = 1 + max(int(found[1]) for name in weights if (found := re.match(r"backbone\.blocks\.(\d+)\.", name)))
        registers = weights.get("backbone.storage_tokens")
        deconvolutions, convolutions = (_numbered(weights, rf"decode_head\.{part}_layers\.(\d+)\.weight") for part in ("deconv", "conv"))
        return {
            "image_size": list(SIZE), "patch_size": patch.shape[-1], "hidden_size": len(patch), "num_hidden_layers": layers,
            "intermediate_size": len(weights["backbone.blocks.0.ffn.w12.weight"]) // 2, "num_attention_heads": len(patch) // head_size,
            "num_key_value_heads_per_layer":
                [len(weights[f"backbone.blocks.{layer}.attn.wk.weight"]) // head_size for layer in range(layers)],
            "num_register_tokens": registers.shape[1] if registers is not None else 0,
            "num_labels": len(weights["decode_head.conv_seg.weight"]),
            "head_config": {
                "upsample_out_channels": [weight.shape[1] for weight in deconvolutions],
                "upsample_kernel_sizes": [weight.shape[-1] for weight in deconvolutions],
                "conv_out_channels": [weight.shape[0] for weight in convolutions],
                "conv_kernel_sizes": [weight.shape[-1] for weight in convolutions]}}
    except KeyError as error:
        some = ", ".join(sorted(weights)[:2])
        raise ValueError(f"{file} is no Sapiens2 segmentation model: it has no {error}, but {some} and others; "
                         "body parts need a file such as sapiens2_0.4b_seg.safetensors") from error


def _numbered(weights: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    found = {int(match[1]): weight for name, weight in weights.items() if (match := re.fullmatch(pattern, name))}
    return [found[number] for number in sorted(found)]


def _parser(name: str, model: Any, processor: Any) -> BodyParser:
    if model.config.num_labels != len(SAPIENS2.rows):
        raise ValueError(f"{name} tells {model.config.num_labels} classes apart; body parts need Sapiens2's seg model, which has "
                         f"{len(SAPIENS2.rows)}")
    return BodyParser(
        name, SAPIENS2, model, lambda picture_HWC: prepare(processor, picture_HWC), lambda pixels: model(pixel_values=pixels).logits,
        processor.size["width"] / processor.size["height"])


def prepare(processor: Any, picture_HWC: Tensor) -> Tensor:
    """What the processor makes of a picture, (C, rows, columns) float32."""
    # Told where the colours are: it would have to guess for a picture that is 3 pixels wide.
    pixels: Tensor = processor(
        images=picture_HWC.permute(2, 0, 1), return_tensors="pt", input_data_format="channels_first")["pixel_values"][0]
    return pixels
