import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsseg.train.data.preprocess import coverage, shrink_marks, shrink_mask

shapes = st.tuples(st.integers(2, 50), st.integers(2, 50))


@given(mask=shapes.flatmap(lambda shape: arrays(bool, shape)), size=st.integers(2, 60))
def test_coverage_keeps_the_area_ratio_for_smaller_and_larger_grids(mask, size):
    share = coverage(mask, size)
    assert share.shape == (size, size)
    assert share.mean() == pytest.approx(mask.mean(), abs=1e-5)
    assert -1e-6 <= share.min() <= share.max() <= 1 + 1e-5


@given(mask=arrays(bool, (16, 16)))
def test_a_grid_of_the_same_size_changes_nothing(mask):
    assert np.array_equal(shrink_mask(mask[None], 16)[0], mask)
    assert np.array_equal(shrink_marks(mask.astype(np.uint8), (16, 16)), mask)


@given(
    shape=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    size=st.tuples(st.integers(4, 64), st.integers(4, 64)),
)
def test_one_marked_pixel_never_vanishes_and_stays_in_place(shape, place, size):
    marks = np.zeros(shape, np.uint8)
    row, column = (int(share * extent) for share, extent in zip(place, shape, strict=True))
    marks[row, column] = 2
    smaller = shrink_marks(marks, size)
    assert smaller.shape == size
    places = np.nonzero(smaller == 2)
    assert len(places[0]) > 0
    # Every cell that carries it overlaps the pixel.
    for cells, pixel, extent, count in zip(places, (row, column), shape, size, strict=True):
        assert np.all(cells * extent / count < pixel + 1 + 1e-6)
        assert np.all((cells + 1) * extent / count > pixel - 1e-6)


def test_a_one_pixel_scribble_stays_a_connected_line():
    marks = np.zeros((512, 512), np.uint8)
    marks[200, 100:400] = 1
    smaller = shrink_marks(marks, (128, 128))
    assert np.array_equal(np.nonzero(smaller.any(0))[0], np.arange(25, 100))
    assert np.array_equal(np.nonzero(smaller.any(1))[0], [50])


def test_a_small_mark_beside_a_large_one_of_its_class_stays():
    marks = np.zeros((256, 256), np.uint8)
    marks[20:120, 20:120] = 1
    marks[200, 200] = 1
    assert shrink_marks(marks, (64, 64))[50, 50] == 1


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_region_smaller_than_half_a_cell_is_taught_where_it_is(size):
    mask = np.zeros((2, 512, 512), bool)
    mask[0, 100:104, 201:203] = True
    small, nothing = shrink_mask(mask, size)
    assert np.argwhere(small).tolist() == [[100 * size // 512, 201 * size // 512]]
    assert not nothing.any()


def test_where_two_labels_claim_a_cell_the_better_covered_wins():
    marks = np.zeros((64, 64), np.uint8)
    marks[0, 0] = 1
    marks[1, 0:3] = 255
    assert shrink_marks(marks, (16, 16))[0, 0] == 255


def test_a_mask_is_where_at_least_half_is_covered():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, :, :3] = True  # cells of 4: three quarters of the first column
    mask[0, :4, 4:6] = True  # half of one cell
    assert np.array_equal(shrink_mask(mask, 2)[0], [[True, True], [True, False]])
