"""LoRA layers that come, go and come back."""
from __future__ import annotations

import re

import peft
import pytest
import torch
from pack.trainer.adapter import LoraAdapter
from pack.trainer.adapter_spec import AdapterSpec, Kind
from pack.trainer.config import LoraSpec
from pack.trainer.layers import Adapted
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


def test_a_host_that_attaches_it_meanwhile_does_not_enable_it() -> None:
    network = Network()
    plain = network(data())
    adapter = LoraAdapter(network, SPEC, 0)
    randomize(adapter)
    learned = network(data())
    with adapter.disabled():
        adapter.attach()
        assert torch.equal(network(data()), plain)
    assert torch.equal(network(data()), learned)
    with pytest.raises(RuntimeError, match="inside"), adapter.disabled():
        raise RuntimeError("inside")
    adapter.detach()
    adapter.attach()
    assert torch.equal(network(data()), learned)
    assert not torch.equal(learned, plain)


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
        f"{layer}.lora_{half}" for layer in LAYERS for half in "AB"}
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


# Other kinds.

KINDS = list(Kind)


def adapted_weight(kind: Kind, rank: int, alpha: float, weight: Tensor, t: dict[str, Tensor]) -> Tensor:
    """The adapted weight by the formulas of the papers, in plain matrices."""
    if kind in (Kind.LORA, Kind.RSLORA):
        return weight + alpha / (rank if kind is Kind.LORA else rank ** 0.5) * t["lora_B.weight"] @ t["lora_A.weight"]
    if kind is Kind.DORA:
        moved = weight + alpha / rank * t["lora_B.weight"] @ t["lora_A.weight"]
        return t["dora_scale"] * moved / moved.square().sum(0, keepdim=True).sqrt()
    if kind is Kind.LOHA:
        return weight + alpha / rank * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
    if kind is Kind.LOKR:
        scale, second = (1.0, t["lokr_w2"]) if "lokr_w2" in t else (alpha / rank, t["lokr_w2_a"] @ t["lokr_w2_b"])
        return weight + scale * torch.kron(t["lokr_w1"], second)
    skew = t["oft_blocks"] - t["oft_blocks"].transpose(1, 2)
    turns = [(torch.eye(len(q)) + q) @ torch.linalg.inv(torch.eye(len(q)) - q) for q in skew.double()]
    return torch.block_diag(*turns).T @ weight


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 36), (36, 24), (16, 16)])
def test_each_kind_computes_its_formula(kind: Kind, rank: int, inputs: int, outputs: int) -> None:
    if kind is Kind.OFT and rank == 1:
        return
    network = nn.ModuleDict({"layer": nn.Linear(inputs, outputs)}).double()
    weight, bias = (p.detach().clone() for p in network["layer"].parameters())
    adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=rank, alpha=3.0, targets=".*"), 0)
    inputs_BI = torch.randn(2, 5, inputs, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(network["layer"](inputs_BI), inputs_BI @ weight.T + bias, rtol=1e-6, atol=1e-6), "a fresh one changes nothing"
    randomize(adapter)
    tensors = {k.removeprefix("layer."): v.double() for k, v in adapter.state_dict().items()}
    expected = inputs_BI @ adapted_weight(kind, rank, 3.0, weight, tensors).T + bias
    assert torch.allclose(network["layer"](inputs_BI), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "config"), [
    (Kind.LORA, peft.LoraConfig(r=3, lora_alpha=6.0)), (Kind.RSLORA, peft.LoraConfig(r=3, lora_alpha=6.0, use_rslora=True)),
    (Kind.LOHA, peft.LoHaConfig(r=3, alpha=6.0))])
def test_peft_computes_the_same_from_the_same_tensors(kind: Kind, config: peft.PeftConfig) -> None:
    network, other = Network(), Network()
    config.target_modules = LAYERS
    peft.inject_adapter_in_model(config, other)
    adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=3, alpha=6.0), 0)
    randomize(adapter)
    for name, layer in adapter.layers.items():
        for part, value in layer.learned().items():
            holder = getattr(other.get_submodule(name), part.removesuffix(".weight"))["default"]
            (holder.weight if part.endswith("weight") else holder).data = value.detach().clone()
    assert torch.allclose(network(data()), other(data()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_each_kind_learns_on_a_network_of_any_float(kind: Kind, dtype: torch.dtype) -> None:
    network = Network().to(dtype)
    before = network(data(dtype))
    adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=2), 0)
    assert {p.dtype for p in adapter.parameters} == {torch.float32}
    assert torch.equal(network(data(dtype)), before), "a fresh one changes no bit"
    for _ in range(2):
        network(data(dtype)).float().square().sum().backward()
        with torch.no_grad():
            for p in adapter.parameters:
                p -= 1e-3 * p.grad
    assert all(p.grad.any() for p in adapter.parameters)
    assert network(data(dtype)).dtype == dtype
    adapter.detach()
    assert torch.equal(network(data(dtype)), before)
    assert all(p.grad is None for p in network.parameters())


def test_a_quantized_layer_takes_a_lora_but_no_dora() -> None:
    class Quantized(nn.Module):
        """As ComfyUI's mixed-precision layers: no nn.Linear, and a weight that torch cannot multiply by."""

        in_features, out_features, bias = 6, 8, None

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(8, 6, dtype=torch.float8_e4m3fn), requires_grad=False)

        def forward(self, x_BI: Tensor) -> Tensor:
            return x_BI @ torch.ones(6, 8)

    network = nn.ModuleDict({"layer": Quantized()})
    with pytest.raises(ValueError, match="stored as torch.float8_e4m3fn; choose LoRA"):
        LoraAdapter(network, AdapterSpec(kind="dora", targets=".*"), 0)
    assert isinstance(network["layer"], Quantized)
    for kind in set(KINDS) - {Kind.DORA}:
        adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=2, targets=".*"), 0)
        assert torch.equal(network["layer"](torch.ones(2, 6)), torch.full((2, 8), 6.0))
        assert network["layer"].weight.dtype == torch.float8_e4m3fn
        adapter.detach()


def test_sizes_of_patterns_and_the_first_that_matches_counts() -> None:
    spec = AdapterSpec(rank=4, alpha=2.0, patterns=((r"blocks\.0\.mlp.*", 2, 6.0), (r".*mlp.*", 1, 1.0)))
    layers = LoraAdapter(Network(), spec, 0).layers
    assert {n: (layer.rank, layer.scale) for n, layer in layers.items()} == {
        "blocks.0.qkv": (4, 0.5), "blocks.1.qkv": (4, 0.5), "blocks.0.mlp.0": (2, 3.0), "blocks.0.mlp.2": (2, 3.0),
        "blocks.1.mlp.0": (1, 1.0), "blocks.1.mlp.2": (1, 1.0)}
    with pytest.raises(ValueError, match="'nothing' has a size of its own and matches none of the 6 layers, such as blocks.0.qkv"):
        LoraAdapter(Network(), AdapterSpec(patterns=(("nothing", 2, 2.0),)), 0)


def test_an_oft_of_a_prime_number_of_outputs_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="a layer of 7 outputs cannot be cut into blocks of 2 to 4"):
        LoraAdapter(nn.ModuleDict({"layer": nn.Linear(4, 7)}), AdapterSpec(kind="oft", rank=4, targets=".*"), 0)


# Dropout of ranks.

DROPPING = AdapterSpec(rank=8, alpha=8.0, dropout=0.5)


def dropped(batches: list[list[int]], seed: int = 0, spec: AdapterSpec = DROPPING) -> Tensor:
    """Gradients of draws that are computed in these batches; draw i has the input i."""
    network = Network()
    adapter = LoraAdapter(network, spec, seed)
    randomize(adapter)
    inputs = torch.randn(9, 7, 4, generator=torch.Generator().manual_seed(4))
    for batch in batches:
        with adapter.dropout(batch):
            network(inputs[batch]).square().sum().backward()
    return torch.cat([p.grad.flatten() for p in adapter.parameters])


@pytest.mark.parametrize("batches", [[[3], [4], [5], [6]], [[5, 4], [3, 6]], [[3, 4, 5], [6]]])
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_dropout_belongs_to_the_draw_whatever_the_batches(batches: list[list[int]], kind: str) -> None:
    spec = AdapterSpec(kind=kind, rank=8, dropout=0.5)
    together = dropped([[3, 4, 5, 6]], spec=spec)
    assert torch.allclose(dropped(batches, spec=spec), together, rtol=1e-4, atol=1e-4 * together.abs().max())


def test_dropout_differs_between_seeds_draws_and_layers() -> None:
    assert not torch.allclose(dropped([[3]]), dropped([[3]], seed=1))
    adapter = LoraAdapter(Network(), DROPPING, 0)
    with adapter.dropout([3, 4]):
        kept = torch.stack([layer.keep_BR for layer in adapter.layers.values()])
    assert set(kept.unique().tolist()) == {0.0, 2.0}, "what is left counts for what is dropped"
    assert len(kept.flatten(0, 1).unique(dim=0)) == 2 * len(adapter.layers)
    assert 0.3 < (kept == 0).float().mean() < 0.7


def test_dropout_ends_with_its_block_and_leaves_the_global_random_numbers_alone() -> None:
    network = Network()
    adapter = LoraAdapter(network, DROPPING, 0)
    randomize(adapter)
    whole, state = network(data()), torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt), adapter.dropout(range(5)):
        assert not torch.allclose(network(data()), whole, atol=1e-3)
        raise KeyboardInterrupt
    assert torch.equal(network(data()), whole)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropout_of_a_layer_that_does_not_see_the_pictures_apart_is_refused() -> None:
    network = Network()
    adapter = LoraAdapter(network, DROPPING, 0)
    with adapter.dropout([1, 2]), pytest.raises(ValueError, match="first dimension of 5 for 2 pictures.*set dropout to 0"):
        network(data())


def test_the_mean_over_dropout_is_the_whole_adapter() -> None:
    network = nn.ModuleDict({"layer": nn.Linear(4, 6)})
    adapter = LoraAdapter(network, AdapterSpec(rank=4, dropout=0.25, targets=".*"), 0)
    randomize(adapter)
    x_BI = data()[:1]
    whole = network["layer"](x_BI)
    with adapter.dropout(range(4000)):
        mean = network["layer"](x_BI.expand(4000, -1)).mean(0)
    assert torch.allclose(mean, whole[0], rtol=0, atol=0.6), "five standard errors of the largest"


# Going on from another adapter.

@pytest.mark.parametrize("kind", KINDS)
def test_adopting_takes_ranks_and_scales_and_keeps_the_rest_fresh(kind: Kind) -> None:
    source = Network()
    other = LoraAdapter(source, AdapterSpec(kind=kind, rank=2, alpha=5.0, targets=r"blocks\.0\.(qkv|mod)"), 3)
    randomize(other)
    network = Network()
    adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=4, targets=r"blocks\.\d\.qkv"), 0)
    adapter.adopt(other.state_dict())
    assert torch.allclose(network(data()), source(data()), rtol=1e-5, atol=1e-5)
    state = adapter.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
    assert list(adapter.layers) == ["blocks.0.qkv", "blocks.1.qkv", "blocks.0.mod"]
    assert {id(p) for p in adapter.parameters} == {id(p) for p in network.parameters() if p.requires_grad}
    adapter.detach()
    assert torch.equal(network(data()), Network()(data()))


def test_a_state_without_alpha_counts_once() -> None:
    """As ComfyUI reads files of diffusers and peft."""
    adapter = LoraAdapter(Network(), SPEC, 0)
    adapter.adopt({k: v for k, v in adapter.state_dict().items() if not k.endswith("alpha")})
    assert {(layer.scale, layer.alpha) for layer in adapter.layers.values()} == {(1.0, 3.0)}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {Kind.DORA, Kind.OFT}))
def test_what_is_added_to_half_precision_is_rounded_once(kind: Kind) -> None:
    """A change is computed in float32 and only the sum is rounded, so that small changes do not lose bits twice."""
    network = nn.ModuleDict({"layer": nn.Linear(16, 16)}).bfloat16()
    adapter = LoraAdapter(network, AdapterSpec(kind=kind, rank=2, targets=".*"), 0)
    randomize(adapter)
    x_BI = torch.randn(64, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    layer = adapter.layers["layer"]
    with torch.no_grad():
        assert torch.equal(layer(x_BI), (layer.base(x_BI).float() + exact_change(layer, x_BI)).bfloat16())


def exact_change(layer: Adapted, x_BI: Tensor) -> Tensor:
    """What the layer adds to a base that gives zeros, in float32."""
    zeros = nn.Linear(16, 16)
    for parameter in zeros.parameters():
        parameter.data.zero_()
    tensors = {name: value.detach() for name, value in layer.learned().items()}
    return type(layer)(zeros, tensors, layer.scale)(x_BI.float())
