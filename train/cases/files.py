"""Cases as their images are shown: a table counts rows and columns of DICOM images as stored."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import luminance
from wsseg.imaging.dicom import is_segmentation, unnamed_segments
from wsseg.imaging.label_maps import read_labels_for
from wsseg.imaging.reading import read_grid, read_slice, slice_count, slice_shape, unnamed_numbers
from wsseg.imaging.scan import AS_STORED, Reorientation
from wsseg.train.cases.schema import NOT_MARKED, Box, Case, Point, Region

# The label maps of a case as arrays: one meaning for the checks, the data and the marks.

WHITE = 255


def case_mask(case: Case, classes: int) -> NDArray[np.uint8] | None:
    """The full mask (row, column), 0 background, class number otherwise; None without a mask.

    Raises ReadError for a file that cannot be read.
    """
    return None if case.mask is None else mask_slice(case.mask, case, classes)


def case_marks(case: Case) -> NDArray[np.uint8] | None:
    """The weak marks (row, column) of a checked case; None without marks and points.

    0 not marked, class number, 255 marked as background. Points, extremes among them, are drawn
    over the marks file as one pixel each. Raises ReadError for a file that cannot be read.
    """
    marks = None if case.marks is None else label_slice(case.marks, case)
    if not case.points:
        return marks
    if marks is None:
        shape = slice_shape(case.image, slice_index=case.slice_index, volume=case.volume)
        marks = np.zeros(shape, np.uint8)
    return draw_points(marks, case.points)


def draw_points(marks: NDArray[np.uint8], points: tuple[Point, ...]) -> NDArray[np.uint8]:
    """A copy of the marks (row, column) with the class number at each (row, column, number)."""
    drawn = marks.copy()
    for row, column, number in points:
        drawn[row, column] = number
    return drawn


def class_masks(case: Case, classes: int) -> NDArray[np.bool_] | None:
    """The full masks (k, row, column) of a checked case; None without. Raises ReadError."""
    labels = case_mask(case, classes)
    if labels is None:
        return None
    masks: NDArray[np.bool_] = labels == np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]
    return masks


def mask_slice(path: Path, case: Case, classes: int) -> NDArray[np.uint8]:
    """The slice of a mask file that belongs to a case, values not checked.

    With one class, a black and white picture (0 and 255 only) means background and class 1.
    """
    labels = label_slice(path, case, background=0)
    if classes == 1 and not np.any((labels != 0) & (labels != WHITE)):
        return np.minimum(labels, 1)
    return labels


def label_slice(path: Path, case: Case, *, background: int = WHITE) -> NDArray[np.uint8]:
    """The class numbers that a label file gives a case, (row, column) of its image as shown.

    background: what marks background in the file becomes, 0 in a mask.

    A file with one slice is that slice, whichever slice of a volume the case is: marks drawn or
    simulated for a slice of a NIfTI file are stored as a picture.
    """
    return read_labels_for(
        case.image,
        path,
        slice_index=case.slice_index,
        volume=case.volume,
        numbering=case.numbering,
        background=background,
    )


def unnamed_labels(case: Case) -> set[int]:
    """Numbers in the label files of a case that the map of its numbering does not name."""
    found: set[int] = set()
    for path in (case.marks, case.mask):
        if path is not None and case.numbering.stored:
            found.update(_unnamed(path, case))
    return found


def _unnamed(path: Path, case: Case) -> list[int]:
    if is_segmentation(path):
        return unnamed_segments(path, case.numbering)
    own = _own_slice(path, case)
    return unnamed_numbers(path, case.numbering, slice_index=own, volume=case.volume)


def _own_slice(path: Path, case: Case) -> int:
    """A slice of a label file that belongs to a case; of one that is placed otherwise, any."""
    return min(case.slice_index, slice_count(path) - 1)


# The pixels of a checked case at its own grid, as tensors are made of them.

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
        return pixels[None] if channels == 1 else np.repeat(pixels[None], channels, axis=0)
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


Number = TypeVar("Number", int, float)


def as_counted(case: Case, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A case's labels (row, column), read in display order, by the rows and columns of its table.

    Raises ReadError for an image whose header cannot be read.
    """
    return read_grid(case.image, case.volume).reorientation.undo(labels)


def shown(case: Case) -> Case:
    """A checked case whose points and regions count rows and columns of the image as shown.

    Raises ReadError for an image whose header cannot be read.
    """
    if not case.counts_pixels:
        return case
    grid = read_grid(case.image, case.volume)
    if grid.reorientation == AS_STORED:
        return case
    place = _Counted(grid.reorientation, grid.shape)
    return replace(
        case,
        points=tuple((*place.point((row, column)), number) for row, column, number in case.points),
        regions=tuple(place.region(region) for region in case.regions),
    )


class _Counted:
    """What becomes of places when a picture is turned. shape: rows and columns as shown."""

    def __init__(self, turn: Reorientation, shape: tuple[int, int]) -> None:
        self._turn = turn
        self._last = shape[0] - 1, shape[1] - 1

    def point(self, point: tuple[Number, Number]) -> tuple[Number, Number]:
        """Row and column, whole numbers being centres of pixels."""
        row, column = point[::-1] if self._turn.transpose else point
        return (
            self._last[0] - row if self._turn.flip_rows else row,
            self._last[1] - column if self._turn.flip_columns else column,
        )

    def box(self, box: Box) -> Box:
        one = self.point((box.top, box.left))
        other = self.point((box.bottom - 1, box.right - 1))
        (top, bottom), (left, right) = (sorted(ends) for ends in zip(one, other, strict=True))
        return Box(top, left, bottom + 1, right + 1)

    def region(self, region: Region) -> Region:
        spread = region.spread
        return replace(
            region,
            box=region.box and self.box(region.box),
            extremes=tuple(map(self.point, region.extremes)),
            centroid=region.centroid and self.point(region.centroid),
            spread=spread[::-1] if spread and self._turn.transpose else spread,
        )
