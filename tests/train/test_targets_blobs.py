"""Blobs of a known size in made pictures: where they are found, and what they cover."""

import math

import numpy as np
import pytest

from wsseg.train.targets import POLARITIES, Blob, Polarity, best_blobs

SHAPE = (48, 64)
SIDE = 64


def ellipse(row: float, column: float, long: float, short: float, angle: float = 0.0) -> np.ndarray:
    """Pixels of an ellipse whose long axis points `angle` from the columns to the rows."""
    rows, columns = np.indices(SHAPE) - np.reshape([row, column], (2, 1, 1))
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    inside: np.ndarray = (along / long) ** 2 + (across / short) ** 2 <= 1
    return inside


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 0.1, SHAPE)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("polarity", POLARITIES)
@pytest.mark.parametrize("angle", [quarter * math.pi / 4 for quarter in range(4)])
def test_a_blob_is_found_where_it_lies_and_as_it_lies(polarity: Polarity, angle: float) -> None:
    region, smaller = ellipse(20, 40, 12, 7, angle), ellipse(36, 10, 3, 3)
    # What is not of the area asked for is not taken, though it stands out twice as much.
    image = noise() + polarity * (0.2 * region + 0.4 * smaller)
    found = best_blobs(image, float(region.mean()))[polarity]
    assert found.row * SIDE == pytest.approx(20.5, abs=1.5)
    assert found.column * SIDE == pytest.approx(40.5, abs=1.5)
    assert found.angle == pytest.approx(angle)
    assert found.contrast == pytest.approx(0.2, abs=0.05)
    assert iou(found.draw(SHAPE), region) > 0.85


def test_dark_and_bright_are_told_apart_in_one_picture() -> None:
    dark, bright = ellipse(24, 14, 9, 9), ellipse(24, 48, 9, 9)
    found = best_blobs(noise() - 0.3 * dark + 0.3 * bright, float(dark.mean()))
    assert iou(found[-1].draw(SHAPE), dark) > 0.85
    assert iou(found[1].draw(SHAPE), bright) > 0.85
    assert min(blob.contrast for blob in found.values()) > 0.2


def test_what_stands_out_most_is_taken() -> None:
    faint, strong = ellipse(24, 14, 9, 9), ellipse(24, 48, 9, 9)
    found = best_blobs(noise() - 0.1 * faint - 0.3 * strong, float(faint.mean()))
    assert iou(found[-1].draw(SHAPE), strong) > 0.85


def test_a_shadow_across_the_picture_is_no_blob() -> None:
    region = ellipse(24, 46, 8, 8)
    shaded = np.indices(SHAPE)[1] / SIDE - 0.2 * region
    # Left of the region everything is darker, but so is its ring.
    assert iou(best_blobs(shaded, float(region.mean()))[-1].draw(SHAPE), region) > 0.85


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1, 0.25])
def test_a_drawn_blob_has_the_area_asked_for(share: float) -> None:
    found = best_blobs(noise(), share)
    assert set(found) == set(POLARITIES)
    for blob in found.values():
        assert blob.draw(SHAPE).mean() == pytest.approx(share, rel=0.1, abs=3 / math.prod(SHAPE))


def test_where_no_blob_fits_none_is_found() -> None:
    assert best_blobs(noise(), 0.9) == {}
    assert best_blobs(np.full((3, 64), 0.5), 0.5) == {}


def test_a_dark_corner_is_no_blob() -> None:
    """Half a blob at a border is mostly shadow, however dark."""
    region, corner = ellipse(24, 40, 8, 8), ellipse(0, 0, 8, 8)
    found = best_blobs(noise() - 0.2 * region - 0.5 * corner, float(region.mean()))
    assert iou(found[-1].draw(SHAPE), region) > 0.85


@pytest.mark.parametrize("times", [0.5, 2.0, 3.25])
def test_a_blob_is_drawn_at_the_same_place_on_another_grid(times: float) -> None:
    blob = Blob(16 / SIDE, 42 / SIDE, 14 / SIDE, 6 / SIDE, math.pi / 4, 0.1)
    shape = (round(SHAPE[0] * times), round(SHAPE[1] * times))
    here, there = blob.draw(SHAPE), blob.draw(shape)
    assert there.mean() == pytest.approx(here.mean(), rel=0.05)
    for one, other in zip(np.nonzero(here), np.nonzero(there), strict=True):
        assert (other.mean() + 0.5) / times == pytest.approx(one.mean() + 0.5, abs=0.5)
        assert other.std() / times == pytest.approx(one.std(), rel=0.05)
    for drawn in (here, there):
        # The long axis runs down to the right.
        rows, columns = np.nonzero(drawn)
        assert ((rows - rows.mean()) * (columns - columns.mean())).mean() > 0
