"""Losses on full masks and on soft targets, on certainty and on the image given back."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.scenes import any_seed, cost_of
from wsseg.train.data.batch import Outputs
from wsseg.train.losses import (
    Confidence,
    CrossEntropy,
    Dice,
    Entropy,
    Loss,
    Reconstruction,
    TargetCrossEntropy,
    TargetDice,
)
from wsseg.train.losses.pixelwise import SMOOTHING_PIXELS

ON_MASKS = (CrossEntropy(), Dice())
ON_TARGETS = (TargetCrossEntropy(), TargetDice())
B, K, H, W = 2, 2, 3, 4


def random_case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights (b, k, h, w)."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    target, weight = torch.rand(2, B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, target, weight


def on_mask(loss: Loss, logits: Tensor, mask: Tensor) -> Tensor:
    return cost_of(loss, logits, mask=mask, has_mask=torch.ones(len(mask), dtype=torch.bool))


def on_target(loss: Loss, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return cost_of(loss, logits, target=target, target_weight=weight)


@any_seed
def test_confidence_is_the_papers_formula(seed):
    logits = random_case(seed)[0]
    half = torch.full_like(logits, 0.5)
    literal = half.square().mean() - (half - torch.sigmoid(logits)).square().mean()
    torch.testing.assert_close(cost_of(Confidence(), logits), literal)


def test_reconstruction_is_the_mean_absolute_difference():
    image = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    answer = torch.full_like(image, 0.5)
    cost = cost_of(Reconstruction(), image, image=image, reconstruction=answer)
    assert cost.item() == pytest.approx(0.25)


@given(p=st.floats(0.001, 0.999))
def test_entropy_is_its_formula_in_bits(p):
    literal = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    logits = torch.full((1, 1, 1, 2), p, dtype=torch.float64).logit()
    assert cost_of(Entropy(), logits).item() == pytest.approx(literal)


def test_entropy_is_1_at_a_half_and_0_at_the_ends():
    assert cost_of(Entropy(), torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1)
    assert cost_of(Entropy(), torch.tensor([[[[1e4, -1e4]]]])).item() == 0


def test_class_weights_of_entropy_count_by_their_proportion():
    logits = torch.tensor([0.5, 0.1], dtype=torch.float64).logit().view(1, 2, 1, 1)
    one, two = (cost_of(Entropy(), layer) for layer in logits.split(1, dim=1))
    for unit in (1, 7):
        weighted = cost_of(Entropy(classes=(3 * unit, unit)), logits)
        torch.testing.assert_close(weighted, (3 * one + two) / 4)


@any_seed
def test_cross_entropy_is_its_formula(seed):
    logits, target, _ = random_case(seed)
    p, mask = torch.sigmoid(logits), target < 0.4
    literal = -torch.where(mask, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(on_mask(CrossEntropy(), logits, mask), literal)


@any_seed
def test_dice_of_hard_maps_counts_pixels(seed):
    logits, target, _ = random_case(seed)
    hard, mask = logits > 0, target < 0.4
    overlap = (hard & mask).sum((2, 3)).double()
    total = (hard.sum((2, 3)) + mask.sum((2, 3))).double()
    literal = (1 - (2 * overlap + SMOOTHING_PIXELS) / (total + SMOOTHING_PIXELS)).mean()
    torch.testing.assert_close(on_mask(Dice(), hard.double() * 2000 - 1000, mask), literal)


@pytest.mark.parametrize("loss", ON_MASKS)
def test_the_right_answer_costs_nothing_even_for_an_empty_mask(loss):
    mask = random_case(0)[1] < 0.4
    mask[0] = False
    assert on_mask(loss, mask.float() * 2000 - 1000, mask).item() == 0


@any_seed
def test_target_cross_entropy_is_the_weighted_mean_of_each_image_and_class(seed):
    logits, target, weight = random_case(seed)
    p = torch.sigmoid(logits)
    cost = -(target * p.log() + (1 - target) * (1 - p).log())
    literal = weight.amax((2, 3)) * (weight * cost).sum((2, 3)) / weight.sum((2, 3))
    found = on_target(TargetCrossEntropy(), logits, target, weight)
    torch.testing.assert_close(found, literal.mean())


@any_seed
def test_target_dice_is_its_formula(seed):
    logits, target, weight = random_case(seed)
    p, s = torch.sigmoid(logits), SMOOTHING_PIXELS
    above = 2 * (weight * p * target).sum((2, 3)) + s
    literal = 1 - above / ((weight * (p + target)).sum((2, 3)) + s)
    literal = weight.amax((2, 3)) * literal
    found = on_target(TargetDice(), logits, target, weight)
    torch.testing.assert_close(found, literal.mean())


@pytest.mark.parametrize(("soft", "full"), [*zip(ON_TARGETS, ON_MASKS, strict=True)])
@any_seed
def test_a_sure_target_of_zeros_and_ones_is_a_full_mask(soft, full, seed):
    logits, target, _ = random_case(seed)
    mask = target > 0.5
    cost = on_target(soft, logits, mask.double(), torch.ones_like(logits))
    torch.testing.assert_close(cost, on_mask(full, logits, mask))


@any_seed
def test_an_image_that_is_half_as_sure_everywhere_counts_half(seed):
    logits, target, weight = random_case(seed)
    before = on_target(TargetCrossEntropy(), logits, target, weight)
    half = on_target(TargetCrossEntropy(), logits, target, weight / 2)
    torch.testing.assert_close(half, before / 2)


@any_seed
def test_an_image_of_which_few_pixels_are_taught_counts_whole(seed):
    logits, target, _ = random_case(seed)
    few = torch.zeros_like(logits)
    few[..., 0, 0] = 1
    alone = F.binary_cross_entropy_with_logits(logits[..., 0, 0], target[..., 0, 0])
    torch.testing.assert_close(on_target(TargetCrossEntropy(), logits, target, few), alone)


@pytest.mark.parametrize("loss", ON_TARGETS)
@any_seed
def test_pixels_without_a_weight_change_nothing(loss, seed):
    logits, target, weight = random_case(seed)
    weight = weight * (weight > 0.5)
    other, other_target, _ = random_case(seed + 1)
    changed = torch.where(weight == 0, other, logits)
    changed_target = torch.where(weight == 0, other_target, target)
    before = on_target(loss, logits, target, weight)
    assert torch.equal(on_target(loss, changed, changed_target, weight), before)


def test_target_cross_entropy_is_least_at_a_soft_target():
    _, target, weight = random_case(0)
    logits = target.logit().requires_grad_()
    cost = on_target(TargetCrossEntropy(), logits, target, weight)
    (gradient,) = torch.autograd.grad(cost, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.slow  # not for its time: in fast tests no shape is checked
def test_logits_without_a_batch_are_refused():
    with pytest.raises(TypeError):
        Outputs(torch.zeros(H, W), torch.zeros(1, 1, H, W))
