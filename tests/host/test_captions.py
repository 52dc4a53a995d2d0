"""Several texts a picture and dropped captions, with the demo model's own encoders and network: encoded once, drawn, resumed, told."""
from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import TrainingSet
from pack.dataset.item import DataSet, Item
from pack.dataset.manifest import open_set
from pack.dataset.store import TensorStore
from pack.dataset.texts import CaptionSpec
from pack.host import prompts
from pack.host.checkpoints import Checkpoints
from pack.host.demo_model import load_autoencoder, load_diffusion_model, load_text_encoders
from pack.host.encode import encode_data_set
from pack.host.examples import Examples
from pack.host.folders import DEMO_MODEL
from pack.host.progress import Progress
from pack.host.run import RunConfig, RunResult, run_training
from pack.host.text import encode_text
from pack.host.text_padding import PRESETS
from pack.masks.recipe import MaskRecipe
from pack.nodes.captions import CaptionOptions
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.draws import draw
from torch import Tensor

from .defaults import new_graph
from .server import Comfy, add_training, complaints
from .test_encode import photographs
from .test_resume import Ending, assert_same

PADDING = PRESETS["comfyui-mask"]
TAGS = "pibo, red scarf, a star, night"
SPEC = CaptionSpec(orders=3, kept=1, dropped=("", "best quality"))
Encode = Callable[..., TrainingSet]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any, ModelPatcher]:
    with torch.inference_mode():
        return load_text_encoders(DEMO_MODEL), load_autoencoder(DEMO_MODEL), load_diffusion_model(DEMO_MODEL)


@pytest.fixture
def encoded_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that went through the encoder, in order."""
    seen: list[str] = []

    def watched(clip: Any, text: str, padding: Any) -> Any:
        seen.append(text)
        return encode_text(clip, text, padding)

    monkeypatch.setattr(prompts, "encode_text", watched)
    return seen


@pytest.fixture
def encode(models: Any, tmp_path: Path) -> Encode:
    def run(captions: CaptionSpec | None = SPEC, texts: tuple[str, ...] = (TAGS, TAGS, "a cat\na tabby"), name: str = "") -> TrainingSet:
        items = tuple(replace(item, caption=text, regularisation=i == 2)
                      for i, (item, text) in enumerate(zip(photographs(tmp_path / "pictures"), texts, strict=True)))
        with torch.inference_mode():
            return encode_data_set(DataSet(items, ""), models[0], models[1], PADDING, tmp_path / "cache", Progress(None), name, captions)

    return run


def texts_of(spec: CaptionSpec, caption: str) -> tuple[str, ...]:
    return spec.texts(Item("", None, None, caption, (1, 1)))  # type: ignore[arg-type]  # only its caption counts


def test_every_text_is_encoded_once_and_kept_as_the_encoder_gives_it(encode: Encode, models: Any, encoded_texts: list[str]) -> None:
    training_set = encode()
    orders = texts_of(SPEC, TAGS)
    assert len(orders) == 3
    assert Counter(encoded_texts) == Counter([*orders, "a cat\na tabby", "", "best quality"])
    assert "6 captions: 6 encoded, 0 from the cache" in training_set.report
    assert ("captions: tags in 3 orders, with 1 tag, or those before |||, kept in front; for dropped captions '' or 'best quality'; "
            "3 examples with 7 texts, of which a draw shows one, each alike") in training_set.report
    for example, texts in zip(training_set.examples, (orders, orders, ("a cat\na tabby",)), strict=True):
        assert example.caption == texts[0]
        conds = [example.cond, *(text.load() for text in (*example.alternatives, *example.dropped))]
        with torch.inference_mode():
            for cond, text in zip(conds, (*texts, "", "best quality"), strict=True):
                cross_attn, extra = encode_text(models[0], text, PADDING)[0]
                assert torch.equal(cond["cross_attn"], cross_attn)
                assert torch.equal(cond["pooled_output"], extra["pooled_output"])


def test_only_new_texts_are_encoded(encode: Encode, encoded_texts: list[str]) -> None:
    plain = encode(None)
    assert encoded_texts == [TAGS, "a cat\na tabby"]
    assert all(not example.alternatives and not example.dropped for example in plain.examples)
    assert "draw shows" not in plain.report
    encode()
    assert Counter(encoded_texts[2:]) == Counter([*texts_of(SPEC, TAGS)[1:], "", "best quality"])
    del encoded_texts[:]
    encode(replace(SPEC, orders=4))
    assert encoded_texts == [texts_of(replace(SPEC, orders=4), TAGS)[3]]
    del encoded_texts[:]
    encode(None)
    encode()
    assert encoded_texts == []


def test_lines_are_captions_of_their_own(encode: Encode, encoded_texts: list[str]) -> None:
    third = encode(CaptionSpec(lines="random")).examples[2]
    assert Counter(encoded_texts) == Counter([TAGS, "a cat", "a tabby"])
    assert (third.caption, len(third.alternatives), third.dropped) == ("a cat", 1, ())
    assert encode(CaptionSpec(lines="first")).examples[2].alternatives == ()


def room_of(cond: dict[str, Any]) -> int:
    return sum(value.cond.nbytes for value in cond.values() if isinstance(value.cond, Tensor))


def test_texts_are_loaded_when_drawn_and_count_against_the_memory(encode: Encode, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    training_set = encode()
    loads: list[str] = []
    load = TensorStore.load
    monkeypatch.setattr(TensorStore, "load", lambda store, key: loads.append(store.folder.name) or load(store, key))
    examples = Examples(models[2], training_set, MaskRecipe(), room=10**9)
    list(examples.weights())
    del loads[:]
    first = examples[0]
    assert loads.count("texts") == 1, "the others wait until they are drawn"
    room = examples.room
    text = first.alternatives[0]()
    assert loads.count("texts") == 2
    assert examples.room == room - room_of(text.cond)
    assert examples[0].alternatives[0]() is text
    assert loads.count("texts") == 2
    assert examples[0].dropped[0]().group != text.group, "the empty text has fewer tokens"
    assert examples[0].group == text.group

    crowded = Examples(models[2], training_set, MaskRecipe(), room=0)
    assert crowded[0].alternatives[0]() is not crowded[0].alternatives[0]()
    assert torch.equal(crowded[0].alternatives[0]().cond["c_crossattn"].cond, text.cond["c_crossattn"].cond)
    assert crowded.room == 0


def test_a_draw_shows_the_texts_that_were_encoded(encode: Encode, models: Any) -> None:
    training_set = encode()
    examples, config = Examples(models[2], training_set, MaskRecipe()), TrainConfig(steps=1, caption_dropout=0.4, seed=2)
    with torch.inference_mode():
        known = {text: encode_text(models[0], text, PADDING)[0][0] for text in (*texts_of(SPEC, TAGS), "", "best quality")}

    def shown(step: int) -> str:
        (found,) = (text for text, cross_attn in known.items() if torch.equal(
            draw(examples[1], config, step, 0).example.cond["c_crossattn"].cond, cross_attn))
        return found

    assert set(map(shown, range(1, 60))) == set(known)


class Run:
    """Runs of one name in one folder."""

    def __init__(self, patcher: ModelPatcher, folder: Path) -> None:
        self.patcher, self.folder = patcher, folder

    def __call__(self, data: TrainingSet, stop: int = 0, **changes: Any) -> RunResult:
        settings = {"steps": 6, "batch_size": 3, "learning_rate": 1e-3, "seed": 3, "caption_dropout": 0.4, **changes}
        watching = [Checkpoints(every=2, keep=3).observer(self.folder / "runs")]
        if stop:
            watching.append(Ending(stop, comfy.model_management.InterruptProcessingException()))
        config = RunConfig(train=TrainConfig(**settings), lora=LoraSpec(rank=2, alpha=4.0), recipe=MaskRecipe(), checkpointing=False,
                           name="run", rescue_folder=self.folder / "loras", observers=tuple(watching))
        with torch.inference_mode():
            return run_training(self.patcher, data, config, Progress(None))


@pytest.fixture
def run(models: Any, tmp_path: Path) -> Run:
    return Run(models[2], tmp_path / "run")


def in_memory(data: TrainingSet) -> TrainingSet:
    return TrainingSet(tuple(data.examples), data.text_padding, data.report)


@pytest.mark.parametrize("held", ["on disk", "in memory"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(encode: Encode, run: Run, models: Any, tmp_path: Path, held: str) -> None:
    data = encode(name="set") if held == "on disk" else in_memory(encode())
    whole = Run(models[2], tmp_path / "whole")(data)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(data, stop=3)
    resumed = run(open_set(tmp_path / "cache", "set") if held == "on disk" else data)
    assert resumed.report["outcome"] == "resumed at step 3 of 6"
    assert_same(resumed, whole)
    plain = Run(models[2], tmp_path / "plain")(data, caption_dropout=0.0)
    assert plain.losses != whole.losses, "dropout changes nothing"


@pytest.mark.parametrize("other", [replace(SPEC, dropped=("another",)), replace(SPEC, orders=4), None])
def test_other_texts_are_another_set_for_a_resume(encode: Encode, run: Run, other: CaptionSpec | None) -> None:
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(encode(), stop=3, caption_dropout=0.0)
    with pytest.raises(ValueError, match="cannot be resumed: training set was .* and is .* now"):
        run(encode(other), caption_dropout=0.0)


def test_another_rate_encodes_nothing_and_is_another_run(encode: Encode, run: Run, encoded_texts: list[str]) -> None:
    data = encode()
    del encoded_texts[:]
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(data, stop=3, caption_dropout=0.1)
    with pytest.raises(ValueError, match="cannot be resumed: caption_dropout was 0.1 and is 0.2 now"):
        run(data, caption_dropout=0.2)
    assert encoded_texts == []


def test_file_and_console_tell_of_texts_and_dropout(encode: Encode, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lora = run(encode(), steps=1).lora
    data = json.loads(lora.metadata["masked_lora.data"])
    assert data == {"regularisation": 1, "repeats": {"1": 3}, "weights": {"1": 3},
                    "captions": {"texts": {"1": 1, "3": 2}, "dropout": 0.4, "dropped": ["", "best quality"]}}
    assert ("  captions: up to 3 texts a picture, of which each draw shows one at random; 40 % of draws, regularisation too, see '' or "
            "'best quality' instead") in caplog.text


def test_a_plain_set_says_so(encode: Encode, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert "captions" not in json.loads(run(encode(None), steps=1, caption_dropout=0.0).lora.metadata["masked_lora.data"])
    assert "  captions: one a picture, never dropped" in caplog.text


def test_dropout_without_a_text_is_told_before_anything_is_loaded(encode: Encode, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(replace(SPEC, dropped=()))
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="caption_dropout is 0.4 and 3 examples of the training set, such as photo 0, have no text for a "
                       "dropped caption; connect Caption Options to Encode Training Set"):
        run(data)


@pytest.mark.parametrize(("typed", "dropped"), [
    ("", ("",)), (" best quality \n", ("best quality",)), ("\nbest quality", ("", "best quality")), ("one\ntwo", ("one", "two"))])
def test_the_node_makes_the_settings(typed: str, dropped: tuple[str, ...]) -> None:
    (spec,) = CaptionOptions.execute(lines="random", orders=8, keep_tags=2, separator=";", dropped=typed).args
    assert spec == CaptionSpec(lines="random", orders=8, kept=2, separator=";", dropped=dropped)


def test_the_nodes_defaults_change_no_text() -> None:
    (spec,) = CaptionOptions.execute(**{i.id: i.default for i in CaptionOptions.define_schema().inputs}).args
    assert texts_of(spec, "a, b\nc ||| d") == ("a, b\nc ||| d",)


def test_in_a_real_server(comfy: Comfy) -> None:
    """Encoded with options, trained with two rates: the second run serves the set from ComfyUI's cache."""
    graph = new_graph(comfy)
    training = add_training(graph, steps=2, name="captions")
    options = graph.add("MaskedLoRA_CaptionOptions", orders=3, keep_tags=1, dropped="\nbest quality")
    graph.prompt[training.encoded.id]["inputs"]["captions"] = options[0]
    train = graph.prompt[training.trained.id]["inputs"]
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename="captions")
    losses = []
    for rate in (0.5, 1.0):
        train["caption_dropout"] = rate
        start = len(comfy.log())
        run = comfy.run(graph)
        log = comfy.log()[start:]
        assert not complaints(log)
        assert (training.encoded.id in run.cached) == (rate == 1.0)
        assert f"{100 * rate:g} % of draws, regularisation too, see '' or 'best quality' instead" in log
        assert json.loads(run.text(training.trained))["steps"] == 2
        losses.append(re.findall(r"loss_inside_last\": ([\d.]+)", run.text(training.trained)))
        assert saved.id not in run.cached
    assert losses[0] != losses[1]
    assert "tags in 3 orders, with 1 tag, or those before |||, kept in front; for dropped captions '' or 'best quality'" in comfy.log()
    del graph.prompt[training.encoded.id]["inputs"]["captions"]
    assert "have no text for a dropped caption; connect Caption Options" in comfy.error(graph, "MaskedLoRA_Train")
