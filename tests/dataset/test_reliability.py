"""Nothing that is called a picture crashes or stalls the reading, or is silently read wrong: Pillow's own test pictures, many
broken on purpose, and generated damage. MASKED_LORA_PILLOW_IMAGES names the folder; `python3 dev.py test` sets it."""
from __future__ import annotations

import io
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from pack.dataset.listing import PICTURE_TYPES
from pack.dataset.pixels import PictureHeader, PicturePixels, picture_size, read_mask, read_picture
from pack.tools.dev import pillow_images
from PIL import Image, ImageFile, ImageOps

Array = npt.NDArray[Any]

SLOWEST = 5.0  # seconds that one file may take; the usual is some milliseconds
PHOTO: Array = skimage.data.astronaut()[60:156, 150:280]
ALPHA: Array = np.broadcast_to(np.linspace(0, 255, 130).round().astype(np.uint8), (96, 130))

# Where OpenCV 5 reads something else than Pillow, and OpenCV is the one that is wrong.
UNLIKE_OPENCV = {
    "transparency.avif": "OpenCV swaps red and blue of an AVIF with alpha when asked for RGB",
    "rgb32h52.bmp": "channels in another order, given by masks in a header of 52 bytes",
    "mmap_error.bmp": "says that its pixels begin where its palette does, which Pillow mends",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: the pixels, or why it was refused."""

    pixels: PicturePixels | None
    reason: str


def outcome(file: Path) -> Outcome:
    """Reads the file in all three ways; each answers in time, and they agree on whether and what can be read."""
    answers: list[Any] = []
    for read in (read_picture, read_mask, picture_size):
        start = time.perf_counter()
        try:
            answers.append(read(file))
        except ValueError as error:
            assert str(file) in str(error)
            answers.append(str(error))
        assert time.perf_counter() - start < SLOWEST, f"{read.__name__} took too long for {file}"
    picture, mask_HW, header = answers
    if isinstance(picture, str):
        assert mask_HW == picture, file  # a refused mask is refused in the same words
        return Outcome(None, picture.split(" cannot be read as a picture (", 1)[1].rsplit("); save it again", 1)[0])
    height, width = mask_HW.shape
    assert picture.colours_HWC.shape == (height, width, 3), file
    assert header == PictureHeader(width, height, picture.alpha_HW is not None, header.frames), file
    assert mask_HW.min() >= 0, file
    assert mask_HW.max() <= 1, file
    return Outcome(picture, "")


@pytest.fixture(scope="module")
def pictures() -> list[Path]:
    folder = Path(os.environ.get(pillow_images.VARIABLE) or pillow_images.HOST / "pillow-images" / pillow_images.PILLOW.version)
    if not folder.is_dir():
        pytest.fail(f"{pillow_images.VARIABLE} is not set and {folder} is not there; run `python3 dev.py test`, which fetches it")
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_TYPES)


@pytest.fixture(scope="module")
def outcomes(pictures: list[Path]) -> dict[Path, Outcome]:
    return {file: outcome(file) for file in pictures}


@pytest.fixture(autouse=True)
def quiet_opencv() -> Iterator[None]:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    yield
    cv2.utils.logging.setLogLevel(level)


def kind_of_reason(reason: str) -> str:
    for start in ("image file is truncated", "Unsupported BMP", "Image size", "decoder error", "its colours are LAB", "broken PNG"):
        if reason.startswith(start):
            return start
    return reason


def test_how_many_of_pillows_pictures_are_read(outcomes: dict[Path, Outcome]) -> None:
    reasons = Counter(kind_of_reason(found.reason) for found in outcomes.values())
    assert reasons == {
        "": 637,
        "Unsupported BMP": 12,
        "it is no PNG, JPEG, WEBP, BMP, TIFF, AVIF or its header is damaged": 6,
        "its colours are LAB": 4,
        "image file is truncated": 4,
        "Image size": 2,  # decompression bombs
        "it holds 32-bit or signed whole numbers, whose white is not defined": 2,
        "decoder error": 2,
        "Truncated File Read": 2,
        "broken PNG": 1,
        "it holds 32-bit floats, whose white is not defined": 1,
        "it holds no pixels": 1,
        "APNG contains frame sequence errors": 1,
        "invalid palette size": 1,
        "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK": 1,
        "Unable to seek to frame": 1,
    }


def in_eight_bits(values: Array) -> Array:
    return values if values.dtype == np.uint8 else np.rint(values / 257).astype(np.uint8)


def test_pillow_gives_the_same_in_another_way(outcomes: dict[Path, Outcome]) -> None:
    compared = 0
    for file, found in outcomes.items():
        if found.pixels is None or found.pixels.colours_HWC.dtype == np.uint16:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGBA"))
        alpha = np.full(expected.shape[:2], 255, np.uint8) if found.pixels.alpha_HW is None else found.pixels.alpha_HW
        assert cv2.absdiff(np.dstack([found.pixels.colours_HWC, alpha]), expected).max() <= 1, file
        compared += 1
    assert compared == 623


def test_opencv_gives_the_same(outcomes: dict[Path, Outcome]) -> None:
    compared, unlike = 0, set()
    for file, found in outcomes.items():
        if found.pixels is None or (decoded := by_opencv(file)) is None:
            continue
        colours = in_eight_bits(found.pixels.colours_HWC)
        # What OpenCV gives under transparent pixels depends on the type.
        opaque = np.ones(colours.shape[:2], bool) if found.pixels.alpha_HW is None else in_eight_bits(found.pixels.alpha_HW) == 255
        if not opaque.any():
            continue
        compared += 1
        # OpenCV does not turn every type by its EXIF; that the turn is right, the test above says.
        turns = (np.rot90(mirrored, k) for mirrored in (decoded, decoded[:, ::-1]) for k in range(4))
        if not any(turn.shape == colours.shape and cv2.absdiff(colours, np.ascontiguousarray(turn))[opaque].mean() <= 3 for turn in turns):
            unlike.add(file.name)
    assert unlike == set(UNLIKE_OPENCV)
    assert compared == 614


def by_opencv(file: Path) -> Array | None:
    content = file.read_bytes()
    if content.startswith(b"\x89PNG"):
        content = without_animation(content)  # OpenCV gives the animation's first frame, which need not be the file's picture
    decoded: Array | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    return decoded


def without_animation(png: bytes) -> bytes:
    kept, position = png[:8], 8
    while position + 8 <= len(png):
        end = position + 12 + int.from_bytes(png[position:position + 4], "big")
        if png[position + 4:position + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept += png[position:end]
        position = end
    return kept


def test_sixteen_bit_greys_are_those_of_opencv(outcomes: dict[Path, Outcome]) -> None:
    compared = 0
    for file, found in outcomes.items():
        if found.pixels is None or found.pixels.colours_HWC.dtype != np.uint16:
            continue
        decoded = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.dtype == np.uint16:
            assert np.array_equal(found.pixels.colours_HWC[..., 0], decoded if decoded.ndim == 2 else decoded[..., 0]), file
            compared += 1
    assert compared == 14


def test_twelve_bits_are_those_of_pillows_copy_in_sixteen(outcomes: dict[Path, Outcome]) -> None:
    twelve, sixteen = (next(found.pixels for file, found in outcomes.items() if file.name == name)
                       for name in ("12bit.cropped.tif", "12in16bit.tif"))
    assert twelve is not None
    assert sixteen is not None
    # The copy holds the 12 bits as they are, in 16.
    assert np.array_equal(twelve.colours_HWC, np.rint(sixteen.colours_HWC / 4095 * 65535))


def encoded(kind: str, pixels: Array, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


RGBA = np.dstack([PHOTO, ALPHA])
SOUND = {
    "a.png": encoded("PNG", RGBA),
    "grey.png": encoded("PNG", PHOTO[..., 1].astype(np.uint16) * 257),
    "a.jpg": encoded("JPEG", PHOTO),
    "progressive.jpg": encoded("JPEG", PHOTO, progressive=True),
    "a.webp": encoded("WEBP", RGBA),
    "lossless.webp": encoded("WEBP", RGBA, lossless=True),
    "a.bmp": encoded("BMP", PHOTO),
    "a.tif": encoded("TIFF", RGBA),
    "lzw.tif": encoded("TIFF", RGBA, compression="tiff_lzw"),
    "deflate.tif": encoded("TIFF", PHOTO, compression="tiff_adobe_deflate"),
    "jpeg.tif": encoded("TIFF", PHOTO, compression="jpeg"),
    "a.avif": encoded("AVIF", RGBA),
}


def same(one: PicturePixels, other: PicturePixels) -> bool:
    return np.array_equal(one.colours_HWC, other.colours_HWC) and (
        one.alpha_HW is other.alpha_HW if one.alpha_HW is None or other.alpha_HW is None else np.array_equal(one.alpha_HW, other.alpha_HW))


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("name", SOUND)
def test_truncated_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, allowed: bool) -> None:
    content, file = SOUND[name], tmp_path / name
    file.write_bytes(content)
    sound = read_picture(file)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)  # what another custom node may have set
    cuts = {*range(0, 64, 3), *np.linspace(64, len(content) - 1, 30).astype(int).tolist(), *range(len(content) - 8, len(content))}
    for cut in sorted(cuts):
        file.write_bytes(content[:cut])
        found = outcome(file)
        if found.pixels is not None:
            assert cut > len(content) * 0.97, f"{cut} of {len(content)} bytes were read as a picture"
            assert same(found.pixels, sound), f"{cut} of {len(content)} bytes gave another picture"


@pytest.mark.parametrize("name", SOUND)
def test_flipped_bytes(tmp_path: Path, name: str) -> None:
    content, file = SOUND[name], tmp_path / name
    file.write_bytes(content)
    sound, generator, read = read_picture(file), np.random.default_rng(len(name)), 0
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 4)):
            # every second one near the beginning, where the structure is
            end = len(content) if generator.integers(2) else min(len(content), 400)
            damaged[generator.integers(end)] = generator.integers(256)
        file.write_bytes(damaged)
        found = outcome(file)
        if found.pixels is None:
            continue
        read += 1
        if name.endswith(".png"):
            assert same(found.pixels, sound)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
        expected = np.asarray(picture)
        assert np.array_equal(found.pixels.colours_HWC, expected[..., :3])
        assert found.pixels.alpha_HW is None or np.array_equal(found.pixels.alpha_HW, expected[..., 3])
    assert read < 40
    assert bool(read) or name.endswith((".png", ".webp", ".avif"))


@pytest.mark.parametrize("name", SOUND)
def test_a_wrong_ending_changes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SOUND[name])
    sound = read_picture(tmp_path / name)
    for ending in sorted(PICTURE_TYPES):
        file = tmp_path / f"other{ending}"
        file.write_bytes(SOUND[name])
        found = outcome(file)
        assert found.pixels is not None
        assert same(found.pixels, sound)


NEVER = [b"", b"\0", b"\0" * 100_000, b"a caption, not a picture\n" * 50, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0",
         b"RIFF\x24\0\0\0WEBPVP8 ", b"MM\0*\0\0\0\x08\xff\xff", b"\0\0\0\x1cftypavif"]


@pytest.mark.parametrize("content", NEVER)
def test_what_was_never_a_picture(tmp_path: Path, content: bytes) -> None:
    reason = {b"": "it is empty", b"RIFF": "could not create decoder object"}.get(
        content[:4], "it is no PNG, JPEG, WEBP, BMP, TIFF, AVIF or its header is damaged")
    for ending in sorted(PICTURE_TYPES):
        file = tmp_path / f"a{ending}"
        file.write_bytes(content)
        assert outcome(file) == Outcome(None, reason)
