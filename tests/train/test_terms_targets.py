"""Terms on soft targets with a weight at every pixel."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.supervised import SMOOTHING_PIXELS, cross_entropy_loss, dice_loss
from wsseg.train.terms.targets import target_cross_entropy_loss, target_dice_loss

LOSSES = (target_cross_entropy_loss, target_dice_loss)
B, K, H, W = 2, 2, 3, 4

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights (b, k, h, w)."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    target, weight = torch.rand(2, B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, target, weight


@given(seed=seeds)
def test_cross_entropy_is_the_weighted_mean_of_each_image_and_class(seed):
    logits, target, weight = random_case(seed)
    p = torch.sigmoid(logits)
    cost = -(target * p.log() + (1 - target) * (1 - p).log())
    literal = weight.amax((2, 3)) * (weight * cost).sum((2, 3)) / weight.sum((2, 3))
    torch.testing.assert_close(target_cross_entropy_loss(logits, target, weight), literal.mean())


@given(seed=seeds)
def test_dice_is_its_formula(seed):
    logits, target, weight = random_case(seed)
    p, s = torch.sigmoid(logits), SMOOTHING_PIXELS
    above = 2 * (weight * p * target).sum((2, 3)) + s
    literal = 1 - above / ((weight * (p + target)).sum((2, 3)) + s)
    literal = weight.amax((2, 3)) * literal
    torch.testing.assert_close(target_dice_loss(logits, target, weight), literal.mean())


@pytest.mark.parametrize(
    ("soft", "full"), [(LOSSES[0], cross_entropy_loss), (LOSSES[1], dice_loss)]
)
@given(seed=seeds)
def test_a_sure_target_of_zeros_and_ones_is_a_full_mask(soft, full, seed):
    logits, target, _ = random_case(seed)
    mask = target > 0.5
    cost = soft(logits, mask.double(), torch.ones_like(logits))
    torch.testing.assert_close(cost, full(logits, mask, torch.ones(B, dtype=torch.bool)))


@given(seed=seeds)
def test_an_image_that_is_half_as_sure_everywhere_counts_half(seed):
    logits, target, weight = random_case(seed)
    before = target_cross_entropy_loss(logits, target, weight)
    torch.testing.assert_close(target_cross_entropy_loss(logits, target, weight / 2), before / 2)


@given(seed=seeds)
def test_an_image_of_which_few_pixels_are_taught_counts_whole(seed):
    logits, target, _ = random_case(seed)
    few = torch.zeros_like(logits)
    few[..., 0, 0] = 1
    alone = F.binary_cross_entropy_with_logits(logits[..., 0, 0], target[..., 0, 0])
    torch.testing.assert_close(target_cross_entropy_loss(logits, target, few), alone)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=seeds)
def test_pixels_without_a_weight_change_nothing(loss, seed):
    logits, target, weight = random_case(seed)
    weight = weight * (weight > 0.5)
    other, other_target, _ = random_case(seed + 1)
    changed = torch.where(weight == 0, other, logits)
    changed_target = torch.where(weight == 0, other_target, target)
    torch.testing.assert_close(
        loss(changed, changed_target, weight), loss(logits, target, weight), rtol=0, atol=0
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_an_image_without_any_weight_contributes_zero_and_still_counts(loss):
    logits, target, weight = random_case(0)
    weight[1] = 0
    alone = loss(logits[:1], target[:1], weight[:1])
    torch.testing.assert_close(loss(logits, target, weight), alone / 2)


def test_cross_entropy_is_least_at_a_soft_target():
    _, target, weight = random_case(0)
    logits = target.logit().requires_grad_()
    (gradient,) = torch.autograd.grad(target_cross_entropy_loss(logits, target, weight), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
