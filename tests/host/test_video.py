"""Clips: which frames a latent frame stands for, clips from real videos, and their masks all the way into a training step."""
from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import comfy.sd
import numpy as np
import pytest
import torch
from comfy.taesd.taehv import TAEHV
from comfy_api.latest import InputImpl, Types
from pack.dataset.cache import CachedExample, TrainingSet
from pack.dataset.item import DataSet, OwnAlpha
from pack.dataset.load import load_item
from pack.dataset.scan import FolderSpec, scan_folder
from pack.host.clips import FrameRange, one_source
from pack.host.demo_model import load_autoencoder, load_text_encoders
from pack.host.encode import encode_data_set
from pack.host.examples import make_example
from pack.host.folders import DEMO_MODEL
from pack.host.lists import clips_to_data_set, replace_masks
from pack.host.progress import Progress
from pack.host.run import RunConfig, run_training
from pack.host.text_padding import PRESETS
from pack.host.video import usable_frames
from pack.masks.latent_grid import frames_per_cell
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig
from PIL import Image
from skimage import data as photographs
from torch import Tensor

from .server import Comfy, Graph
from .tiny import tiny_patcher
from .tiny_vae import VIDEO_ENCODERS, frames_read, hunyuan_autoencoder, tiny_wan_vae


def groups(frames: int, cells: int) -> list[list[int]]:
    """The frames over which the weight of each latent frame is averaged."""
    numbers = iter(range(frames))
    return [[next(numbers) for _ in range(length)] for length in frames_per_cell(frames, cells)]


@pytest.mark.parametrize("name", VIDEO_ENCODERS)
def test_a_latent_frame_reads_the_frames_its_weight_is_averaged_over_and_none_after_them(name: str) -> None:
    encoder = VIDEO_ENCODERS[name]()
    frames = 2 * encoder.stride + 1
    read = frames_read(encoder.encode, frames, 2 * encoder.cell)
    assert len(read) == 3
    for seen, group in zip(read, groups(frames, 3), strict=True):
        assert set(group) <= set(seen)
        assert max(seen) == group[-1]


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 6, 8, 9, 12])
def test_wan_drops_the_last_frames_and_usable_frames_tells_how_many(frames: int) -> None:
    vae = tiny_wan_vae()
    kept = usable_frames(vae, frames)
    clip = torch.rand(frames, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        latent = vae.encode(clip)
        assert torch.equal(vae.encode(clip[:kept]), latent)
        assert kept == 1 + (frames - 1) // 4 * 4
        without_last = vae.encode(torch.cat([clip[:kept - 1], 1 - clip[kept - 1:kept]]))
    assert not torch.equal(without_last, latent), "the last frame that is kept counts"


def test_hunyuan_videos_latent_frames_are_decoded_to_the_frames_their_weight_is_averaged_over() -> None:
    """Its encoder as ComfyUI 0.30 runs it reads up to frame 4 k - 3 only, but this is what latent frame k stands for."""
    network, latent = hunyuan_autoencoder(), torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frames = network.decode(latent)
        for k, group in enumerate(groups(9, 3)):
            changed = latent.clone()
            changed[:, :, k] *= -1
            difference = (network.decode(changed) - frames).abs().amax((0, 1, 3, 4))
            assert [t for t in range(9) if difference[t] > 1e-6] == list(range(group[0], 9))


def test_a_clip_is_refused_by_vaes_that_cannot_take_it() -> None:
    pictures = load_autoencoder(DEMO_MODEL)
    assert usable_frames(pictures, 1) == 1
    with pytest.raises(ValueError, match="the clip has 5 frames and needs a video VAE, and TAESD encodes pictures, not clips"):
        usable_frames(pictures, 5)
    previews = comfy.sd.VAE(sd=TAEHV(latent_channels=16).state_dict())
    with pytest.raises(ValueError, match="TAEHV, a small VAE for previews.*load that one"):
        usable_frames(previews, 5)
    with pytest.raises(ValueError, match="0 frames; give at least one"):
        usable_frames(pictures, 0)


def test_the_preview_vae_indeed_groups_frames_otherwise() -> None:
    network = TAEHV(latent_channels=16)
    network.load_state_dict({name: torch.randn_like(value) * 0.1 for name, value in network.state_dict().items()})
    assert max(frames_read(network.encode, 5, 16)[0]) == 3


def panned(photograph: str, frames: int, height: int = 64, width: int = 96, step: int = 4) -> np.ndarray:
    """A window that moves over a photograph, (T, H, W, 3) uint8."""
    pixels = getattr(photographs, photograph)()
    return np.stack([pixels[100:100 + height, t * step:t * step + width, :3] for t in range(frames)])


def moving_masks(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A grey ramp with a white bar that moves, (T, H, W), in steps of 1/255."""
    mask_THW = np.tile((np.arange(width) // 2).astype(np.uint8), (frames, height, 1))
    for t in range(frames):
        mask_THW[t, 8:40, 5 * t:5 * t + 30] = 255
    return mask_THW.astype(np.float32) / np.float32(255)


def write_video(file: Path, frames_THWC: np.ndarray) -> Path:
    """Nearly lossless H.264, or PNG frames if there is a fourth channel, opacity."""
    transparent = frames_THWC.shape[-1] == 4
    with av.open(str(file), "w") as container:
        if transparent:
            stream = container.add_stream("png", rate=30)
        else:
            stream = container.add_stream("libx264", rate=30, options={"crf": "1", "preset": "ultrafast"})
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "rgba" if transparent else "yuv444p"
        for pixels in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgba" if transparent else "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "astronaut.mp4", panned("astronaut", 12))


def from_videos(videos: list[Any], masks: Any = None, captions: Any = ("a clip",), names: Any = None, **settings: Any) -> DataSet:
    return clips_to_data_set(videos, masks, captions, names, **settings)


def test_a_video_file_becomes_one_item_with_all_its_frames(video_file: Path) -> None:
    data_set = from_videos([InputImpl.VideoFromFile(str(video_file))])
    (item,) = data_set.items
    assert (item.name, item.frames, item.size, item.mask) == ("clip 1", 12, (96, 64), None)
    assert data_set.report.splitlines()[0] == "1 clip; 96x64, 12 frames: 1"
    seen = load_item(item).image_THWC.numpy()
    assert np.abs(seen - panned("astronaut", 12) / 255).mean() < 0.01
    assert np.abs(seen - np.roll(panned("astronaut", 12), 1, axis=0) / 255).mean() > 0.03  # the frames' order would show


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(FrameRange(), list(range(12))), (FrameRange(first=3), list(range(3, 12))), (FrameRange(every=4), [0, 4, 8]),
     (FrameRange(first=1, count=3, every=2), [1, 3, 5]), (FrameRange(count=99), list(range(12))), (FrameRange(first=11), [11])],
)
def test_frames_and_their_masks_are_picked_alike(video_file: Path, frames: FrameRange, expected: list[int]) -> None:
    video = InputImpl.VideoFromFile(str(video_file))
    masks = torch.from_numpy(moving_masks(12))
    (item,) = from_videos([video], [masks], frames=frames).items
    loaded = load_item(item)
    assert torch.equal(loaded.image_THWC, video.get_components().images[expected].clamp(0, 1))
    assert loaded.mask_THW is not None
    assert torch.equal(loaded.mask_THW, masks[expected])
    assert item.frames == len(expected)


def test_one_mask_serves_a_clip_whatever_frames_are_picked() -> None:
    clip, mask = torch.from_numpy(panned("chelsea", 9) / np.float32(255)), torch.from_numpy(moving_masks(1))
    for given in (mask, mask[0]):
        (item,) = from_videos([clip], [given], frames=FrameRange(every=2)).items
        assert torch.equal(load_item(item).mask_THW, mask)
    assert item.frames == 5


def test_each_clip_has_its_own_mask_or_one_serves_all() -> None:
    clips = [torch.from_numpy(panned(name, 5) / np.float32(255)) for name in ("astronaut", "chelsea")]
    masks = [torch.from_numpy(moving_masks(5)), torch.from_numpy(moving_masks(1))]
    data_set = from_videos(clips, masks, ["one", "two"], ["first", "second"])
    assert [(item.name, item.caption) for item in data_set.items] == [("first", "one"), ("second", "two")]
    assert [len(load_item(item).mask_THW) for item in data_set.items] == [5, 1]
    shared = from_videos(clips, masks[:1])
    assert shared.report.startswith("one mask serves all 2 clips\n")
    assert all(torch.equal(load_item(item).mask_THW, masks[0]) for item in shared.items)


def test_transparency_of_a_video_is_its_mask(tmp_path: Path) -> None:
    images, masks = panned("chelsea", 3), moving_masks(3)
    opacity = (masks[..., None] * 255).round().astype(np.uint8)
    video = InputImpl.VideoFromFile(str(write_video(tmp_path / "cut_out.mov", np.concatenate([images, opacity], axis=-1))))
    (item,) = from_videos([video]).items
    assert isinstance(item.mask, OwnAlpha)
    assert torch.equal(load_item(item).mask_THW, torch.from_numpy(masks))
    assert torch.equal(load_item(item).image_THWC, torch.from_numpy(images / np.float32(255)))


CLIP = torch.from_numpy(panned("chelsea", 5) / np.float32(255))


@pytest.mark.parametrize(
    ("clips", "masks", "settings", "message"),
    [
        ([CLIP], [moving_masks(4)], {}, "clip 1 has 5 frames and its mask 4; give one mask for the clip or one for each"),
        ([CLIP], [moving_masks(3)], {"frames": FrameRange(every=2)}, "has 5 frames and its mask 3; .* before frames are left out"),
        ([CLIP], [moving_masks(5, 96, 64)], {}, "clip 1: the picture is 96x64 and its mask 64x96"),
        ([CLIP, CLIP, CLIP], [moving_masks(5)] * 2, {}, "3 clips came with 2 masks"),
        ([CLIP], [np.zeros((1, 64, 64), np.float32)], {}, "Load Image"),
        ([CLIP], None, {"frames": FrameRange(first=5)}, "clip 1 has 5 frames and first_frame is 5; use 0 to 4"),
        ([CLIP[..., 0]], None, {}, "clip 1: the shape is"),
        ([], None, {}, "there are no clips"),
    ],
)
def test_masks_and_frames_that_cannot_be_applied_are_refused(clips: Any, masks: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_videos(clips, None if masks is None else [torch.from_numpy(mask) for mask in masks], **settings)


def test_a_video_without_frames_is_refused() -> None:
    empty = InputImpl.VideoFromComponents(Types.VideoComponents(images=torch.zeros(0, 0, 0, 3), frame_rate=Fraction(30)))
    with pytest.raises(ValueError, match="night has no frames; check the file"):
        from_videos([empty], names=["night"])


def test_impossible_frame_ranges_and_sources_are_refused() -> None:
    for wrong in ({"first": -1}, {"count": -1}, {"every": 0}):
        with pytest.raises(ValueError, match="use 0 or more for the first two"):
            FrameRange(**wrong)
    assert one_source(None, [CLIP]) == [CLIP]
    with pytest.raises(ValueError, match="both connected"):
        one_source([object()], [CLIP])
    with pytest.raises(ValueError, match="not connected"):
        one_source(None, None)


def test_masks_of_clips_are_replaced_entry_by_entry() -> None:
    data_set = from_videos([CLIP, CLIP])
    masks = [torch.from_numpy(moving_masks(5)), torch.from_numpy(moving_masks(1))]
    assert [len(load_item(item).mask_THW) for item in replace_masks(data_set, masks).items] == [5, 1]
    with pytest.raises(ValueError, match="clip 2 has 5 frames and its mask 4"):
        replace_masks(data_set, [masks[0], masks[0][:4]])


def trained_on(masks: list[Tensor] | None, folder: Path, frames: int = 11) -> tuple[Any, TrainingSet]:
    clip = torch.from_numpy(panned("astronaut", frames) / np.float32(255))
    return encoded_for_wan(from_videos([clip], masks), folder)


def encoded_for_wan(data_set: DataSet, folder: Path) -> tuple[Any, TrainingSet]:
    """Clips through the tiny VAE of WAN, with text of the width that the tiny model takes."""
    patcher, arch = tiny_patcher("wan")
    with torch.inference_mode():
        encoded = encode_data_set(data_set, load_text_encoders(DEMO_MODEL), tiny_wan_vae(), PRESETS["comfyui"], folder, Progress(None))
    cond = {"cross_attn": torch.randn(1, 7, arch.text, generator=torch.Generator().manual_seed(2))}
    examples: list[CachedExample] = [replace(example, cond=cond) for example in encoded.examples]
    return patcher, TrainingSet(tuple(examples), encoded.text_padding, encoded.report)


def expected_weight(mask_THW: np.ndarray) -> np.ndarray:
    """(1, 3, 8, 12) of 9 frames: boxes of 8 x 8 pixels, frame 0, then 1 to 4, then 5 to 8; written from the definition."""
    boxes = mask_THW[:9].reshape(-1, 8, 8, 12, 8).astype(np.float64).mean((2, 4))
    if len(boxes) == 1:
        return np.stack([boxes[0]] * 3)[None]
    return np.stack([boxes[0], boxes[1:5].mean(0), boxes[5:9].mean(0)])[None]


@pytest.mark.parametrize("count", [1, 11])
def test_masks_of_a_clip_reach_the_loss_cell_by_cell(count: int, tmp_path: Path) -> None:
    masks = moving_masks(count)
    patcher, data = trained_on([torch.from_numpy(masks)], tmp_path / "cache")
    assert data.examples[0].latent_CHW.shape == (16, 3, 8, 12)
    example = make_example(patcher, data.examples[0], MaskRecipe())
    np.testing.assert_allclose(example.weight_1HW.numpy(), expected_weight(masks), atol=1e-6)


@pytest.mark.parametrize("count", [1, 11])
def test_a_folder_of_frames_with_masks_reaches_the_loss_like_a_video(count: int, tmp_path: Path) -> None:
    masks = moving_masks(count)
    save_frames(tmp_path / "set" / "astronaut", panned("astronaut", 11))
    save_frames(tmp_path / "set" / "masks" / ("astronaut" if count > 1 else ""), (masks * 255).round().astype(np.uint8), "astronaut.png")
    data_set = scan_folder(FolderSpec(folder=tmp_path / "set", content="clips", mask_source="folder"))
    patcher, data = encoded_for_wan(data_set, tmp_path / "cache")
    example = make_example(patcher, data.examples[0], MaskRecipe())
    np.testing.assert_allclose(example.weight_1HW.numpy(), expected_weight(masks), atol=1e-6)
    _, from_video = trained_on([torch.from_numpy(masks)], tmp_path / "other_cache")
    assert torch.equal(data.examples[0].latent_CHW, from_video.examples[0].latent_CHW)


def save_frames(folder: Path, frames: np.ndarray, only: str = "") -> None:
    folder.mkdir(parents=True)
    for t, pixels in enumerate(frames):
        Image.fromarray(pixels).save(folder / (only if len(frames) == 1 else f"{t:03d}.png"))


def test_a_clip_without_masks_is_learned_everywhere(tmp_path: Path) -> None:
    patcher, data = trained_on(None, tmp_path / "cache")
    assert torch.equal(make_example(patcher, data.examples[0], MaskRecipe()).weight_1HW, torch.ones(1, 3, 8, 12))


def test_a_model_for_video_trains_on_a_masked_clip(tmp_path: Path) -> None:
    patcher, data = trained_on([torch.from_numpy(moving_masks(11))], tmp_path / "cache")
    config = RunConfig(train=TrainConfig(steps=2, batch_size=1, learning_rate=1e-2), lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(),
                       checkpointing=False, name="test", rescue_folder=tmp_path)
    result = run_training(patcher, data, config, Progress(None))
    assert len(result.losses) == 2
    assert all(np.isfinite(result.losses))
    assert any(value.any() for name, value in result.lora.items() if "lora_B" in name)


def test_cores_load_video_and_masks_of_its_frames_become_a_data_set(comfy: Comfy) -> None:
    """Load Video, a mask for each frame by core nodes, every second frame from the third on, and out again as pictures."""
    write_video(comfy.input / "astronaut.mp4", panned("astronaut", 12))
    graph = Graph()
    video = graph.add("LoadVideo", file="astronaut.mp4")
    frames = graph.add("GetVideoComponents", video=video[0])
    masks = graph.add("ImageToMask", image=frames[0], channel="green")
    data_set = graph.add("MaskedLoRA_DataSetFromVideo", videos=video[0], masks=masks[0], captions="a woman", first_frame=2, frame_count=4,
                         every=2, alpha_as_mask=True, repeats=1, weight=1.0)
    lists = graph.add("MaskedLoRA_DataSetToLists", data_set=data_set[0], start=0, count=0)
    pictures = graph.add("SaveImage", images=lists[0], filename_prefix="clip")
    shown = graph.add("SaveImage", images=graph.add("MaskToImage", mask=lists[1])[0], filename_prefix="clip_masks")
    run = comfy.run(graph)
    assert run.text(data_set).startswith("1 clip; 96x64, 4 frames: 1\nwhite (learned): on average ")
    seen = [np.asarray(picture).astype(int) for picture in run.images(pictures)]
    assert len(seen) == 4
    for t, picture, mask in zip([2, 4, 6, 8], seen, run.images(shown), strict=True):
        assert np.abs(picture - panned("astronaut", 12)[t]).mean() < 2.5
        assert np.array_equal(np.asarray(mask)[..., 0], picture[..., 1])

    wrong = Graph(dict(graph.prompt))
    one_less = wrong.add("ImageFromBatch", image=frames[0], batch_index=0, length=11)
    too_few = wrong.add("ImageToMask", image=one_less[0], channel="green")
    wrong.add("MaskedLoRA_DataSetFromVideo", **graph.prompt[data_set.id]["inputs"] | {"masks": too_few[0]})
    assert "clip 1 has 12 frames and its mask 11" in comfy.error(wrong, "MaskedLoRA_DataSetFromVideo")
