"""Drawing that the previews share: colours, text that fits, pictures that are large enough to read."""
from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BACKGROUND, PANEL = (17, 19, 24), (29, 32, 39)
INK, MUTED, WARNING = (236, 238, 241), (157, 164, 175), (255, 190, 84)
# Pillow's own font has Latin letters only. These come with Linux, Windows and macOS, those that know most letters first.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "msyh.ttc", "YuGothM.ttc", "meiryo.ttc", "malgun.ttf",
              "Arial Unicode.ttf", "Hiragino Sans GB.ttc", "wqy-microhei.ttc", "segoeui.ttf", "arial.ttf", "NotoSans-Regular.ttf",
              "DejaVuSans.ttf")


def font(size: int) -> Font:
    """Pillow's own font at `size` pixels: nothing to install and the same on every system."""
    return ImageFont.load_default(size=size)


def font_for(text: str, size: int) -> Font:
    """Pillow's own font, or, for text with letters that it lacks, the font of the system that has most of them."""
    name = _best_font(text)
    return (_system_font(name, size) if name else None) or font(size)


def legible(text: str) -> str:
    """The text without line breaks; letters that its font lacks are replaced by their Latin base letter or by "?"."""
    line = " ".join(text.split())
    name = _best_font(line)
    if not _missing(name, line):
        return line
    plain = (letter if not _missing(name, letter) else unicodedata.normalize("NFKD", letter)[0] for letter in line)
    return "".join("?" if _missing(name, letter) else letter for letter in plain)


def to_picture(image_HWC: Tensor) -> Image.Image:
    """Float 0..1 of one, three or four channels (alpha is dropped) to an RGB picture of the same size."""
    if image_HWC.ndim != 3 or image_HWC.shape[-1] not in (1, 3, 4):
        raise ValueError(f"picture has shape {tuple(image_HWC.shape)}; give height, width and 1, 3 or 4 channels")
    pixels = image_HWC[..., :3].detach().float().cpu().clamp(0, 1).mul(255).round().byte().numpy()
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), "RGB")


def fit(picture: Image.Image, side: int, resample: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    """The picture with its long side at `side` pixels, shape kept."""
    scale = side / max(picture.size)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), resample)


def wrap(text: str, width: int, size: int) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is longer is broken."""
    face, lines, line = font_for(text, size), [], ""
    for word in text.split():
        while word and face.getlength(word) > width:
            count = max(1, sum(face.getlength(word[:end]) <= width for end in range(1, len(word))))
            lines += [line, word[:count]] if line else [word[:count]]
            line, word = "", word[count:]
        candidate = f"{line} {word}".strip()
        if face.getlength(candidate) <= width:
            line = candidate
        else:
            lines.append(line)
            line = word
    return [*lines, line] if line else lines


def shorten(text: str, width: int, size: int) -> str:
    """The text on one line; where it does not fit, dots replace its middle, because file names differ at their ends."""
    face = font_for(text, size)
    if face.getlength(text) <= width:
        return text
    kept = len(text)
    while kept and face.getlength(_without_middle(text, kept)) > width:
        kept -= 1
    return _without_middle(text, kept)


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: tuple[int, int, int] = INK,
          anchor: str = "la") -> None:
    """One line of text."""
    draw.text(at, text, fill=fill, font=font_for(text, size), anchor=anchor)


def _without_middle(text: str, kept: int) -> str:
    end = kept // 2
    return f"{text[:kept - end]}...{text[len(text) - end:]}"


@lru_cache(maxsize=64)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # this system does not have it
        return None


@lru_cache(maxsize=4096)
def _best_font(text: str) -> str | None:
    """Name of the first font that lacks the fewest letters of the text; None is Pillow's own."""
    return None if text.isascii() else min((None, *WIDE_FONTS), key=lambda name: _missing(name, text))


@lru_cache(maxsize=4096)
def _missing(name: str | None, text: str) -> int:
    """How many different letters a font lacks. Such a letter looks like one that no font can have."""
    face = font(16) if name is None else _system_font(name, 16)
    if face is None:
        return len(text) + 1
    unknown = _look(face, "\U0010fffe")
    return sum(not letter.isspace() and _look(face, letter) == unknown for letter in set(text))


def _look(face: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(letter)
    return mask.size, bytes(mask)
