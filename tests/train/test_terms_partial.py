"""Terms on weak marks, positive and negative."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.partial import partial_cross_entropy_loss, partial_dice_loss

LOSSES = (partial_cross_entropy_loss, partial_dice_loss)
B, K, H, W = 2, 2, 4, 5

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (B, H, W), generator=draw)]


@given(seed=seeds)
def test_cross_entropy_is_the_mean_over_positives_plus_the_mean_over_negatives(seed):
    logits, marks = random_case(seed)
    costs = []
    for image, picture in zip(logits, marks, strict=True):
        for number in range(1, K + 1):
            p = torch.sigmoid(image[number - 1])
            yes = -p[picture == number].log()
            no = -(1 - p[(picture != 0) & (picture != number)]).log()
            costs.append(sum(part.mean() for part in (yes, no) if part.numel()))
    literal = torch.stack([torch.as_tensor(cost, dtype=torch.float64) for cost in costs]).mean()
    torch.testing.assert_close(partial_cross_entropy_loss(logits, marks), literal)


def test_dice_of_hard_maps_counts_marked_pixels():
    marks = torch.tensor([[[1, 1, 255, 0, 0]]])
    found = torch.tensor([[[[1, 0, 1, 1, 1]]]]) * 2000.0 - 1000
    # One of two hit, one of the background taken: overlap 1, sizes 2 and 2, one pixel smoothing.
    assert partial_dice_loss(found, marks).item() == pytest.approx(1 - 3 / 5)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=seeds)
def test_pixels_that_are_not_marked_change_nothing_and_are_taught_nothing(loss, seed):
    logits, marks = random_case(seed)
    other = torch.where((marks == 0).unsqueeze(1), random_case(seed + 1)[0], logits)
    torch.testing.assert_close(loss(other, marks), loss(logits, marks), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), marks), logits)
    assert torch.count_nonzero(gradient * (marks == 0).unsqueeze(1)) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_no_mark_costs_nothing_and_teaches_nothing(loss):
    logits = random_case(0)[0].requires_grad_()
    cost = loss(logits, torch.zeros(B, H, W, dtype=torch.long))
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == 0
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_another_class_and_the_background_teach_the_same(loss):
    logits, _ = random_case(0)
    other = torch.full((B, H, W), 2)
    background = torch.full((B, H, W), 255)
    for marks in (other, background):
        (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), marks), logits)
        assert (gradient[:, 0] > 0).all()


def test_one_background_pixel_weighs_as_much_as_many():
    logits = torch.zeros(1, 1, 1, 8)
    marks = torch.tensor([[[1, 255, 0, 0, 0, 0, 0, 0]]])
    many = torch.tensor([[[1, 255, 255, 255, 255, 255, 255, 255]]])
    before = partial_cross_entropy_loss(logits, marks)
    torch.testing.assert_close(partial_cross_entropy_loss(logits, many), before)
