"""SAMs in every layout that people have, by their names and by their masks; and files that are no SAM."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from pack.segmentation import pretrained, sam_files, sam_keys
from pack.segmentation.boxes import Box
from pack.segmentation.sam import PointSam
from pack.segmentation.sam_files import load_sam
from pack.segmentation.sam_prompt import Prompt
from pack.segmentation.sam_video import follow
from pack.tests.segmentation import tiny_sams as tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

PROMPTS = [Prompt((Box(20, 10, 40, 30),)), Prompt(points=((48.0, 32.0, True),)), Prompt(points=((48.0, 32.0, True), (5.0, 5.0, False)))]
REAL = {"tiny": 12, "small": 16, "base+": 24, "large": 48}


def read(file: Path) -> Mapping[str, Tensor]:
    """As the host reads files."""
    if file.suffix == ".safetensors":
        return load_file(file)
    weights: dict[str, Any] = torch.load(file, weights_only=True)
    return weights.get("model", weights)


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def assert_same_masks(sam: PointSam, expected: PointSam, picture: Tensor) -> None:
    for mask, wanted in zip(sam.masks(picture, PROMPTS), expected.masks(picture, PROMPTS), strict=True):
        torch.testing.assert_close(mask, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("file", ["sam_vit_b.pth", "sam_vit_b.safetensors"])
def test_metas_sam1_gives_the_masks_of_the_folder(tmp_path: Path, picture: Tensor, file: str) -> None:
    network = tiny.sam1()
    sam = load_sam(tiny.save_meta(tmp_path / file, network, "sam"), torch.float32, read)
    assert sam.name == f"sam {file}"
    assert_same_masks(sam, PointSam("", network, tiny.sam1_processor().image_processor, padded=True), picture)


@pytest.mark.parametrize("file", ["sam2.1_hiera_tiny.pt", "sam2.1_hiera_tiny.safetensors"])
def test_metas_sam2_gives_the_masks_of_the_folder(tmp_path: Path, picture: Tensor, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_files, "sam2_config", lambda file, weights: tiny.video_parts())
    network = tiny.sam2_video()
    sam = load_sam(tiny.save_meta(tmp_path / file, network, "sam2"), torch.float32, read)
    folder = load_sam(tiny.save(tmp_path / "folder", network, tiny.sam2_video_processor()), torch.float32, read)
    assert sam.name == f"sam2 {file}"
    assert_same_masks(sam, folder, picture)
    for name, value in network.state_dict().items():
        assert torch.equal(sam.video.state_dict()[name], value), name


def test_metas_names_are_those_of_its_own_code() -> None:
    """meta_names/ was written from the modules of facebookresearch/segment-anything and facebookresearch/sam2."""
    with torch.device("meta"):
        networks = {"sam": hf.SamModel(hf.SamConfig()), "sam2": hf.Sam2VideoModel(hf.Sam2VideoConfig())}
    for kind, file in (("sam", "sam1_vit_b"), ("sam2", "sam2.1_tiny")):
        names = tiny.meta_names(file)
        assert set(tiny.meta_weights(networks[kind].state_dict(), kind)) == names
        assert set(sam_keys.rename({name: torch.empty(1) for name in names}, kind)) == set(networks[kind].state_dict())


@pytest.mark.parametrize(("width", "blocks", "heads", "whole"), [
    (768, 12, 12, [2, 5, 8, 11]), (1024, 24, 16, [5, 11, 17, 23]), (1280, 32, 16, [7, 15, 23, 31])])
def test_sam1s_sizes_are_told_by_shapes(width: int, blocks: int, heads: int, whole: list[int]) -> None:
    """ViT-B, L and H by the numbers in Meta's build_sam.py."""
    with torch.device("meta"):
        network = hf.SamModel(hf.SamConfig(vision_config={
            "hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads, "mlp_dim": 4 * width,
            "global_attn_indexes": whole}))
    config = hf.SamConfig(**sam_keys.sam1_config(tiny.meta_weights(network.state_dict(), "sam")))
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        ours, theirs = getattr(config, part).to_dict(), getattr(network.config, part).to_dict()
        assert {name: value for name, value in ours.items() if name != "scale"} == {
            name: value for name, value in theirs.items() if name != "scale"}


@pytest.mark.parametrize("size", REAL)
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_sam2s_sizes_and_versions(size: str, version: str) -> None:
    """Shapes of what is built are those of Meta's yaml files: widths, blocks of the stages, the window of the positions."""
    widths, stages, background, window = {
        "tiny": ([96, 192, 384, 768], [1, 2, 7, 2], 7, 8), "small": ([96, 192, 384, 768], [1, 2, 11, 2], 7, 8),
        "base+": ([112, 224, 448, 896], [2, 3, 16, 3], 14, 8), "large": ([144, 288, 576, 1152], [2, 6, 36, 4], 7, 8)}[size]
    names = [f"image_encoder.trunk.blocks.{block}.norm1.weight" for block in range(REAL[size])]
    names += ["maskmem_tpos_enc", *(["no_obj_embed_spatial", "obj_ptr_tpos_proj.weight"] if version == "2.1" else [])]
    config = hf.Sam2VideoConfig(**sam_keys.sam2_config(Path(), dict.fromkeys(names, torch.empty(1))))
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in hf.Sam2VideoModel(config).state_dict().items()}
    trunk = "vision_encoder.backbone."
    assert shapes[f"{trunk}pos_embed"] == [1, widths[0], background, background]
    assert shapes[f"{trunk}pos_embed_window"] == [1, widths[0], window, window]
    ends = [sum(stages[:number]) - 1 for number in range(1, 5)]
    assert [shapes[f"{trunk}blocks.{end}.mlp.proj_out.weight"][0] for end in ends] == widths
    assert sum(".attn.qkv.weight" in name for name in shapes) == sum(stages)
    assert ("occlusion_spatial_embedding_parameter" in shapes) == (version == "2.1")


def test_the_large_sam2_has_its_own_windows() -> None:
    """window_spec and global_att_blocks of Meta's sam2.1_hiera_l.yaml, which shapes do not tell."""
    assert sam_keys.HIERA[48]["window_size_per_stage"] == [8, 4, 16, 8]
    assert [sam_keys.HIERA[blocks].get("global_attention_blocks") for blocks in (16, 24, 48)] == [[7, 10, 13], [12, 16, 20], [23, 33, 43]]
    assert hf.Sam2HieraDetConfig(**sam_keys.HIERA[12]).global_attention_blocks == [5, 7, 9]


def test_a_sam2_without_memory_makes_masks_all_the_same(tmp_path: Path, picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_files, "sam2_config", lambda file, weights: tiny.sam2_parts(32))
    network = tiny.sam2()
    sam = load_sam(tiny.save_meta(tmp_path / "image.safetensors", network, "sam2"), torch.float32, read)
    assert sam.video is None
    assert_same_masks(sam, PointSam("", network, tiny.sam2_processor().image_processor), picture)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sam", "sam2_video", "sam3"])
def test_half_precision(tmp_path: Path, picture: Tensor, kind: str, dtype: torch.dtype) -> None:
    size = {"height": tiny.SIDE3, "width": tiny.SIDE3}
    whole3 = hf.Sam3VideoProcessor(hf.Sam3ImageProcessor(size=size), hf.Sam2VideoVideoProcessor(size=size), tiny.clip_tokenizer())
    network, processor = {"sam": (tiny.sam1, tiny.sam1_processor), "sam2_video": (tiny.sam2_video, tiny.sam2_video_processor),
                          "sam3": (tiny.sam3_whole, lambda: whole3)}[kind]
    folder = tiny.save(tmp_path / kind, network(), processor())
    half, whole = load_sam(folder, dtype, read), load_sam(folder, torch.float32, read)
    assert next(half.module.parameters()).dtype == dtype
    # Of the single point alone: whether the one mask of a box is stable enough may turn on the last digit.
    point, wanted = half.masks(picture, PROMPTS)[1], whole.masks(picture, PROMPTS)[1]
    assert point.dtype == torch.float32
    assert (point - wanted).abs().mean() < 0.05
    if kind == "sam2_video":
        assert follow(half, lambda frame: picture, 3, 1, PROMPTS).dtype == torch.float32
    if kind == "sam3":
        half.from_text(picture, "cat")


def test_a_file_in_half_precision(tmp_path: Path, picture: Tensor) -> None:
    network = tiny.sam1()
    sam = load_sam(tiny.save_meta(tmp_path / "half.safetensors", network.half(), "sam"), torch.float32, read)
    assert next(sam.network.parameters()).dtype == torch.float32
    assert_same_masks(sam, PointSam("", network.float(), tiny.sam1_processor().image_processor, padded=True), picture)


def other_file(file: Path, *names: str) -> Path:
    save_file({name: torch.zeros(2) for name in names}, file)
    return file


@pytest.mark.parametrize(("names", "said"), [
    (["lora_unet_down_blocks_0.lora_up.weight"], "is a LoRA; this loads SAM 1, SAM 2"),
    (["diffusion_model.blocks.0.lora_A.weight"], "is a LoRA"),
    (["model.diffusion_model.input_blocks.0.weight"], "is a diffusion model"),
    (["detector.backbone.vision_backbone.trunk.pos_embed"], "is a single file of SAM 3; load it with ComfyUI's Load Checkpoint"),
    (["image_encoder.neck.0.weight", "mask_decoder.hf_token.weight"], "is SAM-HQ; this loads"),
    (["image_encoder.layers.0.blocks.0.conv1.c.weight", "image_encoder.neck.0.weight"], "is MobileSAM; this loads"),
    (["image_encoder.trunk.body.stem.conv.weight", "sam_mask_decoder.iou_token.weight"], "is EdgeTAM; this loads"),
    (["image_encoder.neck.0.weight"], r"lacks the weight 'image_encoder\.patch_embed\.proj\.weight' of SAM 1; it is damaged"),
    (["fc.weight"], "is a file with weights such as 'fc.weight'"),
])
def test_other_files_are_named(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        load_sam(other_file(tmp_path / "x.safetensors", *names), torch.float32, read)
    assert str(tmp_path / "x.safetensors") in str(refusal.value)


def test_a_sam2_of_unknown_size_is_said(tmp_path: Path) -> None:
    file = tiny.save_meta(tmp_path / "odd.safetensors", tiny.sam2_video(), "sam2")
    with pytest.raises(ValueError, match=r"odd\.safetensors is a SAM 2 of 5 blocks; those known .* have 12, 16, 24, 48"):
        load_sam(file, torch.float32, read)


def test_missing_weights_are_said_and_not_made_up(tmp_path: Path) -> None:
    weights = tiny.meta_weights(tiny.sam1().state_dict(), "sam")
    del weights["mask_decoder.transformer.layers.0.norm1.bias"]
    save_file(weights, tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match=r"torn\.safetensors lacks 1 weights of SamModel, such as mask_decoder\.transformer"):
        load_sam(tmp_path / "torn.safetensors", torch.float32, read)


def test_damaged_folders_are_said(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "sam", tiny.sam1(), tiny.sam1_processor())
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"sam cannot be loaded as SamModel .*download it again"):
        load_sam(folder, torch.float32, read)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="sam cannot be loaded as SamModel"):
        load_sam(folder, torch.float32, read)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="sam has no readable settings of SamImageProcessor"):
        load_sam(folder, torch.float32, read)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        load_sam(folder, torch.float32, read)


def test_a_sam3_without_its_vocabulary_is_said(tmp_path: Path) -> None:
    """transformers would load an empty one, and every phrase would be the same."""
    folder = tiny.save(tmp_path / "sam3", tiny.sam3_detector(), tiny.sam3_processor())
    assert load_sam(folder, torch.float32, read).reads_text
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"sam3 has none of tokenizer\.json, .*download the folder again"):
        load_sam(folder, torch.float32, read)


@pytest.mark.parametrize("kind", ["edgetam", "bert", None])
def test_folders_of_other_models_are_named(tmp_path: Path, kind: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"is a model of the type {kind!r}; this loads SAM 1"):
        load_sam(tmp_path, torch.float32, read)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        load_sam(tmp_path / "gone.pth", torch.float32, read)


def test_an_old_transformers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save(tmp_path / "sam2", tiny.sam2(), tiny.sam2_processor())
    asked = []

    def old(name: str, needs: str) -> Any:
        asked.append((name, needs))
        return pretrained.transformers_class("NoSuchModel", needs)

    monkeypatch.setattr(sam_files, "transformers_class", old)
    with pytest.raises(ValueError, match=rf"needs transformers >= 4\.57, this is {hf.__version__}"):
        load_sam(folder, torch.float32, read)
    assert asked == [("Sam2Model", "4.57")]
