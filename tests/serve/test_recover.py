"""Cutting a probability map to known areas: the right number of pixels, and the best of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from wsseg.serve.recover import KnownRatio, cut, recover

# few different values, so that ties within a class and between classes are the rule
values = st.sampled_from(np.linspace(0, 1, 6, dtype=np.float32).tolist())
maps = nps.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 24)), elements=values)


def handed_out(probability: np.ndarray, counts: list[int]) -> np.ndarray:
    """The definition, spelled out: every pair of class and pixel, from the most probable down."""
    masks = np.zeros(probability.shape, bool)
    pairs = [(-probability[c, x], c, x) for c, x in np.ndindex(*probability.shape)]
    for _, place, pixel in sorted(pairs):
        if not masks[:, pixel].any() and masks[place].sum() < counts[place]:
            masks[place, pixel] = True
    return masks


def known(*ratios: float) -> list[KnownRatio]:
    return [KnownRatio(2, f"class {place}", place, ratio) for place, ratio in enumerate(ratios)]


@given(probability=maps, data=st.data())
def test_pixels_go_to_the_classes_as_if_pairs_were_handed_out_by_probability(probability, data):
    classes, pixels = probability.shape
    counts = [data.draw(st.integers(0, pixels)) for _ in range(classes)]
    np.testing.assert_array_equal(cut(probability, counts), handed_out(probability, counts))


@given(probability=maps, data=st.data())
def test_every_class_gets_its_number_of_pixels_and_no_pixel_is_given_twice(probability, data):
    classes, left = probability.shape
    counts = []
    for _ in range(classes):
        counts.append(data.draw(st.integers(0, left)))
        left -= counts[-1]
    masks = cut(probability, counts)
    assert masks.sum(1).tolist() == counts
    assert masks.sum(0).max() <= 1


def test_a_class_alone_gets_the_most_probable_pixels_the_first_of_equals():
    probability = np.array([[0.2, 0.9, 0.5, 0.5, 0.5, 0.1]], np.float32)
    assert np.flatnonzero(cut(probability, [3])[0]).tolist() == [1, 2, 3]


def test_a_contested_pixel_goes_to_the_more_probable_class_and_the_other_is_filled_up():
    probability = np.array([[0.9, 0.8, 0.1, 0.0], [0.95, 0.2, 0.3, 0.1]], np.float32)
    assert cut(probability, [2, 1]).tolist() == [
        [False, True, True, False],
        [True, False, False, False],
    ]


def test_a_map_becomes_labels_with_the_threshold_and_the_mean_probability_inside():
    probability = np.zeros((2, 2, 5), np.float32)
    probability[1] = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 0.95]]
    labels, (mask,) = recover(probability, [KnownRatio(7, "tumour", 1, 0.31)])
    assert labels.tolist() == [[0] * 5, [0, 0, 2, 2, 2]]
    assert (mask.pixels, mask.known.line, mask.tied) == (3, 7, False)
    assert mask.threshold == pytest.approx(0.8)
    assert mask.mean_probability == pytest.approx((0.8 + 0.9 + 0.95) / 3)


def test_a_known_ratio_of_nothing_gives_a_mask_without_a_pixel_and_unknown_figures():
    labels, (mask,) = recover(np.ones((1, 2, 5), np.float32), known(0.0))
    assert not labels.any()
    assert (mask.pixels, mask.threshold, mask.mean_probability) == (0, None, None)


def test_a_ratio_of_one_takes_the_whole_slice():
    labels, (mask,) = recover(np.zeros((1, 3, 5), np.float32), known(1.0))
    assert labels.all()
    assert (mask.pixels, mask.tied) == (15, False)


def test_classes_that_round_to_more_pixels_than_there_are_share_them():
    labels, masks = recover(np.full((2, 1, 7), 0.5, np.float32), known(0.5, 0.5))
    assert (labels > 0).all()
    assert [mask.pixels for mask in masks] == [4, 3]


def test_an_outline_that_hangs_on_the_order_of_equal_pixels_is_told():
    flat = np.full((1, 10, 10), 0.5, np.float32)
    (flat_mask,) = recover(flat, known(0.3))[1]
    steep = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 10, 10)
    (steep_mask,) = recover(steep, known(0.3))[1]
    assert (flat_mask.tied, steep_mask.tied) == (True, False)
