"""Adapter layers that can be attached to a frozen network, detached, and attached again."""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .adapter_spec import AdapterSpec, Kind
from .config import LoraSpec
from .layers import OFT, Adapted, DoRA, LoHa, LoKr, LoRA
from .seeds import generator
from .targets import find_layers

LAYERS: dict[Kind, type[Adapted]] = {
    Kind.LORA: LoRA, Kind.RSLORA: LoRA, Kind.DORA: DoRA, Kind.LOHA: LoHa, Kind.LOKR: LoKr, Kind.OFT: OFT,
}


class LoraAdapter:
    """One adapter on `network`, attached. Only modules are swapped, so training state survives detaching.

    Weights are float32 whatever the network's dtype: bfloat16 loses updates smaller than 1/256 of a weight. The network is frozen.
    """

    def __init__(self, network: nn.Module, spec: LoraSpec, seed: int) -> None:
        self.network, self.spec, self.seed = network, AdapterSpec.of(spec), seed
        names = find_layers(network, self.spec.targets)
        for pattern, *_ in self.spec.patterns:
            if not any(re.fullmatch(pattern, name) for name in names):
                raise ValueError(f"{pattern!r} has a size of its own and matches none of the {len(names)} layers, such as {names[0]}")
        draw = generator(seed, "adapter")
        kind = LAYERS[self.spec.kind]
        self.layers: dict[str, Adapted] = {}
        self._off = False
        for name in names:
            base, (rank, scale) = network.get_submodule(name), self.spec.size(name)
            self.layers[name] = kind(base, kind.first(base, rank, draw), scale)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        with ExitStack() as undo:  # a Cancel too leaves the network's modules as they were
            undo.callback(self.detach)
            self.attach()
            undo.pop_all()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in layer.learned().values()]

    def attach(self) -> None:
        """Does nothing while the adapter is disabled: a host that loads the network again meanwhile attaches it as it always does."""
        if self._off:
            return
        for name, layer in self.layers.items():
            self._replace(name, layer)

    def detach(self) -> None:
        for name, layer in self.layers.items():
            self._replace(name, layer.base)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The network predicts as if the adapter were not there; whatever happens inside, it is back afterwards."""
        self._off = True
        self.detach()
        try:
            yield
        finally:
            self._off = False
            self.attach()

    @contextmanager
    def dropout(self, draws: Sequence[int]) -> Iterator[None]:
        """Inside, forward passes of these examples, by their draw numbers in the run, miss the ranks that the seed drops for them.

        A mask belongs to a draw and a layer: neither micro-batches nor a resumed run change it.
        """
        if not self.spec.dropout:
            yield
            return
        layers = [layer for layer in self.layers.values() if isinstance(layer, LoRA)]
        size = (len(layers), max(layer.rank for layer in layers))
        kept_LBR = torch.stack([torch.rand(size, generator=generator(self.seed, "dropout", i)) for i in draws], 1) >= self.spec.dropout
        for layer, keep_BR in zip(layers, (kept_LBR / (1 - self.spec.dropout)).to(self.parameters[0].device), strict=True):
            layer.keep_BR = keep_BR[:, :layer.rank]
        try:
            yield
        finally:
            for layer in layers:
                layer.keep_BR = None

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Go on from another adapter's `state_dict`, with its ranks and scales; attaches, and makes new parameters.

        Layers that the state lacks stay fresh, and those that the targets lack are added. Raises ValueError and changes nothing
        where the state is no adapter of this kind or does not fit.
        """
        kind, device = LAYERS[self.spec.kind], self.parameters[0].device
        found = {}
        for name, tensors in by_layer(state).items():
            base = self.layers[name].base if name in self.layers else self.network.get_submodule(name)
            alpha = tensors.pop("alpha", None)
            if not set(kind.required) <= set(tensors) <= {*kind.required, *kind.optional}:
                raise ValueError(f"{name} of the LoRA to start from has {', '.join(tensors)}, which is not {self.spec.kind.value}; choose "
                                 "the kind of adapter that it is")
            scale = None if alpha is None else alpha.item()
            require_fit(kind, tensors, base, name)
            found[name] = kind.continued(base, {k: v.to(device) for k, v in tensors.items()}, scale)
        self.layers |= found
        self.attach()

    def state_dict(self) -> dict[str, Tensor]:
        """`<layer>.<tensor>` as ComfyUI's loader and the layer's class name it, and `<layer>.alpha`; float32 on the CPU."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            for part, parameter in layer.learned().items():
                state[f"{name}.{part}"] = parameter.detach().float().cpu().clone()
            state[f"{name}.alpha"] = torch.tensor(float(layer.alpha))
        return state

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.network.get_submodule(parent), child, module)


def by_layer(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{layer: {tensor: value}} of `<layer>.<tensor>` keys."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, part = key.removesuffix(".weight").rpartition(".")
        layers.setdefault(layer, {})[key[len(layer) + 1:]] = value
    return layers


def require_fit(kind: type[Adapted], tensors: Mapping[str, Tensor], base: nn.Module, name: str) -> None:
    """Raises ValueError unless a layer with these tensors takes the base's inputs to its outputs."""
    inputs, outputs = base.in_features, base.out_features
    try:
        layer = kind.continued(nn.Linear(inputs, outputs, device="meta"), {k: v.to("meta") for k, v in tensors.items()}, None)  # type: ignore[arg-type]
        layer(torch.empty(1, inputs, device="meta"))  # type: ignore[call-overload]
    except RuntimeError as error:
        sizes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in tensors.items())
        raise ValueError(f"{name} takes {inputs} numbers to {outputs}, which {sizes} does not; the LoRA to start from is for another "
                         "model") from error
