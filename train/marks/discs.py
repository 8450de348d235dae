"""Blobs and points, which tell where a region is and nothing of its shape."""

import numpy as np

from wsseg.train.marks.region import (
    Mask,
    deepest,
    distance_from,
    first_pixels,
    random_pixel,
    share_count,
)


def disc_mark(region: Mask, percent: float) -> Mask:
    """A disc of `percent` % of the region's pixels around its deepest pixel.

    Where the disc would leave the region, the nearest pixels inside take the place of those
    outside, so that the number of pixels is exact.
    """
    count = share_count(int(region.sum()), percent)
    return _nearest(region, deepest(region), count) if count else np.zeros_like(region)


def random_disc_mark(region: Mask, percent: float, random: np.random.Generator) -> Mask:
    """A disc of `percent` % of the region's pixels around any of its pixels, as `disc_mark`."""
    count = share_count(int(region.sum()), percent)
    return _nearest(region, random_pixel(region, random), count) if count else np.zeros_like(region)


def point_mark(region: Mask) -> Mask:
    """The deepest pixel of the region alone; nothing of an empty region."""
    return _single(region.shape, deepest(region)) if region.any() else np.zeros_like(region)


def random_point_mark(region: Mask, random: np.random.Generator) -> Mask:
    """Any one pixel of the region, all equally likely; nothing of an empty region."""
    if not region.any():
        return np.zeros_like(region)
    return _single(region.shape, random_pixel(region, random))


def _nearest(region: Mask, centre: tuple[int, int], count: int) -> Mask:
    return first_pixels(region, distance_from(region.shape, centre), count)


def _single(shape: tuple[int, ...], place: tuple[int, int]) -> Mask:
    mark = np.zeros(shape, dtype=bool)
    mark[place] = True
    return mark
