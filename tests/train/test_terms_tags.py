"""Terms on image tags."""

import math

import pytest
import torch
from torch import Tensor

from wsseg.train.terms.tags import tag_inclusion_loss, tag_size_loss, tag_suppression_loss

NAN = float("nan")


def flat(*shares: float) -> Tensor:
    """One map of four pixels."""
    return torch.tensor([[[shares]]], dtype=torch.float64).logit()


def tag(present: float) -> Tensor:
    return torch.tensor([[present]], dtype=torch.float64)


def test_suppression_is_the_mean_of_minus_log_one_minus_p_and_only_of_absent_classes():
    logits = flat(0.1, 0.2, 0.3, 0.5)
    literal = -sum(math.log(1 - p) for p in (0.1, 0.2, 0.3, 0.5)) / 4
    assert tag_suppression_loss(logits, tag(0)).item() == pytest.approx(literal)
    assert tag_suppression_loss(logits, tag(1)).item() == 0
    assert tag_suppression_loss(logits, tag(NAN)).item() == 0


def test_inclusion_is_minus_log_of_the_generalised_mean_and_only_of_present_classes():
    logits = flat(0.1, 0.2, 0.3, 0.9)
    mean = (sum(p**4 for p in (0.1, 0.2, 0.3, 0.9)) / 4) ** 0.25
    cost = tag_inclusion_loss(logits, tag(1), exponent=4.0)
    assert cost.item() == pytest.approx(-math.log(mean))
    assert tag_inclusion_loss(logits, tag(0), exponent=4.0).item() == 0
    assert tag_inclusion_loss(logits, tag(NAN), exponent=4.0).item() == 0


def test_a_large_exponent_asks_for_one_pixel():
    cost = tag_inclusion_loss(flat(1e-6, 1e-6, 1e-6, 1 - 1e-9), tag(1), exponent=64.0)
    assert cost.item() == pytest.approx(math.log(4) / 64)


def test_inclusion_raises_the_likeliest_pixel_most():
    logits = flat(0.1, 0.2, 0.3, 0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(tag_inclusion_loss(logits, tag(1), exponent=8.0), logits)
    assert (gradient < 0).all()
    assert gradient.argmin() == 3


@pytest.mark.parametrize(("share", "cost"), [(0.05, 0.25), (0.1, 0), (0.5, 0)])
def test_size_is_the_squared_relative_lack_of_a_present_class(share, cost):
    logits = flat(*[share] * 4)
    assert tag_size_loss(logits, tag(1), smallest=0.1).item() == pytest.approx(cost)
    assert tag_size_loss(logits, tag(0), smallest=0.1).item() == 0
    assert tag_size_loss(logits, tag(NAN), smallest=0.1).item() == 0
