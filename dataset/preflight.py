"""What is looked at before anything is encoded: every picture's header and every mask's pixels. White = learn.

Shapes: H height, W width.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import pixels
from .findings import Finding
from .pixels import Floats

# Learned is what is white; a scanned or JPEG black is not exactly 0.
BLACK, WHITE = 0.02, 0.98
FRAME, SIDE_WHITE, SIDES = 0.04, 0.75, 3
MIDDLE, MIDDLE_WHITE = 0.25, 0.5
SAME_PROPORTIONS = 0.02
TAIL = 4096  # bytes


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """size: width and height after EXIF. mean, lowest, highest: of the mask, 0..1. inverted: see `looks_inverted`."""

    size: tuple[int, int]
    mean: float
    lowest: float
    highest: float
    inverted: bool

    @classmethod
    def of(cls, mask_HW: Floats) -> MaskFacts:
        height, width = mask_HW.shape
        return cls((width, height), float(mask_HW.mean()), float(mask_HW.min()), float(mask_HW.max()), looks_inverted(mask_HW))


def looks_inverted(mask_HW: Floats) -> bool:
    """Whether a mask is white along at least three sides of the frame and mostly black in the middle.

    A side is the outer 4 % and counts as white with a mean of at least 0.75; the middle is half of the width and of the height and is
    mostly black with a mean below 0.5. A subject that touches the frame, fills it or stands at one side is white in the middle
    or leaves two sides black, so its mask is not called inverted. A small or far off-centre black area is not recognised.
    """
    height, width = mask_HW.shape
    rows, columns = max(1, round(FRAME * height)), max(1, round(FRAME * width))
    sides = (mask_HW[:rows], mask_HW[-rows:], mask_HW[:, :columns], mask_HW[:, -columns:])
    if sum(float(side.mean()) >= SIDE_WHITE for side in sides) < SIDES:
        return False
    top, left = round(MIDDLE * height), round(MIDDLE * width)
    middle = mask_HW[top: height - top, left: width - left]
    return bool(middle.size) and float(middle.mean()) < MIDDLE_WHITE


def clip_mask_facts(facts: Sequence[MaskFacts]) -> MaskFacts:
    """One value for the masks of a clip: mean of means, extremes, and inverted if most frames are."""
    inverted = sum(one.inverted for one in facts) * 2 > len(facts)
    mean = sum(one.mean for one in facts) / len(facts)
    return MaskFacts(facts[0].size, mean, min(one.lowest for one in facts), max(one.highest for one in facts), inverted)


def check_picture(path: Path) -> pixels.PictureHeader:
    """Size, alpha and frames from the header. A file that seems to be cut off is decoded to be sure. Raises ValueError."""
    header = pixels.picture_size(path)
    if seems_cut_off(path):
        pixels.read_picture(path)
    return header


def seems_cut_off(path: Path) -> bool:
    """Whether a file lacks its end. It may still be whole, with other data appended, so decode it to be sure.

    PNG and JPEG have an end mark; WebP, BMP and AVIF tell their length; a TIFF tells where its strips or tiles lie.
    """
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        tail = file.read()
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head[4:8] == b"ftyp":
        return _boxes_end(path) > size
    if head[:4] in (b"II*\0", b"MM\0*"):
        return pixels.tiff_data_end(path) > size
    told = int.from_bytes(head[2:6], "little") if head[:2] == b"BM" else 8 + int.from_bytes(head[4:8], "little")
    return head[:2] in (b"BM", b"RI") and told > size


def _boxes_end(path: Path) -> int:
    """Where the last top-level box of an ISO media file (AVIF) says that it ends; ISO/IEC 14496-12 section 4.2."""
    with path.open("rb") as file:
        size, end = file.seek(0, 2), 0
        while end + 8 <= size:
            file.seek(end)
            length = int.from_bytes(file.read(4), "big")
            if length == 1:  # a 64-bit length follows the type
                file.seek(end + 8)
                length = int.from_bytes(file.read(8), "big")
            if length < 8:  # 0: to the end of the file
                return size
            end += length
    return end


def mask_findings(name: str, facts: MaskFacts) -> list[Finding]:
    """What one mask's values say. Of all white, inverted and over half only the first that holds is told."""
    if facts.highest <= BLACK:
        return [Finding("all black", name, "")]
    if facts.lowest >= WHITE:
        return [Finding("all white", name, "")]
    if facts.inverted:
        return [Finding("inverted", name, f"{facts.mean:.0%} white")]
    return [Finding("over half", name, f"{facts.mean:.0%} white")] if facts.mean > 0.5 else []


def size_findings(name: str, size: tuple[int, int], mask: str, mask_size: tuple[int, int], *, fit: bool) -> list[Finding]:
    """Whether a mask fits its picture; sizes are width and height after EXIF rotation."""
    if size == mask_size:
        return []
    text = f"{mask} is {mask_size[0]}x{mask_size[1]}, the picture {size[0]}x{size[1]}"
    upright, mask_upright = size[1] - size[0], mask_size[1] - mask_size[0]
    if upright * mask_upright < 0:
        return [Finding("orientation", name, text, error=True)]
    if not fit:
        return [Finding("size", name, text, error=True)]
    proportions = (size[0] / size[1]) / (mask_size[0] / mask_size[1])
    return [Finding("other proportions", name, text)] if abs(proportions - 1) > SAME_PROPORTIONS else []
