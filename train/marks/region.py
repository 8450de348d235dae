"""Regions as arrays of pixels: how many to mark, which come first, how deep they lie."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage

from wsseg.imaging.errors import WssegError

Mask = Bool[NDArray[np.bool_], "rows columns"]
TOUCHING_CORNERS = np.ones((3, 3), dtype=bool)
"""Pixels that touch by a corner belong to one component."""


def depth(region: Mask) -> Float[NDArray[np.float64], "rows columns"]:
    """Euclidean distance in pixels to the nearest pixel outside the region; 0 outside it.

    What lies beyond the border of the picture counts as outside, so that a region which the frame
    cuts is not deepest at its cut.
    """
    distance = np.zeros(region.shape)
    for place in ndimage.find_objects(region.astype(np.uint8)):
        # Nothing outside its box is nearer than what lies around the box.
        padded = ndimage.distance_transform_edt(np.pad(region[place], 1))
        distance[place] = padded[1:-1, 1:-1]
    return distance


def deepest(region: Mask) -> tuple[int, int]:
    """Row and column of the pixel farthest from the outside, the first in reading order.

    The region must not be empty.
    """
    row, column = np.unravel_index(int(np.argmax(depth(region))), region.shape)
    return int(row), int(column)


def share_count(pixels: int, percent: float) -> int:
    """The nearest whole number to `percent` % of so many pixels, at least 1; 0 of none.

    percent in (0, 100]; WssegError otherwise.
    """
    if not 0 < percent <= 100:
        raise WssegError(f"{percent:g} percent of a region cannot be marked: give 0 to 100")
    return min(pixels, max(1, round(percent / 100 * pixels)))


def first_pixels(
    region: Mask, rank: Float[NDArray[np.float64], "rows columns"], count: int
) -> Mask:
    """The `count` pixels of the region with the lowest rank.

    Equals are taken in reading order, which makes the number exact and the choice repeatable.
    """
    places = np.flatnonzero(region)
    order = np.argsort(rank.ravel()[places], kind="stable")
    chosen = np.zeros(region.shape, dtype=bool)
    chosen.ravel()[places[order[:count]]] = True
    return chosen


def distance_from(
    shape: tuple[int, int], point: tuple[int, int]
) -> Float[NDArray[np.float64], "rows columns"]:
    """Squared Euclidean distance of every pixel to one, in pixels squared."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    squared: NDArray[np.float64] = (
        np.square(rows - point[0]) + np.square(columns - point[1])
    ).astype(np.float64)
    return squared


def random_pixel(region: Mask, random: np.random.Generator) -> tuple[int, int]:
    """Row and column of a pixel of the region, all equally likely; the region must not be empty."""
    places = np.flatnonzero(region)
    row, column = np.unravel_index(places[random.integers(places.size)], region.shape)
    return int(row), int(column)


def components(region: Mask) -> Iterator[Mask]:
    """The connected parts of a region, in reading order; corners connect."""
    numbers, count = ndimage.label(region, structure=TOUCHING_CORNERS)
    for number in range(1, count + 1):
        yield numbers == number
