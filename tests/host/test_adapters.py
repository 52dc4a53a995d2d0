"""Every kind of adapter, from training to ComfyUI's own loader and back."""
from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import safetensors.torch
import torch
from comfy.model_patcher import ModelPatcher
from pack.dataset.cache import CachedExample, TrainingSet
from pack.host.denoiser import ComfyDenoiser
from pack.host.drift import borrow_for_prediction
from pack.host.examples import Examples
from pack.host.lora_format import LoraWeights, load_lora, save_lora
from pack.host.text_padding import TextPadding
from pack.host.training import borrow_for_training
from pack.host.warm_start import start_from, warm_start
from pack.masks.recipe import MaskRecipe
from pack.nodes.adapter import Adapter
from pack.nodes.lora import ApplyLora, LoadLora
from pack.trainer.adapter import LoraAdapter
from pack.trainer.adapter_spec import AdapterSpec, Kind
from pack.trainer.config import TrainConfig
from pack.trainer.loop import train
from torch import Tensor

from .server import Comfy, Graph, add_training
from .tiny import Architecture, tiny_patcher

ATTENTION = r".*(attn|attention)\d?\.(proj|to_v|to_k|q|o|out)|.*linear2"


def data_of(arch: Architecture) -> TrainingSet:
    generator = torch.Generator().manual_seed(5)
    mask = torch.zeros(1, *(8 * side for side in arch.latent[-2:]))
    mask[..., :32] = 1
    examples = [CachedExample(f"picture {i}", "", torch.randn(arch.latent, generator=generator), mask, arch.cond(6, generator),
                              TextPadding().to_json()) for i in range(2)]
    return TrainingSet(tuple(examples), TextPadding().to_json(), "")


def output(model: ComfyDenoiser, example: Any) -> Tensor:
    with torch.no_grad():
        return model(example.latent_CHW[None], torch.tensor([0.6]), [example.cond]).float()


def predicted(patcher: ModelPatcher, example: Any) -> Tensor:
    with borrow_for_prediction(patcher) as model:
        return output(model, example)


def same(a: Tensor, b: Tensor, base: Tensor) -> bool:
    """Equal to 1e-5 of the output, and to 1e-4 of what the adapter changed, which one wrong layer would show in."""
    off = (a - b).norm()
    return bool(off < 1e-5 * b.norm() and off < 1e-4 * (b - base).norm())


def scattered(adapter: LoraAdapter, size: float = 0.3) -> None:
    """Larger than three steps of training make it, so that second-order terms show."""
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters:
        parameter.data += size * parameter.shape[-1] ** -0.5 * torch.randn(parameter.shape, generator=generator)


class Trained:
    """An adapter after three steps: its state, and what the model predicts with and without it."""

    def __init__(self, name: str, spec: AdapterSpec, checkpointing: bool = False) -> None:
        self.patcher, arch = tiny_patcher(name)
        self.example = Examples(self.patcher, data_of(arch), MaskRecipe())[0]
        self.before = predicted(self.patcher, self.example)
        with borrow_for_training(self.patcher, spec, seed=1, checkpointing=checkpointing) as (model, adapter):
            self.fresh = output(model, self.example)
            examples = Examples(self.patcher, data_of(arch), MaskRecipe())
            train(model, adapter.parameters, examples, TrainConfig(steps=3, batch_size=2, learning_rate=1e-2, seed=1))
            self.moved = {k for k, v in adapter.state_dict().items() if v.any()}
            scattered(adapter)
            self.after, self.state = output(model, self.example), adapter.state_dict()
        self.lora = LoraWeights.from_adapter(self.state, {})

    def by_host(self, lora: dict[str, Tensor]) -> Tensor:
        adapted, _ = comfy.sd.load_lora_for_models(self.patcher, None, dict(lora), 1.0, 0.0)
        return predicted(adapted, self.example)


@pytest.mark.parametrize("name", ["flux", "sdxl", "wan"])
@pytest.mark.parametrize("kind", list(Kind))
def test_the_host_loads_what_was_trained(kind: Kind, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = Trained(name, AdapterSpec(kind=kind, rank=4, alpha=3.0, targets=ATTENTION))
    assert torch.allclose(trained.fresh, trained.before, rtol=0, atol=2e-6), "a fresh adapter changes nothing"
    assert not torch.allclose(trained.after, trained.before, atol=1e-3)
    assert trained.moved >= {k for k in trained.state if not k.endswith("alpha")}, "every tensor learns"
    file = tmp_path / "lora.safetensors"
    save_lora(trained.lora, file)
    with caplog.at_level(logging.WARNING):
        assert same(trained.by_host(load_lora(file)), trained.after, trained.before)
    assert not caplog.records, "nothing of the file is left out"


@pytest.mark.parametrize("kind", list(Kind))
def test_the_nodes_apply_what_was_trained(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    trained = Trained("flux", AdapterSpec(kind=kind, rank=4, targets=ATTENTION), checkpointing=True)
    save_lora(trained.lora, tmp_path / "mine.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    for result in (ApplyLora.execute(trained.patcher, trained.lora, 1.0), LoadLora.execute(trained.patcher, "mine.safetensors", 1.0)):
        assert same(predicted(result.args[0], trained.example), trained.after, trained.before)


@pytest.mark.parametrize("kind", list(Kind))
def test_sizes_of_their_own_survive_the_file(kind: Kind) -> None:
    spec = AdapterSpec(kind=kind, rank=4, alpha=3.0, targets=ATTENTION, patterns=((r"single.*", 2, 5.0), (r".*\.1\..*", 6, 2.0)))
    trained = Trained("flux", spec)
    assert same(trained.by_host(trained.lora), trained.after, trained.before)
    metadata = trained.lora.metadata
    assert metadata["ss_network_dim"] == "Dynamic"
    assert metadata["ss_network_alpha"] == ("0.0" if kind is Kind.OFT else "Dynamic")


@pytest.mark.parametrize(("kind", "module", "arguments", "alpha"), [
    ("lora", "networks.lora", None, "3.0"), ("rslora", "networks.lora", None, "6.0"), ("loha", "lycoris.kohya", {"algo": "loha"}, "3.0"),
    ("dora", "lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False"}, "3.0"),
    ("lokr", "lycoris.kohya", {"algo": "lokr"}, "3.0"), ("oft", "lycoris.kohya", {"algo": "diag-oft"}, "0.0")])
def test_metadata_tells_the_kind_rank_and_alpha_of_the_file(kind: str, module: str, arguments: Any, alpha: str) -> None:
    network = tiny_patcher("flux")[0].model.diffusion_model
    state = LoraAdapter(network, AdapterSpec(kind=kind, rank=4, alpha=3.0), 0).state_dict()
    metadata = LoraWeights.from_adapter(state, {"ss_network_dim": "1", "other": "kept"}).metadata
    assert metadata.pop("ss_network_args", "null") == json.dumps(arguments)
    assert metadata == {"ss_network_module": module, "ss_network_dim": "4", "ss_network_alpha": alpha, "other": "kept"}


# Warm start. A file's tensors are made here, by hand, as each tool writes them.

def random_pair(rank: int, outputs: int, inputs: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(rank, inputs, generator=draw) / inputs ** 0.5, torch.randn(outputs, rank, generator=draw) / rank


def flux_layers() -> dict[str, tuple[int, int]]:
    """{layer: (outputs, inputs)} of the tiny Flux."""
    return {f"double_blocks.{i}.img_attn.proj": (128, 128) for i in (0, 1)} | {"single_blocks.1.linear2": (128, 640)}


def written(naming: str) -> dict[str, Tensor]:
    """A LoRA of rank 3 (5 in a single block) for the tiny Flux as other tools name it."""
    draw, file = torch.Generator().manual_seed(9), {}
    for layer, shape in flux_layers().items():
        rank = 5 if "single" in layer else 3
        down, up = random_pair(rank, *shape, draw)
        if naming == "kohya":
            base = "lora_unet_" + layer.replace(".", "_")
            file |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(2.0)}
        elif naming == "ours":
            base = f"diffusion_model.{layer}"
            file |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up, f"{base}.alpha": torch.tensor(7.0)}
        elif naming == "native without alpha":
            file |= {f"diffusion_model.{layer}.lora_A.weight": down, f"diffusion_model.{layer}.lora_B.weight": up}
        elif naming == "half precision":
            base = f"diffusion_model.{layer}"
            file |= {f"{base}.lora_A.weight": down.half(), f"{base}.lora_B.weight": up.bfloat16(), f"{base}.alpha": torch.tensor(7).half()}
        else:
            base = {"double_blocks.0.img_attn.proj": "transformer_blocks.0.attn.to_out.0", "double_blocks.1.img_attn.proj":
                    "transformer_blocks.1.attn.to_out.0", "single_blocks.1.linear2": "single_transformer_blocks.1.proj_out"}[layer]
            file |= {f"transformer.{base}.lora_A.weight": down, f"transformer.{base}.lora_B.weight": up}
    return file


def diffusers_split() -> dict[str, Tensor]:
    """q, k and v of a double block and q, v and mlp of a single one, of different ranks, as diffusers splits what Flux has in one."""
    draw, file = torch.Generator().manual_seed(9), {}
    for base, rank, outputs in (("transformer_blocks.0.attn.to_q", 2, 128), ("transformer_blocks.0.attn.to_k", 4, 128),
                                ("transformer_blocks.0.attn.to_v", 3, 128), ("transformer_blocks.1.attn.add_k_proj", 2, 128),
                                ("single_transformer_blocks.0.attn.to_q", 1, 128), ("single_transformer_blocks.0.attn.to_v", 2, 128),
                                ("single_transformer_blocks.0.proj_mlp", 3, 512)):
        down, up = random_pair(rank, outputs, 128, draw)
        file |= {f"transformer.{base}.lora_A.weight": down, f"transformer.{base}.lora_B.weight": up}
    down, up = random_pair(2, 256, 128, draw)  # scale and shift the other way round
    return file | {"transformer.norm_out.linear.lora_A.weight": down, "transformer.norm_out.linear.lora_B.weight": up}


def lycoris(kind: str) -> dict[str, Tensor]:
    draw, file = torch.Generator().manual_seed(9), {}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / shape[-1] ** 0.5

    for layer, (outputs, inputs) in flux_layers().items():
        base = "lycoris_" + {"double_blocks.0.img_attn.proj": "transformer_blocks_0_attn_to_out_0", "double_blocks.1.img_attn.proj":
                             "transformer_blocks_1_attn_to_out_0", "single_blocks.1.linear2": "single_transformer_blocks_1_proj_out"}[layer]
        tensors = {
            "loha": {"hada_w1_a": random(outputs, 3), "hada_w1_b": random(3, inputs), "hada_w2_a": random(outputs, 3),
                     "hada_w2_b": random(3, inputs), "alpha": torch.tensor(2.0)},
            "lokr": {"lokr_w1": random(8, 8), "lokr_w2_a": random(16, 3), "lokr_w2_b": random(3, inputs // 8), "alpha": torch.tensor(2.0)},
            "lokr whole": {"lokr_w1": random(8, 8), "lokr_w2": random(16, inputs // 8), "alpha": torch.tensor(100.0)},
            "lokr both": {"lokr_w1_a": random(8, 2), "lokr_w1_b": random(2, 8), "lokr_w2_a": random(16, 3), "lokr_w2_b":
                          random(3, inputs // 8), "alpha": torch.tensor(2.0)},
            "lokr first": {"lokr_w1_a": random(8, 2), "lokr_w1_b": random(2, 8), "lokr_w2": random(16, inputs // 8),
                           "alpha": torch.tensor(3.0)},
            "oft": {"oft_blocks": 0.1 * random(outputs // 4, 4, 4), "alpha": torch.tensor(0.0)},
            "oft constrained": {"oft_blocks": random(outputs // 4, 4, 4), "alpha": torch.tensor(0.7)},
            "oft below its limit": {"oft_blocks": 0.1 * random(outputs // 4, 4, 4), "alpha": torch.tensor(1e3)},
            "dora": {"lora_down.weight": random(3, inputs), "lora_up.weight": random(outputs, 3), "dora_scale": 1 + random(1, inputs).abs(),
                     "alpha": torch.tensor(2.0)},
        }[kind]
        file |= {f"{base}.{name}": tensor for name, tensor in tensors.items()}
    return file


FILES: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {
    **{naming: ("lora", lambda naming=naming: written(naming)) for naming in
       ("ours", "kohya", "native without alpha", "diffusers", "half precision")},
    "diffusers, split": ("lora", diffusers_split), "ours as rslora": ("rslora", lambda: written("ours")),
    **{kind: (kind.split()[0], lambda kind=kind: lycoris(kind)) for kind in
       ("loha", "lokr", "lokr whole", "lokr both", "lokr first", "oft", "oft constrained", "oft below its limit", "dora")},
}


class Started:
    """A training run that is about to begin from a file."""

    def __init__(self, lora: dict[str, Tensor], spec: AdapterSpec, name: str = "flux") -> None:
        self.patcher, arch = tiny_patcher(name)
        example = Examples(self.patcher, data_of(arch), MaskRecipe())[0]
        self.before = predicted(self.patcher, example)
        adapted, _ = comfy.sd.load_lora_for_models(self.patcher, None, dict(lora), 1.0, 0.0)
        self.expected = predicted(adapted, example)
        with borrow_for_training(self.patcher, spec, seed=1, checkpointing=False) as (model, self.adapter):
            self.words = start_from(self.adapter, self.patcher, lora)
            self.output, self.state = output(model, example), self.adapter.state_dict()
            examples = Examples(self.patcher, data_of(arch), MaskRecipe())
            train(model, self.adapter.parameters, examples, TrainConfig(steps=1, learning_rate=1e-2))
            self.trained, end = self.adapter.state_dict(), output(model, example)
        adapted, _ = comfy.sd.load_lora_for_models(self.patcher, None, dict(LoraWeights.from_adapter(self.trained, {})), 1.0, 0.0)
        self.saved = same(predicted(adapted, example), end, self.before)
        assert predicted(self.patcher, example).equal(self.before), "the model is as it was"


@pytest.mark.parametrize("name", FILES)
def test_training_starts_with_the_effect_that_the_file_has_in_the_host(name: str) -> None:
    kind, make = FILES[name]
    started = Started(make(), AdapterSpec(kind=kind, rank=2, targets=r"double_blocks\.\d\.img_attn\.proj"))
    assert same(started.output, started.expected, started.before)
    assert any(not torch.equal(v, started.state[k]) for k, v in started.trained.items()), "and goes on from there"
    assert started.saved, "and can be saved again"


def test_a_start_takes_the_ranks_and_alphas_of_the_file_and_says_so() -> None:
    started = Started(written("kohya"), AdapterSpec(rank=16, targets=r"double_blocks\.\d\.img_attn\.(proj|qkv)"))
    assert started.words == "starts from 3 layers of the LoRA, rank 3 to 5, and 2 fresh layers"
    ranks = {name: (layer.rank, layer.alpha) for name, layer in started.adapter.layers.items()}
    assert ranks == {"double_blocks.0.img_attn.proj": (3, 2.0), "double_blocks.1.img_attn.proj": (3, 2.0),
                     "single_blocks.1.linear2": (5, 2.0), "double_blocks.0.img_attn.qkv": (16, 16.0),
                     "double_blocks.1.img_attn.qkv": (16, 16.0)}


@pytest.mark.parametrize("prefix", ["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_v",
                                    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_v",
                                    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_v"])
def test_both_namings_of_sdxl_and_names_that_do_not_belong(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """A text encoder's and a convolution's names are told, and the rest is used."""
    network = tiny_patcher("sdxl")[0].model.diffusion_model
    layer = "input_blocks.4.1.transformer_blocks.0.attn1.to_v"
    shape = network.get_submodule(layer).weight.shape
    down, up = random_pair(3, *shape, torch.Generator().manual_seed(1))
    file = {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up, f"{prefix}.alpha": torch.tensor(1.5)}
    started = Started(file, AdapterSpec(targets=r".*attn1\.to_v"), "sdxl")
    assert same(started.output, started.expected, started.before)
    te = {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": down, "lora_unet_input_blocks_0_0.lora_down.weight":
          torch.zeros(2, 4, 3, 3), "lora_unet_input_blocks_0_0.lora_up.weight": torch.zeros(32, 2, 1, 1)}
    with caplog.at_level(logging.WARNING):
        words = Started(file | te, AdapterSpec(targets=r".*attn1\.to_v"), "sdxl").words
    assert words.endswith("; 1 of its names left out; its text encoder part is for Text Encoder LoRA")
    assert "are left out: diffusion_model.input_blocks.0.0.weight" in caplog.text


def tucker() -> dict[str, Tensor]:
    return lycoris("loha") | {"lycoris_transformer_blocks_0_attn_to_out_0.hada_t1": torch.zeros(3, 3, 1, 1),
                              "lycoris_transformer_blocks_0_attn_to_out_0.hada_t2": torch.zeros(3, 3, 1, 1)}


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda: {"lora_unet_nothing.lora_up.weight": torch.zeros(2, 2)}, "lora", "lora_unet_nothing.lora_up.weight, none of which belongs"),
    (lambda: lycoris("loha"), "lora", "img_attn.proj of the LoRA to start from has hada_w1_a.*is not lora; choose"),
    (lambda: written("ours"), "dora", "has lora_A.weight, lora_B.weight, which is not dora"),
    (tucker, "loha", "a form of loha that cannot be trained on"),
    (lambda: {k: v[:, :-8] if "lora_A" in k else v for k, v in written("ours").items()}, "lora", "takes 128 numbers to 128, .*another"),
    (lambda: lycoris("dora") | {k: torch.ones(128, 1) for k in lycoris("dora") if "dora_scale" in k}, "dora", r"magnitudes \(128, 1\)"),
], ids=["another model", "another kind", "no magnitudes", "tucker", "another size", "magnitudes of outputs"])
def test_a_start_that_cannot_be_is_refused_in_words(make: Callable[[], dict[str, Tensor]], kind: str, message: str) -> None:
    patcher, _ = tiny_patcher("flux")
    with borrow_for_training(patcher, AdapterSpec(kind=kind, targets=ATTENTION), seed=0, checkpointing=False) as (_, adapter):
        before, modules = adapter.state_dict(), list(patcher.model.modules())
        with pytest.raises(ValueError, match=message):
            start_from(adapter, patcher, make())
        assert all(torch.equal(v, before[k]) for k, v in adapter.state_dict().items())
        assert list(patcher.model.modules()) == modules


def test_saving_what_was_started_from_gives_the_same_tensors(tmp_path: Path) -> None:
    """So that a checkpoint of a run that was started from a file can itself be adopted."""
    started = Started(written("ours"), AdapterSpec(targets=r"double_blocks\.\d\.img_attn\.proj"))
    safetensors.torch.save_file(LoraWeights.from_adapter(started.state, {}), tmp_path / "again.safetensors")
    again = safetensors.torch.load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(v, again[k]) for k, v in written("ours").items())


def test_a_spec_names_the_file_to_start_from(tmp_path: Path) -> None:
    safetensors.torch.save_file(written("kohya"), tmp_path / "theirs.safetensors")
    patcher, _ = tiny_patcher("flux")
    targets = r"double_blocks\.\d\.img_attn\.proj"
    spec = AdapterSpec(targets=targets, start=str(tmp_path / "theirs.safetensors"))
    with borrow_for_training(patcher, spec, seed=0, checkpointing=False) as (_, adapter):
        assert warm_start(adapter, patcher) == "starts from 3 layers of the LoRA, rank 3 to 5 (theirs.safetensors)"
    with borrow_for_training(patcher, AdapterSpec(targets=targets), seed=0, checkpointing=False) as (_, adapter):
        assert warm_start(adapter, patcher) == ""
        assert len(adapter.layers) == 2


NODE: dict[str, Any] = {"kind": "lokr", "rank": 2, "alpha": 3.0, "layers": "attention of the blocks", "blocks": "double 1, single 0",
                        "pattern": "", "sizes": "single.* = 4", "dropout": 0.0, "start_from": "none"}


def test_the_node_makes_the_spec_and_tells_the_layers() -> None:
    patcher, _ = tiny_patcher("flux")
    result = Adapter.execute(**NODE, model=patcher)
    spec = result.args[0]
    assert (spec.kind, spec.rank, spec.alpha, spec.patterns, spec.start) == (Kind.LOKR, 2, 3.0, (("single.*", 4, 4.0),), "")
    words = "lokr rank 2 alpha 3, 1 patterns with sizes of their own; on 6 of 36 linear layers: 4 in double_blocks, 2 in single_blocks"
    assert result.ui.as_dict()["text"] == (words,)
    with pytest.raises(ValueError, match="no linear layer of Flux matches"):
        Adapter.execute(**NODE | {"blocks": "7"}, model=patcher)


def test_the_node_finds_the_file_to_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    save_lora(written("ours"), tmp_path / "sub" / "mine.safetensors")
    name = str(Path("sub", "mine.safetensors"))
    options = next(i for i in Adapter.define_schema().inputs if i.id == "start_from").options
    assert options == ["none", name]
    assert Adapter.execute(**NODE | {"start_from": name}).args[0].start == str(tmp_path / name)


def test_in_a_graph_the_settings_reach_the_file(comfy: Comfy) -> None:
    graph = Graph()
    training = add_training(graph, name="settings")
    settings = graph.add("MaskedLoRA_Adapter", **NODE | {"blocks": "", "sizes": ""}, model=training.model[0])
    graph.prompt[training.trained.id]["inputs"]["adapter"] = settings[0]
    saved = graph.add("MaskedLoRA_SaveLora", lora=training.trained[0], filename="settings")
    file = comfy.server.output / json.loads(comfy.run(graph).text(saved))["file"]
    lora = load_lora(file)
    assert {k.rpartition(".")[2] for k in lora} == {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"}
    assert all("attn" in k or "linear" in k for k in lora)
    assert lora.metadata["ss_network_args"] == '{"algo": "lokr"}'
