"""Mismatches of text padding between LoRAs and prompts: on the check node, and in the console when a sampler runs."""
from __future__ import annotations

import json
import logging
from typing import Any

import comfy.hooks
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import CurrentNodeContext
from pack.host.lora_padding import TrainedPadding
from pack.host.padding_check import AppliedLora, mark
from pack.host.text import SPEC_KEY
from pack.host.text_padding import PRESETS
from pack.nodes.check import CheckPadding
from safetensors.torch import load_file, save_file
from server import PromptServer
from torch import Tensor

from .defaults import new_graph
from .server import ROOT, Comfy, Node, keep
from .test_adapters import written
from .tiny import tiny_patcher

WARNING = "Masked LoRA: text padding differs: "
NONE, MASK = "none-512", "mask-512"


def lora(preset: str, name: str = "a", known: Any = "stated") -> AppliedLora:
    return AppliedLora(name, TrainedPadding(padding=PRESETS[preset], known=known, sentence=f"sentence of {name}"))


def prompt(*presets: str | None, tokens: int = 6) -> list[list[Any]]:
    """A conditioning of one entry for each preset; None is an entry of another node."""
    draw = torch.Generator().manual_seed(4)
    return [[torch.randn(1, tokens, 64, generator=draw), {"pooled_output": torch.randn(1, 32, generator=draw)} |
             ({SPEC_KEY: PRESETS[preset].to_json()} if preset else {})] for preset in presets]


def with_loras(*loras: AppliedLora) -> ModelPatcher:
    patcher = tiny_patcher("flux")[0]
    for applied in loras:
        patcher, _ = comfy.sd.load_lora_for_models(patcher, None, written("ours"), 0.5, 0.0)
        mark(patcher, applied)
    return patcher


def checked(patcher: ModelPatcher, positive: Any, negative: Any = None, on_mismatch: str = "warn") -> list[str]:
    result = CheckPadding.execute(patcher, positive, on_mismatch, negative)
    assert result.args[0] is patcher
    assert result.args[1] is positive
    assert result.args[2] is negative
    return str(result.ui.as_dict()["text"][0]).splitlines()


def test_a_match_is_said_with_everything_that_was_compared() -> None:
    assert checked(with_loras(lora(MASK)), prompt(MASK), prompt(MASK), "stop") == [
        "match: the prompts have the text padding of training", "a: sentence of a", f"positive: {PRESETS[MASK].describe()}",
        f"negative: {PRESETS[MASK].describe()}"]


def test_prompts_that_do_not_tell_fit_comfyuis_own_padding_alone() -> None:
    verdict, *_, positive = checked(with_loras(lora("comfyui")), prompt(None), on_mismatch="stop")
    assert verdict == ("match: the prompts have the text padding of training, if those that do not tell are from ComfyUI's own Text Encode")
    assert positive == "positive: not told"
    (problem, *_) = checked(with_loras(lora(MASK)), prompt(None))
    assert problem == (f"mismatch: positive: not told; but a was trained with {PRESETS[MASK].describe()}: connect the padding of the "
                       "LoRA's loader to Text Encode (padding mode)")


@pytest.mark.parametrize(("loras", "positive", "negative", "count", "words"), [
    ([lora(MASK)], prompt(NONE), prompt(MASK), 2, "positive: none-512"),
    ([lora(MASK)], prompt(MASK), prompt(None), 2, "negative: not told; but a was trained with mask-512"),
    ([lora(MASK)], prompt(MASK, NONE), None, 2, "positive: mask-512: 512 tokens, padding as encoded, padding masked and none-512"),
    ([lora(MASK, known="usual")], prompt(NONE), None, 1, "but a comes from a tool that usually trains with mask-512"),
    ([lora(MASK), lora(NONE, "b")], prompt(MASK), None, 2, "a was trained with mask-512: 512 tokens, padding as encoded, padding masked; "
     "but b was trained with none-512: 512 tokens, padding as encoded, all tokens attended: no prompt fits both"),
    ([], prompt(MASK), prompt(NONE), 1, "positive: mask-512: 512 tokens, padding as encoded, padding masked; but negative: none-512"),
    ([lora("comfyui", known="assumed")], prompt(MASK), prompt("comfyui"), 1, "encode them all with one padding"),
])
def test_a_mismatch_names_both_sides(loras: list[AppliedLora], positive: Any, negative: Any, count: int, words: str) -> None:
    lines = checked(with_loras(*loras), positive, negative)
    found = [line for line in lines if line.startswith("mismatch: ")]
    assert len(found) == count, lines
    assert any(words in line for line in found), found
    with pytest.raises(ValueError, match="^mismatch: "):
        CheckPadding.execute(with_loras(*loras), positive, "stop", negative)


def test_loras_that_do_not_tell_fit_anything() -> None:
    assert checked(with_loras(lora("comfyui", known="assumed")), prompt(MASK), on_mismatch="stop")[0] == (
        "nothing to compare: no LoRA on this model tells its text padding")
    assert checked(tiny_patcher("flux")[0], prompt(None), on_mismatch="stop")[0].startswith("nothing to compare")


def test_the_last_lora_of_comfyuis_own_loader_is_compared_too() -> None:
    told = {"masked_lora.text_padding": PRESETS[MASK].to_json()}
    patcher, _ = comfy.sd.load_lora_for_models(tiny_patcher("flux")[0], None, written("ours"), 1.0, 0.0, lora_metadata=told)
    assert checked(patcher, prompt(NONE))[0].startswith("mismatch: positive: none-512: 512 tokens, padding as encoded, all tokens "
                                                        "attended; but the last LoRA of ComfyUI's own loader was trained with mask-512")


@pytest.mark.parametrize("spec", ["{", "null", 5, None, '{"max_length": "x"}'])
def test_a_specification_that_is_none_counts_as_not_told(spec: Any) -> None:
    positive = [[torch.zeros(1, 4, 64), {SPEC_KEY: spec}]]
    assert "positive: not told" in checked(with_loras(lora("comfyui")), positive)


def sampled(patcher: ModelPatcher, positive: Any, negative: Any, cfg: float = 2.0) -> Tensor:
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return guider.sample(noise, torch.zeros(1, 16, 8, 8), comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.6, 0.0]),
                             disable_pbar=True, seed=0)


def unmarked(*loras: AppliedLora) -> ModelPatcher:
    patcher = tiny_patcher("flux")[0]
    for _ in loras:
        patcher, _ = comfy.sd.load_lora_for_models(patcher, None, written("ours"), 0.5, 0.0)
    return patcher


def test_a_sampling_run_warns_once_and_changes_no_number(caplog: pytest.LogCaptureFixture) -> None:
    loras = (lora(MASK), lora(MASK, "b"))
    with caplog.at_level(logging.WARNING):
        result = sampled(with_loras(*loras).clone(), prompt(NONE), prompt(None))
    (record,) = caplog.records
    assert record.message.startswith(WARNING)
    assert "positive: none-512" in record.message
    assert "but b was trained with mask-512" in record.message
    assert torch.equal(result, sampled(unmarked(*loras), prompt(NONE), prompt(None)))
    assert torch.equal(result, sampled(unmarked(*loras), prompt(None), prompt(None))), "the key in the conditioning changes nothing either"


def test_the_warning_stands_on_the_node_that_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        shown: list[tuple[str, str]] = []

        def send_progress_text(self, text: str, node_id: str) -> None:
            self.shown.append((text, node_id))

    monkeypatch.setattr(PromptServer, "instance", Page(), raising=False)
    with CurrentNodeContext("a prompt", "17"):
        sampled(with_loras(lora(MASK)), prompt(NONE), prompt(MASK))
    assert Page.shown == [("text padding differs: mask-512, none-512 here, mask-512 in training", "17")]


@pytest.mark.parametrize(("positive", "negative", "cfg"), [
    (prompt(MASK), prompt(MASK), 2.0), (prompt(MASK), prompt(None), 1.0), (prompt(MASK), prompt(NONE), 1.0)],
    ids=["match", "cfg 1 leaves the negative out", "cfg 1, another padding"])
def test_nothing_is_said_where_nothing_differs(positive: Any, negative: Any, cfg: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sampled(with_loras(lora(MASK)), positive, negative, cfg)
    assert not caplog.records


def test_cfg_1_that_keeps_the_negative_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    patcher = with_loras(lora(MASK))
    patcher.disable_model_cfg1_optimization()
    sampled(patcher, prompt(MASK), prompt(NONE), 1.0)
    assert WARNING + "negative: none-512" in caplog.text


def test_hooks_and_other_nodes_conditioning_sample_as_without_the_check() -> None:
    hooks = comfy.hooks.create_hook_lora(written("kohya"), 0.8, 0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(prompt(None, MASK), hooks)
    loras = (lora(MASK),)
    assert torch.equal(sampled(with_loras(*loras), hooked, prompt(None)), sampled(unmarked(*loras), hooked, prompt(None)))
    assert not torch.allclose(sampled(unmarked(*loras), hooked, prompt(None)), sampled(unmarked(*loras), prompt(None, MASK), prompt(None)))


def write_demo_lora(comfy: Comfy, name: str, preset: str) -> None:
    """Rank 2 on one layer of the demo model."""
    key = "double_blocks.0.img_attn.proj"
    weights = load_file(ROOT / "assets" / "pico_flux" / "flux.safetensors")
    outputs, inputs = next(v for k, v in weights.items() if k.endswith(f"{key}.weight")).shape
    draw = torch.Generator().manual_seed(1)
    tensors = {f"diffusion_model.{key}.lora_A.weight": torch.randn(2, inputs, generator=draw),
               f"diffusion_model.{key}.lora_B.weight": torch.randn(outputs, 2, generator=draw),
               f"diffusion_model.{key}.lora_magnitude_vector": torch.ones(outputs)}
    comfy.loras.mkdir(parents=True, exist_ok=True)
    save_file(tensors, comfy.loras / name, metadata={"masked_lora.text_padding": PRESETS[preset].to_json()})


def graph_of(comfy: Comfy, own_encode: bool, on_mismatch: str = "warn") -> tuple[Any, dict[str, Node]]:
    graph = new_graph(comfy)
    demo = graph.add("MaskedLoRA_DemoModel")
    loaded = graph.add("MaskedLoRA_LoadLora", model=demo[0], lora_name="check.safetensors", strength=1.0, clip=demo[1])
    clip = loaded[2]
    prompts = [graph.add("MaskedLoRA_TextEncode", clip=clip, text=text, padding=loaded[1]) if own_encode
               else graph.add("CLIPTextEncode", clip=clip, text=text) for text in ("a pibo", "a red star")]
    check = graph.add("MaskedLoRA_CheckPadding", model=loaded[0], positive=prompts[0][0], negative=prompts[1][0], on_mismatch=on_mismatch)
    latent = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    sampler = graph.add("KSampler", model=check[0], seed=5, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple",
                        positive=check[1], negative=check[2], latent_image=latent[0], denoise=1.0)
    return graph, {"loaded": loaded, "check": check, "kept": keep(graph, sampler)}


@pytest.mark.parametrize("own_encode", [True, False])
def test_in_the_server_a_mismatch_is_shown_before_and_logged_while_sampling(own_encode: bool, comfy: Comfy) -> None:
    write_demo_lora(comfy, "check.safetensors", "comfyui-mask")
    graph, nodes = graph_of(comfy, own_encode)
    start = len(comfy.log())
    run = comfy.run(graph)
    loaded = json.loads(run.text(nodes["loaded"]))
    assert loaded["known"] == "stated"
    (note,) = loaded["notes"]
    assert note == ("not loaded: 1 key that this model has no place for: "
                    "diffusion_model.double_blocks.0.img_attn.proj.lora_magnitude_vector")
    verdict = run.text(nodes["check"]).partition(":")[0]
    logged = comfy.log()[start:].count(WARNING)
    assert (verdict, logged) == (("match", 0) if own_encode else ("mismatch", 1))
    assert run.latent(nodes["kept"]).isfinite().all()


def test_in_the_server_a_mismatch_can_stop_the_run(comfy: Comfy) -> None:
    write_demo_lora(comfy, "check.safetensors", "comfyui-mask")
    message = comfy.error(graph_of(comfy, own_encode=False, on_mismatch="stop")[0], "MaskedLoRA_CheckPadding")
    assert message.startswith("mismatch: positive: not told; but check.safetensors was trained with comfyui-mask")
