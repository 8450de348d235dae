"""Pixels that are not a number, or infinite."""

import math

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError


def fill_nonfinite(
    pixels: NDArray[np.float32], source: str, *, elsewhere: float = math.inf
) -> bool:
    """Replace in place what is not finite in (slice, row, column, ...); True if there was any.

    Each slice takes its own lowest finite value, so that a slice read alone looks the same; one
    without any takes the lowest of all, or that of slices which are `elsewhere`. Raises ReadError
    when no value is finite.
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
