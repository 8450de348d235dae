"""Arrays in memory that wsseg and the process of an engine both see."""

import mmap
import os
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
Place = tuple[str, list[int], int]
"""An array: the type of its numbers, its shape, and where it begins, in bytes."""


class SharedArrays:
    """Arrays in a nameless file that two processes have open and use in turn."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def put(self, arrays: Sequence[NDArray[Any]], *, start: int = 0) -> list[Place]:
        """Copy arrays to the file, from the byte `start` on; returns where they lie."""
        places: list[Place] = []
        end = start
        for array in arrays:
            at = -(-end // ALIGNMENT) * ALIGNMENT
            places.append((array.dtype.str, list(array.shape), at))
            end = at + array.nbytes
        end = max(end, 1)  # an empty file cannot be mapped
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, end)
        for array, place in zip(arrays, places, strict=True):
            self.get(place)[...] = array
        return places

    def get(self, place: Place) -> NDArray[Any]:
        """The array at a place, as it lies in the file: the next `put` may overwrite it."""
        kind, shape, start = place
        if self._map is None or len(self._map) < end_of(place):
            # Arrays that still lie in the former map keep it.
            self._map = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return np.frombuffer(self._map, kind, prod(shape), start).reshape(shape)


def end_of(place: Place) -> int:
    """The byte behind an array."""
    kind, shape, start = place
    return start + prod(shape) * np.dtype(kind).itemsize
