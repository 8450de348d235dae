"""The pixels of a checked case at its own grid, as tensors are made of them."""

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.slices import read_slice
from wsseg.train.batch import NOT_MARKED
from wsseg.train.case import Case
from wsseg.train.label_files import case_marks


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


def read_marks(case: Case, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The weak marks (row, column) of `case_marks`, nothing marked for a case without."""
    marks = case_marks(case)
    return np.full(shape, NOT_MARKED, np.uint8) if marks is None else marks
