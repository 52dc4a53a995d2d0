"""GroundingDINO, MM-GroundingDINO and Florence-2 beside transformers' own processors, and on answers that are known."""
from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pack.segmentation.boxes import Box
from pack.segmentation.detector import inside, load_detector, surest
from pack.segmentation.florence import Florence
from pack.segmentation.florence_layout import TOKENS
from pack.segmentation.grounding import GroundingDino, match, overlap, without_doubles
from pack.tests.segmentation.tiny_words import (
    FLORENCE_TOKENS,
    noise,
    save_clipseg,
    save_florence,
    save_florence_as_microsoft,
    save_grounding,
    save_grounding_file,
)
from PIL import Image
from torch import Tensor, nn

PHRASES = ["a person", "red hair", "Cat"]


def no_file(file: Path) -> dict[str, Tensor]:
    raise AssertionError(f"{file} should not be read")


@functools.cache
def load(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_detector(path, dtype, no_file)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors")
    save_grounding(folder / "grounding-dino")
    save_grounding(folder / "mm-grounding-dino", mm=True)
    native = save_florence(folder / "florence2")
    save_florence_as_microsoft(folder / "microsoft", native)
    save_florence_as_microsoft(folder / "pickled", native, pickled=True)
    save_clipseg(folder / "clipseg")
    return folder


# GroundingDINO


def logits(*rows: list[float]) -> Tensor:
    """Probabilities as logits, (Q, T)."""
    return torch.tensor(rows).logit()


SPANS = [(1, 3), (4, 5)]  # "[CLS] red shirt . hair . [SEP]"


@pytest.mark.parametrize(("row", "expected"), [
    ([0.9, 0.6, 0.7, 0.9, 0.2, 0.9, 0.9], (0, 0.7)),  # both words fit; [CLS], "." and [SEP] do not count
    ([0.0, 0.05, 0.4, 0.0, 0.2, 0.0, 0.0], (0, 0.4)),  # one sure word is enough, as in the reference
    ([0.0, 0.2, 0.31, 0.0, 0.0, 0.0, 0.0], (0, 0.31)),
    ([0.0, 0.5, 0.5, 0.0, 0.6, 0.0, 0.0], (1, 0.6)),  # a merged phrase, "red shirt hair": the surest takes it
    ([0.9, 0.29, 0.29, 0.9, 0.29, 0.9, 0.9], None)])
def test_spans_of_tokens_become_phrases(row: list[float], expected: tuple[int, float] | None) -> None:
    found = match(logits([0.0] * 7, row), SPANS, 0.3, 0.25)
    assert found == ([] if expected is None else [(1, expected[0], pytest.approx(expected[1], abs=1e-6))])


def test_a_long_phrase_is_found_by_its_surest_word() -> None:
    """"woman in a red t-shirt" has seven tokens; transformers keeps a box whose greatest probability is above the threshold."""
    row = [0.0, 0.9, 0.05, 0.02, 0.2, 0.05, 0.05, 0.05, 0.0, 0.3, 0.0, 0.0]
    found = match(logits(row), [(1, 8), (9, 10)], 0.3, 0.25)
    assert found == [(0, 0, pytest.approx(0.9, abs=1e-6))]


def test_a_text_threshold_above_the_threshold_counts() -> None:
    row = [0.0, 0.4, 0.5, 0.0, 0.2, 0.0, 0.0]
    assert [len(match(logits(row), SPANS, 0.3, text)) for text in (0.25, 0.45, 0.55)] == [1, 1, 0]


def test_no_phrases_match_nothing() -> None:
    assert match(logits([0.9]), [], 0.1, 0.1) == []


def reference(folder: Path, picture_HWC: Tensor, phrases: list[str]) -> tuple[Any, Any, dict[str, Any]]:
    """Inputs, outputs and boxes by transformers alone, of a picture that PIL holds."""
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder).eval()
    processor = transformers.GroundingDinoProcessor.from_pretrained(folder)
    inputs = processor(images=Image.fromarray(picture_HWC.numpy()), text=[phrases], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    result = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=-1, text_threshold=0, target_sizes=[tuple(picture_HWC.shape[:2])])[0]
    return inputs, outputs, dict(result)


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
@pytest.mark.parametrize("size", [(64, 96), (37, 20)])
def test_boxes_are_those_of_transformers(models: Path, kind: str, size: tuple[int, int]) -> None:
    picture_HWC = noise(*size)
    inputs, outputs, result = reference(models / kind, picture_HWC, PHRASES)
    tokens = transformers.GroundingDinoProcessor.from_pretrained(models / kind).tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    pieces: list[list[int]] = [[]]  # token numbers between the dots, read off the decoded tokens
    for number, token in enumerate(tokens):
        if token == ".":
            pieces.append([])
        elif token not in ("[CLS]", "[SEP]"):
            pieces[-1].append(number)
    assert [len(piece) for piece in pieces] == [2, 2, 1, 0]
    expected = []
    height, width = size
    rows = outputs.logits[0].sigmoid().tolist()
    threshold = sorted(map(max, rows))[len(rows) // 4]  # random weights: three quarters are sure enough
    for query, row in enumerate(rows):
        scores = [max(row[number] for number in piece) for piece in pieces[:3]]
        phrase = scores.index(max(scores))
        corners = [min(max(value, 0), side) for value, side in zip(result["boxes"][query].tolist(), (width, height) * 2, strict=True)]
        if max(scores) > threshold:
            expected.append((PHRASES[phrase], corners, max(scores)))
    found = load(models / kind).find(picture_HWC, PHRASES, threshold, threshold / 2)
    assert len(found) >= 2
    assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)
    for box in found:
        assert any(box.label == label and box.score == pytest.approx(score, abs=1e-4) and box.corners == pytest.approx(corners, abs=0.01)
                   for label, corners, score in expected)
    kept = [(box.label, box) for box in found]
    for label, corners, _ in expected:  # each one is found, or lies on one that is
        left, top, right, bottom = corners
        here = Box(left, top, right - left, bottom - top)
        assert any(label == other and overlap(here, box) > 0.8 for other, box in kept) or not (right > left and bottom > top)


def test_text_is_that_of_the_processor(models: Path) -> None:
    detector = load(models / "grounding-dino")
    inputs, _, _ = reference(models / "grounding-dino", noise(8, 8), PHRASES)
    [(asked, ids, spans)] = detector._texts(PHRASES)
    assert asked == PHRASES
    assert ids == inputs["input_ids"][0].tolist()
    assert [detector.processor.tokenizer.decode(ids[first:end]) for first, end in spans] == ["a person", "red hair", "cat"]


def test_many_phrases_take_several_texts(models: Path) -> None:
    phrases = [f"{sign} hair" for sign in "abcdefghijklm"] + ["very " * 40]
    texts = load(models / "grounding-dino")._texts([*phrases, "a hair"])
    assert [phrase for asked, _, _ in texts for phrase in asked] == phrases
    assert len(texts) > 2
    assert all(len(ids) <= 32 and ids[0] == 2 and ids[-2:] == [5, 3] for _, ids, _ in texts)
    assert load(models / "grounding-dino").find(noise(16, 16), phrases, 0.0, 0.0)


@pytest.mark.parametrize("phrase", ["", "...", "?", "\U0001f600\U0001f601", "\u732b"])
def test_phrases_without_known_signs_find_nothing(models: Path, phrase: str) -> None:
    assert load(models / "grounding-dino").find(noise(16, 16), [phrase], 0.0, 0.0) == []


@pytest.mark.parametrize("phrase", ["[SEP]", "st. person?", "FACE"])
def test_signs_that_mean_something_to_the_model_are_taken_out(models: Path, phrase: str) -> None:
    detector = load(models / "grounding-dino")
    [(_, ids, spans)] = detector._texts([phrase])
    special = set(detector.processor.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?", "[UNK]"]))
    assert not special & set(ids[spans[0][0]:spans[0][1]])
    assert {box.label for box in detector.find(noise(16, 16), [phrase], 0.0, 0.0)} == {phrase}


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino", "florence2"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (3, 3)])
def test_small_and_narrow_pictures(models: Path, kind: str, size: tuple[int, int]) -> None:
    height, width = size
    for box in load(models / kind).find(noise(*size), ["a person"], 0.0, 0.0):
        left, top, right, bottom = box.corners
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_grey_pictures_are_found_in_too(models: Path) -> None:
    grey_HWC = noise(40, 40)[..., :1].expand(-1, -1, 3)
    assert load(models / "grounding-dino").find(grey_HWC, PHRASES, 0.0, 0.0)


def test_boxes_of_one_label_on_one_another_are_one() -> None:
    one, almost, lower = Box(0, 0, 10, 10, "a", 0.5), Box(0, 0, 10, 9, "a", 0.9), Box(0, 0, 10, 5, "a", 0.4)
    assert overlap(one, lower) == pytest.approx(0.5)
    assert overlap(one, Box(20, 20, 5, 5)) == 0
    assert without_doubles([one, almost, lower]) == [almost, lower]
    assert without_doubles([one, Box(0, 0, 10, 10, "b", 0.9)]) == [Box(0, 0, 10, 10, "b", 0.9), one]


def test_the_surest_boxes_of_each_label() -> None:
    boxes = [Box(0, 0, 1, 1, "a", 0.2), Box(1, 0, 1, 1, "a", 0.9), Box(2, 0, 1, 1, "b", 0.5), Box(3, 0, 1, 1, "a", 0.9)]
    assert [box.x for box in surest(boxes, 2)] == [1, 3, 2]
    assert [box.x for box in surest(boxes, 1)] == [1, 2]


def test_boxes_are_cut_to_the_picture() -> None:
    assert inside(Box(-5, 2, 10, 100, "a", 0.5), 20, 30) == Box(0, 2, 5, 18, "a", 0.5)
    assert inside(Box(30, 0, 5, 5), 20, 30) is None
    assert inside(Box(float("nan"), 0, 5, 5), 20, 30) is None


# Florence-2


class Says(nn.Module):
    """Answers each prompt with the next text."""

    def __init__(self, florence: Florence, *texts: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config, self.tokenizer, self.texts, self.prompts = florence.module.config, florence.processor.tokenizer, list(texts), []

    def generate(self, input_ids: Tensor, **_: Any) -> Tensor:
        self.prompts += [self.tokenizer.decode([one for one in ids.tolist() if one not in (0, 1, 2, self.tokenizer.image_token_id)])
                         for ids in input_ids]
        ids = [self.tokenizer(self.texts.pop(0), add_special_tokens=False)["input_ids"] for _ in input_ids]
        longest = max(map(len, ids))
        return torch.tensor([[*one, *[1] * (longest - len(one))] for one in ids])


LAYOUTS = ["florence2", "microsoft"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_become_boxes(models: Path, layout: str) -> None:
    """Bins are a thousandth of the width and the height, and mean their middle: (250 + 0.5) / 1000 x 200 = 50."""
    florence = load(models / layout)
    says = Says(florence, "</s><s>red hair<loc_250><loc_100><loc_500><loc_300>red hair<loc_0><loc_0><loc_999><loc_999>"
                "loc_9><loc_100><loc_100><loc_500><loc_500></s>", "</s><s></s>",
                "</s><s>cat<poly><loc_100><loc_100><loc_300><loc_100><loc_200><loc_500></poly></s>")
    found = Florence(says, florence.processor, "says").find(torch.zeros(100, 200, 3, dtype=torch.uint8), ["red hair", "Cat", "cat", ""])
    assert found == [Box(50, 10, 50, 20, "red hair"), Box(0, 0, 199, 99, "red hair"), Box(20, 10, 40, 40, "cat")]
    assert says.prompts == ["Locate red hair in the image.", "Locate Cat in the image.", "Locate cat in the image."]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_caption_is_grounded_and_junk_left_out(models: Path, layout: str) -> None:
    florence = load(models / layout)
    says = Says(florence, "</s><s>A woman<loc_100><loc_100><loc_200><loc_200>the helmet<loc_0><loc_0><loc_9><loc_9>"
                "loc_235><loc_1><loc_1><loc_2><loc_2>red hair<loc_300><loc_300><loc_400><loc_400><loc_500><loc_500><loc_600><loc_600></s>")
    found = Florence(says, florence.processor, "says").ground(torch.zeros(1000, 1000, 3, dtype=torch.uint8), "A woman with <OD> red hair")
    assert found == [Box(100, 100, 100, 100, "A woman"), Box(300, 300, 100, 100, "red hair"), Box(500, 500, 100, 100, "red hair")]
    assert says.prompts == ["Locate the phrases in the caption: A woman with OD red hair"]


@pytest.mark.parametrize("caption", ["", "...", "\U0001f600"])
def test_captions_without_words_are_not_asked(models: Path, caption: str) -> None:
    florence = load(models / "florence2")
    assert Florence(Says(florence), florence.processor, "says").ground(noise(8, 8), caption) == []


def test_long_captions_are_cut(models: Path) -> None:
    florence = load(models / "florence2")
    florence.ground(noise(8, 8), "a woman with red hair, " * 100)
    assert len(florence.processor.tokenizer(florence._short("woman " * 100))["input_ids"]) <= 128 - 5 - 48 + 2


def test_microsofts_layout_answers_as_its_config_says(models: Path) -> None:
    """The values of text_config in Microsoft's config.json, and of generation_config.json in florence-community's folders."""
    settings = load(models / "microsoft").module.generation_config
    assert {name: getattr(settings, name) for name in (
        "bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
        "no_repeat_ngram_size", "early_stopping")} == {
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_bos_token_id": 0,
            "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "early_stopping": True}


def test_microsofts_vocabulary_is_bart_and_the_extra_tokens() -> None:
    """BART has 50265 tokens, Microsoft's config.json says 51289."""
    assert tuple(FLORENCE_TOKENS) == TOKENS
    assert 50265 + len(TOKENS) == 51289


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "pickled"])
def test_florence_sees_what_its_processor_makes_of_the_picture(models: Path, layout: str) -> None:
    """Logits of the layouts are those of transformers' own model, tokens those of its processor."""
    seen: list[Tensor] = []
    sent: list[Tensor] = []
    read = {"pickled": lambda file: torch.load(file, weights_only=True)}.get(layout, no_file)
    florence = load_detector(models / layout, torch.float32, read)
    picture_HWC = noise(50, 70)
    model: Any = florence.module
    model.model.vision_tower.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sent.append(inputs[0]))
    florence.find(picture_HWC, ["red hair", "cat"])
    native = transformers.Florence2ForConditionalGeneration.from_pretrained(models / "florence2").eval()
    processor = transformers.Florence2Processor.from_pretrained(models / "florence2")
    task = "<OPEN_VOCABULARY_DETECTION>"
    inputs = processor(text=[f"{task}red hair", f"{task}cat"], images=[Image.fromarray(picture_HWC.numpy())] * 2, padding=True,
                       return_tensors="pt")
    decoded = torch.tensor([[2, 0, 9, 300]] * 2)
    ids = inputs["input_ids"].where(inputs["input_ids"] != native.config.image_token_id, torch.tensor(model.config.image_token_id))
    with torch.no_grad():
        expected = native(**inputs, decoder_input_ids=decoded).logits
        found = model(input_ids=ids, attention_mask=inputs["attention_mask"], pixel_values=inputs["pixel_values"],
                                decoder_input_ids=decoded).logits
    assert (found - expected[..., :found.shape[-1]]).abs().max() < 1e-5
    assert expected.std() > 0.01
    assert torch.equal(seen[0], inputs["pixel_values"])
    assert torch.equal(sent[0], ids)


# Original files


def read_pickle(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["model"]  # type: ignore[no-any-return]


def test_the_original_file_is_the_same_network(tmp_path: Path) -> None:
    """The names are transformers' own list; beside the original code (random weights) logits were the same to 7e-6 of their spread."""
    file = tmp_path / "models" / "grounding-dino" / "groundingdino_swint_ogc.pth"
    file.parent.mkdir(parents=True)
    save_grounding_file(tmp_path / "folder", file)
    with pytest.raises(ValueError, match=r"swint_ogc.pth needs the vocabulary of bert-base-uncased: put tokenizer.json or vocab.txt"):
        load_detector(file, torch.float16, read_pickle)
    shutil.copytree(tmp_path / "folder", tmp_path / "models" / "bert-base-uncased", ignore=shutil.ignore_patterns("*.safetensors"))
    ours, expected = load_detector(file, torch.float16, read_pickle), load(tmp_path / "folder")
    assert ours.name == "grounding-dino groundingdino_swint_ogc"
    assert ours.processor.image_processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    theirs = expected.module.state_dict()
    assert {name: tuple(value.shape) for name, value in ours.module.state_dict().items()} == {
        name: tuple(value.shape) for name, value in theirs.items()}
    other = [name for name, value in ours.module.state_dict().items() if not torch.equal(value, theirs[name])]
    assert all(".swin.layernorm." in name for name in other), other  # nothing reads these
    same = GroundingDino(ours.module, expected.processor, "")
    assert same.find(noise(40, 60), PHRASES, 0.0, 0.0) == expected.find(noise(40, 60), PHRASES, 0.0, 0.0) != []


def test_another_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b.pth"
    torch.save({"model": {"image_encoder.pos_embed": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match=r"sam_vit_b.pth is no GroundingDINO; take a folder of .*IDEA-Research/grounding-dino-tiny"):
        load_detector(file, torch.float32, read_pickle)


# Folders


def test_another_model_is_named(models: Path) -> None:
    with pytest.raises(ValueError, match=r"holds clipseg, which is no detector; take a folder of GroundingDINO .*grounding-dino-tiny"):
        load(models / "clipseg")


def test_what_is_no_folder_is_named(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder .*gone; take"):
        load(tmp_path / "gone")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["grounding-dino", "microsoft"])
@pytest.mark.parametrize("fault", ["cut", "missing", "tokenizer", "half"])
def test_broken_downloads(models: Path, tmp_path: Path, kind: str, fault: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / kind
    shutil.copytree(models / kind, folder)
    weights = folder / "model.safetensors"
    if fault == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif fault == "missing":
        weights.unlink()
    elif fault == "half":
        tensors = load_file(weights)
        save_file(dict(list(tensors.items())[::2]), weights, {"format": "pt"})
    else:
        for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="download|damaged") as told:
        load(folder)
    assert str(folder) in str(told.value)


def test_a_folder_without_safetensors_says_what_to_take(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grounding-dino"
    shutil.copytree(models / "grounding-dino", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"grounding-dino has no \.safetensors; take model\.safetensors of the repository"):
        load(folder)


@pytest.mark.parametrize(("kind", "part", "name"), [
    ("grounding-dino", None, "num_queries"), ("microsoft", "text_config", "d_model"), ("florence2", "text_config", "d_model")])
def test_a_config_with_a_value_of_a_wrong_type(models: Path, tmp_path: Path, kind: str, part: str | None, name: str) -> None:
    folder = tmp_path / kind
    shutil.copytree(models / kind, folder)
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config)[name] = "many"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"'{name}'.*expected.*; download") as told:
        load(folder)
    assert str(folder) in str(told.value)


def test_a_config_that_lacks_a_part(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "microsoft"
    shutil.copytree(models / "microsoft", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]["depths"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json is not that of a Florence-2 .*depths.*; download the folder again"):
        load(folder)


def test_old_transformers_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "4.40.0"

    monkeypatch.setitem(__import__("sys").modules, "transformers", Old)
    with pytest.raises(ValueError, match=r"MMGroundingDinoForObjectDetection needs transformers >= 4.55, this is 4.40.0"):
        load_detector(models / "mm-grounding-dino", torch.float32, no_file)
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=r"(Florence2ForConditionalGeneration|BartTokenizer) needs transformers >= 4.56, this is 4.40"):
            load_detector(models / layout, torch.float32, no_file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["grounding-dino", "florence2", "microsoft"])
def test_half_precision_runs(models: Path, kind: str, dtype: torch.dtype) -> None:
    detector = load(models / kind, dtype)
    weight = next(detector.module.parameters())
    assert weight.dtype == (torch.float32 if isinstance(detector, GroundingDino) else dtype)
    detector.find(noise(20, 20), ["a person", "cat"], 0.0, 0.0)
