"""Intensities of images: values that are not finite, and the range of many images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Range, Window
from wsseg.imaging.errors import ReadError


def fill_nonfinite(
    pixels: NDArray[np.float32], source: str, *, elsewhere: float = math.inf
) -> bool:
    """Replace values that are not finite in (slice, row, column, ...); True if there were any.

    In place, by the lowest finite value of the slice, so that a slice that is read alone looks the
    same; a slice without one takes the lowest of all. elsewhere: the lowest finite value of slices
    that are not in the array. Raises ReadError when no value is finite.
    """
    damaged = [index for index, plane in enumerate(pixels) if not np.isfinite(plane).all()]
    if not damaged:
        return False
    lowest = min(elsewhere, *(lowest_finite(plane) for plane in pixels))
    if not math.isfinite(lowest):
        raise no_finite_values(source)
    for index in damaged:
        plane = pixels[index]
        own = lowest_finite(plane)
        plane[~np.isfinite(plane)] = own if math.isfinite(own) else lowest
    return True


def lowest_finite(plane: NDArray[np.float32]) -> float:
    """The lowest value that is a number; infinity where there is none."""
    return float(np.min(plane, initial=np.inf, where=np.isfinite(plane)))


def no_finite_values(source: str) -> ReadError:
    """The error of a file without a single number."""
    return ReadError("no_finite_values", f"{source} holds only NaN or infinity: export it again")


PERCENTILES = (1.0, 99.0)
# Evenly spaced values of a slice that are used: percentiles of more hardly differ.
VALUES = 4096
# A lowest value that so many pixels share is padding or an empty background, not tissue.
SHARED = 0.01
# One image in twenty may be an odd one without hiding others of its kind.
ODD = 0.05
# By so much of the trained range an image may be brighter, darker or shifted. Exposure, contrast
# and gain move the ends by less; another unit, bit depth or offset by more.
MARGIN = 0.5
# An image that spans less than this part of the middle span is on a smaller scale, such as 0..1, or
# 8 bits of 12. An 8-bit picture that spans so little looks black.
FLAT = 0.1


class Ends(NamedTuple):
    """1st and 99th percentile of an image, in its own units, padding left out."""

    low: float
    high: float


def thinned(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most about VALUES evenly spaced finite values of a slice of any shape."""
    # Rows and columns apart: one stride over both would follow the columns of some widths.
    step = max(1, math.isqrt(pixels.size // VALUES))
    values = pixels[::step, ::step].ravel()
    finite: NDArray[np.float32] = values[np.isfinite(values)]
    return finite


def ends_of(values: NDArray[np.float32]) -> Ends | None:
    """The ends of some values; None for one value throughout, which has no range.

    The lowest value is left out where more than SHARED of all have it.
    """
    if not values.size:
        return None
    inside = values[values > values.min()]
    if not inside.size:
        return None
    kept = inside if len(inside) < (1 - SHARED) * len(values) else values
    low, high = np.percentile(kept, PERCENTILES)
    return Ends(float(low), float(high))


def range_of(images: Sequence[Ends], *, odd: float = ODD) -> Range | None:
    """The range of some images' ends; None where there is no image with a range.

    odd: share of the images that is left out on either side.
    """
    if not images:
        return None
    lows, highs = np.array(images, np.float64).T
    return Range(
        low=_quantile(lows, odd),
        low_most=_quantile(lows, 1 - odd),
        high=_quantile(highs, 1 - odd),
        span=_quantile(highs - lows, 0.5),
    )


def _quantile(values: NDArray[np.float64], share: float) -> float:
    return float(np.quantile(values, share, method="nearest"))


def without_odd(images: Sequence[NDArray[np.float32]], *, odd: float) -> list[NDArray[np.float32]]:
    """Images (values of any shape) without those beyond the range of the others.

    odd: share of images on either side that never makes the range.
    """
    ends = [ends_of(values) for values in images]
    usual = range_of([end for end in ends if end], odd=odd)
    if usual is None:
        return list(images)
    return [
        values
        for values, end in zip(images, ends, strict=True)
        if end is None or not is_beyond(end, usual, usual_window(usual))
    ]


def usual_window(usual: Range) -> Window:
    """The window that spans a range, where nothing else says what a network sees."""
    return Window(low=usual.low, high=max(usual.high, np.nextafter(usual.low, np.inf)))


def is_beyond(ends: Ends, seen: Range, window: Window) -> bool:
    """Whether an image lies outside what training met, and outside the network's window.

    It is brighter or darker than any by MARGIN of the whole range, or its low end is shifted
    upwards by as much and its high end by half of that, beyond the window. Never for a window of
    the image's own, which takes any scale.
    """
    if window.kind == "image":
        return False
    room = MARGIN * (seen.high - seen.low)
    brighter = ends.high > max(seen.high, window.high) + room
    darker = ends.low < min(seen.low, window.low) - room
    lifted = ends.high > max(seen.high + room / 2, window.high)
    return brighter or darker or (lifted and ends.low > seen.low_most + room)


def is_flat(ends: Ends, seen: Range, window: Window) -> bool:
    """Whether an image spans less than FLAT of what training images do.

    Never for a window of the image's own.
    """
    return window.kind == "fixed" and ends.high - ends.low < FLAT * seen.span
