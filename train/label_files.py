"""The label maps of a case as arrays: one meaning for the checks, the data and the marks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.label_place import read_labels_for
from wsseg.imaging.segmentation import is_segmentation, unnamed_segments
from wsseg.imaging.slices import slice_count, slice_shape, unnamed_numbers
from wsseg.train.case import Case, Point

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
