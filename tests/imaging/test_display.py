"""Every picture shows a class in the same colour, and intensities through the window asked for."""

import numpy as np
import pytest

from wsseg.imaging import Window, class_colour, grey_values, label_colours
from wsseg.imaging.definitions import CLASS_COLOURS

WINDOW = Window(low=0, high=200)


def test_a_class_has_one_colour_by_its_class_index_and_by_its_label():
    labels = np.arange(1, 256, dtype=np.uint8)
    found = ["#{:02X}{:02X}{:02X}".format(*rgb) for rgb in label_colours(labels).tolist()]
    assert found == [class_colour(int(label) - 1) for label in labels]


def test_seven_classes_have_seven_colours_and_the_eighth_that_of_the_first():
    assert len({class_colour(index) for index in range(7)}) == len(CLASS_COLOURS) == 7
    assert class_colour(7) == class_colour(0)


def test_intensities_are_shown_through_the_window_that_is_asked_for():
    pixels = np.array([[-50, 0, 100, 200, 900, np.nan]], np.float32)
    np.testing.assert_allclose(grey_values(pixels, WINDOW), [[0, 0, 0.5, 1, 1, 0]])


def test_without_a_window_a_slice_spans_its_1st_to_99th_percentile():
    pixels = np.arange(101, dtype=np.float32)[None]
    expected = np.clip((pixels - 1) / 98, 0, 1)
    np.testing.assert_allclose(grey_values(pixels), expected, atol=1e-6)


def test_a_window_by_image_spans_three_deviations_to_either_side():
    pixels = np.random.default_rng(0).normal(50, 10, (50, 50)).astype(np.float32)
    shown = grey_values(pixels, Window(kind="image"))
    middle, deviation = pixels.mean(), pixels.std()
    expected = np.clip((pixels - middle + 3 * deviation) / (6 * deviation), 0, 1)
    np.testing.assert_allclose(shown, expected, atol=4e-5)


@pytest.mark.parametrize("window", [None, Window(kind="image"), WINDOW])
def test_a_picture_of_one_value_can_be_shown(window):
    shown = grey_values(np.full((4, 4), 7, np.float32), window)
    assert np.isfinite(shown).all()
    assert len(np.unique(shown)) == 1
