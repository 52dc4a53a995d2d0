"""Masks of a batch of pictures, without a server. White = learn."""
from __future__ import annotations

import pytest
import torch
from pack.host.mask_making import make_masks
from pack.host.mask_plan import MaskPlan, Part

from .mask_stand_ins import Bright


def test_a_batch_without_pictures_is_said() -> None:
    plan = MaskPlan((Part(Bright(), {"bright": 1.0}),))
    with pytest.raises(ValueError, match="no picture in the batch; connect at least one"):
        make_masks(plan, torch.zeros(0, 8, 8, 3), "", "all zeros", lambda done, total, text: None)
