"""The table in docs/architectures.md: its rows are measured here on tiny models, and a failing test shows the row that belongs there."""
from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import comfy.model_base
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import CachedExample, TrainingSet
from pack.host.architectures import NO_BACKWARD, PROVEN, unproven
from pack.host.drift import borrow_for_prediction
from pack.host.examples import Examples, make_example
from pack.host.training import borrow_for_training
from pack.masks.recipe import MaskRecipe
from pack.trainer.config import LoraSpec, TrainConfig
from pack.trainer.loop import train
from pack.trainer.targets import describe
from torch import Tensor

from .test_training import training_set
from .tiny import ARCHITECTURES, Architecture, tiny_patcher

REAL, ALL = 6, 14  # tokens


def predict(patcher: ModelPatcher, cached: CachedExample) -> Tensor:
    example = make_example(patcher, cached, MaskRecipe())
    with torch.no_grad(), borrow_for_prediction(patcher) as model:
        return model(example.latent_CHW[None], torch.tensor([0.6]), [example.cond])


@cache
def text_mask(name: str) -> tuple[float, float] | None:
    """Relative change of a prediction by masking the padding, and how far masking it is from dropping it.

    None where ComfyUI itself fails on a mask with zeros in it.
    """
    patcher, arch = tiny_patcher(name)
    base = training_set(arch, tokens=(ALL,)).examples[0]
    embeddings = base.cond["cross_attn"]
    mask = torch.zeros(1, ALL, dtype=torch.long)
    mask[:, :REAL] = 1

    def given(tokens: int, mask_BT: Tensor | None) -> Tensor:
        cond = {**base.cond, "cross_attn": embeddings[:, :tokens]}
        if mask_BT is not None or arch.masked:
            cond["attention_mask"] = torch.ones(1, tokens, dtype=torch.long) if mask_BT is None else mask_BT
        return predict(patcher, replace(base, cond=cond))

    whole, dropped = given(ALL, None), given(REAL, None)
    try:
        masked = given(ALL, mask)
    except RuntimeError as error:
        assert "attn_mask" in str(error)
        return None
    return ((masked - whole).norm() / whole.norm()).item(), ((masked - dropped).norm() / dropped.norm()).item()


def mask_words(name: str) -> str:
    if (measured := text_mask(name)) is None:
        return "ComfyUI fails on one"
    by_mask, from_dropping = measured
    if by_mask == 0:
        return "ignored"
    return "same as dropping the padding" if from_dropping <= 1e-5 else "used, not the same as dropping the padding"


def row(name: str) -> str:
    """Without the gradient error, which tests/host/test_gradients.py records."""
    patcher, _ = tiny_patcher(name)
    network = patcher.model.diffusion_model
    return f"| {name} | {type(patcher.model).__name__} | {mask_words(name)} | {describe(network, LoraSpec().targets)} |"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_in_the_docs_is_what_is_measured(name: str, root: Path) -> None:
    lines = (root / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {name} |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert float(cells[2]) <= 1e-6
    assert "| " + " | ".join(cells[:2] + cells[3:]) + " |" == row(name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_tested_is_called_proven(name: str) -> None:
    assert unproven(tiny_patcher(name)[0]) is None


def test_nothing_is_called_proven_without_a_test() -> None:
    assert {type(tiny_patcher(name)[0].model).__name__ for name in ARCHITECTURES} == PROVEN
    assert all(hasattr(comfy.model_base, name) for name in PROVEN | NO_BACKWARD)


def test_an_unproven_model_says_so() -> None:
    patcher, _ = tiny_patcher("flux")
    patcher.model.__class__ = type("Mochi", (type(patcher.model),), {})
    assert "Mochi is not among the proven models" in str(unproven(patcher))


@pytest.mark.parametrize("name", sorted(NO_BACKWARD))
def test_a_model_without_a_backward_is_refused_before_it_is_touched(name: str) -> None:
    with torch.inference_mode():
        patcher, _ = tiny_patcher("flux")
    patcher.model.__class__ = type(name, (type(patcher.model),), {})
    with pytest.raises(ValueError, match=f"{name} cannot be trained"), borrow_for_training(
            patcher, LoraSpec(), seed=0, checkpointing=False):
        pass
    assert all(p.is_inference() for p in patcher.model.parameters())


EDIT = ("flux", "flux2", "qwen_image", "omnigen2", "krea2", "z_image")
TAKES_THEM = ("flux", "flux2", "qwen_image", "omnigen2", "krea2")  # Z-Image needs its omni weights


def with_references(data: TrainingSet, arch: Architecture, count: int) -> TrainingSet:
    g = torch.Generator().manual_seed(11)
    references = {f"reference_latents.{i}": torch.randn(1, *arch.latent, generator=g) for i in range(count)}
    return replace(data, examples=[replace(e, cond={**e.cond, **references}) for e in data.examples])


@pytest.mark.parametrize("name", EDIT)
def test_reference_latents_reach_an_edit_model_as_its_sampler_hands_them_over(name: str) -> None:
    patcher, arch = tiny_patcher(name)
    data = training_set(arch, tokens=(7,))
    edited = with_references(data, arch, 11).examples[0]
    plain, example = (make_example(patcher, cached, MaskRecipe()) for cached in (data.examples[0], edited))
    given = [patcher.model.process_latent_in(edited.cond[f"reference_latents.{i}"]) for i in range(11)]
    assert all(torch.equal(a, b) for a, b in zip(example.cond["ref_latents"].cond, given, strict=True))
    assert example.group != plain.group


@pytest.mark.parametrize("name", TAKES_THEM)
def test_an_edit_model_trains_on_reference_latents(name: str) -> None:
    with torch.inference_mode():
        patcher, arch = tiny_patcher(name)
    data = training_set(arch, tokens=(7,))
    edited, losses = with_references(data, arch, 2), list[float]()
    assert not torch.allclose(predict(patcher, data.examples[0]), predict(patcher, edited.examples[0]), atol=1e-3)
    with torch.inference_mode(), borrow_for_training(patcher, LoraSpec(rank=2), seed=0, checkpointing=True) as (model, lora):
        train(model, lora.parameters, Examples(patcher, edited, MaskRecipe()), TrainConfig(steps=12, batch_size=3, learning_rate=1e-2),
              on_step=lambda report: losses.append(report.loss))
    assert sum(losses[-4:]) < sum(losses[:4])


def test_numbers_of_a_conditioning_reach_the_model() -> None:
    patcher, arch = tiny_patcher("flux")
    cached = training_set(arch).examples[0]
    for given, expected in (({}, 3.5), ({"guidance": torch.tensor(1.0)}, 1.0)):
        example = make_example(patcher, replace(cached, cond={**cached.cond, **given}), MaskRecipe())
        assert example.cond["guidance"].cond.tolist() == [expected]
