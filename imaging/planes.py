"""The slices of a long scan, read when they are asked for: for what is too large for an array."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Plane = NDArray[np.float32]

# Bytes of slices that a long scan holds at a time. Reading on where the last slice ended costs less
# than beginning anew.
HELD_BYTES = 1 << 26

ReadPlanes = Callable[[Sequence[int]], Iterable[Plane]]


class Planes:
    """Slices (row, column) or (row, column, 3) float32, in physical units, like the array
    (slice, row, column[, 3]) they would be: with its shape, its length, each slice by its number
    and all of them in turn.

    `read` gives the slices of the numbers that it is handed, one after the other; what it raises is
    raised when a slice is taken. nbytes: of the slices that are held at most, not of all. Several
    threads may take slices.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], read: ReadPlanes) -> None:
        self.shape = shape
        self._read = read
        plane_bytes = int(np.prod(shape[1:])) * self.dtype.itemsize
        self._most = max(1, HELD_BYTES // plane_bytes)
        self.nbytes = self._most * plane_bytes
        self._held: dict[int, Plane] = {}
        self._next = 0
        self._lock = threading.Lock()

    @property
    def ndim(self) -> int:
        """3 for grey slices, 4 for colours."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Plane]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Plane:
        index = range(len(self))[index]
        with self._lock:
            if index not in self._held:
                # In turn, several at once; any other slice alone.
                count = self._most if index == self._next else 1
                wanted = range(index, min(index + count, len(self)))
                self._held.clear()
                self._held.update(zip(wanted, self._read(wanted), strict=True))
            self._next = index + 1
            return self._held[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All slices in memory after all."""
        whole = np.empty(self.shape, dtype or self.dtype)
        for index, plane in enumerate(self):
            whole[index] = plane
        return whole

    def take(self, order: Sequence[int]) -> "Planes":
        """The slices of these numbers, in this order."""
        shape = (len(order), *self.shape[1:])
        return Planes(shape, lambda wanted: self._read([order[index] for index in wanted]))

    def each(self, change: Callable[[Plane], Plane], shape: tuple[int, ...]) -> "Planes":
        """The same slices, changed one by one; `shape` is that of all of them together."""
        return Planes(shape, lambda wanted: (change(plane) for plane in self._read(wanted)))
