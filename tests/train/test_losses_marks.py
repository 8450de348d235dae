"""Losses on weak marks: positive alone as in the paper, and positive and negative."""

import pytest
import torch
from torch import Tensor

from tests.train.scenes import any_seed, cost_of
from wsseg.train.losses import Confidence, Loss, PartialCrossEntropy, PartialDice, WeakMark

OF_IMAGE, OF_MARK = WEAK = (WeakMark(average="image"), WeakMark(average="mark"))
PARTIAL = (PartialCrossEntropy(), PartialDice())
B, K, H, W = 2, 2, 4, 5


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Logits (b, k, h, w) in float64 and marks (b, h, w)."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, H, W, generator=draw, dtype=torch.float64)
    return logits, torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (B, H, W), generator=draw)]


def cost(loss: Loss, logits: Tensor, marks: Tensor) -> Tensor:
    return cost_of(loss, logits, marks=marks)


def of_each_class(logits: Tensor, marks: Tensor):
    """The probabilities of each image and class, with its marks and its label."""
    for image, picture in zip(logits, marks, strict=True):
        for label, layer in enumerate(image, 1):
            yield torch.sigmoid(layer), picture, label


def mean_of(*values: Tensor) -> Tensor:
    """The sum of the means of those that have any entry."""
    return sum((part.mean() for part in values if part.numel()), torch.zeros(()).double())


@any_seed
def test_the_mark_loss_is_the_papers_formula_where_that_is_defined(seed):
    logits, marks = random_case(seed)
    costs = []
    for probability, picture, label in of_each_class(logits, marks):
        weak = (picture == label).double()
        first = torch.where(weak == 1, weak * torch.log(weak * probability), 0)
        second = (1 - weak) * torch.log(1 - weak * probability)
        costs.append(-(first + second))
    torch.testing.assert_close(cost(OF_IMAGE, logits, marks), torch.stack(costs).mean())


@any_seed
def test_the_mark_average_is_over_the_marked_pixels_of_each_image_and_class(seed):
    logits, marks = random_case(seed)
    means = [
        mean_of(-p[picture == label].log()) for p, picture, label in of_each_class(logits, marks)
    ]
    torch.testing.assert_close(cost(OF_MARK, logits, marks), torch.stack(means).mean())


@any_seed
def test_cross_entropy_is_the_mean_over_positives_plus_the_mean_over_negatives(seed):
    logits, marks = random_case(seed)
    means = [
        mean_of(-p[picture == label].log(), -(1 - p[(picture != 0) & (picture != label)]).log())
        for p, picture, label in of_each_class(logits, marks)
    ]
    literal = torch.stack(means).mean()
    torch.testing.assert_close(cost(PartialCrossEntropy(), logits, marks), literal)


def test_dice_of_hard_maps_counts_marked_pixels():
    marks = torch.tensor([[[1, 1, 255, 0, 0]]])
    hard = torch.tensor([[[[1, 0, 1, 1, 1]]]]) * 2000.0 - 1000
    # One of two hit, one of the background taken: overlap 1, sizes 2 and 2, one pixel smoothing.
    assert cost(PartialDice(), hard, marks).item() == pytest.approx(1 - 3 / 5)


@pytest.mark.parametrize("loss", WEAK + PARTIAL)
@any_seed
def test_pixels_that_are_not_marked_change_nothing_and_are_taught_nothing(loss, seed):
    logits, marks = random_case(seed)
    free = (marks == 0).unsqueeze(1)
    other = torch.where(free, random_case(seed + 1)[0], logits)
    assert torch.equal(cost(loss, other, marks), cost(loss, logits, marks))
    (gradient,) = torch.autograd.grad(cost(loss, logits.requires_grad_(), marks), logits)
    assert torch.count_nonzero(gradient * free) == 0


@pytest.mark.parametrize("loss", WEAK)
@any_seed
def test_for_the_paper_marked_background_is_no_mark(loss, seed):
    logits, marks = random_case(seed)
    unmarked = torch.where(marks == 255, 0, marks)
    assert torch.equal(cost(loss, logits, marks), cost(loss, logits, unmarked))


@pytest.mark.parametrize("loss", [*WEAK, Confidence()])
@any_seed
def test_for_the_paper_pixels_may_change_places_with_their_marks(loss, seed):
    logits, marks = random_case(seed)
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(seed))
    moved = logits.flatten(2)[:, :, order].view_as(logits)
    moved_marks = marks.flatten(1)[:, order].view_as(marks)
    torch.testing.assert_close(cost(loss, moved, moved_marks), cost(loss, logits, marks))


def test_a_wrong_prediction_on_the_mark_is_pulled_up():
    logits = torch.full((1, 1, 2, 2), -5.0, requires_grad=True)
    marks = torch.tensor([[[1, 0], [0, 0]]])
    (gradient,) = torch.autograd.grad(cost(OF_MARK, logits, marks), logits)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(-1, abs=0.01)
    assert torch.count_nonzero(gradient) == 1


@pytest.mark.parametrize("loss", PARTIAL)
def test_another_class_and_the_background_teach_the_same(loss):
    logits = random_case(0)[0].requires_grad_()
    for label in (2, 255):
        marks = torch.full((B, H, W), label)
        (gradient,) = torch.autograd.grad(cost(loss, logits, marks), logits)
        assert (gradient[:, 0] > 0).all()


def test_one_background_pixel_weighs_as_much_as_many():
    logits = torch.zeros(1, 1, 1, 8)
    marks = torch.tensor([[[1, 255, 0, 0, 0, 0, 0, 0]]])
    many = torch.tensor([[[1, 255, 255, 255, 255, 255, 255, 255]]])
    before = cost(PartialCrossEntropy(), logits, marks)
    torch.testing.assert_close(cost(PartialCrossEntropy(), logits, many), before)
