"""The stages that make the demo model can be stopped and go on as if they had not been."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def common(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "tools"))
    import demo_model.common

    yield demo_model.common
    for name in [n for n in sys.modules if n.partition(".")[0] == "demo_model"]:
        del sys.modules[name]


def make(common, folder: Path, stops: list[int]) -> tuple[Tensor, Tensor]:
    """Weights and their moving average after a run that was stopped and started anew at each of `stops`."""
    for stop in stops:
        layer = nn.Linear(4, 4)
        for p in layer.parameters():
            nn.init.normal_(p, generator=common.generator(1))
        trainer = common.Trainer("stage", layer, folder, steps=30, lr=1e-2, warmup=5)

        def loss(step: int, layer: nn.Module = layer) -> Tensor:
            return layer(torch.randn(8, 4, generator=common.generator(2, step))).square().mean()

        trainer.run(loss, stop=stop)
    return layer.weight.detach().clone(), trainer.average["weight"].clone()


def test_a_stopped_stage_goes_on_to_the_same_weights(common, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, parts = make(common, tmp_path / "whole", [30]), make(common, tmp_path / "parts", [7, 8, 21, 30])
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert not torch.equal(whole[0], make(common, tmp_path, [29])[0])
