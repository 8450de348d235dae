"""Losses on full masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.supervised import SMOOTHING_PIXELS, cross_entropy_loss, dice_loss

LOSSES = (cross_entropy_loss, dice_loss)
B, K, H, W = 2, 2, 3, 4

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, torch.rand(B, K, H, W, generator=draw) < 0.4


def known(*flags: bool) -> Tensor:
    return torch.tensor(flags)


@given(seed=seeds)
def test_cross_entropy_is_its_formula(seed):
    logits, mask = random_case(seed)
    p = torch.sigmoid(logits)
    literal = -torch.where(mask, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(cross_entropy_loss(logits, mask, known(True, True)), literal)


@given(seed=seeds)
def test_dice_of_hard_maps_counts_pixels(seed):
    logits, mask = random_case(seed)
    hard = logits > 0
    overlap = (hard & mask).sum((2, 3)).double()
    total = (hard.sum((2, 3)) + mask.sum((2, 3))).double()
    literal = (1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)).mean()
    saturated = hard.double() * 2000 - 1000
    torch.testing.assert_close(dice_loss(saturated, mask, known(True, True)), literal)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_right_answer_costs_nothing_even_for_an_empty_mask(loss):
    mask = random_case(0)[1]
    mask[0] = False
    assert loss(mask.float() * 2000 - 1000, mask, known(True, True)).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=seeds)
def test_an_image_without_a_mask_contributes_zero_and_still_counts(loss, seed):
    logits, mask = random_case(seed)
    alone = loss(logits[:1], mask[:1], known(True))
    torch.testing.assert_close(loss(logits, mask, known(True, False)), alone / 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_formulas(loss):
    logits, mask = random_case(0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, mask, known(True, False)), [logits])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_loss_and_gradient_are_finite_and_full_precision(loss, dtype, extreme):
    logits = torch.full((B, K, H, W), extreme, dtype=dtype, requires_grad=True)
    cost = loss(logits, random_case(0)[1], known(True, False))
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.dtype == torch.float32
    assert torch.isfinite(cost)
    assert torch.isfinite(gradient).all()
