"""The term by which another network teaches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.distillation import distillation_loss, softened

shares = st.floats(0.001, 0.999)


def maps(*values: float) -> Tensor:
    return torch.tensor([[[values]]], dtype=torch.float64)


@given(p=shares, q=shares, temperature=st.floats(0.5, 8))
def test_distillation_is_its_formula_in_nats(p, q, temperature):
    def soft(share: float) -> float:
        return 1 / (1 + math.exp(-math.log(share / (1 - share)) / temperature))

    a, b = soft(q), soft(p)
    divergence = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    cost = distillation_loss(maps(p).logit(), maps(q), temperature=temperature)
    assert cost.item() == pytest.approx(temperature**2 * divergence, rel=1e-6, abs=1e-12)


@given(q=st.floats(0, 1), temperature=st.floats(0.5, 8))
def test_softening_divides_the_logit_and_keeps_certainty_and_the_middle(q, temperature):
    found = softened(maps(q), temperature)
    assert found.item() == pytest.approx((maps(q).logit() / temperature).sigmoid().item())
    for kept in (0.0, 0.5, 1.0):
        assert softened(maps(kept), temperature).item() == kept


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_agreement_costs_nothing_and_every_other_answer_more(temperature):
    q = maps(0.02, 0.3, 0.5, 0.97)
    assert distillation_loss(q.logit(), q, temperature=temperature).item() == pytest.approx(0)
    for moved in (q * 0.9, q * 0.9 + 0.1):
        assert distillation_loss(moved.logit(), q, temperature=temperature) > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_right_and_none_goes_to_the_teacher(temperature):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    soft = torch.rand(2, 2, 3, 3, generator=draw, dtype=torch.float64).requires_grad_()

    def cost(answer: Tensor) -> Tensor:
        return distillation_loss(answer, soft, temperature=temperature)

    assert torch.autograd.gradcheck(cost, (logits,))
    (gradient,) = torch.autograd.grad(cost(logits), soft, allow_unused=True)
    assert gradient is None


def test_the_gradient_does_not_fade_as_the_temperature_rises():
    # In the limit it is that of the squared distance of the logits, times 1/8 a pixel.
    logits, soft = maps(1.0, -2.0).requires_grad_(), maps(0.6, 0.3)
    cost = distillation_loss(logits, soft, temperature=1e3)
    (gradient,) = torch.autograd.grad(cost, logits)
    expected = (logits - soft.logit()).detach() / 4 / 2
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_certain_teacher_and_an_extreme_student_stay_finite(dtype):
    logits = torch.tensor([[[[1e4, -1e4, 1e4, 0]]]], dtype=dtype).requires_grad_()
    cost = distillation_loss(logits, torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]]), temperature=2.0)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert torch.isfinite(cost)
    assert torch.isfinite(gradient).all()
