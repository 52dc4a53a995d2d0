"""Files of segmentation models in the folders where ComfyUI and other packs keep them."""
from __future__ import annotations

from pathlib import Path

from ..segmentation.catalogue import Family


def choices(*families: Family) -> list[str]:
    """What a dropdown offers: files and model folders that are there, then known models that can be downloaded. Never raises."""
    raise NotImplementedError


def find(choice: str, families: tuple[Family, ...], accept_licence: bool, node_id: str | None) -> Path:
    """The file or folder of a choice, downloaded if it is a known model, is not there and `accept_licence` is set.

    Raises ValueError for a choice that is not there: with the licence and its limits, repository, target and link.
    """
    raise NotImplementedError
