"""Numbers in sentences."""
from __future__ import annotations

import pytest
from pack.dataset.words import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (21, "21 clips")])
def test_one_is_singular(number: int, said: str) -> None:
    assert counted(number, "clip") == said
