"""The pixels of a checked case at its own grid, as tensors are made of them."""

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.slices import read_slice
from wsseg.train.batch import NOT_MARKED
from wsseg.train.case import Case
from wsseg.train.label_files import case_marks

PARTS = 1 << 16
"""A power of two: no value of a picture of 8 bits lies between two parts, to be rounded at will."""


def read_image(case: Case, channels: int) -> NDArray[np.float32]:
    """The slice (c, row, column) in physical units, with the channels that a network reads, 1 or 3.

    Raises ReadError for a file that cannot be read.
    """
    pixels = read_slice(case.image, slice_index=case.slice_index, volume=case.volume)
    if pixels.ndim == 3 and channels == 1:
        pixels = luminance(pixels)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def scaled(pixels: NDArray[np.float32]) -> NDArray[np.float32] | NDArray[np.int32]:
    """The pixels in parts of their range: the same in 8 bits, in 16 and from 0 to 1.

    Pictures of one value are as they are.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not low < high:
        return pixels
    share = (pixels.astype(np.float64) - low) / (high - low)
    return np.rint(share * PARTS).astype(np.int32)


def read_marks(case: Case, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The weak marks (row, column) of `case_marks`, nothing marked for a case without."""
    marks = case_marks(case)
    return np.full(shape, NOT_MARKED, np.uint8) if marks is None else marks
