"""Joins data sets and VAEs with the preview of masks, so that it shows what training will use."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..dataset.cache import pack_mask, unpack_mask
from ..dataset.item import DataSet, Item
from ..dataset.load import load_item, load_mask
from ..masks.review import Grid, Source, from_batches
from .video import usable_frames

if TYPE_CHECKING:
    import comfy.sd


def preview_sources(data_set: DataSet | None, images: Sequence[Tensor] | None, masks: Sequence[Tensor] | None,
                    names: Sequence[str] | None) -> list[Source]:
    """What to look at: a data set, or pictures with their masks. Raises ValueError for both, for neither, and for one of a pair."""
    if data_set is not None:
        given = [what for what, value in (("images", images), ("masks", masks), ("names", names)) if value is not None]
        if given:
            raise ValueError(f"a data set and {' and '.join(given)} are connected; connect the data set alone, or pictures with masks")
        return [_source(item) for item in data_set.items]
    if images is None or masks is None:
        missing = "a data set, or images and masks" if images is None and masks is None else "images" if images is None else "masks"
        raise ValueError(f"nothing to show: connect {missing}")
    return from_batches(images, masks, names or ())


def latent_grid(vae: comfy.sd.VAE | None) -> Grid:
    """The VAE's own cells, or without one 8 x 8 pixels and every frame for itself."""
    if vae is None:
        return Grid()
    encoder = vae

    def clip(frames: int) -> tuple[int, int]:
        kept = usable_frames(encoder, frames)
        return kept, 1 if kept == 1 else int(encoder.downscale_ratio[0](kept))

    return Grid(int(vae.spacial_compression_encode()), clip)


def _source(item: Item) -> Source:
    return Source(item.name, _mask_of(item), lambda: load_item(item).image_THWC, item.name, item.frames)


def _mask_of(item: Item) -> Callable[[], Tensor | None]:
    """The mask as the cache of a training set keeps it: bit for bit what training reads.

    The cache keeps what the VAE leaves of it, which a preview without a VAE does not know: packing treats each value alone.
    """
    def load() -> Tensor | None:
        mask_THW = load_mask(item)
        return None if mask_THW is None else unpack_mask(pack_mask(mask_THW))

    return load
