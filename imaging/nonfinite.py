"""Pixels that are not a number, or infinite."""

import math

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import ReadError


def fill_nonfinite(pixels: NDArray[np.float32], source: str) -> bool:
    """Replace in place what is not finite in (slice, row, column, ...); True if there was any.

    Each slice takes its own lowest finite value, so that a slice read alone looks the same.
    Raises ReadError when no value is finite.
    """
    damaged = [index for index, plane in enumerate(pixels) if not np.isfinite(plane).all()]
    if not damaged:
        return False
    lowest = min((_lowest(plane) for plane in pixels), default=math.inf)
    if not math.isfinite(lowest):
        raise ReadError("no_finite_values", f"{source} holds only NaN or infinity: export it again")
    for index in damaged:
        plane = pixels[index]
        own = _lowest(plane)
        plane[~np.isfinite(plane)] = own if math.isfinite(own) else lowest
    return True


def _lowest(plane: NDArray[np.float32]) -> float:
    return float(np.min(plane, initial=np.inf, where=np.isfinite(plane)))
