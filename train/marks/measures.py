"""Regions in a few numbers: box, extreme points and moments."""

from typing import NamedTuple

import numpy as np

from wsseg.train.case import Box, Pixel, Place
from wsseg.train.marks.region import Mask


class Moments(NamedTuple):
    """Mean and standard deviation of a region's rows and columns, in pixels."""

    centroid: Place
    spread: Place


def box_of(region: Mask) -> Box:
    """The smallest box around a region that is not empty."""
    rows, columns = np.nonzero(region)
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def extremes_of(region: Mask) -> tuple[Pixel, Pixel, Pixel, Pixel]:
    """The topmost, leftmost, bottommost and rightmost pixel of a region that is not empty.

    Of several in one row or column, the middle one.
    """
    box = box_of(region)
    return (
        (box.top, _middle(region[box.top])),
        (_middle(region[:, box.left]), box.left),
        (box.bottom - 1, _middle(region[box.bottom - 1])),
        (_middle(region[:, box.right - 1]), box.right - 1),
    )


def moments_of(region: Mask) -> Moments:
    """Centroid and spread of a region that is not empty; whole numbers are centres of pixels."""
    rows, columns = np.nonzero(region)
    return Moments(
        (float(rows.mean()), float(columns.mean())), (float(rows.std()), float(columns.std()))
    )


def _middle(line: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    places = np.flatnonzero(line)
    return int(places[(places.size - 1) // 2])
