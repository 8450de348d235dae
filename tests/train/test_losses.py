"""The paper's four loss terms."""

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.losses import (
    confidence_loss,
    reconstruction_loss,
    size_loss,
    soft_ratios,
    weak_mark_loss,
)
from wsseg.train.ratios import Denominator

B, K, H, W = 2, 2, 4, 5
NAN = float("nan")
AVERAGES: tuple[Literal["image", "mark"], ...] = ("image", "mark")
DENOMINATORS: tuple[tuple[Denominator, ...], ...] = (
    ("image", "image"),
    ("foreground", "foreground"),
    (1, 0),
)

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (b, k, h, w) in float64, marks (b, h, w) and known ratios (b, k)."""
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    marks = torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (B, H, W), generator=draw)]
    return logits, marks, torch.rand(B, K, generator=draw, dtype=torch.float64)


def all_terms(logits: Tensor, marks: Tensor, ratio: Tensor) -> dict[str, Tensor]:
    image = torch.zeros_like(logits)
    return {
        "confidence": confidence_loss(logits),
        "reconstruction": reconstruction_loss(logits, image),
        **{f"mark {a}": weak_mark_loss(logits, marks, average=a) for a in AVERAGES},
        **{f"size {d}": size_loss(logits, ratio, d) for d in DENOMINATORS},
    }


@given(seed=seeds)
def test_confidence_is_the_papers_formula(seed):
    logits, _, _ = random_case(seed)
    half = torch.full_like(logits, 0.5)
    literal = half.square().mean() - (half - torch.sigmoid(logits)).square().mean()
    torch.testing.assert_close(confidence_loss(logits), literal)


@given(seed=seeds)
def test_mark_term_is_the_papers_formula_where_that_is_defined(seed):
    logits, marks, _ = random_case(seed)
    costs = []
    for image, picture in zip(logits, marks, strict=True):
        for number in range(1, K + 1):
            weak, probability = (picture == number).double(), torch.sigmoid(image[number - 1])
            first = torch.where(weak == 1, weak * torch.log(weak * probability), 0)
            second = (1 - weak) * torch.log(1 - weak * probability)
            costs.append(-(first + second))
    literal = torch.stack(costs).mean()
    torch.testing.assert_close(weak_mark_loss(logits, marks, average="image"), literal)


@given(seed=seeds)
def test_mark_average_is_the_mean_over_the_marked_pixels_of_each_image_and_class(seed):
    logits, marks, _ = random_case(seed)
    means = []
    for image, picture in zip(logits, marks, strict=True):
        for number in range(1, K + 1):
            marked = -torch.log(torch.sigmoid(image[number - 1]))[picture == number]
            means.append(marked.mean() if marked.numel() else marked.new_zeros(()))
    literal = torch.stack(means).mean()
    torch.testing.assert_close(weak_mark_loss(logits, marks, average="mark"), literal)


@given(seed=seeds)
def test_size_term_is_the_papers_formula(seed):
    logits, _, ratio = random_case(seed)
    area = torch.sigmoid(logits).sum((2, 3)) / (H * W)
    literal = (area - ratio).abs().mean()
    torch.testing.assert_close(size_loss(logits, ratio, ("image", "image")), literal)


@given(seed=seeds)
def test_soft_ratios_of_hard_maps_are_pixel_counts(seed):
    _, marks, _ = random_case(seed)
    one, two = (marks == 1), (marks == 2)
    logits = torch.stack([one, two], 1).double() * 2000 - 1000
    counts = torch.stack([one, two], 1).sum((2, 3)).double()
    foreground = counts.sum(1, keepdim=True).clamp(min=1)
    other = counts.flip(1).clamp(min=1)
    for denominators, sizes in zip(
        DENOMINATORS, (torch.tensor(H * W), foreground, other), strict=True
    ):
        torch.testing.assert_close(soft_ratios(logits, denominators), counts / sizes)


@given(seed=seeds)
def test_foreground_is_the_probability_of_any_class(seed):
    logits, _, _ = random_case(seed)
    p = torch.sigmoid(logits)
    size = (1 - (1 - p).prod(1)).sum((1, 2))
    literal = p.sum((2, 3)) / size.clamp(min=1)[:, None]
    torch.testing.assert_close(soft_ratios(logits, ("foreground", "foreground")), literal)


def test_reconstruction_is_the_mean_absolute_difference():
    image = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    assert reconstruction_loss(torch.full_like(image, 0.5), image).item() == pytest.approx(0.25)


@given(seed=seeds)
def test_every_term_of_a_batch_is_the_mean_over_its_images(seed):
    logits, marks, ratio = random_case(seed)
    marks[0], ratio[0] = 0, NAN  # an image without annotation counts in the mean all the same
    whole = all_terms(logits, marks, ratio)
    halves = [all_terms(logits[i : i + 1], marks[i : i + 1], ratio[i : i + 1]) for i in range(B)]
    for name, value in whole.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)


@given(seed=seeds)
def test_pixels_that_are_not_marked_change_nothing(seed):
    logits, marks, _ = random_case(seed)
    other = torch.where((marks == 0).unsqueeze(1), random_case(seed + 1)[0], logits)
    for average in AVERAGES:
        before = weak_mark_loss(logits, marks, average=average)
        assert torch.equal(weak_mark_loss(other, marks, average=average), before)


@given(seed=seeds)
def test_marked_background_costs_what_no_mark_costs(seed):
    logits, marks, _ = random_case(seed)
    unmarked = torch.where(marks == 255, 0, marks)
    for average in AVERAGES:
        before = weak_mark_loss(logits, unmarked, average=average)
        assert torch.equal(weak_mark_loss(logits, marks, average=average), before)


@given(seed=seeds)
def test_moving_pixels_and_their_marks_together_changes_no_term(seed):
    logits, marks, ratio = random_case(seed)
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(seed))
    moved = logits.flatten(2)[:, :, order].view_as(logits)
    moved_marks = marks.flatten(1)[:, order].view_as(marks)
    before, after = all_terms(logits, marks, ratio), all_terms(moved, moved_marks, ratio)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("average", AVERAGES)
def test_an_empty_mark_costs_nothing_and_teaches_nothing(average):
    logits = random_case(0)[0].requires_grad_()
    cost = weak_mark_loss(logits, torch.zeros(B, H, W, dtype=torch.long), average=average)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == 0
    assert torch.count_nonzero(gradient) == 0


def test_an_unknown_ratio_costs_nothing_and_teaches_nothing():
    logits, _, ratio = random_case(0)
    logits.requires_grad_()
    ratio[:, 0] = NAN
    (gradient,) = torch.autograd.grad(size_loss(logits, ratio, ("image", "image")), logits)
    assert torch.count_nonzero(gradient[:, 0]) == 0
    assert torch.count_nonzero(gradient[:, 1]) == B * H * W


@pytest.mark.parametrize("known", [0.0, 1.0])
def test_the_size_of_a_saturated_map_meets_the_ratios_0_and_1(known):
    logits = torch.full((1, 1, H, W), 1e4 if known else -1e4)
    assert size_loss(logits, torch.tensor([[known]]), ("image",)).item() == 0
    assert size_loss(logits, torch.tensor([[1 - known]]), ("image",)).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("extreme", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("known", [0.0, 1.0, NAN])
def test_terms_and_gradients_are_finite_and_full_precision(dtype, extreme, known):
    logits = torch.full((B, K, H, W), extreme, dtype=dtype, requires_grad=True)
    marks = torch.zeros(B, H, W, dtype=torch.long)
    marks[0, 0] = 1
    for name, cost in all_terms(logits, marks, torch.full((B, K), known)).items():
        (gradient,) = torch.autograd.grad(cost, logits, retain_graph=True)
        assert cost.dtype == torch.float32, name
        assert torch.isfinite(cost), name
        assert torch.isfinite(gradient).all(), name


def test_autocast_changes_no_term():
    logits, marks, ratio = (tensor for tensor in random_case(3))
    logits, ratio = logits.float(), ratio.float()
    outside = all_terms(logits, marks, ratio)
    with torch.autocast("cpu", torch.bfloat16):
        inside = all_terms(logits, marks, ratio)
    for name, value in outside.items():
        assert torch.equal(inside[name], value), name


def test_gradients_are_those_of_the_formulas():
    logits, marks, ratio = random_case(1)
    logits.requires_grad_()
    marks[1], ratio[0, 0] = 0, NAN
    for name in all_terms(logits, marks, ratio):
        assert torch.autograd.gradcheck(
            lambda z, name=name: all_terms(z, marks, ratio)[name], [logits]
        ), name


def test_float64_stays_float64():
    assert {cost.dtype for cost in all_terms(*random_case(0)).values()} == {torch.float64}


def test_a_wrong_prediction_on_the_mark_is_pulled_up():
    logits = torch.full((1, 1, 2, 2), -5.0, requires_grad=True)
    marks = torch.tensor([[[1, 0], [0, 0]]])
    (gradient,) = torch.autograd.grad(weak_mark_loss(logits, marks, average="mark"), logits)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(-1, abs=0.01)
    assert torch.count_nonzero(gradient) == 1


def test_logits_without_a_batch_are_refused():
    with pytest.raises(TypeError):
        confidence_loss(torch.zeros(H, W))
