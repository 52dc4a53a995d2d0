"""LoRA layers that come, go and come back."""
from __future__ import annotations

import re

import pytest
import torch
from pack.trainer.adapter import LoraAdapter
from pack.trainer.config import LoraSpec
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.mod = nn.Linear(6, 8), nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 6, bias=False))

    def forward(self, x_BD: Tensor) -> Tensor:
        return x_BD + self.mlp(self.qkv(x_BD + self.mod(x_BD)))


class Network(nn.Module):
    """Two blocks, and an embedder that no LoRA should touch."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.img_in = nn.Linear(4, 6)
            self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x_BD: Tensor) -> Tensor:
        x_BD = self.img_in(x_BD)
        for block in self.blocks:
            x_BD = block(x_BD)
        return x_BD


LAYERS = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("qkv", "mlp.0", "mlp.2")]
SPEC = LoraSpec(rank=3, alpha=6.0)


def data(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(dtype)


def randomize(adapter: LoraAdapter) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator)


def test_blocks_are_adapted_and_embedders_and_modulation_are_not() -> None:
    assert sorted(LoraAdapter(Network(), SPEC, 0).layers) == sorted(LAYERS)


def test_targets_are_matched_by_their_full_name_and_not_by_its_end() -> None:
    """peft takes a name in a list for the end of a name."""
    network = Network()
    network.text_embedder = nn.ModuleDict({"blocks": nn.ModuleList([Block()])})
    assert sorted(LoraAdapter(network, SPEC, 0).layers) == sorted(LAYERS)


def test_targets_may_be_chosen() -> None:
    adapter = LoraAdapter(Network(), LoraSpec(targets=r"blocks\.1\..*qkv|img_in"), 0)
    assert sorted(adapter.layers) == ["blocks.1.qkv", "img_in"]


@pytest.mark.parametrize("targets", ["nothing", "qkv", r"blocks\.0\.mlp\.1"], ids=["no such layer", "part of a name", "not linear"])
def test_targets_without_a_layer_are_refused_in_words(targets: str) -> None:
    network = Network()
    modules = list(network.modules())
    with pytest.raises(ValueError, match=f"no linear layer of Network matches {re.escape(repr(targets))}"):
        LoraAdapter(network, LoraSpec(targets=targets), 0)
    assert [id(m) for m in network.modules()] == [id(m) for m in modules]


def test_detach_gives_the_very_same_modules_back_and_attach_the_layers() -> None:
    network = Network()
    before, state, attributes = list(network.named_modules()), dict(network.state_dict()), set(network.__dict__)
    adapter = LoraAdapter(network, SPEC, 0)
    attached = list(network.named_modules())
    assert len(attached) > len(before)
    for _ in range(2):
        adapter.detach()
        assert [(n, id(m)) for n, m in network.named_modules()] == [(n, id(m)) for n, m in before]
        assert list(network.state_dict()) == list(state)
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        adapter.attach()
        assert [(n, id(m)) for n, m in network.named_modules()] == [(n, id(m)) for n, m in attached]
    assert set(network.__dict__) == attributes


def test_detaching_twice_or_attaching_twice_is_harmless() -> None:
    network = Network()
    before = [(n, id(m)) for n, m in network.named_modules()]
    adapter = LoraAdapter(network, SPEC, 0)
    adapter.attach()
    adapter.detach()
    adapter.detach()
    assert [(n, id(m)) for n, m in network.named_modules()] == before


def test_training_state_survives_detaching() -> None:
    network, inputs = Network(), data()
    adapter = LoraAdapter(network, SPEC, 0)
    randomize(adapter)
    learned = network(inputs)
    adapter.detach()
    plain = network(inputs)
    adapter.attach()
    assert torch.equal(network(inputs), learned)
    assert not torch.allclose(plain, learned, atol=1e-2)
    assert torch.equal(plain, Network()(inputs))


def test_state_dict_has_the_keys_that_comfyui_loads() -> None:
    state = LoraAdapter(Network(), SPEC, 0).state_dict()
    assert sorted(state) == sorted(f"{layer}.{part}" for layer in LAYERS for part in ("lora_A.weight", "lora_B.weight", "alpha"))
    assert state["blocks.0.mlp.0.lora_A.weight"].shape == (3, 8)
    assert state["blocks.0.mlp.0.lora_B.weight"].shape == (10, 3)
    assert {(v.dtype, v.item()) for k, v in state.items() if k.endswith("alpha")} == {(torch.float32, 6.0)}
    assert all(v.dtype == torch.float32 and v.device.type == "cpu" and not v.requires_grad for v in state.values())


def test_state_dict_is_a_copy() -> None:
    adapter = LoraAdapter(Network(), SPEC, 0)
    state = adapter.state_dict()
    kept = {k: v.clone() for k, v in state.items()}
    for parameter in adapter.parameters:
        parameter.data.add_(1)
    assert all(torch.equal(v, kept[k]) for k, v in state.items())


@pytest.mark.parametrize(("rank", "alpha"), [(3, 6.0), (4, 1.0), (1, 1.0)])
def test_the_lora_adds_alpha_over_rank_times_B_A_x(rank: int, alpha: float) -> None:
    network = Network().double()
    adapter = LoraAdapter(network, LoraSpec(rank=rank, alpha=alpha, targets=r"blocks\.0\.qkv"), 0)
    randomize(adapter)
    inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    state = adapter.state_dict()
    down, up = (state[f"blocks.0.qkv.lora_{half}.weight"].double() for half in "AB")
    base = Network().double().blocks[0].qkv
    expected = inputs @ base.weight.T + base.bias + state["blocks.0.qkv.alpha"] / rank * (inputs @ down.T @ up.T)
    assert torch.allclose(network.blocks[0].qkv(inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_new_lora_changes_nothing_and_both_halves_can_learn() -> None:
    network, inputs = Network(), data()
    adapter = LoraAdapter(network, SPEC, 0)
    assert torch.equal(network(inputs), Network()(inputs))
    assert len(adapter.parameters) == 2 * len(LAYERS)
    assert all(p.requires_grad for p in adapter.parameters)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        f"{layer}.lora_{half}.default.weight" for layer in LAYERS for half in "AB"}
    network(inputs).square().sum().backward()
    assert all(p.grad.any() for n, p in network.named_parameters() if "lora_B" in n)
    downs = [p for n, p in network.named_parameters() if "lora_A" in n]
    assert all(p.any() and p.abs().max() <= p.shape[1] ** -0.5 for p in downs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lora_weights_are_float32_on_a_network_of_less(dtype: torch.dtype) -> None:
    network = Network().to(dtype)
    adapter = LoraAdapter(network, SPEC, 0)
    assert {p.dtype for p in adapter.parameters} == {torch.float32}
    out = network(data(dtype))
    assert out.dtype == dtype
    out.float().square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in adapter.parameters)
    assert {v.dtype for v in adapter.state_dict().values()} == {torch.float32}
    adapter.detach()
    assert {p.dtype for p in network.parameters()} == {dtype}


def test_creating_an_adapter_leaves_the_global_random_numbers_alone() -> None:
    network = Network()
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    LoraAdapter(network, SPEC, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_first_weights_depend_on_the_seed_alone() -> None:
    def drawn(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        torch.manual_seed(torch.seed() % 1000)
        return torch.cat([p.detach().flatten() for p in LoraAdapter(Network().to(dtype), SPEC, seed).parameters])

    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(1), drawn(1, torch.bfloat16))
    assert not torch.equal(drawn(1), drawn(2))
