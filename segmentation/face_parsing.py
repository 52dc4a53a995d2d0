"""SegFormer face parsing: 19 parts of a face and its surroundings, a light alternative to Sapiens for portraits."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .body_parser import BodyParser
from .body_tables import CELEB_A_MASK_HQ, ClassTable
from .folder import load_image_processor
from .pretrained import all_loaded, read_config, transformers_class
from .sapiens import prepare

NEEDS = "4.50"


def load_face_parsing(folder: Path, dtype: torch.dtype) -> BodyParser:
    """A directory with config.json, model.safetensors and, where it is not 512 x 512, preprocessor_config.json.

    Raises ValueError for a SegFormer of other classes, and for damage.
    """
    network = transformers_class("SegformerForSemanticSegmentation", NEEDS)
    processor_class = transformers_class("SegformerImageProcessor", NEEDS)
    table = class_table(read_config(folder).get("id2label") or {}, folder)
    model = all_loaded(network, folder, dtype)
    told = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    processor = load_image_processor(processor_class, folder) if told else processor_class()
    return BodyParser(
        folder.name, table, model, lambda picture_HWC: prepare(processor, picture_HWC), lambda pixels: model(pixel_values=pixels).logits,
        processor.size["width"] / processor.size["height"])


def class_table(labels: dict[str, Any], folder: Path) -> ClassTable:
    """The table in the order of the model's own labels: CelebAMask-HQ is numbered in two ways. Without names, in the table's order."""
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    if len(names) == len(CELEB_A_MASK_HQ.rows) and all(name == f"LABEL_{number}" for number, name in enumerate(names)):
        return CELEB_A_MASK_HQ
    groups = dict(CELEB_A_MASK_HQ.rows)
    if sorted(names) != sorted(groups):
        raise ValueError(f"{folder} tells apart {', '.join(names[:5]) or 'two things'} and so on; face parsing needs a SegFormer of the "
                         f"{len(groups)} classes of CelebAMask-HQ, such as jonathandinu/face-parsing")
    return ClassTable(tuple((name, groups[name]) for name in names))
