"""The loss by which neighbours that look alike agree."""

import math

import pytest
import torch
from torch import Tensor

from tests.train.scenes import cost_of
from wsseg.train.losses import GatedCrf

CRF = GatedCrf(cells=8, radius=2, position=0.3, intensity=0.1)
UNMARKED = torch.zeros(1, 6, 6, dtype=torch.long)


def cost(logits: Tensor, image: Tensor, marks: Tensor) -> float:
    return cost_of(CRF, logits, image=image, marks=marks).item()


def literal_crf(logits: Tensor, image: Tensor, marks: Tensor) -> float:
    """One picture, one class, pixel by pixel; the grid is the picture's own."""
    p, height, width = torch.sigmoid(logits)[0, 0], *logits.shape[-2:]
    cost = weight = 0.0
    pixels = [(row, column) for row in range(height) for column in range(width)]
    for i in pixels:
        for j in pixels:
            apart = (abs(i[0] - j[0]), abs(i[1] - j[1]))
            if i == j or max(apart) > CRF.radius or marks[0][i] != 0:
                continue
            sigma = CRF.position * max(height, width)
            near = math.exp(-(apart[0] ** 2 + apart[1] ** 2) / (2 * sigma**2))
            change = (image[0, :, i[0], i[1]] - image[0, :, j[0], j[1]]).square().mean().item()
            alike = math.exp(-change / (2 * CRF.intensity**2))
            weight += near
            cost += near * alike * float(p[i] * (1 - p[j]) + (1 - p[i]) * p[j])
    return cost / weight


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (2, 7)])
def test_gated_crf_is_its_formula(shape):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, *shape, generator=draw, dtype=torch.float64)
    image = torch.rand(1, 3, *shape, generator=draw, dtype=torch.float64) * 0.3
    marks = torch.tensor([0, 0, 1, 255])[torch.randint(4, (1, *shape), generator=draw)]
    assert cost(logits, image, marks) == pytest.approx(literal_crf(logits, image, marks))


def test_an_edge_along_an_edge_of_the_picture_costs_nothing_and_one_across_plain_ground_does():
    half = torch.zeros(1, 1, 6, 6)
    half[..., 3:] = 1
    logits = half * 2000 - 1000
    assert cost(logits, half, UNMARKED) == pytest.approx(0, abs=1e-6)
    assert cost(logits, half * 0, UNMARKED) > 0.1


def test_an_uncertain_pixel_follows_its_marked_neighbours_and_all_marked_costs_nothing():
    logits = torch.full((1, 1, 6, 6), 5.0)
    logits[..., 3, 3] = 0
    logits.requires_grad_()
    marks = torch.ones_like(UNMARKED)
    assert cost(logits, torch.zeros(1, 1, 6, 6), marks) == 0
    marks[:, 3, 3] = 0
    (gradient,) = torch.autograd.grad(cost_of(CRF, logits, marks=marks), logits)
    assert gradient[0, 0, 3, 3] < 0


def test_gated_crf_of_a_frame_of_one_pixel_is_zero():
    assert cost(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), UNMARKED[:, :1, :1]) == 0


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
    direct = cost(small, picture, marks[:, :7, :4])
    assert cost(logits, image, marks) == pytest.approx(direct, rel=1e-6)
