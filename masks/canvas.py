"""Drawing that the previews share: colours, text that fits, pictures that are large enough to read."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND, PANEL = (17, 19, 24), (29, 32, 39)
INK, MUTED, WARNING = (236, 238, 241), (157, 164, 175), (255, 190, 84)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at `size` pixels: nothing to install and the same on every system."""
    return ImageFont.load_default(size=size)


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
    face, lines, line = font(size), [], ""
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
    """The text on one line, its end replaced by dots where it does not fit."""
    face = font(size)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, fill: tuple[int, int, int] = INK,
          anchor: str = "la") -> None:
    """One line of text with Pillow's font."""
    draw.text(at, text, fill=fill, font=font(size), anchor=anchor)
