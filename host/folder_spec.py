"""From the inputs of a node to what is asked of a folder."""
from __future__ import annotations

from typing import Any

from ..dataset.item import Transparency
from ..dataset.spec import FolderSpec, parse_colour
from .folders import resolve_input_folder, resolve_mask_folder, resolve_reference_folders


def folder_spec(folder: str, mask_folder: str, hidden_colours: Any, colour: str, seed: int, references: str = "",
                **choices: Any) -> FolderSpec:
    """Raises ValueError for folders that a workflow may not read, and for values that mean nothing. choices: as FolderSpec has them."""
    place = resolve_input_folder(folder)
    below, elsewhere = resolve_mask_folder(place, mask_folder)
    transparency = Transparency(hidden_colours, parse_colour(colour), seed)
    return FolderSpec(folder=place, mask_folder=below, mask_root=elsewhere, transparency=transparency,
                      references=resolve_reference_folders(place, references), **choices)
