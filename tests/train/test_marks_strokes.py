"""Scribbles, boxes, extreme points and moments of a region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tests.train.test_marks import disc, draw, masks, rectangle, regions, seeds
from wsseg.train.cases import region_box, region_moments
from wsseg.train.simulate import (
    MarkOptions,
    background_stroke,
    extremes_of,
    medial_line,
    paint_marks,
    stroke_mark,
)

# --- scribbles ---


def test_a_stroke_runs_along_the_middle_of_an_elongated_region():
    mark = stroke_mark(rectangle((10, 17), (2, 30)), 50.0)
    rows, columns = np.nonzero(mark)
    assert set(rows) == {13}
    assert len(columns) == pytest.approx(14, abs=1)
    assert columns.min() == pytest.approx(9, abs=1)


def test_a_stroke_follows_a_ring():
    ring = disc(16) & ~disc(10)
    rows, columns = np.nonzero(stroke_mark(ring, 80.0))
    assert np.hypot(rows - 20, columns - 20) == pytest.approx(np.full(rows.size, 13), abs=2.0)
    assert rows.size > 20


@given(regions)
def test_a_medial_line_is_connected_and_stays_inside(region):
    path = medial_line(region)
    assert region[tuple(path.T)].all()
    assert len(np.unique(path, axis=0)) == len(path)
    assert np.all(np.abs(np.diff(path, axis=0)) <= 1)


def test_the_share_decides_the_length_of_a_stroke():
    region = disc(12)
    whole = np.count_nonzero(stroke_mark(region, 100.0))
    assert np.count_nonzero(stroke_mark(region, 25.0)) == round(whole / 4)


@given(masks, st.integers(1, 20), seeds)
def test_a_background_stroke_stays_outside_and_is_no_longer_than_asked(foreground, count, seed):
    stroke = background_stroke(foreground, count, draw(seed))
    assert not np.any(stroke & foreground)
    assert np.count_nonzero(stroke) <= count
    assert stroke.any() == (foreground.any() and not foreground.all())


def test_a_background_stroke_keeps_its_distance():
    region = disc(8)
    stroke = background_stroke(region, 15, draw(0))
    away = ndimage.distance_transform_edt(~region)[stroke]
    assert np.count_nonzero(stroke) == 15
    assert away.min() >= 3.9
    assert away.max() < 5.1


def test_scribbles_of_two_classes_share_one_stroke_of_background():
    labels = (disc(6, (10, 10)) + 2 * disc(6, (29, 29))).astype(np.uint8)
    marks = paint_marks(labels, 50.0, MarkOptions("scribble"), row=2)
    assert sorted(np.unique(marks)) == [0, 1, 2, 255]
    assert not labels[marks == 255].any()
    assert np.count_nonzero(marks == 255) == np.count_nonzero((marks > 0) & (marks < 255))


# --- numbers ---


@given(regions)
def test_a_box_holds_the_region_and_no_row_or_column_more(region):
    box = region_box(region)
    inside = region[box.top : box.bottom, box.left : box.right]
    assert inside.sum() == region.sum()
    assert inside[[0, -1]].any(1).all()
    assert inside[:, [0, -1]].any(0).all()


@given(regions)
def test_extreme_points_are_pixels_of_the_region_at_the_edges_of_its_box(region):
    box, points = region_box(region), extremes_of(region)
    assert all(region[point] for point in points)
    top, left, bottom, right = points
    assert (top[0], left[1]) == (box.top, box.left)
    assert (bottom[0], right[1]) == (box.bottom - 1, box.right - 1)


def test_moments_of_a_rectangle_are_those_of_even_numbers():
    centroid, spread = region_moments(rectangle((4, 9), (10, 20)))
    assert centroid == pytest.approx((6.0, 14.5))
    assert spread == pytest.approx((np.sqrt(2), np.sqrt(99 / 12)))
