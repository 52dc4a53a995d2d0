"""LoRA layers that can be attached to a frozen network, detached, and attached again."""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.functional import inject_adapter_in_model
from torch import Tensor, nn

from .config import LoraSpec
from .seeds import generator


class LoraAdapter:
    """One LoRA on `network`. Only modules are swapped, so training state survives detaching.

    Weights are float32 whatever the network's dtype: bfloat16 loses updates smaller than 1/256 of a weight.
    """

    def __init__(self, network: nn.Module, spec: LoraSpec, seed: int) -> None:
        targets = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(spec.targets, n)]
        if not targets:
            raise ValueError(f"no linear layer of {type(network).__name__} matches {spec.targets!r}; loosen the LoRA's targets")
        self.network, self.spec = network, spec
        exactly = "|".join(map(re.escape, targets))  # peft takes a list of names as endings
        self.layers: dict[str, Any] = {n: network.get_submodule(n) for n in targets}
        with ExitStack() as undo:  # an error or a Cancel in here leaves the network as it was
            undo.callback(self._restore, dict(self.layers))
            # peft draws from torch's global numbers; fork them, and the host's continue as if nothing had been drawn.
            with torch.random.fork_rng(devices=[]):
                inject_adapter_in_model(LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=exactly), network)  # type: ignore[arg-type]
            self.layers = {n: network.get_submodule(n) for n in targets}
            self._initialise(seed)
            undo.pop_all()
        network.__dict__.pop("peft_config", None)  # peft's mark of ownership; the network is only borrowed

    def _initialise(self, seed: int) -> None:
        self.parameters: list[nn.Parameter] = []
        draw = generator(seed, "adapter")
        for layer in self.layers.values():
            down, up = layer.lora_A["default"].float(), layer.lora_B["default"].float()
            # Kaiming-uniform as in the LoRA paper's code (a = sqrt 5), from the run's own seed on any device.
            bound = down.weight.shape[1] ** -0.5
            down.weight.data.copy_(torch.empty(down.weight.shape).uniform_(-bound, bound, generator=draw))
            self.parameters += [down.weight, up.weight]

    def _restore(self, originals: dict[str, nn.Module]) -> None:
        for name, module in originals.items():
            self._replace(name, module)
        self.network.__dict__.pop("peft_config", None)

    def attach(self) -> None:
        for name, layer in self.layers.items():
            self._replace(name, layer)

    def detach(self) -> None:
        for name, layer in self.layers.items():
            self._replace(name, layer.get_base_layer())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The network predicts as if the LoRA were not there; whatever happens inside, it is back afterwards."""
        self.detach()
        try:
            yield
        finally:
            self.attach()

    def state_dict(self) -> dict[str, Tensor]:
        """`<layer>.lora_A.weight` (rank, in), `<layer>.lora_B.weight` (out, rank) and `<layer>.alpha`, float32 on the CPU."""
        state: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            for part in ("lora_A", "lora_B"):
                weight = getattr(layer, part)["default"].weight
                state[f"{name}.{part}.weight"] = weight.detach().float().cpu().clone()
            state[f"{name}.alpha"] = torch.tensor(float(self.spec.alpha))
        return state

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self.network.get_submodule(parent), child, module)
