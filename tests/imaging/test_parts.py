"""The parts of a mask are its connected regions, without specks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label

from wsseg.imaging.parts import LEAST_SHARE, count_parts


def test_an_empty_mask_has_no_part():
    assert count_parts(np.zeros((8, 8), bool)) == 0


def test_regions_that_touch_at_a_corner_are_one_part_and_those_apart_are_several():
    mask = np.zeros((9, 9), np.uint8)
    mask[1:4, 1:4] = mask[4:6, 4:6] = 1
    assert count_parts(mask) == 1
    mask[7:, 0] = mask[0, 8] = 1
    assert count_parts(mask) == 3


def test_a_ring_is_one_part_and_a_speck_beside_a_large_region_is_none():
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    mask[10:30, 10:30] = False
    mask[0, 0] = True
    assert count_parts(mask) == 1


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_it_counts_what_another_implementation_labels(mask):
    sizes = np.bincount(label(mask, connectivity=2).ravel())[1:]
    assert count_parts(mask) == np.count_nonzero(sizes >= LEAST_SHARE * mask.sum())
