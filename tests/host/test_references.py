"""Reference pictures of edit models: scaled and handed over as ComfyUI's own nodes do, trained on, previewed."""
from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.text_encoders.qwen_image
import comfy.text_encoders.qwen_vl
import comfy_extras.nodes_flux
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_flux import PREFERRED_KONTEXT_RESOLUTIONS, FluxKontextImageScale
from comfy_extras.nodes_post_processing import ImageScaleToTotalPixels
from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus
from pack.dataset.augment import mirrored
from pack.dataset.cache import CachedExample, TrainingSet
from pack.dataset.geometry import Placement
from pack.dataset.item import DataSet, ImageFiles, ImagePixels, Item, MaskPixels
from pack.dataset.manifest import open_set
from pack.host import encode as encoding
from pack.host import references
from pack.host.architectures import READ_REFERENCES
from pack.host.checkpoints import contents_hash
from pack.host.drift import borrow_for_prediction
from pack.host.encode import encode_data_set
from pack.host.examples import Examples, make_example
from pack.host.lists import pictures_to_data_set
from pack.host.previews import PreviewSpec
from pack.host.progress import Progress
from pack.host.references import KONTEXT, OTHERS, QWEN, reference_use
from pack.host.run import run_training
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from pack.host.training import training_memory
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import TrainConfig
from PIL import Image
from skimage import data
from torch import Tensor

from .defaults import new_graph
from .server import Comfy, add_data_set, write_picture
from .test_architectures import TAKES_THEM
from .test_training import run_config, training_set
from .tiny import random_weights, tiny_patcher
from .tiny_vae import tiny_wan_vae
from .watched import PADDING, demo_models, demo_set, run_watched

PLAIN = PRESETS["comfyui"]
SIZES = [(300, 200), (1000, 400), (64, 500)]


def photograph(size: tuple[int, int], name: str = "astronaut") -> Tensor:
    """(1, H, W, 3), 0..1."""
    pixels = Image.fromarray(getattr(data, name)()).resize(size)
    return torch.tensor(list(pixels.tobytes()), dtype=torch.float32).reshape(1, size[1], size[0], 3) / 255


def picture_item(name: str, image_BHWC: Tensor, **settings: Any) -> Item:
    return Item(name, ImagePixels(image_BHWC), None, "make it night", (image_BHWC.shape[2], image_BHWC.shape[1]), **settings)


def edit_item(name: str, reference: Tensor | None = None, **settings: Any) -> Item:
    """A small picture, with a reference of another size."""
    shown = photograph((150, 100)) if reference is None else reference
    return picture_item(name, photograph((64, 48)), references=(picture_item(f"reference of {name}", shown),), **settings)


# --- as the host's own nodes scale

@pytest.mark.parametrize("size", SIZES)
def test_kontext_references_have_the_size_of_its_node(size: tuple[int, int]) -> None:
    scaled = KONTEXT.scale(photograph(size))
    assert (scaled.shape[2], scaled.shape[1]) in PREFERRED_KONTEXT_RESOLUTIONS
    assert torch.equal(scaled, FluxKontextImageScale.execute(photograph(size))[0])


@pytest.mark.parametrize("size", SIZES)
def test_qwen_references_are_what_its_node_gives_the_vae(size: tuple[int, int]) -> None:
    given: list[Tensor] = []
    clip = SimpleNamespace(tokenize=lambda text, **_: text, encode_from_tokens_scheduled=lambda tokens: [[torch.zeros(1), {}]])
    TextEncodeQwenImageEditPlus.execute(clip, "", SimpleNamespace(encode=lambda image: given.append(image)), photograph(size))
    assert torch.equal(QWEN.scale(photograph(size)), given[0])


@pytest.mark.parametrize("size", SIZES)
def test_other_references_have_one_megapixel(size: tuple[int, int]) -> None:
    assert torch.equal(OTHERS.scale(photograph(size)), ImageScaleToTotalPixels.execute(photograph(size), "lanczos", 1.0, 1)[0])


# --- encoded once, kept in the cache

Models = tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]


@pytest.fixture(scope="module")
def models() -> Models:
    return demo_models()


@pytest.fixture
def encode(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainingSet]:
    """The host's nodes scale to an eighth of their usual sides, because a megapixel is much for two cores."""
    monkeypatch.setattr(comfy_extras.nodes_flux, "PREFERRED_KONTEXT_RESOLUTIONS", [(w // 8, h // 8) for w, h in
                                                                                   PREFERRED_KONTEXT_RESOLUTIONS])
    monkeypatch.setattr(references, "MEGAPIXEL", 128 * 128)

    def run(*items: Item, name: str = "", clip: Any = None, vae: Any = None, padding: Any = PADDING) -> TrainingSet:
        with torch.inference_mode():
            return encode_data_set(DataSet(items, ""), clip or models[1], vae or models[2], padding, tmp_path / "cache", Progress(None),
                                   name)

    return run


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, models: Models) -> Iterator[list[str]]:
    """What was encoded: "picture" or "text"."""
    done: list[str] = []
    vae_encode, caption = models[2].encode, encoding.encode_caption
    monkeypatch.setattr(models[2], "encode", lambda image: (done.append("picture"), vae_encode(image))[1])
    monkeypatch.setattr(encoding, "encode_caption", lambda *args: (done.append("text"), caption(*args))[1])
    yield done


def test_a_reference_is_kept_as_the_hosts_nodes_encode_it(encode: Any, models: Models) -> None:
    """Whole and unmasked, whatever is cut from its picture."""
    item = edit_item("a", placement=Placement((32, 32), (8, 0, 40, 32)))
    item = replace(item, mask=MaskPixels(torch.zeros(1, 48, 64)))
    (example,) = encode(item).examples
    with torch.inference_mode():
        expected = models[2].encode(FluxKontextImageScale.execute(photograph((150, 100)))[0])
    assert torch.equal(example.cond["reference_latents.0"], expected.float())
    assert example.latent_CHW.shape == (16, 4, 4)
    assert not example.mask_THW.any()


def test_references_are_encoded_once(encode: Any, work: list[str], tmp_path: Path) -> None:
    """Two pictures share a reference; a new crop, a new mask, another name and another file of the same bytes encode no reference."""
    files = [tmp_path / name for name in ("one.png", "two.png")]
    for file in files:
        Image.fromarray(data.chelsea()).save(file)

    def shown(number: int) -> tuple[Item, ...]:
        return (Item("r", ImageFiles((files[number],)), None, "", (451, 300)),)

    first, second = replace(edit_item("a"), references=shown(0)), replace(edit_item("b"), references=shown(0))
    report = encode(first, second).report
    assert work == ["text", "picture", "picture"], "one picture, as both are equal, and one reference"
    assert "2 reference pictures: 1 encoded, 1 from the cache" in report
    assert "reference pictures are scaled as by FluxKontextImageScale, whole and without masks; the model gets their latents" in report
    work.clear()
    encode(replace(first, name="c", references=shown(1), mask=MaskPixels(torch.ones(1, 48, 64))))
    assert work == []
    encode(replace(first, placement=Placement((32, 32), (0, 0, 32, 32))))
    assert work == ["picture"]
    work.clear()
    encode(mirrored(first, 1))
    assert work == ["picture", "picture"], "picture and reference are mirrored"
    work.clear()
    Image.fromarray(data.coffee()).resize((451, 300)).save(files[0])
    encode(first)
    assert work == ["picture"], "a changed file is another reference"


def test_a_saved_set_opens_with_its_references(encode: Any, tmp_path: Path) -> None:
    one = encode(edit_item("a"), replace(edit_item("b"), references=()), name="edits")
    again = open_set(tmp_path / "cache", "edits")
    assert again.report == one.report
    assert [sorted(example.cond) for example in again.examples] == [
        ["cross_attn", "pooled_output", "reference_latents.0"], ["cross_attn", "pooled_output"]]
    assert again.reference_shapes() == [((16, 13, 19),), ()]  # Kontext's 1248 x 832 / 8, 8 pixels to a cell
    assert "references of 19x13 cells: 1 example" in one.report


def test_lists_of_a_graph_have_references() -> None:
    images = [photograph((64, 48)), photograph((80, 48))]
    shown = [photograph((30, 20)), photograph((20, 30), "coffee")]
    data_set = pictures_to_data_set(images, None, ["night"], None, references=shown)
    assert [item.references[0].size for item in data_set.items] == [(30, 20), (20, 30)]
    assert torch.equal(data_set.items[1].references[0].image.image_THWC, shown[1])  # type: ignore[union-attr]
    assert data_set.report.endswith("each with a reference picture")
    one = pictures_to_data_set(images, None, ["night"], None, references=shown[:1])
    assert [item.references[0].size for item in one.items] == [(30, 20)] * 2
    assert one.report.endswith("one reference picture serves all")
    with pytest.raises(ValueError, match="2 pictures came with 3 references; connect one for each, or one for all"):
        pictures_to_data_set(images, None, ["night"], None, references=[*shown, shown[0]])


# --- what the model is given in training is what it is given in sampling

def edited(name: str, shapes: list[list[tuple[int, int]]]) -> tuple[ModelPatcher, TrainingSet]:
    """A tiny model, and an example for each entry of `shapes` with references of so many rows and columns of cells."""
    with torch.inference_mode():
        patcher, arch = tiny_patcher(name)
    plain, g = training_set(arch, len(shapes), tokens=(7,)), torch.Generator().manual_seed(11)
    examples = [replace(example, cond={**example.cond} | {
        f"reference_latents.{i}": torch.randn(1, *arch.latent[:-2], *cells, generator=g) for i, cells in enumerate(one)})
        for example, one in zip(plain.examples, shapes, strict=True)]
    return patcher, replace(plain, examples=tuple(examples))


def trained_prediction(patcher: ModelPatcher, cached: CachedExample, noisy: Tensor, sigma: float) -> Tensor:
    """As the trainer asks the model, in its own prediction space."""
    example = make_example(patcher, cached, MaskRecipe())
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        return model(noisy, torch.tensor([sigma]), [example.cond])


def sampled_prediction(patcher: ModelPatcher, cached: CachedExample, noisy: Tensor, sigma: float, method: str | None) -> Tensor:
    """As ComfyUI's sampler asks it for a CONDITIONING of ReferenceLatent nodes; the clean latent turned into the velocity."""
    cond = {name: value for name, value in cached.cond.items() if not name.startswith("reference_latents")}
    conditioning: Any = [[cond.pop("cross_attn"), cond | ({"reference_latents_method": method} if method else {})]]
    for i in range(len(cached.cond) - len(cond) - 1):
        conditioning = ReferenceLatent.execute(conditioning, {"samples": cached.cond[f"reference_latents.{i}"]})[0]
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patcher])
        patcher.pre_run()
        conds = comfy.samplers.process_conds(patcher.model, noisy, {"positive": comfy.sampler_helpers.convert_cond(conditioning)},
                                             torch.device("cpu"), latent_shapes=[noisy.shape])
        options = {"transformer_options": {"sample_sigmas": torch.tensor([1.0, 0.0])}}
        (clean,) = comfy.samplers.calc_cond_batch(patcher.model, [conds["positive"]], noisy, torch.tensor([sigma]), options)
        patcher.cleanup()
    return (noisy - clean) / sigma


@pytest.mark.parametrize("name", TAKES_THEM)
@pytest.mark.parametrize("cells", [[(8, 8)], [(6, 10), (4, 4)]], ids=["one", "two of other sizes"])
def test_training_predicts_what_sampling_predicts(name: str, cells: list[tuple[int, int]]) -> None:
    patcher, data_set = edited(name, [cells])
    (cached,) = data_set.examples
    noisy = torch.randn(1, *cached.latent_CHW.shape, generator=torch.Generator().manual_seed(3))
    ours = trained_prediction(patcher, cached, noisy, 0.6)
    theirs = sampled_prediction(patcher, cached, noisy, 0.6, "index_timestep_zero" if name == "krea2" else None)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    plain = replace(cached, cond={k: v for k, v in cached.cond.items() if not k.startswith("reference_latents")})
    without = trained_prediction(patcher, plain, noisy, 0.6)
    assert (ours - without).norm() > 1e-3 * without.norm(), "the model reads them"


def test_the_models_that_are_said_to_read_references_are_those_of_the_tests() -> None:
    assert {type(tiny_patcher(name)[0].model).__name__ for name in TAKES_THEM} == READ_REFERENCES


def test_pictures_share_a_batch_only_with_references_of_the_same_sizes() -> None:
    patcher, data_set = edited("flux", [[(8, 8)], [(8, 8)], [(8, 6)], [(8, 8), (8, 8)], []])
    examples = Examples(patcher, data_set, MaskRecipe())
    assert [examples[i].group == examples[0].group for i in range(5)] == [True, True, False, False, False]
    noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        both = model(noisy, torch.tensor([0.6, 0.6]), [examples[0].cond, examples[1].cond])
        alone = torch.cat([model(noisy[i:i + 1], torch.tensor([0.6]), [examples[i].cond]) for i in range(2)])
    assert (both - alone).norm() <= 1e-5 * alone.norm(), "each with its own reference"


def test_a_model_that_takes_no_references_is_refused() -> None:
    patcher, data_set = edited("sd3", [[(8, 8)]])
    with pytest.raises(ValueError, match="picture 0 has reference pictures and SD3 takes none; load the edit model that they are for"):
        Examples(patcher, data_set, MaskRecipe())[0]


# --- runs

def test_two_steps_from_pictures_to_a_lora_that_depends_on_the_references(encode: Any, models: Models, tmp_path: Path,
                                                                          caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runs = []
    for i, shown in enumerate((photograph((150, 100)), photograph((150, 100), "coffee"))):
        items = [edit_item("a", shown), replace(edit_item("b", shown), references=())]
        with torch.inference_mode():
            made = encode(*items, name=f"set {i}")
            runs.append(run_training(models[0], made, run_config(tmp_path, steps=2, batch_size=2), Progress(None)))
    assert runs[0].losses[0] != runs[1].losses[0], "another reference, another loss"
    assert any(not torch.equal(value, runs[1].lora[key]) for key, value in runs[0].lora.items())
    facts = json.loads(runs[0].lora.metadata["masked_lora.data"])
    assert facts["references"] == {"0": 1, "1": 1}
    text = next(r.getMessage() for r in caplog.records if "will be trained" in r.getMessage())
    assert "  reference pictures: 1 of 2 pictures with 1; their latents go to the model as ReferenceLatent hands them over\n" in text
    assert "tokens, references of 19x13 cells" in text


def test_a_run_is_not_resumed_on_other_references(encode: Any) -> None:
    def facts(*items: Item) -> str:
        return contents_hash(SimpleNamespace(examples=SimpleNamespace(outline=encode(*items).examples.refs)))  # type: ignore[arg-type]

    one, other, two = (facts(item) for item in (edit_item("a"), edit_item("a", photograph((150, 100), "coffee")), replace(
        edit_item("a"), references=edit_item("a").references * 2)))
    assert len({one, other, two}) == 3
    assert facts(edit_item("a")) == one


def test_nothing_is_said_of_references_where_there_are_none(models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = run_watched(models[0], demo_set(models[1]), tmp_path, steps=1)
    assert "references" not in json.loads(result.lora.metadata["masked_lora.data"])
    assert not any("reference" in r.getMessage() for r in caplog.records)


def test_memory_counts_the_references() -> None:
    """As ComfyUI estimates it in sampling: each further cell counts like one of the picture."""
    patcher, data_set = edited("flux", [[(8, 8)], [(16, 16), (8, 8)]])
    config = TrainConfig(steps=1, batch_size=2)
    plain = training_set(tiny_patcher("flux")[1], 2)
    assert math.isclose(training_memory(patcher, data_set, config) / training_memory(patcher, plain, config), (64 + 256 + 64) / 64)


def test_previews_show_the_first_reference(models: Models, tmp_path: Path) -> None:
    patcher, clip, vae = models
    reference = torch.randn(1, 16, 8, 6, generator=torch.Generator().manual_seed(9))
    plain = demo_set(clip)
    shown = replace(plain.examples[1], cond={**plain.examples[1].cond, "reference_latents.0": reference})
    spec = PreviewSpec(clip=clip, vae=vae, prompts="a red ball", every=2, width=64, height=64, steps=2, cfg=2.0, negative="ugly", seed=9)
    run_watched(patcher, replace(plain, examples=(plain.examples[0], shown)), tmp_path, spec, steps=2)
    file = tmp_path / "test_previews" / "step_000000_0.png"
    with torch.inference_mode():
        empty, texts = torch.zeros(1, 16, 8, 8), [encode_text(clip, text, PADDING) for text in ("a red ball", "ugly")]
        pictures = []
        for given in (texts, [ReferenceLatent.execute(text, {"samples": reference})[0] for text in texts]):
            latent = comfy.sample.sample(patcher, comfy.sample.prepare_noise(empty, 9), 2, 2.0, "euler", "simple", *given, empty, seed=9)
            pictures.append((vae.decode(latent)[0] * 255).round().byte().flatten().int())
    with Image.open(file) as preview:
        seen = torch.tensor(list(preview.convert("RGB").tobytes()))
        assert json.loads(preview.text["masked_lora"])["references_of"] == shown.name  # type: ignore[attr-defined]
    assert (seen - pictures[1]).abs().max() <= 1
    assert (seen - pictures[0]).abs().max() > 8


# --- Qwen-Image-Edit, whose text encoder reads the pictures

@pytest.fixture
def qwen_clip(monkeypatch: pytest.MonkeyPatch) -> comfy.sd.CLIP:
    """ComfyUI's own Qwen2.5-VL with its own tokenizer, two layers of 64 values; its eyes are as small."""
    whole = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer
    small = {"hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "num_layers": 2}
    monkeypatch.setattr(comfy.text_encoders.qwen_vl, "Qwen2VLVisionTransformer", lambda **given: whole(**given | small))
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
    target = SimpleNamespace(params={}, clip=comfy.text_encoders.qwen_image.QwenImageTEModel,
                             tokenizer=comfy.text_encoders.qwen_image.QwenImageTokenizer)
    options = {"model_name": "qwen25_7b", "qwen25_7b_model_config": sizes, "dtype": torch.float32}
    with torch.inference_mode():
        clip = comfy.sd.CLIP(target, model_options=options)
        clip.cond_stage_model.load_state_dict(random_weights(clip.cond_stage_model))
    return clip


def test_qwens_text_encoder_reads_the_references(encode: Any, qwen_clip: comfy.sd.CLIP, tmp_path: Path) -> None:
    vae, images = tiny_wan_vae(), [photograph((90, 60)), photograph((60, 90), "coffee")]
    assert reference_use(qwen_clip) is QWEN
    shown = tuple(picture_item(f"r{i}", image) for i, image in enumerate(images))
    items = [replace(edit_item("a"), references=shown), replace(edit_item("b"), references=shown[:1]),
             replace(edit_item("c"), references=())]
    encoded = encode(*items, clip=qwen_clip, vae=vae, padding=PLAIN)
    assert "3 captions: 3 encoded" in encoded.report
    assert "the text encoder reads them too" in encoded.report
    with torch.inference_mode():
        ((cond, _),) = TextEncodeQwenImageEditPlus.execute(qwen_clip, "make it night", None, *images)[0]
        ((alone, _),) = encode_text(qwen_clip, "make it night", PLAIN)
        example, latents = encoded.examples[0], [vae.encode(QWEN.scale(image)) for image in images]
    assert torch.equal(example.cond["cross_attn"], cond)
    assert all(torch.equal(example.cond[f"reference_latents.{i}"], latent.float()) for i, latent in enumerate(latents))
    assert torch.equal(encoded.examples[2].cond["cross_attn"], alone)
    patcher, _ = tiny_patcher("qwen_image")
    with torch.inference_mode():
        result = run_training(patcher, encoded, run_config(tmp_path, steps=2, batch_size=1), Progress(None))
    assert all(math.isfinite(loss) for loss in result.losses)
    assert "3 captions: 0 encoded, 3 from the cache" in encode(*items, clip=qwen_clip, vae=vae, padding=PLAIN).report


@pytest.mark.parametrize(("count", "padding", "says"), [
    (4, PLAIN, "r0 is one of 4 reference pictures of one picture, and the text encoder takes 3"),
    (1, PRESETS["mask-512"], "padding modes mean nothing to it; use the preset 'comfyui'")])
def test_what_qwens_text_encoder_cannot_read(encode: Any, qwen_clip: comfy.sd.CLIP, count: int, padding: Any, says: str) -> None:
    item = replace(edit_item("a"), references=tuple(picture_item(f"r{i}", photograph((90, 60))) for i in range(count)))
    with pytest.raises(ValueError, match=says):
        encode(item, clip=qwen_clip, vae=tiny_wan_vae(), padding=padding)


# --- the real server

def test_an_edit_training_in_the_real_server(comfy: Comfy) -> None:
    write_picture(comfy.input / "edits" / "after" / "one.png", seed=1)
    write_picture(comfy.input / "edits" / "before" / "one.png", seed=2, size=(120, 80))
    (comfy.input / "edits" / "after" / "one.txt").write_text("make it night", encoding="utf-8")
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    loaded, arranged = add_data_set(graph, demo[2], folder="edits/after", mask_source="none", references="edits/before", size=64)
    images = graph.add("LoadImageDataSetFromFolder", folder="edits/after")
    shown = graph.add("LoadImageDataSetFromFolder", folder="edits/before")
    listed = graph.add("MaskedLoRA_DataSetFromLists", images=images[0], references=shown[0], captions="make it night")
    padding = graph.add("MaskedLoRA_TextPadding", preset="comfyui-mask")
    encoded = graph.add("MaskedLoRA_EncodeTrainingSet", data_set=arranged[0], clip=demo[1], vae=demo[2], padding=padding[0], name="edits")
    trained = graph.add("MaskedLoRA_Train", model=demo[0], training_set=encoded[0], steps=2, batch_size=1, rank=4, name="edits")
    start = len(comfy.log())
    run = comfy.run(graph)
    assert "reference pictures: 1 with 1, from before/" in run.text(loaded)
    assert "each with a reference picture" in run.text(listed)
    assert "1 reference picture: 1 encoded, 0 from the cache" in run.text(encoded)
    assert "references of 156x104 cells" in run.text(encoded)
    assert "reference pictures: 1 of 1 pictures with 1; their latents" in comfy.log()[start:]
    assert json.loads(run.text(trained))["steps"] == 2


@pytest.mark.parametrize(("references", "says"), [
    ("edits/gone", "reference folder 'edits/gone' is neither a sub-folder of"), ("../../..", "is neither a sub-folder of"),
    ("lonely/before", "without a reference picture: 1 (one: no before/one.* or before/one_0.*); put one of the same name there")])
def test_wrong_reference_folders_are_errors_on_the_node(comfy: Comfy, references: str, says: str) -> None:
    write_picture(comfy.input / "lonely" / "after" / "one.png")
    write_picture(comfy.input / "lonely" / "before" / "another.png")
    graph = new_graph(comfy)
    graph.add("MaskedLoRA_LoadFolder", folder="lonely/after", mask_source="none", references=references)
    assert says in comfy.error(graph, "MaskedLoRA_LoadFolder")
