"""Segment Anything models from the files that people have: folders in transformers' layout, and Meta's single files."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .folder import load_processor
from .pretrained import all_loaded, read_config, transformers_class
from .sam import PointSam
from .sam3 import Sam3, embed_for_tracker
from .sam_keys import rename, sam1_config, sam2_config

Read = Callable[[Path], Mapping[str, Tensor]]
"""The weights in a .safetensors, .pt or .pth file, without running code that it may hold. Raises ValueError that names the file."""

SINCE = {"SamModel": "4.29", "Sam2Model": "4.57", "Sam2VideoModel": "4.57", "Sam3Model": "5.0",
         "Sam3TrackerModel": "5.0", "Sam3VideoModel": "5.0"}
SUPPORTED = ("SAM 1, SAM 2 and SAM 2.1 as a file with Meta's names or a folder in transformers' layout, SAM 3 as such a folder")
SAM3 = {"sam3_video": "Sam3VideoModel", "sam3_tracker": "Sam3TrackerModel", "sam3": "Sam3Model"}
"""What a folder's model_type says: the whole, the half that takes points and boxes, the half that reads words."""
MARKS = {  # part of a weight's name -> what the file is, the first that fits
    "lora_": "a LoRA", "tracker_neck.": "SAM 3", "detector.backbone.": "SAM 3", "mask_decoder.hf_token": "SAM-HQ",
    "image_encoder.layers.": "MobileSAM", "image_encoder.trunk.body.": "EdgeTAM", "sam_mask_decoder.": "SAM 2",
    "image_encoder.neck.": "SAM 1",
    "diffusion_model.": "a diffusion model", "double_blocks.": "a diffusion model", "text_model.": "a text encoder",
}


def load_sam(path: Path, dtype: torch.dtype, read: Read) -> PointSam | Sam3:
    """The SAM in a file or folder. read: how single files are read; folders are read by transformers.

    Raises ValueError for what is not there, damaged, or something else (the error says what it is).
    """
    if path.is_dir():
        return _from_folder(path, dtype)
    if not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder; choose another model or put it there")
    weights = read(path)
    what = next((what for mark, what in MARKS.items() if any(mark in name for name in weights)), "")
    try:
        if what == "SAM 1":
            return _sam1(path, weights, dtype)
        if what == "SAM 2":
            return _sam2(path, weights, dtype)
    except KeyError as error:
        raise ValueError(f"{path} lacks the weight {error} of {what}; it is damaged or a part: download it again") from error
    raise ValueError(_not_a_sam(path, what or f"a file with weights such as {next(iter(weights), 'none')!r}"))


def _processor(name: str, folder: Path | None = None, **sizes: Any) -> Any:
    import transformers

    # Before transformers 5 only the class with the suffix takes tensors.
    found = getattr(transformers, name, None) or getattr(transformers, f"{name}Fast")
    if folder is None:
        return found(**sizes)
    try:
        return found.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no readable settings of {name} ({error}); download it again") from error


def _network(name: str, path: Path, dtype: torch.dtype, **settings: Any) -> Any:
    return all_loaded(transformers_class(name, SINCE[name]), path, dtype, **settings)


def _from_folder(path: Path, dtype: torch.dtype) -> PointSam | Sam3:
    kind = read_config(path).get("model_type")
    if kind == "sam":
        return PointSam(f"sam {path.name}", _network("SamModel", path, dtype), _processor("SamImageProcessor", path), padded=True)
    if kind == "sam2":
        return PointSam(f"sam2 {path.name}", _network("Sam2Model", path, dtype), _processor("Sam2ImageProcessor", path))
    if kind == "sam2_video":
        return _with_video(f"sam2 {path.name}", _network("Sam2VideoModel", path, dtype), _processor("Sam2ImageProcessor", path))
    if kind in SAM3:
        return _sam3(path, dtype, SAM3[kind])
    raise ValueError(_not_a_sam(path, f"a model of the type {kind!r}"))


def _sam3(path: Path, dtype: torch.dtype, model_class: str) -> Sam3:
    """The whole SAM 3, as Meta published it, or one half of it."""
    name, network = f"sam3 {path.name}", _network(model_class, path, dtype)
    image_processor = _processor("Sam3ImageProcessor", path)
    whole = model_class == "Sam3VideoModel"
    detector = network.detector_model if whole else network if model_class == "Sam3Model" else None
    tracker = _tracker_of(network) if whole else network if model_class == "Sam3TrackerModel" else None
    points = None if tracker is None else PointSam(name, tracker, image_processor, embed=embed_for_tracker)
    tokenizer = None if detector is None else load_processor(transformers_class("CLIPTokenizer", SINCE[model_class]), path)
    return Sam3(name, network, image_processor, points, detector, tokenizer)


def _tracker_of(whole: Any) -> Any:
    """A Sam3TrackerModel out of a Sam3VideoModel. Its from_pretrained (transformers 5.23) finds none of the tracker's weights there."""
    tracker = _sharing("Sam3TrackerModel", "Sam3TrackerConfig", whole.tracker_model, whole.config.tracker_config)
    tracker.vision_encoder.backbone, tracker.vision_encoder.neck = whole.detector_model.vision_encoder.backbone, whole.tracker_neck
    return tracker


def _sam1(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> PointSam:
    config_class = transformers_class("SamConfig", SINCE["SamModel"])
    config = config_class(**sam1_config(weights))
    network = _network("SamModel", path, dtype, config=config, state_dict=rename(weights, "sam"))
    side = config.vision_config.image_size
    image_processor = _processor("SamImageProcessor", size={"longest_edge": side}, pad_size={"height": side, "width": side})
    return PointSam(f"sam {path.name}", network, image_processor, padded=True)


def _sam2(path: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> PointSam:
    follows = "maskmem_tpos_enc" in weights
    settings, renamed = sam2_config(path, weights), rename(weights, "sam2")
    name = "Sam2Video" if follows else "Sam2"
    config = transformers_class(f"{name}Config", SINCE[f"{name}Model"])(**settings)
    network = _network(f"{name}Model", path, dtype, config=config, state_dict=renamed)
    side = config.prompt_encoder_config.image_size
    image_processor = _processor("Sam2ImageProcessor", size={"height": side, "width": side})
    named = f"sam2 {path.name}"
    return _with_video(named, network, image_processor) if follows else PointSam(named, network, image_processor)


def _with_video(name: str, video: Any, image_processor: Any) -> PointSam:
    network = _sharing("Sam2Model", "Sam2Config", video, video.config)
    network.vision_encoder = video.vision_encoder
    return PointSam(name, network, image_processor, video)


def _sharing(model_class: str, config_class: str, video: Any, config: Any) -> Any:
    """A model for pictures out of one for clips: the same prompt encoder and mask decoder, not a copy; the image encoder is left out."""
    import transformers

    parts = {part: getattr(config, part).to_dict() for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    for part in parts.values():
        part.pop("model_type", None)  # the clip model's own names for the same values
    with torch.device("meta"):
        network: Any = getattr(transformers, model_class)(getattr(transformers, config_class)(**parts))
    for part in ("prompt_encoder", "mask_decoder", "shared_image_embedding", "no_memory_embedding"):
        setattr(network, part, getattr(video, part))
    return network.eval()


def _not_a_sam(path: Path, what: str) -> str:
    if what == "SAM 3":
        return (f"{path} is a single file of SAM 3; load it with ComfyUI's Load Checkpoint, make masks or boxes with SAM3 Detect and "
                "connect them, or use a folder in transformers' layout here")
    return f"{path} is {what}; this loads {SUPPORTED}"
