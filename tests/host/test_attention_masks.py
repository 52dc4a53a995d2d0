"""Attention to words: against the host's own attention with the identity for values, at places that are found by changing one word or
one part of the picture; on the demo model against the masks of drawn scenes.
"""
from __future__ import annotations

import copy
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import cv2
import numpy as np
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.host import attention_watch
from pack.host.architectures import PROVEN
from pack.host.attention_layout import FAMILIES
from pack.host.attention_masks import Looks, Question, attention_masks, attention_to_words, parse_blocks, report_of
from pack.host.drift import borrow_for_prediction
from pack.host.examples import model_cond
from pack.host.progress import Progress
from pack.masks.word_map import ALONE, BESIDE, OTSU
from pack.trainer.seeds import generator
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .defaults import new_graph
from .server import Comfy
from .tiny import ARCHITECTURES, Architecture, tiny_patcher
from .watched import demo_models

WORDS = 7
Models = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


@pytest.fixture(scope="module")
def models() -> Models:
    return demo_models()


@pytest.fixture(autouse=True)
def as_in_a_node() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass(eq=False)
class Call:
    """One attention as the host was asked for it."""

    q: Tensor
    k: Tensor
    heads: int
    mask: Tensor | None
    options: dict[str, Any]

    def weights(self) -> Tensor:
        """(queries, keys): what PyTorch's attention makes of the identity for values, the mean over heads."""
        split = self.options.get("skip_reshape", False)
        width = self.q.shape[-1] // (1 if split else self.heads)
        q, k = self.q, self.k
        if not split:
            q, k = (x.reshape(1, x.shape[1], -1, width).movedim(1, 2) for x in (q, k))
        mask = self.mask if self.mask is None or self.mask.ndim != 3 else self.mask[:, None]
        identity = torch.eye(k.shape[2]).expand(*k.shape[:3], -1)
        return scaled_dot_product_attention(q, k, identity, mask, scale=self.options.get("scale"), enable_gqa=True)[0].mean(0)


@dataclass
class Recorder:
    calls: list[Call] = field(default_factory=list)

    def __call__(self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
                 **options: Any) -> Tensor:
        if len(q) == 1:
            kept = {name: options[name] for name in ("skip_reshape", "scale") if name in options}
            self.calls.append(Call(q.clone(), k.clone(), heads, mask, kept))
        return function(q, k, v, heads, mask, **options)


def calls_of(patcher: ModelPatcher, cond: dict[str, Tensor], latent: Tensor, level: float, seed: int) -> list[Call]:
    """The attentions of one look, as the host runs it."""
    latent = patcher.model.process_latent_in(latent.clone())
    told, recorder = model_cond(patcher, cond, latent), Recorder()
    noise = torch.randn(latent.shape, generator=generator(seed, "attention noise", 0))
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        sigma = model.sigma(torch.full((1,), level)).float()
        model.transformer_options = {**model.transformer_options, "optimized_attention_override": recorder}
        model(model.add_noise(latent, noise, sigma), sigma, [told])
    return recorder.calls


@dataclass(frozen=True)
class Case:
    """What is looked at: an architecture, the length of a caption, the cells of a latent beyond the architecture's own, and what a text
    encoder may give besides.
    """

    name: str
    words: int = WORDS
    wider: tuple[int, int] = (0, 0)
    hidden: int = 0  # words at the end that an attention mask hides
    quoted: int = 0  # tokens of ByT5

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if name != "name" and value != getattr(Case, name)}
        return " ".join([self.name, *(f"{name}={value}" for name, value in given.items())])

    def picture_and_text(self, arch: Architecture) -> tuple[Tensor, dict[str, Tensor]]:
        draws = torch.Generator().manual_seed(3)
        channels, *_, side = arch.latent
        frames = (1,) * (len(arch.latent) - 3)
        high, wide = self.wider if any(self.wider) else (0, side // 2)
        cond = arch.cond(self.words, draws)
        if self.hidden:
            cond["attention_mask"] = (torch.arange(self.words) < self.words - self.hidden).long()[None]
        if self.quoted:
            cond["conditioning_byt5small"] = torch.randn(1, self.quoted, 1472, generator=draws)
        return torch.randn(1, channels, *frames, side + high, side + wide, generator=draws), cond


CASES = [
    *map(Case, ARCHITECTURES), Case("flux", wider=(1, 3)), Case("sd15", wider=(1, 3)), Case("z_image", words=40), Case("lumina2", words=40),
    Case("qwen_image", hidden=2), Case("hunyuan_video", hidden=2), Case("hunyuan_video_15", quoted=5), Case("hunyuan_image", quoted=5),
    # As many words as parts of the picture.
    Case("sd15", words=128, wider=(0, 8)), Case("sd15", words=12, wider=(0, -2)), Case("sdxl", words=32, wider=(0, 8)),
    Case("wan", words=24),
]


def only_passing_on(patcher: ModelPatcher) -> None:
    """Blocks that mix words with words, or parts of the picture, before the two meet hand on what they are given."""
    with torch.no_grad():
        for name, weight in patcher.model.diffusion_model.named_parameters():
            if "refiner" in name and any(last in name for last in (".out.", "to_out", "feed_forward.w2", "linear_2")):
                weight.zero_()


def most_changed(one: Tensor, other: Tensor) -> int:
    """The token, (1, [H,] L, D), that differs most."""
    difference = (one - other).square().sum(-1)
    return int(difference.reshape(-1, difference.shape[-1]).sum(0).argmax())


def host_attention(asked: list[Call], words: slice, start: int, found: Tensor, cross: bool) -> Tensor:
    """(T, h, w): the mean over the calls, coarser grids of a U-Net enlarged by OpenCV."""
    high, wide = found.shape[1:]
    sums = torch.zeros_like(found)
    for call in asked:
        per_word = call.weights()[:, words].T
        cells = per_word.shape[1] if cross else high * wide
        rows = next(-(-high // scale) for scale in (1, 2, 4) if cells == -(-high // scale) * -(-wide // scale))
        maps = per_word[:, start:start + cells].reshape(len(per_word), rows, -1)
        sums += torch.stack([torch.from_numpy(cv2.resize(one.numpy(), (wide, high), interpolation=cv2.INTER_LINEAR)) for one in maps])
    return sums / len(asked)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_that_of_the_host_at_the_places_of_words_and_picture(case: Case) -> None:
    patcher, arch = tiny_patcher(case.name)
    only_passing_on(patcher)
    latent, cond = case.picture_and_text(arch)
    found, = attention_to_words(patcher, cond, [latent], Looks(level=0.6, draws=1, seed=5), Progress(None))
    calls = calls_of(patcher, cond, latent, 0.6, 5)
    cross = case.name in ("sdxl", "sd15", "wan", "wan22_5b")
    length = max(call.q.shape[-2] for call in calls)
    # Self-attention comes first in every block, and then, where the two are apart, attention to the words.
    asked = calls[1::2] if cross else [call for call in calls if call.q.shape[-2] == call.k.shape[-2] == length]
    first = calls.index(asked[0])
    high, wide = found.shape[1:]
    patch = -(-latent.shape[-1] // wide)

    # Where the words are: the keys of the first such attention that change with one embedding.
    starts = set()
    for word in (0, case.words - 1):
        other = {**cond, "cross_attn": cond["cross_attn"].clone()}
        other["cross_attn"][:, word] *= -1.5
        starts.add(most_changed(asked[0].k, calls_of(patcher, other, latent, 0.6, 5)[first].k) - word)
    word_start, = starts
    # Where the picture is: the queries that change with one part of it. A U-Net's convolutions mix its parts before.
    starts = {0} if case.name in ("sdxl", "sd15") else set()
    for row, column in ((0, 0), (2, wide - 2)) if not starts else ():
        changed = latent.clone()
        changed[..., row * patch:(row + 1) * patch, column * patch:(column + 1) * patch] *= -2
        starts.add(most_changed(asked[0].q, calls_of(patcher, cond, changed, 0.6, 5)[first].q) - row * wide - column)
    picture_start, = starts

    assert found.shape == (case.words, -(-latent.shape[-2] // patch), -(-latent.shape[-1] // patch))
    words = slice(word_start, word_start + case.words)
    torch.testing.assert_close(found, host_attention(asked, words, picture_start, found, cross), rtol=1e-4, atol=1e-6)
    if case.hidden:
        assert found[-case.hidden:].max() < 1e-9 < found[:-case.hidden].min()


def test_chunks_change_nothing_and_blocks_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    patcher, arch = tiny_patcher("sdxl")
    latent, cond = Case("sdxl").picture_and_text(arch)
    whole, = attention_to_words(patcher, cond, [latent], Looks(draws=1), Progress(None))
    monkeypatch.setattr(attention_watch, "AT_ONCE", 100)
    torch.testing.assert_close(attention_to_words(patcher, cond, [latent], Looks(draws=1), Progress(None))[0], whole, rtol=1e-5, atol=1e-8)
    calls = calls_of(patcher, cond, latent, 0.5, 0)[1::2]
    one, = attention_to_words(patcher, cond, [latent], Looks(draws=1, blocks=(len(calls) - 1,)), Progress(None))
    assert one.numel() == calls[-1].weights().numel()
    torch.testing.assert_close(one, calls[-1].weights().T.reshape(one.shape), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=rf"has {len(calls)} attentions between picture and words, 0 to {len(calls) - 1}, and no \[99\]"):
        attention_to_words(patcher, cond, [latent], Looks(draws=1, blocks=(0, 99)), Progress(None))


@pytest.mark.parametrize("mask", [None, (6, 9), (1, 6, 9), (1, 1, 9), (1, 4, 6, 9), (1, 1, 1, 9)], ids=str)
@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_weights_are_those_of_pytorch_for_grouped_heads_and_every_shape_of_mask(mask: tuple[int, ...] | None, kind: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    q, k = torch.randn(4, 6, 8, generator=draws), torch.randn(2, 9, 8, generator=draws)
    numbers = None if mask is None else torch.randn(mask, generator=draws)
    given = numbers if numbers is None or kind == torch.float32 else numbers > -1
    shaped = given if given is None or given.ndim != 3 else given[:, None]  # the host adds the heads
    whole = scaled_dot_product_attention(q[None], k[None], torch.eye(9).expand(1, 2, 9, 9), shaped, scale=0.3, enable_gqa=True)[0].mean(0)
    found = attention_watch.word_weights(q, k, given, slice(1, 5), slice(2, 7), 0.3)
    torch.testing.assert_close(found, whole[1:5, 2:7])


def test_draws_are_averaged_and_pictures_are_looked_at_by_themselves() -> None:
    patcher, arch = tiny_patcher("flux")
    latent, cond = Case("flux").picture_and_text(arch)
    both = attention_to_words(patcher, cond, [latent, latent * 2], Looks(draws=2, seed=3), Progress(None))
    alone = attention_to_words(patcher, cond, [latent * 2], Looks(draws=2, seed=3), Progress(None))
    assert torch.equal(both[1], alone[0])
    first, = attention_to_words(patcher, cond, [latent], Looks(draws=1, seed=3), Progress(None))
    assert not torch.allclose(both[0], first, rtol=1e-6)
    assert not torch.allclose(first, attention_to_words(patcher, cond, [latent], Looks(draws=1, seed=4), Progress(None))[0], rtol=1e-6)


def test_a_word_that_is_made_to_match_bright_cells_is_found_there() -> None:
    """A Flux whose first block compares one number: how bright a part of the picture is with one number of each embedding."""
    patcher, arch = tiny_patcher("flux")
    network = patcher.model.diffusion_model
    block = network.double_blocks[0]
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("img_in", "txt_in", "double_blocks.0")) and ".scale" not in name and "norm" not in name:
                weight.zero_()
        network.img_in.weight[0] = 1  # the sum over the part's channels and cells
        network.txt_in.weight[0, 0] = 1
        block.img_attn.qkv.weight[0, 0] = block.txt_attn.qkv.weight[arch.config["hidden_size"], 0] = 1
    latent, cond = torch.full((1, 16, 8, 12), -1.0), {"cross_attn": torch.zeros(1, 4, 64), "pooled_output": torch.zeros(1, 32)}
    cond["cross_attn"][0, :, 0] = torch.tensor([-1.0, -1.0, 1.0, -1.0])
    latent[..., 2:4, 6:10] = 1.0
    found, = attention_to_words(patcher, cond, [latent], Looks(level=0.05, draws=1, blocks=(0,)), Progress(None))
    bright = torch.zeros(4, 6, dtype=torch.bool)
    bright[1, 3:5] = True
    assert torch.equal(found[2] > 0.5, bright)
    assert found[2][~bright].max() < 0.05
    assert (found[[0, 1, 3]][:, bright] < 0.05).all()


def scene_set(root: Path, count: int) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """Drawn scenes whose captions no training step of the demo model saw, with their masks."""
    sys.path.insert(0, str(root / "tools"))
    try:
        scenes = importlib.import_module("demo_model.scenes")
    finally:
        sys.path.remove(str(root / "tools"))
    draws = random.Random(5)
    return [(scene, *scenes.draw(scene, draws)) for scene in scenes.split_scenes()[1][:count]]


def test_the_demo_model_looks_at_the_subject_for_its_name(models: Models, root: Path) -> None:
    """Parts of the subject have more of the attention to its name than parts of the background; for other words that is not so."""
    subject, others = [], []
    for scene, image, mask in scene_set(root, 6):
        question = Question(prompt=scene.caption(), words=scene.kind)
        image_BHWC, mask_BHW = torch.from_numpy(image)[None], torch.from_numpy(mask)[None]
        found, = attention_masks(*models, image_BHWC, question, Looks(draws=1), mask_BHW, Progress(None))
        assert found.mask_HW.shape == mask.shape
        by_word = {word.word: word.separation for word in found.words}
        assert by_word[scene.kind] == found.found.separation
        subject.append(found.found.separation)
        others += [by_word[word] for word in (scene.position, scene.background, scene.pattern, "on")]
    assert np.mean(subject) > 0.7, subject
    assert np.mean(others) < 0.5, others


def test_a_look_leaves_the_models_as_they_were(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also Cancel and an error on the way."""
    patcher, clip, vae = models
    weights = {**patcher.model.state_dict(), **clip.cond_stage_model.state_dict()}
    kept = {name: value.clone() for name, value in weights.items()}
    options = copy.deepcopy(patcher.model_options)
    image, question = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1)), Question(prompt="a red star", words="star")

    def look(looks: Looks = Looks(draws=2), progress: Progress | None = None) -> Tensor:  # noqa: B008
        return attention_masks(*models, image, question, looks, None, progress or Progress(None))[0].soft_HW

    def pressed(done: int, total: int, text: str = "") -> None:
        if done == 1:
            raise comfy.model_management.InterruptProcessingException

    before = look()
    cancelled = Progress(None)
    monkeypatch.setattr(cancelled, "update", pressed)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        look(progress=cancelled)
    with pytest.raises(ValueError, match="choose others"):
        look(Looks(draws=1, blocks=(99,)))
    monkeypatch.setattr(attention_watch, "word_weights", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look()
    monkeypatch.undo()
    assert torch.equal(look(), before)
    comfy.model_management.unload_all_models()
    assert patcher.model_options == options
    assert not patcher.patches
    assert not patcher.object_patches
    for name, value in {**patcher.model.state_dict(), **clip.cond_stage_model.state_dict()}.items():
        assert torch.equal(value, kept[name])


def test_what_cannot_be_looked_into_is_said(models: Models) -> None:
    patcher, clip, vae = models
    image = torch.rand(2, 64, 64, 3)

    def look(patcher: ModelPatcher = patcher, mask: Tensor | None = None, **question: str) -> None:
        asked = Question(**{"prompt": "a red star", "words": "star"} | question)
        attention_masks(patcher, clip, vae, image, asked, Looks(draws=1), mask, Progress(None))

    with pytest.raises(ValueError, match="does not have the words 'dog'"):
        look(words="star, dog")
    with pytest.raises(ValueError, match="no words were given"):
        look(words=" , ")
    with pytest.raises(ValueError, match="no words but star to compare with"):
        look(prompt="star")
    with pytest.raises(ValueError, match="compare with are 3 of 64x64 and the pictures 2 of 64x64"):
        look(mask=torch.ones(3, 64, 64))
    with pytest.raises(ValueError, match="4 channels and the VAE gives 16"):
        look(tiny_patcher("sdxl")[0])
    strange, arch = tiny_patcher("sdxl")
    latent, cond = Case("sdxl").picture_and_text(arch)
    strange.model.__class__ = type("Mystery", (type(strange.model),), {})
    with pytest.raises(ValueError, match=r"of Mystery \(UNetModel\) is not known; models that can be looked into: SD 1.5, AuraFlow"):
        attention_to_words(strange, cond, [latent], Looks(), Progress(None))


def test_a_model_that_reads_a_picture_among_its_words_is_refused() -> None:
    patcher, arch = tiny_patcher("wan")
    latent, cond = Case("wan").picture_and_text(arch)
    patcher.model.diffusion_model.img_emb = torch.nn.Identity()
    with pytest.raises(ValueError, match="WAN21 with CLIP vision reads a picture among its words"):
        attention_to_words(patcher, cond, [latent], Looks(), Progress(None))


def test_every_proven_model_can_be_looked_into() -> None:
    assert FAMILIES.keys() == PROVEN


def test_attention_that_another_node_took_over_is_said() -> None:
    patcher, arch = tiny_patcher("sd15")
    latent, cond = Case("sd15").picture_and_text(arch)
    for block in (("input", 1), ("input", 2), ("middle", 0), ("output", 3), ("output", 4), ("output", 5)):
        for index in range(8):
            patcher.set_model_attn2_replace(lambda q, k, v, options: q, *block[:1], index)
    with pytest.raises(ValueError, match="no attention between picture and words was seen in BaseModel; remove nodes"):
        attention_to_words(patcher, cond, [latent], Looks(), Progress(None))


def test_blocks_are_numbers_and_ranges() -> None:
    assert parse_blocks("") == parse_blocks(" , ") == ()
    assert parse_blocks("3, 0-2,7") == (0, 1, 2, 3, 7)
    for wrong in ("a", "3-1", "-1", "1.5", "0-99999"):
        with pytest.raises(ValueError, match="write numbers from 0 and ranges"):
            parse_blocks(wrong)


def test_a_mask_of_several_words_and_its_report(models: Models) -> None:
    image, mask = torch.rand(1, 70, 100, 3, generator=torch.Generator().manual_seed(2)), torch.zeros(1, 70, 100)
    mask[:, :35] = 1
    question = Question(prompt="a red star, a blue star", words="red, blue", kind=ALONE, edge=OTSU)
    found, = attention_masks(*models, image, question, Looks(draws=1), mask, Progress(None))
    assert found.mask_HW.unique().tolist() == [0.0, 1.0]
    assert found.soft_HW.shape == found.mask_HW.shape == (70, 100)
    assert (found.soft_HW.min(), found.soft_HW.max()) == (0, 1)
    by_word = {word.word: word for word in found.words}
    assert list(by_word) == ["a", "red", "star", "blue"]
    assert found.found.word == "red, blue"
    assert found.found.attention == pytest.approx((by_word["red"].attention + by_word["blue"].attention) / 2, rel=1e-5)
    assert "covers 50%, so much of the attention is inside by chance" in found.report()
    assert report_of([found, found]).count("peak at x ") == 2
    question = Question(prompt="a red star, a blue star", words="red", kind=BESIDE)
    beside, = attention_masks(*models, image, question, Looks(draws=1), None, Progress(None))
    assert "inside" not in beside.report()


def test_a_grey_picture_is_looked_at_as_its_three_equal_colours(models: Models) -> None:
    grey = torch.rand(1, 64, 64, 1, generator=torch.Generator().manual_seed(3))
    question = Question(prompt="a red star", words="star")
    one, three = (attention_masks(*models, image, question, Looks(draws=1), None, Progress(None))[0]
                  for image in (grey, grey.repeat(1, 1, 1, 3)))
    torch.testing.assert_close(one.mask_HW, three.mask_HW, atol=1e-4, rtol=0)
    assert one.heat().shape == three.heat().shape


def test_no_pictures(models: Models) -> None:
    with pytest.raises(ValueError, match="no picture in the batch"):
        attention_masks(*models, torch.zeros(0, 64, 64, 3), Question(prompt="a", words="a"), Looks(), None, Progress(None))


def test_the_node_in_a_running_comfyui(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    image = graph.add("EmptyImage", width=64, height=48, batch_size=2, color=0xE02424)
    mask = graph.add("SolidMask", value=1.0, width=64, height=48)
    node = graph.add("MaskedLoRA_AttentionMask", model=demo[0], clip=demo[1], vae=demo[2], image=image[0], prompt="a red star on the left",
                     words="red star", draws=1, mask=mask[0])
    shown = graph.add("MaskToImage", mask=node[0])
    same = graph.add("ImageBatch", image1=shown[0], image2=node[1])
    graph.add("PreviewImage", images=same[0])
    report = graph.add("PreviewAny", source=node[2])
    text = comfy.run(graph).text(report)
    assert text.count("red star: ") == 2
    assert "100% of it inside the mask" in text
    assert "mask: covers 100%" in text
    assert "nan" not in text
