"""The law of turning: display order changes, the place in the patient does not."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsseg.imaging import Reorientation
from wsseg.imaging.orientation import (
    RAS_TO_LPS,
    display_reorientation,
    grid_distance,
    lps_geometry,
    skew_flags,
)

SPACING = np.diag([0.5, 0.8, 3.0])
AXIS_ALIGNED = [
    np.eye(3)[list(order)].T * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SHAPE = (4, 5, 3)


def affine_of(directions, origin=(-30.0, 12.0, 7.5)):
    affine = np.eye(4)
    affine[:3, :3] = directions @ SPACING
    affine[:3, 3] = origin
    return affine


def rotation(angles):
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def check_every_voxel_keeps_its_place(affine):
    stored = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    turn = display_reorientation(affine)
    turned = RAS_TO_LPS @ affine @ turn.to_stored(SHAPE[:2])
    for k in range(SHAPE[2]):
        plane = turn.apply(stored[:, :, k])
        for (row, column), value in np.ndenumerate(plane):
            index = np.argwhere(stored == value)[0]
            expected = RAS_TO_LPS @ affine @ [*index, 1]
            np.testing.assert_allclose(turned @ [column, row, k, 1], expected, atol=1e-9)


def test_all_48_arrangements_are_tried():
    assert len({matrix.tobytes() for matrix in AXIS_ALIGNED}) == 48


@pytest.mark.parametrize("directions", AXIS_ALIGNED)
def test_a_turned_voxel_keeps_its_place_in_every_arrangement(directions):
    check_every_voxel_keeps_its_place(affine_of(directions))


@given(angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3))
def test_a_turned_voxel_keeps_its_place_in_oblique_grids(angles):
    check_every_voxel_keeps_its_place(affine_of(rotation(np.array(angles))))


@pytest.mark.parametrize("directions", AXIS_ALIGNED)
def test_planes_are_shown_as_dicom_stores_them(directions):
    affine = affine_of(directions)
    turned = RAS_TO_LPS @ affine @ display_reorientation(affine).to_stored(SHAPE[:2])
    across, down = turned[:3, 0], turned[:3, 1]
    normal_axis = int(np.abs(turned[:3, 2]).argmax())
    left, back, feet = np.array([1, 0, 0]), np.array([0, 1, 0]), np.array([0, 0, -1])
    expected = {0: (back, feet), 1: (left, feet), 2: (left, back)}[normal_axis]
    assert across @ expected[0] > 0
    assert down @ expected[1] > 0


@given(st.booleans(), st.booleans(), st.booleans())
def test_undoing_a_turn_gives_the_stored_plane(transpose, flip_rows, flip_columns):
    turn = Reorientation(transpose, flip_rows, flip_columns)
    for stored in (np.arange(20).reshape(4, 5), np.arange(60).reshape(4, 5, 3)):
        assert np.array_equal(turn.undo(turn.apply(stored)), stored)


def test_pixel_lengths_follow_rows_and_columns_not_file_axes():
    # i runs to the feet with 0.5 mm, j to the front with 0.8 mm: a sagittal plane.
    affine = affine_of(np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]))
    turned = RAS_TO_LPS @ affine @ display_reorientation(affine).to_stored(SHAPE[:2])
    geometry: Any = lps_geometry(turned, 3)
    assert geometry.pixel_mm == pytest.approx((0.5, 0.8))
    assert np.diff(geometry.positions_mm) == pytest.approx([3, 3])


def test_a_tilted_stack_keeps_pixel_lengths_and_true_slice_distances():
    affine = affine_of(np.eye(3))
    affine[1, 2] = 1.0
    geometry: Any = lps_geometry(affine, 2)
    assert skew_flags(affine) == ("TILT",)
    assert geometry.pixel_mm == pytest.approx((0.8, 0.5))
    assert np.diff(geometry.positions_mm) == pytest.approx([3.0])


def test_skewed_pixels_have_no_pair_of_lengths():
    affine = affine_of(np.eye(3))
    affine[0, 1] = 0.2
    assert "SHEAR" in skew_flags(affine)
    assert lps_geometry(affine, 2).pixel_mm is None


def test_grid_distance_is_the_farthest_corner():
    moved = affine_of(np.eye(3))
    moved[0, 0] += 0.1
    assert grid_distance(affine_of(np.eye(3)), moved, (11, 1, 1)) == pytest.approx(1.0)
