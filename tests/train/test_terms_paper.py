"""The paper's terms on marks, on confidence and on the image."""

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.paper import confidence_loss, reconstruction_loss, weak_mark_loss

B, K, H, W = 2, 2, 4, 5
AVERAGES: tuple[Literal["image", "mark"], ...] = ("image", "mark")

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits (b, k, h, w) in float64 and marks (b, h, w)."""
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    marks = torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (B, H, W), generator=draw)]
    return logits, marks


def all_terms(logits: Tensor, marks: Tensor) -> dict[str, Tensor]:
    image = torch.zeros_like(logits)
    return {
        "confidence": confidence_loss(logits),
        "reconstruction": reconstruction_loss(logits, image),
        **{f"mark {a}": weak_mark_loss(logits, marks, average=a) for a in AVERAGES},
    }


@given(seed=seeds)
def test_confidence_is_the_papers_formula(seed):
    logits, _ = random_case(seed)
    half = torch.full_like(logits, 0.5)
    literal = half.square().mean() - (half - torch.sigmoid(logits)).square().mean()
    torch.testing.assert_close(confidence_loss(logits), literal)


@given(seed=seeds)
def test_mark_term_is_the_papers_formula_where_that_is_defined(seed):
    logits, marks = random_case(seed)
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
    logits, marks = random_case(seed)
    means = []
    for image, picture in zip(logits, marks, strict=True):
        for number in range(1, K + 1):
            marked = -torch.log(torch.sigmoid(image[number - 1]))[picture == number]
            means.append(marked.mean() if marked.numel() else marked.new_zeros(()))
    literal = torch.stack(means).mean()
    torch.testing.assert_close(weak_mark_loss(logits, marks, average="mark"), literal)


def test_reconstruction_is_the_mean_absolute_difference():
    image = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    assert reconstruction_loss(torch.full_like(image, 0.5), image).item() == pytest.approx(0.25)


@given(seed=seeds)
def test_pixels_that_are_not_marked_change_nothing(seed):
    logits, marks = random_case(seed)
    other = torch.where((marks == 0).unsqueeze(1), random_case(seed + 1)[0], logits)
    for average in AVERAGES:
        before = weak_mark_loss(logits, marks, average=average)
        assert torch.equal(weak_mark_loss(other, marks, average=average), before)


@given(seed=seeds)
def test_marked_background_costs_what_no_mark_costs(seed):
    logits, marks = random_case(seed)
    unmarked = torch.where(marks == 255, 0, marks)
    for average in AVERAGES:
        before = weak_mark_loss(logits, unmarked, average=average)
        assert torch.equal(weak_mark_loss(logits, marks, average=average), before)


@given(seed=seeds)
def test_moving_pixels_and_their_marks_together_changes_no_term(seed):
    logits, marks = random_case(seed)
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(seed))
    moved = logits.flatten(2)[:, :, order].view_as(logits)
    moved_marks = marks.flatten(1)[:, order].view_as(marks)
    before, after = all_terms(logits, marks), all_terms(moved, moved_marks)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("average", AVERAGES)
def test_an_empty_mark_costs_nothing_and_teaches_nothing(average):
    logits = random_case(0)[0].requires_grad_()
    cost = weak_mark_loss(logits, torch.zeros(B, H, W, dtype=torch.long), average=average)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == 0
    assert torch.count_nonzero(gradient) == 0


def test_a_wrong_prediction_on_the_mark_is_pulled_up():
    logits = torch.full((1, 1, 2, 2), -5.0, requires_grad=True)
    marks = torch.tensor([[[1, 0], [0, 0]]])
    (gradient,) = torch.autograd.grad(weak_mark_loss(logits, marks, average="mark"), logits)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(-1, abs=0.01)
    assert torch.count_nonzero(gradient) == 1


def test_logits_without_a_batch_are_refused():
    with pytest.raises(TypeError):
        confidence_loss(torch.zeros(H, W))
