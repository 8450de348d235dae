"""Terms on a known area ratio, and the soft areas that they are computed from."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.imaging.definitions import Denominator
from wsseg.train.terms.areas import area_log_odds, known_shares, log_generalised_mean, soft_ratios
from wsseg.train.terms.size import area_l2_loss, size_kl_loss, size_loss

B, K, H, W = 2, 2, 4, 5
NAN = float("nan")
IMAGE: tuple[Denominator, ...] = ("image", "image")
FOREGROUND: tuple[Denominator, ...] = ("foreground", "foreground")
OTHER: tuple[Denominator, ...] = (1, 0)
DENOMINATORS = (IMAGE, FOREGROUND, OTHER)
LOSSES = (size_loss, size_kl_loss, area_l2_loss)

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Logits (b, k, h, w) in float64 and known ratios (b, k)."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, torch.rand(B, K, generator=draw, dtype=torch.float64)


def flat(share: float, pixels: int = 16) -> Tensor:
    """One map of that probability everywhere."""
    return torch.full((1, 1, 1, pixels), share, dtype=torch.float64).logit()


def known(*ratios: float) -> Tensor:
    return torch.tensor([ratios], dtype=torch.float64)


@given(seed=seeds)
def test_size_term_is_the_papers_formula(seed):
    logits, ratio = random_case(seed)
    area = torch.sigmoid(logits).sum((2, 3)) / (H * W)
    literal = (area - ratio).abs().mean()
    torch.testing.assert_close(size_loss(logits, ratio, IMAGE), literal)


@given(seed=seeds)
def test_soft_ratios_of_hard_maps_are_pixel_counts(seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (B, H, W), generator=draw)
    hard = torch.stack([labels == 1, labels == 2], 1)
    logits = hard.double() * 2000 - 1000
    counts = hard.sum((2, 3)).double()
    foreground = counts.sum(1, keepdim=True).clamp(min=1)
    sizes = (torch.tensor(H * W), foreground, counts.flip(1).clamp(min=1))
    for denominators, size in zip(DENOMINATORS, sizes, strict=True):
        torch.testing.assert_close(soft_ratios(logits, denominators), counts / size)


@given(seed=seeds)
def test_foreground_is_the_probability_of_any_class(seed):
    logits, _ = random_case(seed)
    p = torch.sigmoid(logits)
    size = (1 - (1 - p).prod(1)).sum((1, 2))
    literal = p.sum((2, 3)) / size.clamp(min=1)[:, None]
    torch.testing.assert_close(soft_ratios(logits, FOREGROUND), literal)


@pytest.mark.parametrize("denominators", DENOMINATORS)
@given(seed=seeds)
def test_log_odds_are_those_of_the_soft_ratio_as_a_share(denominators, seed):
    logits, _ = random_case(seed)
    shares = torch.sigmoid(area_log_odds(logits, denominators))
    p = torch.sigmoid(logits)
    areas = p.sum((2, 3))
    if denominators is OTHER:
        literal = areas / (areas + areas.flip(1))
    elif denominators is FOREGROUND:
        literal = areas / (1 - (1 - p).prod(1)).sum((1, 2))[:, None]
    else:
        literal = areas / (H * W)
    torch.testing.assert_close(shares, literal)


def test_a_class_alone_is_all_of_the_foreground():
    odds = area_log_odds(flat(0.3).float().requires_grad_(), ("foreground",))
    assert torch.sigmoid(odds).item() == 1


def test_a_ratio_over_a_class_may_exceed_one_and_its_share_may_not():
    shares = known_shares(known(3.0, 0.5), (1, "image"))
    torch.testing.assert_close(shares, known(0.75, 0.5))
    assert known_shares(known(NAN, 0.5), (1, "image")).isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 1.0])
def test_kl_is_its_formula(share, ratio):
    gain = ratio * math.log(ratio / share) if ratio else 0.0
    rest = (1 - ratio) * math.log((1 - ratio) / (1 - share)) if ratio < 1 else 0.0
    cost = size_kl_loss(flat(share), known(ratio), ("image",))
    assert cost.item() == pytest.approx(gain + rest, abs=1e-12)


@pytest.mark.parametrize("denominators", DENOMINATORS)
@given(seed=seeds)
def test_kl_is_zero_at_the_known_ratio_and_positive_elsewhere(denominators, seed):
    logits, ratio = random_case(seed)
    met = soft_ratios(logits, denominators)
    if denominators is OTHER:
        met = torch.sigmoid(logits).sum((2, 3)) / torch.sigmoid(logits).sum((2, 3)).flip(1)
    assert size_kl_loss(logits, met, denominators).item() == pytest.approx(0, abs=1e-9)
    assert size_kl_loss(logits, ratio, denominators).item() > 0


@given(seed=seeds)
def test_the_gradient_of_kl_in_the_log_odds_of_the_share_is_its_error(seed):
    logits, ratio = random_case(seed)
    shift = torch.zeros(B, K, dtype=torch.float64, requires_grad=True)
    odds = area_log_odds(logits, IMAGE)
    spread = (logits.new_zeros(1) + shift)[..., None, None].expand(B, K, 1, 1)
    # One pixel of the same log-odds stands for the map.
    flat_map = odds.detach()[..., None, None] + spread
    (gradient,) = torch.autograd.grad(size_kl_loss(flat_map, ratio, IMAGE), shift)
    torch.testing.assert_close(gradient * B * K, torch.sigmoid(odds) - ratio)


def test_an_empty_prediction_of_something_is_pulled_up_by_kl_and_hardly_by_the_absolute_error():
    logits = torch.full((1, 1, 8, 8), -30.0, requires_grad=True)
    pull = {}
    for loss in (size_loss, size_kl_loss):
        (gradient,) = torch.autograd.grad(loss(logits, known(0.1).float(), ("image",)), logits)
        pull[loss] = -gradient.sum().item()
    assert pull[size_kl_loss] == pytest.approx(0.1, rel=1e-4)
    assert pull[size_loss] < 1e-10


def test_kl_still_pulls_where_a_ratio_over_a_class_is_too_large():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)  # S is 1, as is usual at the start
    with torch.no_grad():
        logits[:, 0] += 2
    (gradient,) = torch.autograd.grad(size_kl_loss(logits, known(0.2, NAN).float(), OTHER), logits)
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1] < 0).all()


def test_the_squared_error_leaves_absent_classes_alone():
    logits = torch.cat([flat(0.5), flat(0.5)], 1)
    cost = area_l2_loss(logits, known(0.0, 0.1), IMAGE)
    assert cost.item() == pytest.approx(0.4**2 / 2)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("denominators", DENOMINATORS)
def test_an_unknown_ratio_costs_nothing_and_teaches_nothing(loss, denominators):
    logits, ratio = random_case(0)
    logits.requires_grad_()
    ratio[:] = NAN
    cost = loss(logits, ratio, denominators)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == 0
    assert torch.count_nonzero(gradient) == 0
    ratio[:, 1] = 0.5
    (gradient,) = torch.autograd.grad(loss(logits, ratio, IMAGE), logits)
    assert torch.count_nonzero(gradient[:, 0]) == 0
    assert torch.count_nonzero(gradient[:, 1]) == B * H * W


@pytest.mark.parametrize("wanted", [0.0, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_size_of_a_saturated_map_meets_the_ratios_0_and_1(loss, wanted):
    logits = torch.full((1, 1, H, W), 1e4 if wanted else -1e4)
    assert loss(logits, known(wanted).float(), ("image",)).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("denominators", DENOMINATORS)
def test_cost_and_gradient_are_finite_for_any_saturated_maps_and_any_ratio(loss, denominators):
    for first, second in itertools.product((0.0, 1e4, -1e4), repeat=2):
        logits = torch.tensor([first, second]).view(1, K, 1, 1).repeat(4, 1, H, W)
        ratio = torch.tensor([0.0, 0.2, 1.0, NAN])[:, None].repeat(1, K)
        cost = loss(logits.requires_grad_(), ratio, denominators)
        (gradient,) = torch.autograd.grad(cost, logits)
        assert torch.isfinite(cost)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("denominators", DENOMINATORS)
def test_gradients_are_those_of_the_formulas(loss, denominators):
    logits, ratio = random_case(1)
    ratio[0, 0] = NAN
    assert torch.autograd.gradcheck(
        lambda z: loss(z, ratio, denominators), [logits.requires_grad_()], fast_mode=True
    )


@given(seed=seeds)
def test_the_generalised_mean_is_its_formula(seed):
    logits, _ = random_case(seed)
    literal = torch.sigmoid(logits).pow(4).mean((2, 3)).pow(0.25).log()
    torch.testing.assert_close(log_generalised_mean(logits, 4.0), literal)
