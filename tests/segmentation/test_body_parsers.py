"""Body part models out of every layout, against transformers' own processors and the published class ids."""
from __future__ import annotations

import json
import shutil
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers
from pack.segmentation.body_models import load_body_parser
from pack.segmentation.body_parser import BodyParser, soft_groups
from pack.segmentation.body_tables import CELEB_A_MASK_HQ, SAPIENS1, SAPIENS1_FOREGROUND, SAPIENS2, ClassTable
from pack.segmentation.face_parsing import class_table
from pack.segmentation.sapiens import config_of
from pack.segmentation.sapiens1 import load_sapiens1
from pack.tests.segmentation.tiny_body import (
    SAPIENS1_FILE,
    Colours,
    noise,
    paint,
    palette,
    save_face_parsing,
    save_sapiens1,
    save_sapiens2,
    save_sapiens2_file,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

# Ids as published: facebookresearch/sapiens and sapiens2, jonathandinu/face-parsing.
PUBLISHED = {
    "sapiens1": (SAPIENS1, 28, {"face": (2, 23, 24, 25, 26, 27), "hair": (3,), "body": (4, 5, 6, 7, 10, 11, 13, 14, 15, 16, 19, 20, 21),
                                "clothing": (1, 8, 9, 12, 17, 18, 22)}),
    "sapiens2": (SAPIENS2, 29, {"face": (2, 3, 24, 25, 26, 27, 28), "hair": (4,), "body": (5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 20, 21, 22),
                                "clothing": (1, 9, 10, 13, 18, 19, 23)}),
    "face parsing": (CELEB_A_MASK_HQ, 19, {"face": tuple(range(1, 13)), "hair": (13,), "body": (17,), "clothing": (14, 15, 16, 18)}),
}
SIZES = [(96, 64), (61, 83), (3, 3), (1, 1), (16, 16), (40, 3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("body models")
    save_sapiens2(folder / "sapiens2-tiny")
    save_face_parsing(folder / "face-parsing")
    save_sapiens2_file(folder / "sapiens2_tiny_seg.safetensors")
    save_sapiens1(folder / SAPIENS1_FILE)
    return folder


def reference(folder: Path, picture_HWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What transformers' own classes make of a PIL picture: pixel values, logits at the picture's size (K, H, W), classes (H, W)."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    inputs = processor(images=Image.fromarray(picture_HWC.numpy()), return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        outputs = model(**inputs)
    [told] = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[tuple(picture_HWC.shape[:2])], return_segmentation_scores=True)
    return inputs["pixel_values"], told["segmentation_scores"], told["segmentation"]


def every_class(table: ClassTable) -> ClassTable:
    """The same classes, each a group of its own, to look at single classes through the groups."""
    rows = tuple((name, name) for name, _ in table.rows)

    class Single(ClassTable):
        @property
        def groups(self) -> dict[str, tuple[int, ...]]:
            return {name: (number,) for number, (name, _) in enumerate(self.rows)}

    return Single(rows)


@pytest.mark.parametrize("table", PUBLISHED)
def test_class_ids_are_those_published(table: str) -> None:
    ours, count, groups = PUBLISHED[table]
    assert len(ours.rows) == len(set(ours.classes)) == count
    assert ours.groups == groups


def test_sapiens_tables_differ_by_eyeglass_alone() -> None:
    assert SAPIENS2.classes == (*SAPIENS1.classes[:2], "Eyeglass", *SAPIENS1.classes[2:])
    assert dict(SAPIENS2.rows) == dict(SAPIENS1.rows) | {"Eyeglass": "face"}
    assert SAPIENS1_FOREGROUND.groups == {"body": (1,)}


@pytest.mark.parametrize("name", ["sapiens2-tiny", "face-parsing"])
@pytest.mark.parametrize("size", SIZES)
def test_folders_agree_with_the_reference_processor(models: Path, name: str, size: tuple[int, int]) -> None:
    parser = load_body_parser(models / name, torch.float32)
    picture_HWC = noise(*size)
    pixels, logits_KHW, classes_HW = reference(models / name, picture_HWC)
    assert (parser.prepare(picture_HWC) - pixels[0]).abs().max().item() == 0
    [shares] = parser.group_shares([picture_HWC])
    probability_KHW = logits_KHW.softmax(0)
    for group, ids in parser.table.groups.items():
        assert shares[group].shape == picture_HWC.shape[:2]
        torch.testing.assert_close(shares[group], probability_KHW[list(ids)].sum(0), atol=1e-5, rtol=0)
    single = BodyParser("", every_class(parser.table), parser.module, parser.prepare, parser.predict, parser.aspect)
    [each] = single.group_shares([picture_HWC])
    other_HW = torch.stack(list(each.values())).argmax(0) != classes_HW
    best = logits_KHW.topk(2, dim=0).values
    assert other_HW.float().mean() < 1e-3
    assert ((best[0] - best[1])[other_HW] < 1e-4).all()  # two classes alike but for rounding


def test_several_pictures_of_several_sizes_at_once(models: Path) -> None:
    parser = load_body_parser(models / "sapiens2-tiny", torch.float32)
    pictures = [noise(50 + i, 70 - i, i) for i in range(6)]
    for picture_HWC, together in zip(pictures, parser.group_shares(pictures), strict=True):
        [alone] = parser.group_shares([picture_HWC])
        for group in alone:  # logits differ by tens, so that the order in which threads add shows in the shares
            torch.testing.assert_close(together[group], alone[group], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sapiens2-tiny", "face-parsing"])
def test_a_damaged_processor_is_named(models: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(models / name, tmp_path / name)
    (file,) = [file for file in folder.iterdir() if "processor" in file.name]
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"cannot be loaded from .*{name}.*download the folder again"):
        load_body_parser(folder, torch.float32)


def test_sapiens2_single_file_needs_no_config(models: Path) -> None:
    parser = load_body_parser(models / "sapiens2_tiny_seg.safetensors", torch.float32)
    picture_HWC = noise(90, 60)
    pixels, logits_KHW, _ = reference(models / "converted", picture_HWC)
    assert parser.name == "sapiens2_tiny_seg"
    assert parser.aspect == 0.75
    assert torch.equal(parser.prepare(picture_HWC), pixels[0])
    [shares] = parser.group_shares([picture_HWC])
    torch.testing.assert_close(shares["face"], logits_KHW.softmax(0)[[2, 3, 24, 25, 26, 27, 28]].sum(0), atol=2e-5, rtol=0)


def test_weights_take_the_precision_that_is_asked_for(models: Path, tmp_path: Path) -> None:
    weights = load_file(models / "sapiens2_tiny_seg.safetensors")
    save_file({name: weight.to(torch.bfloat16) for name, weight in weights.items()}, tmp_path / "half.safetensors")
    for path in (tmp_path / "half.safetensors", models / "sapiens2-tiny", models / "face-parsing"):
        for dtype in (torch.float32, torch.bfloat16):
            parser = load_body_parser(path, dtype)
            assert {weight.dtype for weight in parser.module.parameters()} == {dtype}
            assert not parser.module.training
            [shares] = parser.group_shares([noise(20, 30)])
            assert {share.dtype for share in shares.values()} == {torch.float32}


def test_a_folder_with_only_metas_file(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "sapiens2_tiny_seg.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert load_body_parser(tmp_path, torch.float32).name == "sapiens2_tiny_seg"


@pytest.mark.parametrize(("size", "numbers"), {"0.4b": (1024, 24, 16), "5b": (2432, 56, 32)}.items())
def test_sizes_of_the_released_files_are_read_off_the_weights(size: str, numbers: tuple[int, int, int]) -> None:
    """Width, layers and heads as published; the first and last 8 layers have all heads, the others half as many."""
    width, layers, heads = numbers
    meta = {"device": "meta"}
    weights = {"backbone.patch_embed.projection.weight": torch.empty(width, 3, 16, 16, **meta),
               "backbone.storage_tokens": torch.empty(1, 8, width, **meta),
               "decode_head.conv_seg.weight": torch.empty(29, 64, 1, 1, **meta),
               "backbone.blocks.0.ffn.w12.weight": torch.empty(2 * 4096, width, **meta)}
    for layer in range(layers):
        kept = heads if layer < 8 or layer >= layers - 8 else heads // 2
        weights[f"backbone.blocks.{layer}.attn.wk.weight"] = torch.empty(kept * (width // heads), width, **meta)
        weights[f"backbone.blocks.{layer}.attn.q_norm.weight"] = torch.empty(width // heads, **meta)
    channels = (width, 512, 256, 128, 64)
    for number in range(4):
        weights[f"decode_head.deconv_layers.{3 * number}.weight"] = torch.empty(channels[number], channels[number + 1], 4, 4, **meta)
    for number in (0, 3):
        weights[f"decode_head.conv_layers.{number}.weight"] = torch.empty(64, 64, 1, 1, **meta)
    config = transformers.Sapiens2Config(**config_of(weights, Path(f"sapiens2_{size}_seg.safetensors")))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == numbers
    assert config.num_key_value_heads_per_layer == [heads] * 8 + [heads // 2] * (layers - 16) + [heads] * 8
    assert (config.patch_size, config.num_register_tokens, config.num_labels, config.intermediate_size) == (16, 8, 29, 4096)
    assert config.head_config.upsample_out_channels == [512, 256, 128, 64]
    assert config.head_config.conv_out_channels == [64, 64]


def test_sapiens1_names_every_class_by_its_published_id(models: Path) -> None:
    parser = load_body_parser(models / SAPIENS1_FILE, torch.float16)
    assert next(parser.module.parameters()).dtype == torch.float32
    boxes = [(number, 20 * (number % 7), 20 * (number // 7), 20 * (number % 7) + 20, 20 * (number // 7) + 20) for number in range(28)]
    [shares] = parser.group_shares([paint(80, 140, *boxes)])
    for number, left, top, _, _ in boxes:
        found = [group for group in shares if shares[group][top + 10, left + 10] > 0.9]
        assert found == [group for group, ids in PUBLISHED["sapiens1"][2].items() if number in ids], SAPIENS1.classes[number]


def test_sapiens1_prepares_and_enlarges_as_metas_demo(models: Path) -> None:
    """The demo: cv2.resize, mean and deviation of 0..255, logits enlarged bilinearly before the argmax."""
    parser = load_body_parser(models / SAPIENS1_FILE, torch.float32)
    picture_HWC = noise(150, 110)
    image = cv2.resize(picture_HWC.numpy(), (768, 1024), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    expected = (image - np.array([123.5, 116.5, 103.5])) / np.array([58.5, 57.0, 57.5])
    assert np.abs(parser.prepare(picture_HWC).permute(1, 2, 0).numpy() - expected).max() < 1e-6
    with torch.no_grad():
        logits = parser.module(torch.from_numpy(expected).float().permute(2, 0, 1)[None])
    assert logits.shape == (1, 28, 512, 384)
    probability = F.interpolate(logits, (150, 110), mode="bilinear", align_corners=False)[0].softmax(0)
    [shares] = parser.group_shares([picture_HWC])
    for group, ids in PUBLISHED["sapiens1"][2].items():
        torch.testing.assert_close(shares[group], probability[list(ids)].sum(0), atol=1e-4, rtol=0)


def test_sapiens1_foreground_is_all_body(tmp_path: Path) -> None:
    save_sapiens1(tmp_path / "sapiens_1b_seg_foreground_epoch_8_torchscript.pt2", classes=2)
    parser = load_sapiens1(tmp_path / "sapiens_1b_seg_foreground_epoch_8_torchscript.pt2")
    [shares] = parser.group_shares([paint(60, 40, (1, 0, 0, 40, 30), classes=2)])
    assert list(shares) == ["body"]
    assert shares["body"][:28].min() > 0.9
    assert shares["body"][32:].max() < 0.1


class Stretch(nn.Module):
    """A network that gives chosen logits."""

    def __init__(self, logits_Khw: Tensor) -> None:
        super().__init__()
        self.logits_Khw = nn.Parameter(logits_Khw)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits_Khw.expand(len(pixels), -1, -1, -1)


def chosen(logits_Khw: Tensor, **settings: object) -> BodyParser:
    module = Stretch(logits_Khw)
    return BodyParser("chosen", SAPIENS2, module, lambda picture_HWC: torch.zeros(3, 4, 3), module, 0.75, **settings)


@pytest.mark.parametrize("size", [(7, 5), (200, 333), (64, 48), (30, 1), (1, 30), (1000, 20)])
@pytest.mark.parametrize("strip", [2**22, 5000, 1])
def test_strips_are_what_one_piece_is(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], strip: int) -> None:
    monkeypatch.setattr("pack.segmentation.body_parser.STRIP", strip)
    logits_Khw = torch.randn(29, 64, 48, generator=torch.Generator().manual_seed(3)) * 8
    probability_KHW = F.interpolate(logits_Khw[None], size, mode="bilinear", align_corners=False)[0].softmax(0)
    shares = soft_groups(logits_Khw, SAPIENS2, size)
    for group, ids in SAPIENS2.groups.items():
        torch.testing.assert_close(shares[group], probability_KHW[list(ids)].sum(0), atol=2e-5, rtol=0)
    assert torch.stack(list(shares.values())).sum(0).max() <= 1 + 1e-5


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_huge_picture_needs_little_more_than_its_masks() -> None:
    """29 maps of 13.5 megapixels would be 1.6 GB; the masks themselves are 0.2 GB."""
    parser = chosen(torch.randn(29, 64, 48))
    picture_HWC = torch.zeros(3000, 4500, 3, dtype=torch.uint8)
    before, peak, going = resident(), 0, True

    def watch() -> None:
        nonlocal peak
        while going:
            peak = max(peak, resident())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    [shares] = parser.group_shares([picture_HWC])
    going = False
    watcher.join()
    assert {share.shape for share in shares.values()} == {(3000, 4500)}
    assert peak - before < 4 * 4 * 3000 * 4500 + 250e6


def test_grey_pictures_and_wrong_ones() -> None:
    parser = chosen(torch.randn(29, 8, 6))
    [shares] = parser.group_shares([torch.zeros(9, 7, 1, dtype=torch.uint8)])
    assert shares["face"].shape == (9, 7)
    for wrong in (torch.zeros(9, 7, 3), torch.zeros(9, 7, 4, dtype=torch.uint8), torch.zeros(9, 7, dtype=torch.uint8),
                  torch.zeros(0, 7, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="give uint8"):
            parser.group_shares([wrong])


def test_nan_is_told() -> None:
    logits = torch.randn(29, 8, 6)
    logits[3, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="chosen gave NaN.*float32"):
        chosen(logits).group_shares([noise(9, 7)])


def limited(most: int) -> tuple[BodyParser, list[int]]:
    """A parser whose device has room for `most` pictures, and the batches that it was asked for."""
    parser, asked = chosen(torch.randn(29, 8, 6)), []

    def predict(pixels: Tensor) -> Tensor:
        asked.append(len(pixels))
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return parser.module(pixels)

    return BodyParser("limited", SAPIENS2, parser.module, parser.prepare, predict, 0.75, at_once=8), asked


def test_out_of_memory_halves_the_batch() -> None:
    parser, asked = limited(2)
    assert len(parser.group_shares([noise(9, 7)] * 9)) == 9
    assert asked == [8, 4, 2, 2, 2, 2, 1]


def test_out_of_memory_for_one_picture_is_raised() -> None:
    parser, asked = limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        parser.group_shares([noise(9, 7)] * 3)
    assert asked == [3, 1]


def test_out_of_memory_inside_torchscript_counts_too(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = load_sapiens1(models / SAPIENS1_FILE)

    def fail(self: nn.Module, pixels: Tensor) -> Tensor:
        raise RuntimeError("The following operation failed in the TorchScript interpreter.\nRuntimeError: CUDA out of memory. Tried")

    monkeypatch.setattr(type(parser.module), "__call__", fail)
    with pytest.raises(torch.OutOfMemoryError):
        parser.group_shares([noise(9, 7)])


# What people have in the folder by mistake.

def test_other_models_in_the_folder_are_named(models: Path, tmp_path: Path) -> None:
    def refused(path: Path, *says: str) -> None:
        with pytest.raises(ValueError) as told:
            load_body_parser(path, torch.float32)
        for part in (str(path.name), *says):
            assert part in str(told.value)

    other = tmp_path / "sam2"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    (other / "model.safetensors").write_bytes(b"")
    refused(other, "'sam2'", "Sapiens2")
    (other / "config.json").write_text(json.dumps({"model_type": "sapiens2", "architectures": ["Sapiens2ForImageMatting"]}))
    refused(other, "Sapiens2ForImageMatting", "seg model")
    (other / "config.json").write_text("{")
    refused(other, "cannot be read")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "sd15.safetensors")
    refused(tmp_path / "sd15.safetensors", "is no Sapiens2", "model.diffusion_model.x", "sapiens2_0.4b_seg.safetensors")
    (tmp_path / "page.safetensors").write_bytes(b"<html>not found</html>")
    refused(tmp_path / "page.safetensors", "download it again")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "0 files of weights")
    refused(tmp_path / "gone.safetensors", "is not there")
    (tmp_path / "yolo.onnx").write_bytes(b"")
    refused(tmp_path / "yolo.onnx", ".onnx")


@pytest.mark.parametrize("classes", [4, 28])
def test_a_sapiens2_of_other_classes_is_refused(tmp_path: Path, classes: int) -> None:
    save_sapiens2(tmp_path / "other", classes=classes)
    with pytest.raises(ValueError, match=f"other tells {classes} classes apart"):
        load_body_parser(tmp_path / "other", torch.float32)


@pytest.mark.parametrize("name", ["sapiens2-tiny", "face-parsing"])
def test_missing_and_damaged_weights_are_no_random_ones(models: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(models / name, tmp_path / name)
    file = tmp_path / name / "model.safetensors"
    weights = load_file(file)
    gone = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != gone}, file, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load_body_parser(tmp_path / name, torch.float32)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="download it again"):
        load_body_parser(tmp_path / name, torch.float32)


@pytest.mark.parametrize("name", ["sapiens2-tiny", "face-parsing", "sapiens2_tiny_seg.safetensors"])
def test_an_old_transformers_is_named(models: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    old = types.ModuleType("transformers")
    old.__version__ = "4.57.6"
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(ValueError, match=r"(Sapiens2|Segformer)ForSemanticSegmentation needs transformers >= .*this is 4\.57\.6.*update"):
        load_body_parser(models / name, torch.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("exported") / "sapiens_0.3b_goliath.pt2"
    program = torch.export.export(Colours(28).to(torch.bfloat16), (torch.zeros(1, 3, 1024, 768, dtype=torch.bfloat16),))
    torch.export.save(program, str(file))
    yield file


def test_the_bfloat16_export_is_refused_with_a_reason(exported: Path) -> None:
    with pytest.raises(ValueError, match=r"sapiens_0.3b_goliath.pt2 is a torch.export archive.*_torchscript.pt2"):
        load_body_parser(exported, torch.float32)


def test_other_pt2_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "sapiens_0.3b_goliath_epoch_194.pt2")
    with pytest.raises(ValueError, match="weights without a network"):
        load_body_parser(tmp_path / "sapiens_0.3b_goliath_epoch_194.pt2", torch.float32)
    save_sapiens1(tmp_path / "half.pt2")
    (tmp_path / "half.pt2").write_bytes((tmp_path / "half.pt2").read_bytes()[:5000])
    with pytest.raises(ValueError, match="no whole TorchScript file.*download it again"):
        load_body_parser(tmp_path / "half.pt2", torch.float32)
    save_sapiens1(tmp_path / "other.pt2", classes=19)
    with pytest.raises(ValueError, match="tells 19 classes apart"):
        load_body_parser(tmp_path / "other.pt2", torch.float32)


def test_face_parsing_follows_the_models_own_order() -> None:
    """BiSeNet's numbering of the same 19 classes, as some SegFormers have it."""
    names = ["background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "mouth", "u_lip",
             "l_lip", "neck", "neck_l", "cloth", "hair", "hat"]
    table = class_table({str(number): name for number, name in enumerate(names)}, Path("x"))
    assert table.groups == {"face": (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13), "hair": (17,), "body": (14,), "clothing": (9, 15, 16, 18)}
    assert class_table({str(number): f"LABEL_{number}" for number in range(19)}, Path("x")) == CELEB_A_MASK_HQ
    for labels in ({}, {"0": "wall", "1": "building"}, {str(number): f"LABEL_{number}" for number in range(18)}):
        with pytest.raises(ValueError, match="CelebAMask-HQ"):
            class_table(labels, Path("x"))


def test_the_palette_has_no_colour_twice() -> None:
    assert len({tuple(colour) for colour in palette(29).tolist()}) == 29
