"""Losses on a box around a class, on its centre and on its reach."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.train.scenes import NAN, cost_of
from wsseg.train.losses import BoxEmptiness, BoxSize, BoxTightness, Centroid, SizeBounds, Spread

SIDE = 10


def region(*places: tuple[slice, slice], side: int = SIDE) -> Tensor:
    """Saturated logits of a union of rectangles in a square frame."""
    mask = torch.zeros(1, 1, side, side, dtype=torch.float64)
    for rows, columns in places:
        mask[..., rows, columns] = 1
    return mask * 2000 - 1000


def stated(*numbers: float) -> Tensor:
    """A box, a centroid or a spread of one class of one image."""
    return torch.tensor([[numbers]], dtype=torch.float64)


BOX = stated(0.2, 0.3, 0.8, 0.7)
FULL = region((slice(2, 8), slice(3, 7)))
CORNER = region((slice(0, 2), slice(0, 2)), side=8)
"""Its centre is at 1/8, its spread 0.25 / sqrt(12)."""


def tightness(logits: Tensor, box: Tensor = BOX, strip: float = 0.2) -> Tensor:
    """The loss with a least length of one pixel a line."""
    return cost_of(BoxTightness(strip=strip, thickness=0.1), logits, box=box)


def test_a_region_that_crosses_every_row_and_column_of_its_box_is_tight():
    diagonal = region(*((slice(2 + i, 3 + i), slice(3 + i * 4 // 6, 4 + i)) for i in range(6)))
    assert tightness(FULL) == 0
    assert tightness(diagonal) == 0


def test_a_region_outside_the_box_does_not_fill_it():
    assert tightness(region((slice(0, 10), slice(0, 3)))) == 1


def test_the_cost_is_the_mean_lack_of_strips_over_rows_and_columns():
    # Rows 2 to 4 of 2 to 7: of the strips of two rows at 2..6, the one at 4 has half and two lack
    # all; every column is crossed.
    upper = region((slice(2, 5), slice(3, 4)))
    columns = (0.5 * 0 + 1 + 1) / 3
    # Column 3 alone: three pixels long, so that the strip of columns 3 and 4 has enough.
    rows = (0.5 + 1 + 1) / 5
    assert tightness(upper).item() == pytest.approx((rows + columns) / 2)


def test_a_strip_wider_than_the_box_is_the_box():
    assert tightness(FULL, strip=1.0) == 0
    half = region((slice(2, 8), slice(3, 4)))
    # One strip each way: six rows with one pixel each; four columns with six pixels in all.
    assert tightness(half, strip=1.0).item() == pytest.approx(0)
    assert tightness(region(), strip=1.0) == 1


def test_an_empty_map_is_pulled_up_within_the_box_and_nowhere_else():
    logits = torch.full((1, 1, SIDE, SIDE), -3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(tightness(logits, BOX.float()), logits)
    assert torch.equal(gradient < 0, FULL > 0)


def test_emptiness_is_the_mean_of_minus_log_one_minus_p_outside_the_box():
    logits = torch.full((1, 1, SIDE, SIDE), 0.25).logit().masked_fill(FULL > 0, 9.0)
    cost = cost_of(BoxEmptiness(), logits, box=BOX.float())
    assert cost.item() == pytest.approx(-math.log(0.75), rel=1e-6)
    assert cost_of(BoxEmptiness(), FULL, box=BOX).item() == 0


def test_a_box_of_the_whole_frame_has_nothing_outside():
    assert cost_of(BoxEmptiness(), torch.ones(1, 1, 4, 4), box=stated(0, 0, 1, 1).float()) == 0


@pytest.mark.parametrize("share", [0.06, 0.15, 0.5])
def test_box_size_bounds_the_share_of_the_picture_by_parts_of_the_boxs(share):
    logits = torch.full((1, 1, SIDE, SIDE), share, dtype=torch.float64).logit()
    cost = cost_of(BoxSize(parts=(0.5, 0.9)), logits, box=BOX)
    torch.testing.assert_close(cost, cost_of(SizeBounds(), logits, bounds=stated(0.12, 0.216)))
    assert (cost == 0) == (share == 0.15)


def test_a_box_without_a_pixel_costs_nothing_and_teaches_nothing():
    logits = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    cost = tightness(logits, stated(0.51, 0.51, 0.52, 0.52))
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == 0
    assert torch.count_nonzero(gradient) == 0


def test_boxes_of_a_batch_are_each_judged_by_their_own_size():
    boxes = torch.cat([BOX, stated(0, 0, 0.1, 0.1), stated(0, 0, 1, 1)])
    maps = torch.cat([FULL, region((slice(0, 1), slice(0, 1))), FULL])
    alone = [tightness(maps[i : i + 1], boxes[i : i + 1]).item() for i in range(3)]
    assert alone[0] == alone[1] == 0 < alone[2]
    assert tightness(maps, boxes).item() == pytest.approx(sum(alone) / 3)


@given(
    top=st.integers(0, 6), left=st.integers(0, 6), height=st.integers(1, 2), width=st.integers(1, 2)
)
def test_the_moments_of_a_rectangle_are_its_middle_and_its_sides_over_the_root_of_twelve(
    top, left, height, width
):
    logits = region((slice(top, top + height), slice(left, left + width)), side=8)
    middle = stated((top + height / 2) / 8, (left + width / 2) / 8)
    reach = stated(height / 8 / math.sqrt(12), width / 8 / math.sqrt(12))
    for cost in (
        cost_of(Centroid(margin=0), logits, centroid=middle),
        cost_of(Spread(margin=0), logits, spread=reach),
    ):
        assert cost.item() == pytest.approx(0, abs=1e-12)


def test_the_cost_is_the_distance_beyond_the_margin_mean_of_both_axes():
    centroid, spread = Centroid(margin=0.1), Spread(margin=0.1)
    cost = cost_of(centroid, CORNER, centroid=stated(0.5, 0.125))
    assert cost.item() == pytest.approx((0.375 - 0.1) / 2)
    assert cost_of(centroid, CORNER, centroid=stated(0.2, 0.05)).item() == 0
    own = 0.25 / math.sqrt(12)
    cost = cost_of(spread, CORNER, spread=stated(own + 0.3, own - 0.05))
    assert cost.item() == pytest.approx(0.2 / 2)


def test_one_known_axis_of_two_is_used():
    cost = cost_of(Centroid(margin=0), CORNER, centroid=stated(NAN, 0.5))
    assert cost.item() == pytest.approx(0.375 / 2)


def test_an_almost_empty_map_is_still_drawn_to_the_place():
    logits = torch.full((1, 1, 8, 8), -40.0, requires_grad=True)
    cost = cost_of(Centroid(margin=0), logits, centroid=stated(0.25, 0.25).float())
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == pytest.approx(0.25)
    assert gradient[0, 0, 0, 0] < 0 < gradient[0, 0, -1, -1]


def test_a_single_pixel_has_a_spread_with_a_slope():
    logits = region((slice(3, 4), slice(3, 4)), side=8).float().requires_grad_()
    cost = cost_of(Spread(margin=0), logits, spread=stated(0.3, 0.3).float())
    (gradient,) = torch.autograd.grad(cost, logits)
    assert torch.isfinite(gradient).all()
