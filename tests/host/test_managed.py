"""Networks of other libraries under ComfyUI's memory management."""
from __future__ import annotations

import io
from typing import Any

import comfy.model_management
import pytest
import torch
from pack.host.managed import manage
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation


class TorchScript(nn.Module):
    """With weights of its own beside those of its layers, as networks with position embeddings have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.position = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x)) + self.position


def networks() -> list[nn.Module]:
    segformer = SegformerForSemanticSegmentation(SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, num_labels=19))
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(TorchScript().eval(), torch.zeros(2, 3)), file)
    file.seek(0)
    return [segformer, torch.jit.load(file), TorchScript()]


@pytest.mark.parametrize("network", networks(), ids=["transformers", "TorchScript", "plain"])
def test_any_network_is_loaded_offloaded_and_loaded_again(network: nn.Module) -> None:
    held = comfy.model_management.current_loaded_models
    with torch.inference_mode():
        managed = manage(network, network)
        assert not network.training
        assert held == []
        for _ in range(2):
            assert managed() is network
            assert [one.model.loaded_size() for one in held] == [comfy.model_management.module_size(network)]
            comfy.model_management.unload_all_models()
            assert held == []


def test_a_network_is_loaded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the host leaves layers on the offload device when room is short, and only its own layers can run like that."""
    asked: list[Any] = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **settings: asked.append(settings))
    network = TorchScript()
    manage(network, network)()
    assert asked == [{"force_full_load": True}]
