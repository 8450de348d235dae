"""The divergence of the mean ratio from a prior, and the moving mean behind it."""

import math

import pytest
import torch
import torch.distributed as dist

from tests.train.scenes import NAN, cost_of
from wsseg.imaging import WssegError
from wsseg.train.losses import Context, MovingMean, RatioPrior
from wsseg.train.losses.area import prior_divergence


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(("mean", "prior"), [(0.3, 0.1), (0.01, 0.4), (0.2, 0.2)])
def test_the_loss_is_its_formula(mean, prior):
    literal = prior * math.log(prior / mean)
    literal += (1 - prior) * math.log((1 - prior) / (1 - mean))
    cost = prior_divergence(values(mean), values(prior))
    assert cost.item() == pytest.approx(literal, abs=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("prior", [0.0, 0.1, 1.0, NAN])
def test_cost_and_gradient_are_finite_at_the_ends_and_point_inwards(mean, prior):
    share = torch.tensor([mean], requires_grad=True)
    cost = prior_divergence(share, torch.tensor([prior]))
    (gradient,) = torch.autograd.grad(cost, share)
    assert torch.isfinite(cost)
    assert torch.isfinite(gradient).all()
    if prior == 0.1:
        assert gradient.item() * (mean - prior) > 0


def test_a_class_without_a_prior_counts_as_zero():
    alone = prior_divergence(values(0.3), values(0.1))
    torch.testing.assert_close(prior_divergence(values(0.3, 0.5), values(0.1, NAN)), alone / 2)


def test_the_mean_share_is_over_all_pictures_of_the_batch():
    logits = torch.stack([torch.full((1, 2, 2), p).logit() for p in (0.1, 0.3)])
    cost = cost_of(RatioPrior(prior=(0.05,)), logits)
    torch.testing.assert_close(cost, prior_divergence(torch.tensor([0.2]), torch.tensor([0.05])))


def test_a_prior_of_which_the_cases_know_nothing_is_not_called_far_from_theirs(caplog):
    context = RatioPrior(prior=(0.2, 0.1)).begin(Context(("image", "image"), (0.005, NAN)))
    assert context.prior == (0.2, 0.1)
    (warning,) = caplog.messages
    assert "the prior 0.2 of ratio_prior is far from 0.005" in warning


def test_the_mean_is_plain_at_first_and_fading_later():
    moving = MovingMean(1, decay=0.75)
    assert moving.follow(values(0.1)).item() == pytest.approx(0.1)
    assert moving.follow(values(0.3)).item() == pytest.approx(0.2)
    assert moving.follow(values(0.5)).item() == pytest.approx(0.3)
    for _ in range(4):
        before = moving.mean.item()
        after = moving.follow(values(0.9)).item()
    assert after == pytest.approx(0.75 * before + 0.25 * 0.9)


def test_the_gradient_is_the_batchs_own_and_does_not_shrink_with_the_decay():
    moving = MovingMean(1, decay=0.99)
    for _ in range(100):
        moving.follow(values(0.2))
    batch = values(0.4).requires_grad_()
    mean = moving.follow(batch)
    (gradient,) = torch.autograd.grad(mean.sum(), batch)
    assert mean.item() < 0.21
    assert gradient.item() == 1
    assert not moving.mean.requires_grad


def test_a_restored_mean_goes_on_exactly():
    first, second = MovingMean(2, decay=0.9), MovingMean(2, decay=0.9)
    batches = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    for batch in batches[:3]:
        first.follow(batch)
    state = first.state()
    expected = [first.follow(batch) for batch in batches[3:]]
    second.restore(state)
    for batch, wanted in zip(batches[3:], expected, strict=True):
        assert torch.equal(second.follow(batch), wanted)


def test_a_state_of_other_classes_is_refused():
    with pytest.raises(WssegError, match="3 classes instead of 2: train again"):
        MovingMean(2, 0.9).restore(MovingMean(3, 0.9).state())


def test_two_processes_follow_one_mean_each_with_its_own_gradient(monkeypatch):
    batches = [values(0.1).requires_grad_(), values(0.5).requires_grad_()]
    monkeypatch.setattr("wsseg.train.losses.base.world_size", lambda: 2)
    for batch, other in (batches, batches[::-1]):
        # What the sum over processes does to this one's tensor.
        monkeypatch.setattr(dist, "all_reduce", lambda t, other=other: t.add_(other.detach()))
        mean = MovingMean(1, decay=0.5).follow(batch)
        (gradient,) = torch.autograd.grad(mean.sum(), batch)
        torch.testing.assert_close(mean.detach(), values(0.3))
        torch.testing.assert_close(gradient, values(1.0))
    assert [batch.item() for batch in batches] == [0.1, 0.5]
