"""Terms on a box around a class."""

import math

import pytest
import torch
from torch import Tensor

from wsseg.train.terms.boxes import box_bounds, box_emptiness_loss, box_tightness_loss

NAN = float("nan")
SIDE = 10


def region(*places: tuple[slice, slice]) -> Tensor:
    """Saturated logits of a union of rectangles in a frame of 10 x 10."""
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    for rows, columns in places:
        mask[..., rows, columns] = 1
    return mask * 2000 - 1000


def box(top: float, left: float, bottom: float, right: float) -> Tensor:
    return torch.tensor([[[top, left, bottom, right]]], dtype=torch.float64)


BOX = box(0.2, 0.3, 0.8, 0.7)
FULL = region((slice(2, 8), slice(3, 7)))


def tightness(logits: Tensor, stated: Tensor = BOX, strip: float = 0.2) -> float:
    """The term with a least length of one pixel a line."""
    return box_tightness_loss(logits, stated, strip=strip, thickness=0.1).item()


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
    assert tightness(upper) == pytest.approx((rows + columns) / 2)


def test_a_strip_wider_than_the_box_is_the_box():
    assert tightness(FULL, strip=1.0) == 0
    half = region((slice(2, 8), slice(3, 4)))
    # One strip each way: six rows with one pixel each; four columns with six pixels in all.
    assert tightness(half, strip=1.0) == pytest.approx(0)
    assert tightness(region(), strip=1.0) == 1


def test_an_empty_map_is_pulled_up_within_the_box_and_nowhere_else():
    logits = torch.full((1, 1, SIDE, SIDE), -3.0, requires_grad=True)
    cost = box_tightness_loss(logits, BOX.float(), strip=0.2, thickness=0.1)
    (gradient,) = torch.autograd.grad(cost, logits)
    assert torch.equal(gradient < 0, FULL > 0)


def test_emptiness_is_the_mean_of_minus_log_one_minus_p_outside_the_box():
    logits = torch.full((1, 1, SIDE, SIDE), 0.25).logit()
    cost = box_emptiness_loss(logits.masked_fill(FULL > 0, 9.0), BOX.float())
    assert cost.item() == pytest.approx(-math.log(0.75), rel=1e-6)
    assert box_emptiness_loss(FULL, BOX).item() == 0


def test_a_box_of_the_whole_frame_has_nothing_outside():
    assert box_emptiness_loss(torch.ones(1, 1, 4, 4), torch.tensor([[[0.0, 0, 1, 1]]])).item() == 0


def test_box_bounds_are_parts_of_the_boxs_share_of_the_picture():
    found = box_bounds(torch.cat([BOX, BOX * NAN], 1), 0.5, 0.9)
    assert found[0, 0].tolist() == pytest.approx([0.12, 0.216])
    assert found[0, 1].isnan().all()


def test_an_unknown_box_or_one_without_a_pixel_costs_nothing():
    for stated in (BOX * NAN, box(0.51, 0.51, 0.52, 0.52)):
        logits = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
        cost = box_tightness_loss(logits, stated, strip=0.2, thickness=0.1)
        (gradient,) = torch.autograd.grad(cost, logits)
        assert cost.item() == 0
        assert torch.count_nonzero(gradient) == 0


def test_boxes_of_a_batch_are_each_judged_by_their_own_size():
    boxes = torch.cat([BOX, box(0, 0, 0.1, 0.1), box(0, 0, 1, 1)])
    maps = torch.cat([FULL, region((slice(0, 1), slice(0, 1))), FULL])
    alone = [tightness(maps[i : i + 1], boxes[i : i + 1]) for i in range(3)]
    assert alone[0] == alone[1] == 0 < alone[2]
    assert tightness(maps, boxes) == pytest.approx(sum(alone) / 3)
