"""Data sets from lists of a graph, and back. White = learn, opaque = learn.

Shapes: T frames (1 for a picture), H height, W width, C channels. Lists are ComfyUI's: entries may be batches.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..dataset.item import DataSet, ImagePixels, Item, MaskPixels, MaskSource, OwnAlpha
from ..dataset.load import load_item
from ..dataset.words import counted
from .clips import FrameRange, clip_frames

SHOWN = 8  # names in one line of a report
PLACEHOLDER = (64, 64)  # the black mask of ComfyUI's Load Image for a file without transparency
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Share:
    """The part of new items in training: how often each comes in an epoch, and the factor of its loss."""

    repeats: int = 1
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """What a data set holds, entry by entry: images (T, H, W, 3), masks (1 or T, H, W), captions, names."""

    images: list[Tensor]
    masks: list[Tensor]
    captions: list[str]
    names: list[str]


def single(values: Sequence[Value], what: str) -> Value:
    """The one value of an input that takes no list; raises ValueError for several."""
    if len(values) != 1:
        raise ValueError(f"{what} got a list of {len(values)}; connect one")
    return values[0]


def pictures_to_data_set(images: Sequence[Tensor], masks: Sequence[Tensor] | None, captions: Sequence[str], names: Sequence[str] | None,
                         *, references: Sequence[Tensor] | None = None, alpha_as_mask: bool = True, share: Share | None = None) -> DataSet:
    """Every picture in lists or batches of (B, H, W, 3 or 4) becomes an item.

    masks: one for each picture, or one for all of them. references: likewise, what an edit model is shown. alpha_as_mask: a fourth
    channel is the picture's mask.
    Raises ValueError for counts and sizes that do not agree: nothing is stretched, repeated or left out unasked.
    """
    counts = [len(checked_pixels(batch, "images")) for batch in images]
    pictures = [picture for batch in images for picture in batch.split(1)]
    pairs = None if masks is None else pair_masks([stacked(mask) for mask in masks], counts)
    data_set = make_data_set("picture", pictures, pairs, captions, names, FrameRange(), alpha_as_mask, share or Share())
    return data_set if references is None else show_references(data_set, references)


def show_references(data_set: DataSet, references: Sequence[Tensor]) -> DataSet:
    """The data set with one reference picture (1, H, W, 3 or 4) for each item, or one for all. Sizes may differ from the pictures'."""
    flat = [picture for batch in references for picture in checked_pixels(batch, "references").split(1)]
    shown = one_for_all(flat, len(data_set.items), "references", "picture")
    items = tuple(replace(item, references=(make_item(f"reference of {item.name}", picture, None, "", False, Share()),))
                  for item, picture in zip(data_set.items, shown, strict=True))
    alone = "one reference picture serves all" if len(flat) == 1 < len(items) else "each with a reference picture"
    return DataSet(items, f"{data_set.report}\n{alone}")


def clips_to_data_set(clips: Sequence[Any], masks: Sequence[Tensor] | None, captions: Sequence[str], names: Sequence[str] | None,
                      *, frames: FrameRange | None = None, alpha_as_mask: bool = True, share: Share | None = None) -> DataSet:
    """Every VIDEO or batch (T, H, W, 3 or 4) becomes an item; each entry of masks (1 or T, H, W) belongs to one clip, or one to all.

    `frames` are picked of clips and masks alike. Raises ValueError as `pictures_to_data_set` does.
    """
    entries = None if masks is None else [stacked(mask) for mask in masks]
    return make_data_set("clip", clips, entries, captions, names, frames or FrameRange(), alpha_as_mask, share or Share())


def make_data_set(kind: str, pictures: Sequence[Any], masks: Sequence[Tensor] | None, captions: Sequence[str], names: Sequence[str] | None,
                  frames: FrameRange, alpha_as_mask: bool, share: Share) -> DataSet:
    count = len(pictures)
    if not count:
        raise ValueError(f"there are no {kind}s; connect at least one")
    rows = zip(unique_names(names, count, kind), pictures, [None] * count if masks is None else one_for_all(masks, count, "masks", kind),
               one_for_all(captions, count, "captions", kind), strict=True)
    items = []
    for name, picture, mask, caption in rows:
        pixels = checked_pixels(clip_frames(picture, name), name)
        # Before frames are picked, so that a mask for single frames is counted like the clip.
        mask = None if mask is None else checked_mask(mask, name, (pixels.shape[2], pixels.shape[1]), len(pixels))
        pixels, mask = frames.pick(pixels, mask, name)
        items.append(make_item(name, pixels, mask, caption.strip(), alpha_as_mask, share))
    shared = f"one mask serves all {count} {kind}s\n" if masks is not None and len(masks) == 1 < count else ""
    return DataSet(tuple(items), shared + report(items, kind))


def make_item(name: str, image_THWC: Tensor, mask_THW: Tensor | None, caption: str, alpha_as_mask: bool, share: Share) -> Item:
    frames, height, width, channels = image_THWC.shape
    source: MaskSource | None = None if mask_THW is None else MaskPixels(mask_THW)
    if channels == 4 and alpha_as_mask:
        if source is not None:
            raise ValueError(f"{name} has a fourth channel, transparency, and a mask; switch alpha_as_mask off to use the mask, or "
                             "disconnect masks")
        source = OwnAlpha()
    pixels = ImagePixels(image_THWC.to("cpu", torch.float32))
    return Item(name, pixels, source, caption, (width, height), frames, share.repeats, share.weight)


def replace_masks(data_set: DataSet, masks: Sequence[Tensor], names: Sequence[str] | None = None) -> DataSet:
    """The data set with masks from the graph: one for each item in its order, one for all, or those that `names` tells.

    With names, items that are not named keep their masks. Raises ValueError for a set that is already cropped, and for
    counts, names and sizes that do not agree.
    """
    for item in data_set.items:
        if item.placement is not None:
            raise ValueError(f"{item.name} is already cropped and resized, so that a mask for the whole picture cannot be applied; connect "
                             "this node before Crop and Bucket Pictures")
    clips = any(item.frames > 1 for item in data_set.items)
    entries = [stacked(mask) for mask in masks]
    if not clips:
        entries = [mask for group in entries for mask in group.split(1)]
    if names:
        chosen = by_name(entries, names, data_set)
    else:
        spread = one_for_all(entries, len(data_set.items), "masks", "item")
        chosen = {item.name: mask for item, mask in zip(data_set.items, spread, strict=True)}
    items = tuple(
        replace(item, mask=MaskPixels(checked_mask(chosen[item.name], item.name, item.size, item.frames)))
        if item.name in chosen else item for item in data_set.items)
    changed = [item for item in items if item.name in chosen]
    kept = len(items) - len(changed)
    alone = "; one mask serves all of them" if len(entries) == 1 < len(changed) else ""
    text = f"now masks from the graph for {len(changed)} of {counted(len(items), 'item')}{alone}" + (
        f"; {kept} keep what they had" if kept else "; what is said of masks above counts no more")
    return DataSet(items, "\n".join([data_set.report, text, *mask_lines(changed)]))


def by_name(masks: Sequence[Tensor], names: Sequence[str], data_set: DataSet) -> dict[str, Tensor]:
    if len(masks) != len(names):
        raise ValueError(f"{counted(len(names), 'name')} came with {counted(len(masks), 'mask')}; give one mask for each name")
    names = [name.strip() for name in names]
    known = {item.name for item in data_set.items}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no item is named {some(unknown)}; the data set has {some([item.name for item in data_set.items])}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"more than one mask came for {some(twice)}; give one each")
    return dict(zip(names, masks, strict=True))


def data_set_to_lists(data_set: DataSet, start: int = 0, count: int = 0) -> Lists:
    """Pictures, masks, captions and names of `count` items from `start` (0 is the first) on; count 0: all that follow.

    Items come as they would be trained: cropped if the set is. Without a mask they are white, (1, H, W).
    Raises ValueError for a start behind the end.
    """
    total = len(data_set.items)
    if not 0 <= start < total:
        raise ValueError(f"start is {start} and the data set has {total} items; use 0 to {max(0, total - 1)}")
    items = data_set.items[start:start + count] if count else data_set.items[start:]
    loaded = [load_item(item) for item in items]
    masks = [torch.ones(1, *one.image_THWC.shape[1:3]) if one.mask_THW is None else one.mask_THW for one in loaded]
    return Lists([one.image_THWC for one in loaded], masks, [item.caption for item in items], [item.name for item in items])


def pair_masks(masks: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Batches of masks taken apart. Lists of equal length are paired entry by entry, so that a wrong one can be told."""
    flat = [mask for group in masks for mask in group.split(1)]
    if len(masks) == len(counts) and len(flat) != 1:
        for number, (group, count) in enumerate(zip(masks, counts, strict=True), start=1):
            if len(group) != count:
                raise ValueError(f"entry {number} of the lists has {counted(count, 'picture')} and {counted(len(group), 'mask')}; give one "
                                 "mask for each picture (several masks for one picture, as segmentation nodes give, must be merged into "
                                 "one)")
    return flat


def one_for_all(values: Sequence[Value], count: int, what: str, kind: str) -> list[Value]:
    if len(values) == 1:
        return [values[0]] * count
    if len(values) != count:
        raise ValueError(f"{count} {kind}s came with {len(values)} {what}; connect one for each, or one for all")
    return list(values)


def unique_names(names: Sequence[str] | None, count: int, kind: str) -> list[str]:
    if not names:
        return [f"{kind} {number}" for number in range(1, count + 1)]
    stripped = [name.strip() for name in names]
    if len(stripped) != count:
        raise ValueError(f"{count} {kind}s came with {len(stripped)} names; connect one for each, or none")
    wrong = [name for name, times in Counter(stripped).items() if times > 1 or not name]
    if wrong:
        raise ValueError(f"names must differ and not be empty, but {some([repr(name) for name in wrong])} came more than once or is empty")
    return stripped


def checked_pixels(pixels: Tensor, what: str) -> Tensor:
    if pixels.ndim != 4 or not all(pixels.shape) or pixels.shape[-1] not in (3, 4):
        raise ValueError(f"{what}: the shape is {tuple(pixels.shape)}; give pictures of (number, height, width, 3 or 4)")
    return pixels


def stacked(mask: Tensor) -> Tensor:
    """(H, W) or (B, H, W) as (B, H, W)."""
    if mask.ndim not in (2, 3) or not all(mask.shape):
        raise ValueError(f"a mask has shape {tuple(mask.shape)}; give (number, height, width), at least one")
    return mask if mask.ndim == 3 else mask[None]


def checked_mask(mask_THW: Tensor, name: str, size: tuple[int, int], frames: int) -> Tensor:
    """The mask as float32 in 0..1; raises ValueError for one that does not fit its picture, pixel by pixel and frame by frame."""
    width, height = size
    got = tuple(mask_THW.shape[1:])
    if got != (height, width):
        if got == PLACEHOLDER and not mask_THW.any():
            raise ValueError(
                f"{name}: the picture is {width}x{height} and its mask is the black 64x64 that ComfyUI's Load Image gives for a file "
                "without transparency; leave masks unconnected (all is learned) or draw a mask. For a file with transparency Load Image "
                "gives opaque = black: put Invert Mask behind it, because white = learn")
        raise ValueError(f"{name}: the picture is {width}x{height} and its mask {got[1]}x{got[0]} pixels; resize one of them, a stretched "
                         "mask would teach the wrong pixels")
    if len(mask_THW) not in (1, frames):
        raise ValueError(f"{name} has {counted(frames, 'frame')} and its mask {len(mask_THW)}; give one mask for the clip or one for each "
                         "frame, counted before frames are left out")
    low, high = (float(value) for value in mask_THW.aminmax())
    if not -0.5 <= low <= high <= 1.5:  # resizing may overshoot a little; NaN fails as well
        raise ValueError(f"{name}: mask values go from {low:g} to {high:g}; give 0 (black) to 1 (white = learn)")
    return mask_THW.to("cpu", torch.float32).clamp(0, 1)


def report(items: Sequence[Item], kind: str) -> str:
    sizes = Counter(f"{item.size[0]}x{item.size[1]}" + (f", {item.frames} frames" if item.frames > 1 else "") for item in items)
    empty = sum(not item.caption for item in items)
    channels = sum(item.mask is None and isinstance(item.image, ImagePixels) and item.image.image_THWC.shape[-1] == 4 for item in items)
    lines = [f"{counted(len(items), kind)}; " + "; ".join(f"{size}: {times}" for size, times in sizes.most_common(SHOWN))
             + ("; other sizes: " + str(sum(sizes.values()) - sum(n for _, n in sizes.most_common(SHOWN))) if len(sizes) > SHOWN else "")]
    if empty:
        lines.append(f"without a caption: {empty}")
    if channels:
        lines.append(f"transparency that is not used as a mask: {channels}")
    return "\n".join([*lines, *mask_lines(items)])


def mask_lines(items: Sequence[Item]) -> list[str]:
    """How much is learned, and of which items nothing is."""
    whites = {item.name: white(item) for item in items}
    known = [value for value in whites.values() if value is not None]
    lines = []
    if len(known) < len(items):
        lines.append(f"without a mask, learned everywhere: {len(items) - len(known)}")
    if known:
        lines.append(f"white (learned): on average {sum(known) / len(known):.1%} of the pixels of {counted(len(known), 'mask')}")
    black = [name for name, value in whites.items() if value == 0]
    if black:
        lines.append(f"all black, nothing is learned unless inverted or floored: {some(black)}")
    return lines


def white(item: Item) -> float | None:
    """The mean of a mask from the graph or of a fourth channel; None if there is none."""
    if isinstance(item.mask, MaskPixels):
        return float(item.mask.mask_THW.mean(dtype=torch.float64))
    if isinstance(item.mask, OwnAlpha) and isinstance(item.image, ImagePixels):
        return float(item.image.image_THWC[..., 3].mean(dtype=torch.float64))
    return None


def some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
