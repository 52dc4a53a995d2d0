"""Files of weights as people have them: what lies beside the weights, what is not read, and what is said then."""
from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from pack.host.weights import read_weights

WEIGHTS = {"a.weight": torch.arange(3.0)}


@pytest.mark.parametrize("saved", [
    WEIGHTS, {"state_dict": WEIGHTS}, {"model": WEIGHTS}, {"model": WEIGHTS, "epoch": 3, "optimizer": {"step": torch.zeros(1)}}])
def test_weights_are_found_where_training_put_them(tmp_path: Path, saved: dict[str, object]) -> None:
    torch.save(saved, tmp_path / "model.pth")
    read = read_weights(tmp_path / "model.pth")
    assert list(read) == ["a.weight"]
    assert torch.equal(read["a.weight"], WEIGHTS["a.weight"])


def test_a_file_with_more_than_weights_is_not_read(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": Fraction(1, 3)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth holds more than weights.*take the model's \.safetensors"):
        read_weights(tmp_path / "model.pth")


def test_the_old_format_is_not_called_a_broken_download(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"model\.pt is in PyTorch's old format.*save it again.*or take the model's \.safetensors"):
        read_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>"])
def test_what_is_no_pytorch_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is no whole PyTorch file"):
        read_weights(tmp_path / "model.pt")
