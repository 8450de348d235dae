"""Losses on bounds of an area ratio, and where the bounds come from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.scenes import NAN, cost_of, scene
from wsseg.imaging import Denominator
from wsseg.train.losses import Context, Loss, SizeBarrier, SizeBounds
from wsseg.train.losses.area import LEAST_UPPER, log_barrier

shares = st.floats(0.001, 0.999)
SHARP_5 = SizeBarrier(sharpness=5, final_sharpness=5)


def flat(share: float) -> Tensor:
    return torch.full((1, 1, 4, 4), share, dtype=torch.float64).logit()


def bounds(low: float, high: float) -> Tensor:
    return torch.tensor([[[low, high]]], dtype=torch.float64)


def cost(
    loss: Loss, logits: Tensor, stated: Tensor, denominators: tuple[Denominator, ...] = ()
) -> Tensor:
    return cost_of(loss, logits, denominators, bounds=stated)


@given(share=shares, low=st.floats(0.01, 0.5), width=st.floats(0, 0.4))
def test_the_penalty_is_the_squared_relative_distance_and_zero_within(share, low, width):
    high = low + width
    below, above = max(low - share, 0) / low, max(share - high, 0) / high
    found = cost(SizeBounds(), flat(share), bounds(low, high))
    assert found.item() == pytest.approx(below**2 + above**2, abs=1e-12)


def test_within_the_bounds_nothing_is_taught():
    logits = flat(0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(SizeBounds(), logits, bounds(0.2, 0.4)), logits)
    assert torch.count_nonzero(gradient) == 0


@pytest.mark.parametrize("low", [1e-5, 1e-2, 0.5])
def test_an_empty_prediction_costs_1_however_small_the_lower_bound(low):
    empty = torch.full((1, 1, 4, 4), -1e4)
    assert cost(SizeBounds(), empty, bounds(low, 1.0).float()).item() == 1


def test_an_excess_over_zero_is_measured_against_the_least_upper_bound():
    assert cost(SizeBounds(), flat(LEAST_UPPER), bounds(0, 0)).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("share", "low", "high", "expected"),
    [(0.2, 0.4, NAN, 0.25), (0.6, NAN, 0.4, 0.25), (0.6, 0.4, NAN, 0), (0.5, NAN, NAN, 0)],
)
def test_a_missing_bound_asks_for_nothing(share, low, high, expected):
    found = cost(SizeBounds(), flat(share), bounds(low, high))
    assert found.item() == pytest.approx(expected)
    assert cost(SHARP_5, flat(0.5), bounds(NAN, NAN)).item() == 0


@pytest.mark.parametrize("loss", [SizeBounds(), SHARP_5])
def test_a_lower_bound_of_0_asks_for_nothing(loss):
    assert torch.equal(*(cost(loss, flat(0.1), bounds(low, 0.4)) for low in (0.0, NAN)))


def test_over_another_class_an_upper_bound_above_one_holds_too():
    logits = torch.stack([flat(0.75)[0, 0], flat(0.25)[0, 0]])[None]
    stated = torch.cat([bounds(0, 2), bounds(NAN, NAN)], 1)
    found = cost(SizeBounds(), logits, stated, (1, "image"))
    assert found.item() == pytest.approx(0.25 / 2)


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
        (gradient,) = torch.autograd.grad(cost(SHARP_5, logits, bounds(0.2, 0.4)), logits)
        assert (gradient.sign() == sign).all()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.9])
@pytest.mark.parametrize(
    "loss", [SizeBounds(), *(SizeBarrier(sharpness=t, final_sharpness=t) for t in (1, 5, 50))]
)
def test_gradients_are_those_of_the_formulas_below_within_and_above_the_bounds(loss, share):
    logits = flat(share) + torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    stated = bounds(0.2, 0.4)
    assert torch.autograd.gradcheck(lambda z: cost(loss, z, stated), [logits.requires_grad_()])


def test_the_barrier_grows_sharper_from_the_start_of_a_run_to_its_end():
    outputs, batch = scene(0)
    loss = SizeBarrier(sharpness=2, final_sharpness=32)
    for progress, sharpness in ((0.0, 2.0), (0.5, 8.0), (0.75, 16.0), (1.0, 32.0)):
        found = loss(outputs, batch, Context(("image", "image"), progress=progress))
        fixed = SizeBarrier(sharpness=sharpness, final_sharpness=sharpness)
        literal = fixed(outputs, batch, Context(("image", "image")))
        torch.testing.assert_close(found, literal)


UNKNOWN = (NAN, NAN)


@pytest.mark.parametrize(
    ("stated", "ratio", "present", "settings", "expected"),
    [
        ((0.1, 0.2), 0.5, 0.0, {"common": (0.3, 0.4)}, (0.1, 0.2)),
        ((0.1, NAN), 0.5, 1.0, {"common": (0.3, 0.4)}, (0.1, NAN)),
        (UNKNOWN, 0.5, 1.0, {"common": (0.3, 0.4)}, (0.45, 0.55)),
        (UNKNOWN, NAN, 0.0, {"common": (0.3, 0.4)}, (0.0, 0.0)),
        (UNKNOWN, NAN, 1.0, {"common": (0.3, 0.4)}, (0.3, 0.4)),
        (UNKNOWN, NAN, NAN, {"common": (0.3, 0.4)}, (0.3, 0.4)),
        (UNKNOWN, NAN, 0.0, {}, (0.0, 0.0)),
        (UNKNOWN, NAN, NAN, {}, UNKNOWN),
        # Without a margin a ratio is no bound.
        (UNKNOWN, 0.5, NAN, {"margin": None, "common": (0.3, 0.4)}, (0.3, 0.4)),
    ],
)
def test_the_most_particular_bounds_that_are_known_are_chosen(
    stated, ratio, present, settings, expected
):
    batch = scene(0, count=1)[1]
    batch.bounds[:], batch.ratio[:], batch.present[:] = torch.tensor(stated), ratio, present
    found = SizeBounds(**settings).bounds(batch)
    assert found[0, 0].tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("kind", [SizeBounds, SizeBarrier])
def test_bounds_need_one_of_their_labels_unless_all_pictures_share_theirs(kind):
    assert kind().labels == {"bounds", "ratio", "present"}
    common = kind(margin=None, common=(0.01, 0.2))
    assert common.labels == frozenset()
    assert common.reads == {"bounds", "present"}
