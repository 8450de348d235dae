"""DICOM objects whose frames are too many for memory: decoded when they are asked for."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from wsseg.imaging.dicom_object import OpenObject, Part
from wsseg.imaging.dicom_pixels import Pixels
from wsseg.imaging.errors import ReadError
from wsseg.imaging.nonfinite import fill_nonfinite, lowest_finite, no_finite_values
from wsseg.imaging.planes import Planes

# Values beyond which frames are not kept: half a GiB of float32. To decode them anew each time
# costs less than the memory.
LONG_PIXELS = 1 << 27

_COLOUR_AXES = 4

_ReadSlices = Callable[[Sequence[int]], Pixels]


class LongStack:
    """The slices of one or several long objects, one object after the other.

    Each is read through once, to know that all of it can be decoded and what is in it.
    """

    def __init__(self) -> None:
        self._objects: list[tuple[range, _ReadSlices]] = []
        self._shape: tuple[int, ...] = ()
        self._grey = True

    def add(self, opened: OpenObject, source: str) -> Part:
        """Read through an object; what a scan must know of it. Raises ReadError."""
        if self._objects and opened.shape[1:] != self._shape[1:]:
            raise ReadError(
                "broken_header",
                f"{source} has frames of {opened.shape[1:]} pixels, {self._shape[1:]} were "
                "expected: export the series again",
            )

        def raw(slices: Sequence[int]) -> Pixels:
            stack = np.empty((len(slices), *opened.shape[1:]), np.float32)
            opened.into(stack, slices)
            return stack

        grey, lowest, damaged = len(opened.shape) == _COLOUR_AXES, math.inf, False
        for plane in Planes(opened.shape, raw):
            grey = grey and bool((plane == plane[..., :1]).all())
            damaged = damaged or not np.isfinite(plane).all()
            lowest = min(lowest, lowest_finite(plane))
        if damaged and not math.isfinite(lowest):
            raise no_finite_values(source)

        def mended(slices: Sequence[int]) -> Pixels:
            stack = raw(slices)
            fill_nonfinite(stack, source, elsewhere=lowest)
            return stack

        first = self._shape[0] if self._shape else 0
        self._objects.append((range(first, first + opened.shape[0]), mended if damaged else raw))
        self._shape = (first + opened.shape[0], *opened.shape[1:])
        self._grey = self._grey and grey
        part = opened.part
        return part.with_flag("NONFINITE") if damaged else part

    def pixels(self) -> Planes:
        """All slices; colours whose channels are equal throughout are grey."""
        if not self._grey:
            return Planes(self._shape, self._read)
        return Planes(self._shape[:-1], lambda wanted: self._read(wanted)[..., 0])

    def _read(self, wanted: Sequence[int]) -> Pixels:
        stack = np.empty((len(wanted), *self._shape[1:]), np.float32)
        for numbers, read in self._objects:
            places = [at for at, index in enumerate(wanted) if index in numbers]
            if places:
                stack[places] = read([numbers.index(wanted[at]) for at in places])
        return stack
