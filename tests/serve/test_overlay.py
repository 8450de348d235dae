"""Overlays show the slice, the region and its outline."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.serve.conftest import make_scan
from wsseg.imaging import Window, label_colours
from wsseg.serve.measure import Areas, MeasuredScan
from wsseg.serve.overlay import outline, overlay, write_overlays

WINDOW = Window(low=0, high=200)
NO_AREAS = Areas(
    np.zeros((0, 1), np.int64),
    np.zeros((0, 1), np.bool_),
    np.zeros(0, np.int64),
    np.zeros((0, 1), np.int64),
)


def region() -> np.ndarray:
    labels = np.zeros((12, 15), np.uint8)
    labels[3:8, 4:10] = 1
    return labels


def test_what_is_no_region_is_shown_as_it_is():
    pixels = np.full((12, 15), 100, np.float32)
    drawn = overlay(pixels, region(), WINDOW)
    assert (drawn[region() == 0] == round(100 / 200 * 255)).all()
    assert drawn.shape == (12, 15, 3)
    assert drawn.dtype == np.uint8


def test_the_outline_has_the_full_colour_and_the_inside_a_tint_of_it():
    drawn = overlay(np.zeros((12, 15), np.float32), region(), WINDOW)
    edge = outline(region())
    colour = label_colours(np.ones((), np.uint8))
    assert (drawn[edge] == colour).all()
    inside = drawn[(region() > 0) & ~edge]
    assert (inside == np.rint(colour * 0.35)).all()


def test_the_outline_is_the_region_without_its_erosion():
    expected = region() > 0
    expected[4:7, 5:9] = False
    np.testing.assert_array_equal(outline(region()), expected)


def test_regions_side_by_side_and_at_the_edge_are_outlined():
    labels = np.repeat(np.array([[1, 1, 1, 2, 2, 2]], np.uint8), 5, axis=0)
    expected = np.ones((5, 6), bool)
    expected[1:-1, [1, 4]] = False
    np.testing.assert_array_equal(outline(labels), expected)


def test_colour_stays_colour_where_no_region_is():
    pixels = np.random.default_rng(0).integers(0, 200, (12, 15, 3)).astype(np.float32)
    drawn = overlay(pixels, region(), Window(low=0, high=255))
    np.testing.assert_array_equal(drawn[region() == 0], pixels[region() == 0])


def test_every_slice_is_one_file_at_its_own_size(tmp_path: Path):
    scan = make_scan(np.zeros((3, 12, 15)), "folder/a.png")
    labels = np.stack([region()] * 3)
    write_overlays(MeasuredScan(scan, NO_AREAS, labels), WINDOW, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name[-9:] for file in files] == ["-0000.png", "-0001.png", "-0002.png"]
    with Image.open(files[0]) as drawn:
        assert drawn.size == (15, 12)
