"""The masked loss against the golden vectors of other trainers and against plain numpy."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from pack.trainer.config import Normalization
from pack.trainer.loss import image_scales, masked_mean
from torch import Tensor

from .tiny import reference_loss

# Two pictures of one channel and 2 x 2 cells, target zero; the squared prediction is the error.
ERRORS = [torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).double().square(), torch.tensor([[[2.0, 0.0], [1.0, 1.0]]]).double().square()]
WEIGHTS = [torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]).double(), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]).double()]
WHITE = [torch.ones_like(w) for w in WEIGHTS]
CLAMPED = [w.clamp(min=0.1) for w in WEIGHTS]  # OneTrainer's unmasked weight 0.1
AFFINE = [w * 0.9 + 0.1 for w in WEIGHTS]  # ai-toolkit's mask_min_value 0.1
CURVED = [w.square() * 0.9 + 0.1 for w in WEIGHTS]  # blissful-tuner's proposal: gamma 2, then minimum 0.1
ANYTHING = [(w > 0).double() for w in WEIGHTS]  # SimpleTuner's segmentation mode


def shares(errors: list[Tensor], weights: list[Tensor], normalization: Normalization) -> Tensor:
    """What each image adds to the step's loss, (B,); images may differ in size."""
    scale_B = image_scales([w.expand(1, *e.shape[1:]) for e, w in zip(errors, weights, strict=True)], normalization)
    assert scale_B.dtype == torch.float64
    assert scale_B.isfinite().all()
    mean_B = torch.cat([masked_mean(e[None], w[None]) for e, w in zip(errors, weights, strict=True)])
    return mean_B * scale_B


@pytest.mark.parametrize(
    ("weights", "normalization", "loss"),
    [
        pytest.param(WHITE, Normalization.STEP, 4.5, id="unmasked"),
        pytest.param(WEIGHTS, Normalization.NONE, 1.0, id="sd-scripts, FluxTrainer, SimpleTuner mask, diffusion-pipe"),
        pytest.param(ANYTHING, Normalization.NONE, 1.25, id="SimpleTuner segmentation"),
        pytest.param(WEIGHTS, Normalization.STEP, 1.7777778, id="ai-toolkit, and the global ratio"),
        pytest.param(AFFINE, Normalization.STEP, 2.2268043, id="ai-toolkit with a floor of 0.1"),
        pytest.param(CURVED, Normalization.STEP, 2.1405407, id="global ratio, gamma 2, minimum 0.1"),
        pytest.param(CLAMPED, Normalization.NONE, (1.375 + 1.275) / 2, id="OneTrainer"),
        pytest.param(CLAMPED, Normalization.IMAGE, (3.2352939 + 1.6451614) / 2, id="OneTrainer normalized"),
        pytest.param(WEIGHTS, Normalization.IMAGE, (3 / 1.5 + 5 / 3) / 2, id="mean of the images' ratios"),
    ],
)
def test_golden_totals(weights: list[Tensor], normalization: Normalization, loss: float) -> None:
    assert shares(ERRORS, weights, normalization).sum().item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "normalization", "losses"),
    [
        pytest.param(WEIGHTS, Normalization.NONE, [0.75, 1.25], id="sd-scripts"),
        pytest.param(CLAMPED, Normalization.NONE, [1.375, 1.275], id="OneTrainer"),
        pytest.param(CLAMPED, Normalization.IMAGE, [3.2352939, 1.6451614], id="OneTrainer normalized"),
        pytest.param(WEIGHTS, Normalization.STEP, [1.3333334, 2.2222223], id="ai-toolkit"),
    ],
)
def test_golden_losses_of_each_sample(weights: list[Tensor], normalization: Normalization, losses: list[float]) -> None:
    """The tools take the mean over samples, so a sample's loss is its share times their number."""
    got = 2 * shares(ERRORS, weights, normalization)
    assert got.tolist() == pytest.approx(losses, abs=1e-6)


def random_images(seed: int, sizes: list[tuple[int, ...]], one_frame_of_weight: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Errors (3, [T,] H, W) and weights (1, [T or 1,] H, W)."""
    generator = torch.Generator().manual_seed(seed)
    errors = [torch.randn(3, *size, generator=generator, dtype=torch.float64).square() for size in sizes]
    shapes = [(1, *size[1:]) if one_frame_of_weight else size for size in sizes]
    return errors, [torch.rand(1, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def expected(errors: list[Tensor], weights: list[Tensor], normalization: Normalization) -> float:
    return reference_loss([e.numpy() for e in errors], [w.numpy() for w in weights], normalization)


SIZES = {
    "one picture": [(4, 6)],
    "equal pictures": [(4, 6)] * 3,
    "pictures of different sizes": [(4, 6), (8, 2), (3, 3)],
    "equal videos": [(3, 4, 5)] * 2,
    "videos of different lengths": [(1, 4, 5), (3, 4, 5), (2, 2, 2)],
}


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_random_inputs_match_numpy(sizes: list[tuple[int, ...]], normalization: Normalization) -> None:
    for seed in range(5):
        errors, weights = random_images(seed, sizes)
        assert shares(errors, weights, normalization).sum().item() == pytest.approx(expected(errors, weights, normalization), rel=1e-12)


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("name", ["equal videos", "videos of different lengths"])
def test_one_mask_for_all_frames_of_a_video(name: str, normalization: Normalization) -> None:
    """A weight of one frame counts for every frame: the loss is that of the weight repeated over time."""
    errors, weights = random_images(7, SIZES[name], one_frame_of_weight=True)
    assert shares(errors, weights, normalization).sum().item() == pytest.approx(expected(errors, weights, normalization), rel=1e-12)


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("name", ["equal pictures", "pictures of different sizes", "equal videos"])
def test_a_black_mask_among_others_adds_nothing(name: str, normalization: Normalization) -> None:
    errors, weights = random_images(3, SIZES[name])
    weights[1] = torch.zeros_like(weights[1])
    got = shares(errors, weights, normalization)
    assert got[1] == 0
    assert got.sum().item() == pytest.approx(expected(errors, weights, normalization), rel=1e-12)


@pytest.mark.parametrize("normalization", Normalization)
def test_black_masks_alone_give_zero_and_zero_gradient(normalization: Normalization) -> None:
    errors, weights = random_images(3, SIZES["pictures of different sizes"])
    for error in errors:
        error.requires_grad_()
    loss = shares(errors, [torch.zeros_like(w) for w in weights], normalization).sum()
    loss.backward()
    assert loss == 0
    assert not any(error.grad.any() for error in errors)


@pytest.mark.parametrize("normalization", Normalization)
@pytest.mark.parametrize("name", ["one picture", "equal pictures", "equal videos"])
def test_white_masks_give_the_plain_mean(name: str, normalization: Normalization) -> None:
    errors, weights = random_images(4, SIZES[name])
    got = shares(errors, [torch.ones_like(w) for w in weights], normalization).sum()
    assert got.item() == pytest.approx(np.mean([e.numpy() for e in errors]), rel=1e-12)


def test_white_pictures_of_different_sizes_count_by_pixel_or_by_picture() -> None:
    errors, weights = random_images(4, SIZES["pictures of different sizes"])
    white = [torch.ones_like(w) for w in weights]
    by_pixel = np.concatenate([e.numpy().ravel() for e in errors]).mean()
    by_picture = np.mean([e.numpy().mean() for e in errors])
    for normalization, mean in ((Normalization.STEP, by_pixel), (Normalization.IMAGE, by_picture), (Normalization.NONE, by_picture)):
        assert shares(errors, white, normalization).sum().item() == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("normalization", [Normalization.STEP, Normalization.IMAGE])
def test_ratios_do_not_depend_on_the_brightness_of_the_masks(normalization: Normalization) -> None:
    errors, weights = random_images(8, SIZES["equal pictures"])
    dim = [1e-3 * w for w in weights]
    assert torch.allclose(shares(errors, dim, normalization), shares(errors, weights, normalization), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalization", Normalization)
def test_scales_are_float64_whatever_the_masks_are(normalization: Normalization, dtype: torch.dtype) -> None:
    """A float16 sum ends at 65504, and a bfloat16 mean has two digits."""
    weights = [torch.rand(1, 300, 300, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1)]
    scale_B = image_scales(weights, normalization)
    assert scale_B.dtype == torch.float64
    assert torch.equal(scale_B, image_scales([w.double() for w in weights], normalization))
