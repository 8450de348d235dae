"""Losses that compare the answer with another: to a moved view, by the average, by a teacher."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.scenes import cost_of
from wsseg.train.losses import Distillation, Equivariance, Teacher
from wsseg.train.losses.pixelwise import softened

shares = st.floats(0.001, 0.999)


def maps(*values: float) -> Tensor:
    return torch.tensor([[[values]]], dtype=torch.float64)


def distilled(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    return cost_of(Distillation(temperature=temperature), logits, soft=soft)


def test_equivariance_is_the_mean_distance_and_teaches_both():
    one, other = maps(0.2, 0.6).logit().requires_grad_(), maps(0.5, 0.5).logit().requires_grad_()
    cost = cost_of(Equivariance(), one, moved=other)
    assert cost.item() == pytest.approx(0.2)
    for gradient in torch.autograd.grad(cost, (one, other)):
        assert torch.count_nonzero(gradient) == 2


def test_the_teacher_is_followed_and_not_taught():
    student = maps(0.2, 0.6).logit().requires_grad_()
    teacher = maps(0.5, 0.5).requires_grad_()
    cost = cost_of(Teacher(), student, teacher=teacher)
    assert cost.item() == pytest.approx((0.09 + 0.01) / 2)
    gradients = torch.autograd.grad(cost, (student, teacher), allow_unused=True)
    assert torch.count_nonzero(gradients[0]) == 2
    assert gradients[1] is None


@given(p=shares, q=shares, temperature=st.floats(0.5, 8))
def test_distillation_is_its_formula_in_nats(p, q, temperature):
    def soft(share: float) -> float:
        return 1 / (1 + math.exp(-math.log(share / (1 - share)) / temperature))

    a, b = soft(q), soft(p)
    divergence = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    cost = distilled(maps(p).logit(), maps(q), temperature)
    assert cost.item() == pytest.approx(temperature**2 * divergence, rel=1e-6, abs=1e-12)


@given(q=st.floats(0, 1), temperature=st.floats(0.5, 8))
def test_softening_divides_the_logit_and_keeps_certainty_and_the_middle(q, temperature):
    found = softened(maps(q), temperature)
    assert found.item() == pytest.approx((maps(q).logit() / temperature).sigmoid().item())
    for fixed in (0.0, 0.5, 1.0):
        assert softened(maps(fixed), temperature).item() == fixed


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_agreement_costs_nothing_and_every_other_answer_more(temperature):
    q = maps(0.02, 0.3, 0.5, 0.97)
    assert distilled(q.logit(), q, temperature).item() == pytest.approx(0)
    for moved in (q * 0.9, q * 0.9 + 0.1):
        assert distilled(moved.logit(), q, temperature) > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_right_and_none_goes_to_the_teacher(temperature):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    soft = torch.rand(2, 2, 3, 3, generator=draw, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda answer: distilled(answer, soft, temperature), (logits,))
    cost = distilled(logits, soft, temperature)
    (gradient,) = torch.autograd.grad(cost, soft, allow_unused=True)
    assert gradient is None


def test_the_gradient_does_not_fade_as_the_temperature_rises():
    # In the limit it is that of the squared distance of the logits, times 1/8 a pixel.
    logits, soft = maps(1.0, -2.0).requires_grad_(), maps(0.6, 0.3)
    (gradient,) = torch.autograd.grad(distilled(logits, soft, 100.0), logits)
    expected = (logits - soft.logit()).detach() / 4 / 2
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_certain_teacher_and_an_extreme_student_stay_finite(dtype):
    logits = torch.tensor([[[[1e4, -1e4, 1e4, 0]]]], dtype=dtype).requires_grad_()
    cost = distilled(logits, torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]]), 2.0)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert torch.isfinite(cost)
    assert torch.isfinite(gradient).all()
