"""An opened picture, and its pages: numbers as stored, what they mean to the eye and as labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsseg.imaging.errors import ReadError
from wsseg.imaging.limits import SLICE_PIXELS

Value = TypeVar("Value", bound=np.generic)
Stored = NDArray[Any]

WHITE = 255
"""Brightest value of a colour, and of pictures whose values are fewer bits than a byte."""
UPRIGHT = 1
ORIENTED = "EXIF_ORIENTATION"
"""Flag of pictures that an orientation tag turns."""
SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange rows and columns."""


def most_pixels() -> int:
    """Pixels that a page may have: those that Pillow takes for safe, unless it is told to take all.

    Pillow itself only warns between its limit and twice that.
    """
    return Image.MAX_IMAGE_PIXELS or SLICE_PIXELS


def too_many_pixels(source: str) -> ReadError:
    """The error for a page of more than `most_pixels`."""
    what = f"{source} has more than {most_pixels()} pixels"
    return ReadError("too_large", f"{what}: crop it or make it smaller")


@dataclass(frozen=True)
class Page:
    """values: (row, column) grey, or (row, column, 3) RGB, as stored but for the orientation.

    to_white: what brings values to 0..255; 1 where they are their own units. mirror, label_mirror:
    the stored value that is black, where 0 is white: of the picture as it is shown, and of the
    numbers that a label map holds; None where 0 is black, or the writer stores numbers so.
    alpha: (row, column) opacity, 0 transparent. index: (row, column) into the palette that the
    colours were looked up in; numbered: whether the writer means it as the number of a label.
    """

    values: Stored
    to_white: float = 1.0
    mirror: int | None = None
    label_mirror: int | None = None
    alpha: Stored | None = None
    index: Stored | None = None
    numbered: bool = False

    @property
    def coloured(self) -> bool:
        """Whether the values are RGB."""
        return self.values.ndim == 3

    def shown(self) -> NDArray[np.float32]:
        """The picture: (row, column) or (row, column, 3), a new array."""
        values = self.values.astype(np.float32)
        if self.mirror is not None:
            values = np.float32(self.mirror) - values
        return values if self.to_white == 1 else values * np.float32(self.to_white)

    def numbers(self) -> NDArray[np.float64]:
        """The numbers of a label map (row, column), or its colours (row, column, 3) 0..255."""
        if self.numbered and self.index is not None:
            return self.index.astype(np.float64)
        values = self.values.astype(np.float64)
        if self.label_mirror is not None:
            values = self.label_mirror - values
        return values * self.to_white if self.coloured else values

    def turned(self, orientation: int) -> "Page":
        """The page as it is shown, by its EXIF orientation, 1 to 8."""
        return replace(
            self,
            values=turn(self.values, orientation),
            alpha=None if self.alpha is None else turn(self.alpha, orientation),
            index=None if self.index is None else turn(self.index, orientation),
        )


@dataclass(frozen=True)
class Lengths:
    """Millimetres. pixel_mm: (row, column) distance of neighbouring pixels; slice_mm: of slices.

    None where the file does not state them.
    """

    pixel_mm: tuple[float, float] | None = None
    slice_mm: float | None = None

    def swapped(self) -> "Lengths":
        """Those of the picture turned by a quarter."""
        return Lengths(self.pixel_mm and self.pixel_mm[::-1], self.slice_mm)


UNKNOWN_LENGTHS = Lengths()


@dataclass(frozen=True)
class Picture:
    """An opened picture, no pixel decoded. shape: (rows, columns) as it is shown.

    page: gives the pixels of (slice, volume), as they are shown. colour: whether any page is
    coloured. lossy: whether the compression changes pixels. Several slices and volumes only TIFF
    has.
    """

    shape: tuple[int, int]
    colour: bool
    flags: tuple[str, ...]
    lossy: bool
    page: Callable[[int, int], Page]
    lengths: Lengths = UNKNOWN_LENGTHS
    slices: int = 1
    volumes: int = 1


def turn(stored: NDArray[Value], orientation: int) -> NDArray[Value]:
    """View stored pixels (row, column, ...) as they are shown (TIFF 6.0, tag 274)."""
    match orientation:
        case 2:
            return stored[:, ::-1]
        case 3:
            return stored[::-1, ::-1]
        case 4:
            return stored[::-1]
        case 5:
            return stored.swapaxes(0, 1)
        case 6:
            return stored.swapaxes(0, 1)[:, ::-1]
        case 7:
            return stored[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return stored.swapaxes(0, 1)[::-1]
        case _:
            return stored
