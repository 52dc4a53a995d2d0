"""Items to tensors: polarity, transparency before resizing, one placement for image and mask, clips, and what is refused."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from pack.dataset.geometry import Placement, place
from pack.dataset.item import ImageFiles, ImagePixels, Item, MaskFiles, MaskPixels, OwnAlpha, Transparency
from pack.dataset.load import load_item, load_mask
from PIL import Image, ImageFile

Array = npt.NDArray[Any]

PHOTO: Array = skimage.data.astronaut()[40:168, 120:312]  # 128 rows, 192 columns
MASK: Array = skimage.data.camera()[100:228, 150:342]
HIDDEN: Array = np.ones((128, 192), bool)  # transparent but for a block
HIDDEN[32:96, 48:144] = False
HALF = Placement((96, 64), (0, 0, 192, 128))
DOUBLE = Placement((384, 256), (0, 0, 192, 128))
TURNED = Placement((96, 96), (40, 10, 140, 110), flip=True, angle=20)
PLACEMENTS = (None, HALF, DOUBLE, TURNED)


def save(file: Path, pixels: Array, **options: Any) -> Path:
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, **options)
    return file


def an_item(images: Path | Sequence[Path] | torch.Tensor, mask: Any = None, **options: Any) -> Item:
    if isinstance(images, torch.Tensor):
        image: Any = ImagePixels(images)
    else:
        image = ImageFiles((images,) if isinstance(images, Path) else tuple(images))
    if isinstance(mask, Path):
        mask = MaskFiles((mask,))
    elif isinstance(mask, list):
        mask = MaskFiles(tuple(mask))
    elif isinstance(mask, torch.Tensor):
        mask = MaskPixels(mask)
    return Item("set/cat", image, mask, "a cat", options.pop("size", (192, 128)), **options)


def levels(pixels: torch.Tensor) -> Array:
    return (pixels.double() * 255).round().to(torch.uint8).numpy()


def test_a_picture_and_its_mask_come_bit_for_bit(tmp_path: Path) -> None:
    loaded = load_item(an_item(save(tmp_path / "a.png", PHOTO), save(tmp_path / "m.png", MASK)))
    assert loaded.mask_THW is not None
    assert loaded.image_THWC.dtype == loaded.mask_THW.dtype == torch.float32
    assert torch.equal(loaded.image_THWC, torch.from_numpy(PHOTO)[None].float() / 255)
    assert torch.equal(loaded.mask_THW, torch.from_numpy(MASK.copy())[None].float() / 255)


def test_without_a_mask_all_is_learned(tmp_path: Path) -> None:
    item = an_item(save(tmp_path / "a.jpg", PHOTO))
    assert load_item(item).mask_THW is None
    assert load_mask(item) is None


def test_sixteen_bit_greys_are_scaled(tmp_path: Path) -> None:
    grey = MASK.astype(np.uint16) * 257
    loaded = load_item(an_item(save(tmp_path / "a.png", grey), save(tmp_path / "m.png", grey)))
    for plane in (loaded.mask_THW[0], loaded.image_THWC[0, ..., 1]):  # type: ignore[index]
        assert np.abs(plane.numpy() - MASK / 255).max() < 1e-7


def test_opaque_is_learned_and_the_channel_is_chosen(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.dstack([PHOTO, MASK]))
    assert np.array_equal(levels(load_item(an_item(file, OwnAlpha())).mask_THW[0]), MASK)  # type: ignore[index]
    for index, channel in enumerate(("red", "green", "blue", "alpha")):
        mask_THW = load_mask(an_item(file, MaskFiles((file,), channel)))  # type: ignore[arg-type]
        assert mask_THW is not None
        assert np.array_equal(levels(mask_THW[0]), np.dstack([PHOTO, MASK])[..., index])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_image_and_mask_share_the_placement(tmp_path: Path, placement: Placement | None) -> None:
    item = an_item(save(tmp_path / "a.png", PHOTO), save(tmp_path / "m.png", MASK), placement=placement)
    loaded = load_item(item)
    image_HWC, mask_HW = place(PHOTO, MASK / np.float32(255), placement)
    assert mask_HW is not None
    assert np.array_equal(loaded.image_THWC[0].numpy(), image_HWC / np.float32(255))
    assert np.array_equal(loaded.mask_THW[0].numpy(), mask_HW)  # type: ignore[index]


CLIP = [np.roll(PHOTO, 12 * step, 1) for step in range(3)]
CLIP_MASKS = [np.roll(MASK, 12 * step, 1) for step in range(3)]


def write_clip(folder: Path) -> tuple[list[Path], list[Path]]:
    frames = [save(folder / f"f{step}.png", np.dstack([CLIP[step], CLIP_MASKS[step]])) for step in range(3)]
    return frames, [save(folder / f"m{step}.png", mask) for step, mask in enumerate(CLIP_MASKS)]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("source", ["none", "one file", "files", "alpha", "one from the graph", "from the graph"])
def test_the_mask_alone_is_the_items_mask(tmp_path: Path, source: str, placement: Placement | None) -> None:
    frames, masks = write_clip(tmp_path)
    planes = torch.from_numpy(np.stack(CLIP_MASKS)).float() / 255
    mask = {"none": None, "one file": masks[:1], "files": masks, "alpha": OwnAlpha(), "one from the graph": planes[:1],
            "from the graph": planes}[source]
    item = an_item(frames, mask, placement=placement, frames=3)
    loaded, alone = load_item(item), load_mask(item)
    assert loaded.image_THWC.shape[0] == 3
    if mask is None and placement is not TURNED:
        assert loaded.mask_THW is None
        assert alone is None
    else:
        assert loaded.mask_THW is not None
        assert alone is not None
        assert len(alone) == (3 if source in ("files", "alpha", "from the graph") else 1)
        assert torch.equal(alone, loaded.mask_THW)
    if placement is None and mask is not None:
        assert np.array_equal(levels(alone), np.stack(CLIP_MASKS)[: len(alone)])  # type: ignore[arg-type]
        assert np.array_equal(levels(loaded.image_THWC), np.stack(CLIP))


def test_the_mask_alone_does_not_open_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = save(tmp_path / "m.png", MASK)
    item = an_item(tmp_path / "not there.png", mask, placement=HALF)
    assert load_mask(item) is not None
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert load_mask(an_item(tmp_path / "not there.png")) is None


def cut_out(file: Path, hidden_colour: tuple[int, int, int]) -> Path:
    """The photograph, opaque in a block, with one colour under the transparent rest."""
    colours = np.where(HIDDEN[..., None], np.array(hidden_colour, np.uint8), PHOTO)
    return save(file, np.dstack([colours, np.where(HIDDEN, 0, 255).astype(np.uint8)]))


@pytest.mark.parametrize("placement", [None, HALF, DOUBLE])
@pytest.mark.parametrize("source", ["file", "graph"])
@pytest.mark.parametrize("hidden", ["fill", "random", "extend"])
def test_hidden_colours_never_bleed_whatever_the_size(tmp_path: Path, hidden: Any, source: str, placement: Placement | None) -> None:
    results = []
    for hidden_colour in ((255, 0, 255), (0, 255, 0)):
        images: Any = cut_out(tmp_path / "a.png", hidden_colour)
        if source == "graph":
            images = torch.from_numpy(np.asarray(Image.open(images)).copy())[None].float() / 255
        results.append(load_item(an_item(images, placement=placement, transparency=Transparency(hidden, (90, 90, 90)))).image_THWC)
    assert torch.equal(*results)


@pytest.mark.parametrize("placement", [HALF, DOUBLE])
def test_fill_is_filling_first_and_resizing_then(tmp_path: Path, placement: Placement) -> None:
    item = an_item(cut_out(tmp_path / "a.png", (255, 0, 255)), placement=placement, transparency=Transparency("fill", (90, 91, 92)))
    filled = np.where(HIDDEN[..., None], np.array([90, 91, 92], np.uint8), PHOTO)
    kernel = cv2.INTER_AREA if placement is HALF else cv2.INTER_CUBIC
    assert np.array_equal(levels(load_item(item).image_THWC[0]), cv2.resize(filled, placement.size, interpolation=kernel))


@pytest.mark.parametrize("placement", [HALF, DOUBLE])
def test_keep_keeps_hidden_colours_up_and_down(tmp_path: Path, placement: Placement) -> None:
    pixels = load_item(an_item(cut_out(tmp_path / "a.png", (250, 10, 130)), placement=placement)).image_THWC[0]
    assert np.array_equal(np.unique(levels(pixels)[: placement.size[1] // 5].reshape(-1, 3), axis=0), [[250, 10, 130]])


def test_a_clip_gets_one_random_colour(tmp_path: Path) -> None:
    frames = [save(tmp_path / f"{step}.png", np.dstack([frame, np.zeros((128, 192), np.uint8)])) for step, frame in enumerate(CLIP)]
    pixels = load_item(an_item(frames, transparency=Transparency("random", seed=5), frames=3)).image_THWC
    assert len(torch.unique(pixels.reshape(-1, 3), dim=0)) == 1


def test_pixels_from_the_graph_are_not_written_to() -> None:
    image = torch.from_numpy(np.dstack([PHOTO, MASK])[None]).float() / 255
    given, mask = image.clone(), image[..., 0].clone()
    with torch.inference_mode():
        item = an_item(given.clone(), mask, transparency=Transparency("extend"))
        loaded = load_item(item)
        loaded.image_THWC.zero_()
        loaded.mask_THW.zero_()  # type: ignore[union-attr]
        load_mask(item).zero_()  # type: ignore[union-attr]
        assert torch.equal(item.image.image_THWC, image)  # type: ignore[union-attr]
        assert torch.equal(mask, image[..., 0])
    plain = an_item(given[..., :3])
    load_item(plain).image_THWC.zero_()
    assert torch.equal(given, image)


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    picture, mask = save(tmp_path / "a.png", PHOTO), save(tmp_path / "m.png", MASK[:100, :150])
    item = an_item(picture, mask)
    for load in (load_item, load_mask):
        with pytest.raises(ValueError, match=r"m\.png is 150x100 but .*a\.png is 192x128 .*save the mask at .* size or set mask_size"):
            load(item)
    fitted = load_mask(replace(item, fit_mask=True))
    assert fitted is not None
    expected = cv2.resize(MASK[:100, :150].astype(np.float32) / 255, (192, 128), interpolation=cv2.INTER_LINEAR)
    assert np.abs(fitted[0].numpy() - expected).max() < 1e-6
    assert torch.equal(load_item(replace(item, fit_mask=True)).mask_THW, fitted)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the mask of set/cat is 150x100 but set/cat is 192x128"):
        load_item(an_item(torch.zeros(1, 128, 192, 3), torch.zeros(1, 100, 150)))


def test_a_mask_that_lies_on_its_side_is_called_so(tmp_path: Path) -> None:
    item = an_item(save(tmp_path / "a.png", PHOTO), save(tmp_path / "m.png", MASK.T))
    with pytest.raises(ValueError, match=r"m\.png is 128x192 but .*a\.png is 192x128 .*swapped: turn one of them by 90 degrees"):
        load_item(item)


def test_the_second_mask_is_named_with_its_frame(tmp_path: Path) -> None:
    frames, masks = write_clip(tmp_path)
    save(masks[1], MASK[:64])
    with pytest.raises(ValueError, match=r"m1\.png is 192x64 but .*f1\.png is 192x128"):
        load_item(an_item(frames, masks, frames=3))


def test_numbers_of_masks_and_frames(tmp_path: Path) -> None:
    frames, masks = write_clip(tmp_path)
    for load in (load_item, load_mask):
        with pytest.raises(ValueError, match=r"set/cat has 3 frames but 2 masks in .*; give it one mask, or 3"):
            load(an_item(frames, masks[:2], frames=3))
        with pytest.raises(ValueError, match=r"set/cat has 1 frame but 3 masks in .*; give it one mask"):
            load(an_item(frames[0], masks))
        with pytest.raises(ValueError, match=r"set/cat has 3 frames but 2 masks; give it one mask, or 3"):
            load(an_item(torch.zeros(3, 128, 192, 3), torch.zeros(2, 128, 192), frames=3))
        with pytest.raises(ValueError, match=r"set/cat has no frames; give it at least one"):
            load(an_item([], masks))


def test_frames_of_different_sizes(tmp_path: Path) -> None:
    frames, _ = write_clip(tmp_path)
    save(frames[2], PHOTO[:64])
    with pytest.raises(ValueError, match=r"f2\.png is 192x64 but .*f0\.png, a frame of the same clip, is 192x128; give all"):
        load_item(an_item(frames, frames=3))


def test_a_picture_that_changed_since_the_scan(tmp_path: Path) -> None:
    item = an_item(save(tmp_path / "a.png", PHOTO[:100]))
    with pytest.raises(ValueError, match=r"a\.png is 192x100 but was 192x128 when the data set was made; load the data set again"):
        load_item(item)


def test_a_picture_without_the_alpha_that_is_its_mask(tmp_path: Path) -> None:
    frames, _ = write_clip(tmp_path)
    save(frames[1], PHOTO)
    for load in (load_item, load_mask):
        with pytest.raises(ValueError, match=r"f1\.png has no alpha channel; save it with one \(opaque = learn\) or use another mask"):
            load(an_item(frames, OwnAlpha(), frames=3))
        with pytest.raises(ValueError, match=r"frame 0 of set/cat has no alpha channel"):
            load(an_item(torch.zeros(2, 128, 192, 3), OwnAlpha(), frames=2))


@pytest.mark.parametrize("shape", [(128, 192, 3), (1, 128, 192, 1), (1, 128, 192, 5)])
def test_shapes_from_the_graph(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the pixels of set/cat have the shape .*; make it \(frames, height, width, 3 or 4\)"):
        load_item(an_item(torch.zeros(shape)))
    with pytest.raises(ValueError, match=r"the mask of set/cat has the shape \(128, 192\); make it \(frames, height, width\)"):
        load_item(an_item(torch.zeros(1, 128, 192, 3), torch.zeros(128, 192)))


def test_a_rotated_picture_meets_its_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    item = an_item(save(tmp_path / "a.png", np.rot90(PHOTO), exif=exif), save(tmp_path / "m.png", MASK))
    loaded = load_item(item)
    assert np.array_equal(levels(loaded.image_THWC[0]), PHOTO)
    assert np.array_equal(levels(loaded.mask_THW[0]), MASK)  # type: ignore[index]
