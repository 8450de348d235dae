"""Losses on a known area ratio and on image tags, and the soft areas behind them."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.train.scenes import NAN, any_seed, cost_of
from wsseg.imaging import Denominator
from wsseg.train.losses import (
    AreaL2,
    Size,
    SizeKl,
    TagInclusion,
    TagSize,
    TagSuppression,
    area_log_odds,
    known_shares,
    soft_ratios,
)

B, K, H, W = 2, 2, 4, 5
IMAGE: tuple[Denominator, ...] = ("image", "image")
FOREGROUND: tuple[Denominator, ...] = ("foreground", "foreground")
OTHER: tuple[Denominator, ...] = (1, 0)
DENOMINATORS = (IMAGE, FOREGROUND, OTHER)
LOSSES = (Size(), SizeKl(), AreaL2())


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Logits (b, k, h, w) in float64 and known ratios (b, k)."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, torch.rand(B, K, generator=draw, dtype=torch.float64)


def flat(*shares: float) -> Tensor:
    """One map with these probabilities, each in four pixels."""
    return torch.tensor([[[shares] * 4]], dtype=torch.float64).logit()


def known(*values: float) -> Tensor:
    """What is known of each class of one image."""
    return torch.tensor([values], dtype=torch.float64)


@any_seed
def test_size_is_the_papers_formula(seed):
    logits, ratio = random_case(seed)
    area = torch.sigmoid(logits).sum((2, 3)) / (H * W)
    literal = (area - ratio).abs().mean()
    torch.testing.assert_close(cost_of(Size(), logits, ratio=ratio), literal)


@any_seed
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


@any_seed
def test_foreground_is_the_probability_of_any_class(seed):
    logits, _ = random_case(seed)
    p = torch.sigmoid(logits)
    size = (1 - (1 - p).prod(1)).sum((1, 2))
    literal = p.sum((2, 3)) / size.clamp(min=1)[:, None]
    torch.testing.assert_close(soft_ratios(logits, FOREGROUND), literal)


@pytest.mark.parametrize("denominators", DENOMINATORS)
@any_seed
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
    cost = cost_of(SizeKl(), flat(share), ratio=known(ratio))
    assert cost.item() == pytest.approx(gain + rest, abs=1e-12)


@pytest.mark.parametrize("denominators", DENOMINATORS)
@any_seed
def test_kl_is_zero_at_the_known_ratio_and_positive_elsewhere(denominators, seed):
    logits, ratio = random_case(seed)
    met = soft_ratios(logits, denominators)
    if denominators is OTHER:
        met = torch.sigmoid(logits).sum((2, 3)) / torch.sigmoid(logits).sum((2, 3)).flip(1)
    at_ratio = cost_of(SizeKl(), logits, denominators, ratio=met)
    assert at_ratio.item() == pytest.approx(0, abs=1e-9)
    assert cost_of(SizeKl(), logits, denominators, ratio=ratio).item() > 0


@any_seed
def test_the_gradient_of_kl_in_the_log_odds_of_the_share_is_its_error(seed):
    logits, ratio = random_case(seed)
    shift = torch.zeros(B, K, dtype=torch.float64, requires_grad=True)
    odds = area_log_odds(logits, IMAGE)
    # One pixel of the same log-odds stands for the map.
    pixel = (odds.detach() + shift)[..., None, None]
    (gradient,) = torch.autograd.grad(cost_of(SizeKl(), pixel, ratio=ratio), shift)
    torch.testing.assert_close(gradient * B * K, torch.sigmoid(odds) - ratio)


def test_an_empty_prediction_of_something_is_pulled_up_by_kl_and_hardly_by_the_absolute_error():
    logits = torch.full((1, 1, 8, 8), -30.0, requires_grad=True)
    pull = []
    for loss in (SizeKl(), Size()):
        (gradient,) = torch.autograd.grad(cost_of(loss, logits, ratio=known(0.1).float()), logits)
        pull.append(-gradient.sum().item())
    assert pull[0] == pytest.approx(0.1, rel=1e-4)
    assert pull[1] < 1e-10


def test_kl_still_pulls_where_a_ratio_over_a_class_is_too_large():
    logits = torch.zeros(1, 2, 2, 2, requires_grad=True)  # S is 1, as is usual at the start
    with torch.no_grad():
        logits[:, 0] += 2
    cost = cost_of(SizeKl(), logits, OTHER, ratio=known(0.2, NAN).float())
    (gradient,) = torch.autograd.grad(cost, logits)
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1] < 0).all()


def test_the_squared_error_leaves_absent_classes_alone():
    logits = torch.cat([flat(0.5), flat(0.5)], 1)
    cost = cost_of(AreaL2(), logits, ratio=known(0.0, 0.1))
    assert cost.item() == pytest.approx(0.4**2 / 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_class_whose_ratio_is_known_is_taught(loss):
    logits, ratio = random_case(0)
    ratio[:, 0], ratio[:, 1] = NAN, 0.5
    cost = cost_of(loss, logits.requires_grad_(), ratio=ratio)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert torch.count_nonzero(gradient[:, 0]) == 0
    assert torch.count_nonzero(gradient[:, 1]) == B * H * W


@pytest.mark.parametrize("wanted", [0.0, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_size_of_a_saturated_map_meets_the_ratios_0_and_1(loss, wanted):
    logits = torch.full((1, 1, H, W), 1e4 if wanted else -1e4)
    assert cost_of(loss, logits, ratio=known(wanted).float()).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("denominators", DENOMINATORS)
def test_cost_and_gradient_are_finite_for_any_saturated_maps_and_any_ratio(loss, denominators):
    for first, second in itertools.product((0.0, 1e4, -1e4), repeat=2):
        logits = torch.tensor([first, second]).view(1, K, 1, 1).repeat(4, 1, H, W)
        ratio = torch.tensor([0.0, 0.2, 1.0, NAN])[:, None].repeat(1, K)
        cost = cost_of(loss, logits.requires_grad_(), denominators, ratio=ratio)
        (gradient,) = torch.autograd.grad(cost, logits)
        assert torch.isfinite(cost)
        assert torch.isfinite(gradient).all()


def test_suppression_is_the_mean_of_minus_log_one_minus_p_and_only_of_absent_classes():
    shares = (0.1, 0.2, 0.3, 0.5)
    literal = -sum(math.log(1 - p) for p in shares) / 4
    for present, cost in ((0, literal), (1, 0), (NAN, 0)):
        found = cost_of(TagSuppression(), flat(*shares), present=known(present))
        assert found.item() == pytest.approx(cost)


@any_seed
def test_inclusion_is_minus_log_of_the_generalised_mean_and_only_of_present_classes(seed):
    logits, _ = random_case(seed)
    literal = -torch.sigmoid(logits).pow(4).mean((2, 3)).pow(0.25).log()
    present = torch.tensor([[1.0, 0], [NAN, 1]])
    cost = cost_of(TagInclusion(), logits, present=present)
    torch.testing.assert_close(cost, torch.where(present == 1, literal, 0).mean())


def test_a_large_exponent_asks_for_one_pixel():
    logits = torch.full((1, 1, 2, 2), 1e-6, dtype=torch.float64)
    logits[..., 0, 0] = 1 - 1e-9
    cost = cost_of(TagInclusion(exponent=64), logits.logit(), present=known(1))
    assert cost.item() == pytest.approx(math.log(4) / 64)


def test_inclusion_raises_the_likeliest_pixel_most():
    logits = torch.tensor([[[[0.1, 0.2, 0.3, 0.9]]]]).logit().requires_grad_()
    cost = cost_of(TagInclusion(exponent=8), logits, present=known(1))
    (gradient,) = torch.autograd.grad(cost, logits)
    assert (gradient < 0).all()
    assert gradient.argmin() == 3


@pytest.mark.parametrize(("share", "cost"), [(0.05, 0.25), (0.1, 0), (0.5, 0)])
def test_tag_size_is_the_squared_relative_lack_of_a_present_class(share, cost):
    for present, expected in ((1, cost), (0, 0), (NAN, 0)):
        found = cost_of(TagSize(smallest=0.1), flat(share), present=known(present))
        assert found.item() == pytest.approx(expected)
