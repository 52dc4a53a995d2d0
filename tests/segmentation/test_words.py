"""From words to masks: grounded by a told detector and SAM, and CLIPSeg beside its own processor."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pack.segmentation.boxes import Box
from pack.segmentation.clipseg import ClipSeg, ClipSegWords, load_clipseg
from pack.segmentation.grounded import SOURCES, Grounded, box_mask
from pack.segmentation.sam_prompt import Prompt
from pack.tests.segmentation.tiny_words import HalfBoxes, Reader, Told, noise, save_clipseg, save_grounding
from PIL import Image
from torch import Tensor

PICTURE_HWC = noise(12, 20)
FACE, HAIR, SECOND = Box(2, 1, 4, 3, "face", 0.9), Box(1, 0, 6, 2, "red hair", 0.5), Box(10, 4, 4, 3, "face", 0.4)
WORDS = ("face", "red hair", "unicorn")


def grounded(detector: Told | None, sam: HalfBoxes | None = None, words: tuple[str, ...] = WORDS, **settings: Any) -> Grounded:
    return Grounded(None if detector is None else lambda: detector, None if sam is None else lambda: sam, ("told",), words, **settings)


def boxed(*places: tuple[slice, slice], value: float = 1.0) -> Tensor:
    mask_HW = torch.zeros(12, 20)
    for place in places:
        mask_HW[place] = value
    return mask_HW


FIRST_FACE, SECOND_FACE, HAIR_BOX = (slice(1, 4), slice(2, 6)), (slice(4, 7), slice(10, 14)), (slice(0, 2), slice(1, 7))


def same(found: Any, expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, mask_HW in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], mask_HW), name


def test_boxes_become_one_mask_for_each_word() -> None:
    same(grounded(Told([HAIR, FACE, SECOND])).segment(PICTURE_HWC), {"face": boxed(FIRST_FACE, SECOND_FACE), "red hair": boxed(HAIR_BOX)})


def test_sam_gets_the_boxes_of_each_word_at_once() -> None:
    sam = HalfBoxes()
    found = grounded(Told([HAIR, FACE, SECOND]), sam).segment(PICTURE_HWC)
    same(found, {"face": boxed(FIRST_FACE, SECOND_FACE, value=0.5), "red hair": boxed(HAIR_BOX, value=0.5)})
    assert sam.asked == [[Prompt((FACE, SECOND)), Prompt((HAIR,))]]


def test_the_surest_box_alone() -> None:
    same(grounded(Told([SECOND, FACE]), most=1).segment(PICTURE_HWC), {"face": boxed(FIRST_FACE)})


def test_thresholds_reach_the_detector() -> None:
    class Noting(Told):
        def find(self, picture_HWC: Tensor, phrases: Sequence[str], threshold: float = 0.3, text_threshold: float = 0.25) -> list[Box]:
            self.asked.append([str(threshold), str(text_threshold)])
            return []

    detector = Noting([])
    assert grounded(detector, HalfBoxes(), threshold=0.7, text_threshold=0.6).segment(PICTURE_HWC) == {}
    assert detector.asked == [["0.7", "0.6"]]


def test_what_is_not_found_is_absent_and_sam_is_not_asked() -> None:
    sam = HalfBoxes()
    assert grounded(Told([]), sam).segment(PICTURE_HWC) == {}
    assert sam.asked == []


@pytest.mark.parametrize(("caption", "asked"), [
    ("A woman with red hair", ["red hair"]), ("her faces", ["face"]), ("", []), ("a cat", []), ("\U0001f600 \u7d05", [])])
def test_only_words_of_the_caption(caption: str, asked: list[str]) -> None:
    detector = Told([HAIR, FACE])
    found = grounded(detector, source="words in the caption").segment(PICTURE_HWC, caption)
    assert list(found) == asked
    assert detector.asked == ([asked] if asked else [])


def test_all_that_the_caption_names() -> None:
    boxes = [Box(2, 1, 4, 3, "young face", 0.9), Box(1, 0, 6, 2, "red hairs", 0.8), Box(10, 4, 4, 3, "castle", 0.7)]
    detector = Told(boxes)
    found = grounded(detector, words=("face", "hair", "red hair", "other"), source="all that the caption names").segment(
        PICTURE_HWC, "a young face, red hairs, in front of a castle")
    same(found, {"face": boxed(FIRST_FACE), "red hair": boxed(HAIR_BOX), "other": boxed(SECOND_FACE)})
    assert detector.asked == [["young face", "red hairs", "castle"]]


def test_a_phrase_that_holds_several_words_belongs_to_the_longest() -> None:
    detector = Told([Box(2, 1, 4, 3, "face tattoo", 0.9)])
    found = grounded(detector, words=("face", "tattoo", "other"), source="all that the caption names").segment(PICTURE_HWC, "face tattoo")
    same(found, {"tattoo": boxed(FIRST_FACE)})


def test_a_detector_that_reads_captions_reads_the_whole() -> None:
    reader = Reader([Box(2, 1, 4, 3, "A young face"), Box(10, 4, 4, 3, "castle")])
    found = grounded(reader, words=("face", "other"), source="all that the caption names").segment(PICTURE_HWC, "A young face at a castle")
    same(found, {"face": boxed(FIRST_FACE), "other": boxed(SECOND_FACE)})
    assert reader.asked == [["A young face at a castle"]]


def test_sam_that_reads_text_needs_no_detector() -> None:
    sam = HalfBoxes(reads_text=True)
    rows = boxed((slice(0, 1), slice(None)), (slice(11, 12), slice(None)), value=0.5)
    same(grounded(None, sam).segment(PICTURE_HWC), {"face": rows, "red hair": rows})
    assert sam.asked == [list(WORDS)]
    same(grounded(None, sam, most=1).segment(PICTURE_HWC), dict.fromkeys(WORDS[:2], boxed((slice(0, 1), slice(None)), value=0.5)))
    assert grounded(None, sam, source="words in the caption").segment(PICTURE_HWC, "nothing") == {}


@pytest.mark.parametrize("source", SOURCES)
def test_long_phrases_are_cut_where_a_caption_made_them(source: Any) -> None:
    sam = HalfBoxes(reads_text=True)
    grounded(None, sam, words=("face", "other"), source=source).segment(PICTURE_HWC, "a face")
    assert sam.asked == [["face", "other"] if source == "the words" else ["face"]]
    assert sam.cut == (source == "all that the caption names")


def test_sam_without_text_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="half boxes reads no text; connect a detector"):
        grounded(None, HalfBoxes()).segment(PICTURE_HWC)


@pytest.mark.parametrize(("settings", "message"), [
    ({"words": ()}, "no words to search for; write a line such as: face 1.0"),
    ({"source": "dreams"}, "source is 'dreams'; use the words, words in the caption"),
    ({"source": "all that the caption names"}, "write a line such as: other 0.5")])
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounded(Told([]), **settings)


def test_nothing_that_reads_words() -> None:
    with pytest.raises(ValueError, match="connect a detector, a SAM that reads text"):
        grounded(None)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    found = grounded(Told([Box(0, 0, size[1], size[0], "face", 0.9)])).segment(noise(*size))
    same(found, {"face": torch.ones(size)})


def test_a_box_covers_every_pixel_that_it_touches() -> None:
    assert torch.equal(box_mask([Box(1.9, 0.2, 0.2, 0.5)], (2, 4)), torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0]]))
    assert box_mask([Box(-1, -1, 100, 100)], (2, 4)).min() == 1


def test_what_decides_the_masks_is_described() -> None:
    plain = grounded(Told([])).describe()
    changed = [{"words": ("face",)}, {"source": SOURCES[1]}, {"threshold": 0.1}, {"text_threshold": 0.1}, {"most": 3}]
    described = [plain, *(grounded(Told([]), **settings).describe() for settings in changed)]  # type: ignore[arg-type]
    described.append(Grounded(lambda: Told([]), None, ("other",), WORDS).describe())
    assert len({str(one) for one in described}) == len(described)


# CLIPSeg


@pytest.fixture(scope="module")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_clipseg(folder / "clipseg")
    save_grounding(folder / "grounding-dino")
    return folder / "clipseg"


@pytest.fixture(scope="module")
def clipseg(clipseg_folder: Path) -> ClipSeg:
    return load_clipseg(clipseg_folder, torch.float32)


@pytest.mark.parametrize("phrases", [["a face"], ["a face", "hair", "a very long red thing " * 20]])
@pytest.mark.parametrize("size", [(50, 70), (1, 1), (3, 3), (2, 90)])
def test_clipseg_is_that_of_transformers(clipseg: ClipSeg, clipseg_folder: Path, phrases: list[str], size: tuple[int, int]) -> None:
    picture_HWC = noise(*size)
    processor = transformers.CLIPSegProcessor.from_pretrained(clipseg_folder)
    inputs = processor(text=phrases, images=[Image.fromarray(picture_HWC.numpy())] * len(phrases), padding="max_length", truncation=True,
                       return_tensors="pt")
    with torch.no_grad():
        logits = transformers.CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval()(**inputs).logits
    grid_Nhw = logits.reshape(len(phrases), 64, 64)
    expected = torch.nn.functional.interpolate(grid_Nhw[:, None], size=size, mode="bilinear").sigmoid()[:, 0]
    found = torch.stack(clipseg.masks(picture_HWC, phrases))
    assert found.shape == (len(phrases), *size)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5
    assert size != (50, 70) or expected.std() > 0.01


def test_clipseg_masks_hold_no_memory_but_their_own(clipseg: ClipSeg) -> None:
    masks = clipseg.masks(PICTURE_HWC, ["face", "hair", "cat"])
    assert [mask_HW.untyped_storage().nbytes() for mask_HW in masks] == [4 * mask_HW.numel() for mask_HW in masks]


def test_clipseg_words_and_their_threshold(clipseg: ClipSeg) -> None:
    face_HW, hair_HW = clipseg.masks(PICTURE_HWC, ["face", "hair"])
    highest = sorted([float(face_HW.max()), float(hair_HW.max())])
    assert highest[0] < highest[1]
    between = sum(highest) / 2

    def found(**settings: Any) -> dict[str, Tensor]:
        caption = settings.pop("caption", "")
        return dict(ClipSegWords(lambda: clipseg, "clipseg", ("face", "hair"), **settings).segment(PICTURE_HWC, caption))

    surer = "face" if face_HW.max() > hair_HW.max() else "hair"
    assert list(found(threshold=0)) == ["face", "hair"]
    assert list(found(threshold=between)) == [surer]
    assert found(threshold=1.0) == {}
    assert torch.equal(found(threshold=0)["hair"], hair_HW)
    assert list(found(threshold=0, from_caption=True, caption="Long hair")) == ["hair"]
    assert found(threshold=0, from_caption=True, caption="a cat") == {}


def test_clipseg_does_not_search_for_signs(clipseg: ClipSeg) -> None:
    assert ClipSegWords(lambda: clipseg, "clipseg", ("...", "\U0001f600"), 0).segment(PICTURE_HWC) == {}
    with pytest.raises(ValueError, match="no words to search for"):
        ClipSegWords(lambda: clipseg, "clipseg", ())


def test_clipseg_halves_its_batch_where_memory_runs_out(clipseg: ClipSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = ClipSeg._masks

    def small(self: ClipSeg, picture_HWC: Tensor, phrases: Sequence[str]) -> list[Tensor]:
        sizes.append(len(phrases))
        if len(phrases) > 2:
            raise torch.OutOfMemoryError
        return real(self, picture_HWC, phrases)

    monkeypatch.setattr(ClipSeg, "_masks", small)
    assert len(clipseg.masks(PICTURE_HWC, ["a", "b", "c", "d", "e"])) == 5
    assert sizes == [5, 2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clipseg_in_half_precision(clipseg: ClipSeg, clipseg_folder: Path, dtype: torch.dtype) -> None:
    half = torch.stack(load_clipseg(clipseg_folder, dtype).masks(PICTURE_HWC, ["face"]))
    assert half.dtype == torch.float32
    assert (half - torch.stack(clipseg.masks(PICTURE_HWC, ["face"]))).abs().max() < 0.05


def test_what_is_not_clipseg_is_named(clipseg_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"holds grounding-dino, not CLIPSeg; take a folder of CLIPSeg .*CIDAS/clipseg-rd64-refined"):
        load_clipseg(clipseg_folder.parent / "grounding-dino", torch.float32)
    monkeypatch.setitem(__import__("sys").modules, "transformers", type("Old", (), {"__version__": "4.20.0"}))
    with pytest.raises(ValueError, match="CLIPSegForImageSegmentation needs transformers >= 4.25, this is 4.20.0"):
        load_clipseg(clipseg_folder, torch.float32)
