"""What a data set is made of: one frozen Item for each picture or clip. Nothing here reads pixels; load.load_item does.

Shapes: T frames (1 for a picture), H height, W width, C channels. White = learn, opaque = learn.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from .geometry import Placement

Channel = Literal["luminance", "red", "green", "blue", "alpha"]
HiddenColours = Literal["keep", "fill", "random", "extend"]


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """One file for a picture, several, in order, for a clip. All have the size of the first one after EXIF rotation."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImagePixels:
    """A picture or clip from the graph, (T, H, W, 3 or 4), float32 0..1. With four channels the last is opacity."""

    image_THWC: Tensor = field(repr=False)  # ComfyUI prints a failing node's inputs


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """One file, or one for each frame of a clip, and which channel of it is the mask."""

    paths: tuple[Path, ...]
    channel: Channel = "luminance"


@dataclass(frozen=True, slots=True)
class OwnAlpha:
    """The picture's own transparency: opaque = learn."""


@dataclass(frozen=True, slots=True, eq=False)
class MaskPixels:
    """A mask from the graph, (1 or T, H, W), 0..1."""

    mask_THW: Tensor = field(repr=False)


ImageSource = ImageFiles | ImagePixels
MaskSource = MaskFiles | OwnAlpha | MaskPixels


@dataclass(frozen=True, slots=True)
class Transparency:
    """What becomes of colours under transparent pixels, before any resizing, so that up- and downscaling agree.

    keep: as stored. fill: lie on `colour`. random: lie on a colour drawn from (seed, the item's name). extend: transparent
    pixels take the colour of the nearest opaque one, half-transparent ones are mixed with it.
    """

    hidden: HiddenColours = "keep"
    colour: tuple[int, int, int] = (128, 128, 128)
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One picture or clip with its mask, caption and part in training.

    name: unique in its set, a relative path without its ending, with forward slashes. mask: None is learned everywhere.
    size: width and height after EXIF rotation. repeats: how often it comes in an epoch. weight: factor of its loss, >= 0.
    fit_mask: a mask of another size is stretched to the picture's instead of being an error. placement: None keeps its size.
    variant: number of the augmented copy, 0 for the picture itself. references: pictures that an edit model is shown, in order; items
    without mask and caption, which keep their whole size and are mirrored with this one. captions: the members of a list of captions,
    of which `caption` has the words of all; empty where there was no list.
    """

    name: str
    image: ImageSource
    mask: MaskSource | None
    caption: str
    size: tuple[int, int]
    frames: int = 1
    repeats: int = 1
    weight: float = 1.0
    regularisation: bool = False
    transparency: Transparency = field(default_factory=Transparency)
    fit_mask: bool = False
    placement: Placement | None = None
    variant: int = 0
    references: tuple[Item, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Items in order and what a person should know about them, as text."""

    items: tuple[Item, ...] = field(repr=False)
    report: str
