"""Figures of masks whose agreement is known."""

import numpy as np
import pytest

from bench.accuracy.scores import count, mean_where_shown, summarise


def mask(*rows: str) -> np.ndarray:
    return np.array([[letter == "x" for letter in row] for row in rows])


def counted(predicted: np.ndarray, true: np.ndarray):
    return count(predicted[None], true[None])


HALF = counted(mask("xx..", "...."), mask("x...", "...."))
WHOLE = counted(mask("xxxx", "...."), mask("xxxx", "...."))
NEITHER = counted(mask("....", "...."), mask("....", "...."))
FALSE = counted(mask("xxxx", "xxxx"), mask("....", "...."))


def test_images_that_show_the_class_are_averaged():
    found = summarise([HALF, WHOLE])
    assert found.iou_mean == pytest.approx((1 / 2 + 1) / 2)
    assert found.dice_mean == pytest.approx((2 / 3 + 1) / 2)
    assert found.iou_pooled == pytest.approx(5 / 6)
    assert found.ratio_mae == pytest.approx((1 / 8 + 0) / 2)


def test_an_image_without_the_class_changes_only_what_is_counted_over_all():
    found, more = summarise([HALF, WHOLE]), summarise([HALF, WHOLE, NEITHER])
    assert (more.iou_mean, more.dice_mean) == (found.iou_mean, found.dice_mean)
    assert more.iou_pooled == found.iou_pooled
    assert more.ratio_mae == pytest.approx(found.ratio_mae * 2 / 3)


def test_what_is_found_where_nothing_is_costs_pooled_iou_and_ratio():
    found = summarise([HALF, FALSE])
    assert found.iou_mean == pytest.approx(1 / 2)
    assert found.iou_pooled == pytest.approx(1 / 10)
    assert found.ratio_mae == pytest.approx((1 / 8 + 1) / 2)


def test_classes_count_alike_whatever_their_number_of_images():
    values = np.array([[1.0, 0.5], [0.0, 0.5], [0.2, 0.9]])
    shown = np.array([[True, False], [True, False], [True, True]])
    assert mean_where_shown(values, shown) == pytest.approx((0.4 + 0.9) / 2)
