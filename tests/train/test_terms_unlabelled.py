"""Terms that need no label: entropy, agreement of neighbours, agreement of answers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wsseg.train.terms.consistency import equivariance_loss, teacher_loss
from wsseg.train.terms.entropy import entropy_loss
from wsseg.train.terms.gated_crf import Kernel, gated_crf_loss

KERNEL = Kernel(cells=8, radius=2, position=0.3, intensity=0.1)
UNMARKED = torch.zeros(1, 6, 6, dtype=torch.long)


def maps(*shares: float) -> Tensor:
    return torch.tensor([[[shares]]], dtype=torch.float64).logit()


@given(p=st.floats(0.001, 0.999))
def test_entropy_is_its_formula_in_bits(p):
    literal = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert entropy_loss(maps(p, p)).item() == pytest.approx(literal)


def test_entropy_is_1_at_a_half_and_0_at_the_ends():
    assert entropy_loss(torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1)
    assert entropy_loss(torch.tensor([[[[1e4, -1e4]]]])).item() == 0


def test_class_weights_of_entropy_count_by_their_proportion():
    logits = torch.cat([maps(0.5, 0.5), maps(0.1, 0.1)], 1)
    one, two = (entropy_loss(logits[:, place : place + 1]) for place in (0, 1))
    for unit in (1, 7):
        weighted = entropy_loss(logits, (3.0 * unit, 1.0 * unit))
        torch.testing.assert_close(weighted, (3 * one + two) / 4)


def literal_crf(logits: Tensor, image: Tensor, marks: Tensor, kernel: Kernel) -> float:
    """One picture, one class, pixel by pixel; the grid is the picture's own."""
    p, height, width = torch.sigmoid(logits)[0, 0], *logits.shape[-2:]
    cost = weight = 0.0
    pixels = [(row, column) for row in range(height) for column in range(width)]
    for i in pixels:
        for j in pixels:
            apart = (abs(i[0] - j[0]), abs(i[1] - j[1]))
            if i == j or max(apart) > kernel.radius or marks[0][i] != 0:
                continue
            sigma = kernel.position * max(height, width)
            near = math.exp(-(apart[0] ** 2 + apart[1] ** 2) / (2 * sigma**2))
            change = (image[0, :, i[0], i[1]] - image[0, :, j[0], j[1]]).square().mean().item()
            alike = math.exp(-change / (2 * kernel.intensity**2))
            weight += near
            cost += near * alike * float(p[i] * (1 - p[j]) + (1 - p[i]) * p[j])
    return cost / weight


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (2, 7)])
def test_gated_crf_is_its_formula(shape):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, *shape, generator=draw, dtype=torch.float64)
    image = torch.rand(1, 3, *shape, generator=draw, dtype=torch.float64) * 0.3
    marks = torch.tensor([0, 0, 1, 255])[torch.randint(4, (1, *shape), generator=draw)]
    literal = literal_crf(logits, image, marks, KERNEL)
    assert gated_crf_loss(logits, image, marks, KERNEL).item() == pytest.approx(literal)


def test_an_edge_along_an_edge_of_the_picture_costs_nothing_and_one_across_plain_ground_does():
    half = torch.zeros(1, 1, 6, 6)
    half[..., 3:] = 1
    logits = half * 2000 - 1000
    assert gated_crf_loss(logits, half, UNMARKED, KERNEL).item() == pytest.approx(0, abs=1e-6)
    assert gated_crf_loss(logits, half * 0, UNMARKED, KERNEL).item() > 0.1


def test_an_uncertain_pixel_follows_its_marked_neighbours_and_all_marked_costs_nothing():
    logits = torch.full((1, 1, 6, 6), 5.0)
    logits[..., 3, 3] = 0
    logits.requires_grad_()
    marks = torch.ones_like(UNMARKED)
    assert gated_crf_loss(logits, torch.zeros(1, 1, 6, 6), marks, KERNEL).item() == 0
    marks[:, 3, 3] = 0
    cost = gated_crf_loss(logits, torch.zeros(1, 1, 6, 6), marks, KERNEL)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert gradient[0, 0, 3, 3] < 0


def test_gated_crf_of_a_frame_of_one_pixel_is_zero():
    cost = gated_crf_loss(
        torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), UNMARKED[:, :1, :1], KERNEL
    )
    assert cost.item() == 0


def test_gated_crf_works_on_a_grid_no_finer_than_asked():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 20, 12, generator=draw)
    image = torch.rand(1, 1, 20, 12, generator=draw)
    marks = torch.zeros(1, 20, 12, dtype=torch.long)
    # 20 rows are joined by threes to 7: the largest number that is at most 8.
    small = torch.nn.functional.avg_pool2d(
        torch.sigmoid(logits), 3, ceil_mode=True, count_include_pad=False
    ).logit()
    picture = torch.nn.functional.avg_pool2d(image, 3, ceil_mode=True, count_include_pad=False)
    direct = gated_crf_loss(small, picture, marks[:, :7, :4], KERNEL)
    torch.testing.assert_close(gated_crf_loss(logits, image, marks, KERNEL), direct)


def test_equivariance_is_the_mean_distance_and_teaches_both():
    one, other = maps(0.2, 0.6).requires_grad_(), maps(0.5, 0.5).requires_grad_()
    cost = equivariance_loss(one, other)
    assert cost.item() == pytest.approx(0.2)
    for gradient in torch.autograd.grad(cost, (one, other)):
        assert torch.count_nonzero(gradient) == 2


def test_the_teacher_is_followed_and_not_taught():
    student = maps(0.2, 0.6).requires_grad_()
    teacher = torch.tensor([[[[0.5, 0.5]]]], dtype=torch.float64, requires_grad=True)
    cost = teacher_loss(student, teacher)
    assert cost.item() == pytest.approx((0.09 + 0.01) / 2)
    gradients = torch.autograd.grad(cost, (student, teacher), allow_unused=True)
    assert torch.count_nonzero(gradients[0]) == 2
    assert gradients[1] is None
