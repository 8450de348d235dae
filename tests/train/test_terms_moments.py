"""Terms on the centre and the reach of a class."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.moments import centroid_loss, spread_loss

NAN = float("nan")


def rectangle(top: int, left: int, bottom: int, right: int, side: int = 8) -> Tensor:
    mask = torch.zeros(1, 1, side, side, dtype=torch.float64)
    mask[..., top:bottom, left:right] = 1
    return mask * 2000 - 1000


def pair(first: float, second: float) -> Tensor:
    return torch.tensor([[[first, second]]], dtype=torch.float64)


@given(
    top=st.integers(0, 6), left=st.integers(0, 6), height=st.integers(1, 2), width=st.integers(1, 2)
)
def test_the_moments_of_a_rectangle_are_its_middle_and_its_sides_over_the_root_of_twelve(
    top, left, height, width
):
    logits = rectangle(top, left, top + height, left + width)
    middle = pair((top + height / 2) / 8, (left + width / 2) / 8)
    reach = pair(height / 8 / math.sqrt(12), width / 8 / math.sqrt(12))
    assert centroid_loss(logits, middle, margin=0.0).item() == pytest.approx(0, abs=1e-12)
    assert spread_loss(logits, reach, margin=0.0).item() == pytest.approx(0, abs=1e-12)


def test_the_cost_is_the_distance_beyond_the_margin_mean_of_both_axes():
    logits = rectangle(0, 0, 2, 2)  # centre at 1/8, spread 0.25 / sqrt(12)
    cost = centroid_loss(logits, pair(0.5, 0.125), margin=0.1)
    assert cost.item() == pytest.approx((0.375 - 0.1) / 2)
    assert centroid_loss(logits, pair(0.2, 0.05), margin=0.1).item() == 0
    spread = 0.25 / math.sqrt(12)
    cost = spread_loss(logits, pair(spread + 0.3, spread - 0.05), margin=0.1)
    assert cost.item() == pytest.approx(0.2 / 2)


def test_one_known_axis_of_two_is_used():
    logits = rectangle(0, 0, 2, 2)
    assert centroid_loss(logits, pair(NAN, 0.5), margin=0.0).item() == pytest.approx(0.375 / 2)


def test_an_almost_empty_map_is_still_drawn_to_the_place():
    logits = torch.full((1, 1, 8, 8), -40.0, requires_grad=True)
    cost = centroid_loss(logits, pair(0.25, 0.25).float(), margin=0.0)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == pytest.approx(0.25)
    assert gradient[0, 0, 0, 0] < 0 < gradient[0, 0, -1, -1]


def test_a_single_pixel_has_a_spread_with_a_slope():
    logits = rectangle(3, 3, 4, 4).float().requires_grad_()
    (gradient,) = torch.autograd.grad(
        spread_loss(logits, pair(0.3, 0.3).float(), margin=0.0), logits
    )
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [centroid_loss, spread_loss])
def test_gradients_are_those_of_the_formulas(loss):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 4, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    stated = torch.cat([pair(0.1, 0.2), pair(NAN, 0.9)])
    assert torch.autograd.gradcheck(lambda z: loss(z, stated, margin=0.01), [logits])
