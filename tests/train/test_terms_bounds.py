"""Terms on bounds of an area ratio, and where the bounds come from."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.bounds import (
    LEAST_UPPER,
    bounds_barrier_loss,
    bounds_loss,
    choose_bounds,
    log_barrier,
)

NAN = float("nan")
shares = st.floats(0.001, 0.999)


def flat(share: float) -> Tensor:
    return torch.full((1, 1, 4, 4), share, dtype=torch.float64).logit()


def bounds(low: float, high: float) -> Tensor:
    return torch.tensor([[[low, high]]], dtype=torch.float64)


@given(share=shares, low=st.floats(0.01, 0.5), width=st.floats(0, 0.4))
def test_the_penalty_is_the_squared_relative_distance_and_zero_within(share, low, width):
    high = low + width
    below, above = max(low - share, 0) / low, max(share - high, 0) / high
    cost = bounds_loss(flat(share), bounds(low, high), ("image",)).item()
    assert cost == pytest.approx(below**2 + above**2, abs=1e-12)


def test_within_the_bounds_nothing_is_taught():
    logits = flat(0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(bounds_loss(logits, bounds(0.2, 0.4), ("image",)), logits)
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("low", [1e-5, 1e-2, 0.5])
def test_an_empty_prediction_costs_1_however_small_the_lower_bound(low):
    cost = bounds_loss(torch.full((1, 1, 4, 4), -1e4), bounds(low, 1.0).float(), ("image",))
    assert cost.item() == 1


def test_an_excess_over_zero_is_measured_against_the_least_upper_bound():
    cost = bounds_loss(flat(LEAST_UPPER), bounds(0, 0), ("image",))
    assert cost.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("share", "low", "high", "cost"),
    [(0.2, 0.4, NAN, 0.25), (0.6, NAN, 0.4, 0.25), (0.6, 0.4, NAN, 0), (0.5, NAN, NAN, 0)],
)
def test_a_missing_bound_asks_for_nothing(share, low, high, cost):
    assert bounds_loss(flat(share), bounds(low, high), ("image",)).item() == pytest.approx(cost)
    missing = bounds_barrier_loss(flat(0.5), bounds(NAN, NAN), ("image",), sharpness=5.0)
    assert missing.item() == 0


def test_a_lower_bound_of_0_asks_for_nothing():
    for loss in (bounds_loss, partial(bounds_barrier_loss, sharpness=5.0)):
        costs = [loss(flat(0.1), bounds(low, 0.4), ("image",)) for low in (0.0, NAN)]
        assert torch.equal(*costs)


def test_over_another_class_an_upper_bound_above_one_holds_too():
    logits = torch.stack([flat(0.75)[0, 0], flat(0.25)[0, 0]])[None]
    stated = torch.cat([bounds(0, 2), bounds(NAN, NAN)], 1)
    assert bounds_loss(logits, stated, (1, "image")).item() == pytest.approx(0.25 / 2)


@given(excess=st.floats(-100, 100), sharpness=st.floats(1, 50))
def test_the_barrier_is_its_formula(excess, sharpness):
    t = sharpness
    if excess <= -1 / t**2:
        literal = -math.log(-excess) / t
    else:
        literal = t * excess - math.log(1 / t**2) / t + 1 / t
    found = log_barrier(torch.tensor([excess], dtype=torch.float64), t)
    assert found.item() == pytest.approx(literal, abs=1e-9)


@pytest.mark.parametrize("sharpness", [1.0, 5.0, 50.0])
def test_the_two_parts_of_the_barrier_meet_with_one_value_and_one_slope(sharpness):
    edge = -1 / sharpness**2
    places = torch.tensor([edge * (1 + 1e-9), edge * (1 - 1e-9)], dtype=torch.float64)
    values = log_barrier(places.requires_grad_(), sharpness)
    (slopes,) = torch.autograd.grad(values.sum(), places)
    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slopes, torch.full_like(slopes, sharpness))


def test_the_barrier_pushes_before_a_bound_is_reached_and_the_penalty_does_not():
    for share, sign in ((0.21, -1), (0.39, 1)):
        logits = flat(share).requires_grad_()
        cost = bounds_barrier_loss(logits, bounds(0.2, 0.4), ("image",), sharpness=5.0)
        (gradient,) = torch.autograd.grad(cost, logits)
        assert (gradient.sign() == sign).all()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
@pytest.mark.parametrize("sharpness", [1.0, 5.0, 50.0])
def test_gradients_are_those_of_the_formulas(share, sharpness):
    logits = flat(share) + torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    for loss in (
        lambda z: bounds_loss(z, bounds(0.2, 0.4), ("image",)),
        lambda z: bounds_barrier_loss(z, bounds(0.2, 0.4), ("image",), sharpness=sharpness),
    ):
        assert torch.autograd.gradcheck(loss, [logits.requires_grad_()])


def chosen(stated, ratio, present, margin=0.1, common=None) -> list[float]:
    tags = torch.tensor([[ratio, present]])
    found = choose_bounds(
        torch.tensor([[stated]]), tags[:, :1], tags[:, 1:], margin=margin, common=common
    )
    return found.flatten().tolist()


UNKNOWN = (NAN, NAN)


@pytest.mark.parametrize(
    ("stated", "ratio", "present", "common", "expected"),
    [
        ((0.1, 0.2), 0.5, 0.0, (0.3, 0.4), (0.1, 0.2)),
        ((0.1, NAN), 0.5, 1.0, (0.3, 0.4), (0.1, NAN)),
        (UNKNOWN, 0.5, 1.0, (0.3, 0.4), (0.45, 0.55)),
        (UNKNOWN, NAN, 0.0, (0.3, 0.4), (0.0, 0.0)),
        (UNKNOWN, NAN, 1.0, (0.3, 0.4), (0.3, 0.4)),
        (UNKNOWN, NAN, NAN, (0.3, 0.4), (0.3, 0.4)),
        (UNKNOWN, NAN, 0.0, None, (0.0, 0.0)),
        (UNKNOWN, NAN, NAN, None, UNKNOWN),
    ],
)
def test_the_most_particular_bounds_that_are_known_are_chosen(
    stated, ratio, present, common, expected
):
    found = chosen(stated, ratio, present, common=common)
    assert found == pytest.approx(expected, nan_ok=True)


def test_without_a_margin_a_ratio_is_no_bound():
    assert chosen(UNKNOWN, 0.5, NAN, None, (0.3, 0.4)) == pytest.approx([0.3, 0.4])
