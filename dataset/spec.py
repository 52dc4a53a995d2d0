"""What a person asks of a folder."""
from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from .captions import Captions
from .item import Channel, Transparency
from .listing import same_name

Content = Literal["pictures", "clips"]
Masks = Literal["automatic", "folder", "sidecar", "alpha", "none"]
MissingMask = Literal["error", "all ones", "skip"]
MaskSize = Literal["error", "fit"]
MASKS = "masks"


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderSpec:
    """A folder and how its files become a data set. White = learn.

    content: clips means that each sub-folder that directly holds frames is one clip. mask_source: automatic takes a picture's own
    transparency if some pixel is below opaque, else the mask folder, else a sidecar (<name>-masklabel.png, <name>.mask.png).
    mask_folder: relative to `folder`, and its last sub-folder of that name; mask_root: any other folder instead. channel: of mask
    files. mask_size: fit stretches a mask of another size. weight: factor of the loss. references: folders of pictures that an edit
    model is shown, in order; `folder` itself means <name>-condlabel.png beside each. Raises ValueError for other values.
    """

    folder: Path
    content: Content = "pictures"
    recursive: bool = True
    mask_source: Masks = "automatic"
    mask_folder: str = MASKS
    mask_root: Path | None = None
    channel: Channel = "luminance"
    missing_mask: MissingMask = "error"
    mask_size: MaskSize = "error"
    captions: Captions = "automatic"
    caption_field: str = "caption"
    repeats: int = 1
    weight: float = 1.0
    regularisation: bool = False
    transparency: Transparency = field(default_factory=Transparency)
    references: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        choices = {"content": Content, "mask_source": Masks, "channel": Channel, "missing_mask": MissingMask, "mask_size": MaskSize,
                   "captions": Captions}
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(get_args(choice))}")
        if self.repeats < 1:
            raise ValueError(f"repeats is {self.repeats}; use 1 or more")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight is {self.weight}; use 0 or a positive number")
        if self.references and self.content == "clips":
            raise ValueError("reference pictures are for edit models, which make pictures; set content to pictures, or name no references")
        if not self.caption_field.strip():
            raise ValueError("caption_field is empty; name the field of the JSON file that holds the caption, such as 'caption'")

    @property
    def top(self) -> Path:
        """The folder with links resolved."""
        return self.folder.resolve()

    @property
    def mask_place(self) -> str:
        """The mask folder below `folder`, with forward slashes; empty for none."""
        place = same_name(self.mask_folder.strip().replace("\\", "/")).strip("/")
        return "" if place in ("", ".") else PurePosixPath(place).as_posix()

    def is_mask_folder(self, relative: str) -> bool:
        """Whether a folder, by its path below `folder`, is one whose masks are asked for.

        A mask folder of one part may lie in any folder, beside the pictures: masks/anna/1.png as well as anna/masks/1.png.
        """
        path, place = same_name(relative), self.mask_place
        if self.mask_root is not None:
            return False
        return bool(place) and (path == place or ("/" not in place and path.rpartition("/")[2] == place))

    def gives_no_pictures(self) -> Callable[[str], bool]:
        """Whether a folder, by its path below `folder`, is left out of the pictures: mask folders, all that are called masks, and
        those of references.
        """
        top, place = self.top, self.mask_place
        shown = {same_name(path.relative_to(top).as_posix()) for path in map(Path.resolve, self.references) if path.is_relative_to(top)}
        root = self.mask_root.resolve() if self.mask_root else top
        exact = same_name(root.relative_to(top).as_posix()) if root != top and root.is_relative_to(top) else place

        def left_out(relative: str) -> bool:
            path = same_name(relative)
            return path in shown or path == exact or path.rpartition("/")[2] in (MASKS, place) or self.is_mask_folder(relative)

        return left_out

    def check_mask_folder(self) -> None:
        """Raises ValueError for a mask folder that is the picture folder, holds it, or leads out of it unasked."""
        top = self.top
        if self.mask_root is not None:
            root = self.mask_root.resolve()
            if not root.is_dir():
                raise ValueError(f"mask folder {self.mask_root} is not there; name the folder that holds the masks")
            if top.is_relative_to(root):
                raise ValueError(f"mask folder {self.mask_root} is or holds the picture folder, so pictures and masks cannot be told "
                                 "apart; put the masks into a folder of their own")
        elif self.mask_place and (".." in self.mask_place.split("/") or not (top / self.mask_place).resolve().is_relative_to(top)):
            raise ValueError(f"mask folder {self.mask_folder!r} leads out of {self.folder}; name a folder inside of it")
        elif self.mask_place and top.is_relative_to((top / self.mask_place).resolve()):
            raise ValueError(f"mask folder {self.mask_folder!r} is a link to the picture folder itself, so every picture would be its own "
                             "mask; put the masks into a folder of their own")
        elif not self.mask_place and self.mask_source == "folder":
            raise ValueError("mask_source is 'folder' but mask_folder is empty; name the folder that holds the masks, such as 'masks'")


def parse_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of "#808080" or "#888". Raises ValueError for other texts."""
    digits = text.strip().removeprefix("#")
    if re.fullmatch(r"[0-9a-fA-F]{3}", digits):
        digits = "".join(digit * 2 for digit in digits)
    if not re.fullmatch(r"[0-9a-fA-F]{6}", digits):
        raise ValueError(f"colour is {text!r}; write it as #rrggbb, such as #808080 for grey")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
