"""Checks of one case against its files: the image's header, the pixels of marks and mask."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.errors import WssegError
from wsseg.imaging.slices import grid_difference, slice_count, slice_shape
from wsseg.train.batch import MARKED_BACKGROUND
from wsseg.train.case import Case
from wsseg.train.label_files import draw_points, label_slice, mask_slice
from wsseg.train.ratios import Denominator, mask_ratios

ROUNDING = 0.005
"""A ratio written in whole percent is up to this far from the mask's."""
READER_VARIATION = 0.25
"""Relative difference of a ratio and a mask that two readers may cause; more means that they
belong to different pictures or that one of them is wrong."""
VALUES_SHOWN = 5

T = TypeVar("T")
Labels = NDArray[np.uint8]


class _FileError(Exception):
    """What is wrong with one file, for the report."""


def check_case(
    case: Case, sliced: bool, *, classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> list[str]:
    """What is wrong with the files of a case, one line each. sliced: its row names a slice.

    A file that is at fault is left out of the comparisons with others.
    """
    messages: list[str] = []
    shape = _attempt(messages, "image", case.image, lambda path: _image_shape(path, case, sliced))
    mask = _attempt(messages, "mask", case.mask, lambda path: _mask(path, case, shape, classes))
    marks = _attempt(messages, "marks", case.marks, lambda path: _marks(path, case, shape, classes))
    if shape is not None and case.points:
        marks = _with_points(messages, case, shape, marks)
    if marks is not None:
        messages += _marks_above_ratio(case, marks, classes)
    if marks is not None and mask is not None:
        messages += _marks_outside_mask(marks, mask)
    if mask is not None:
        messages += _ratio_against_mask(case, mask, classes, denominators)
    return messages


def _attempt(
    messages: list[str], column: str, path: Path | None, read: Callable[[Path], T]
) -> T | None:
    """What `read` gives; None, with a message, where the file is at fault."""
    if path is None:
        return None
    try:
        if not path.is_file():
            raise _FileError(
                f"{path} is a folder: name one file"
                if path.is_dir()
                else f"there is no file {path}: paths are relative to the folder of the table"
            )
        return read(path)
    except (WssegError, _FileError) as error:
        messages.append(f"{column}: {error}")
        return None


def _image_shape(path: Path, case: Case, sliced: bool) -> tuple[int, int]:
    count = slice_count(path)
    if count > 1 and not sliced:
        raise _FileError(
            f"{path.name} has {count} slices: give one, from 0, in a column named slice"
        )
    return slice_shape(path, slice_index=case.slice_index, volume=case.volume)


def _mask(
    path: Path, case: Case, shape: tuple[int, int] | None, classes: tuple[str, ...]
) -> Labels | None:
    """The mask; None without an image to compare it with."""
    labels = mask_slice(path, case, len(classes))
    _check_values(labels, len(classes), ())
    return _on_grid(path, case, labels, shape)


def _marks(
    path: Path, case: Case, shape: tuple[int, int] | None, classes: tuple[str, ...]
) -> Labels | None:
    labels = label_slice(path, case)
    _check_values(labels, len(classes), (MARKED_BACKGROUND,))
    # White paint is the common mistake, and would train on nothing without a word.
    marked = labels[labels != 0]
    only_background = marked.size > 0 and bool(np.all(marked == MARKED_BACKGROUND))
    if only_background and any(ratio != 0 for ratio in case.ratios):
        raise _FileError(
            f"{path.name} marks no class, only {MARKED_BACKGROUND}, which means background: "
            f"paint marked pixels with the class number, {_range(len(classes))}"
        )
    return _on_grid(path, case, labels, shape)


def _check_values(labels: Labels, classes: int, further: tuple[int, ...]) -> None:
    values = np.unique(labels)
    wrong = values[~np.isin(values, [*range(classes + 1), *further])]
    if wrong.size:
        shown = ", ".join(str(value) for value in wrong[:VALUES_SHOWN])
        raise _FileError(
            f"pixel values {shown}{' ...' if wrong.size > VALUES_SHOWN else ''} are no class "
            f"numbers: expected {_range(classes)}, and 0 elsewhere"
        )


def _range(classes: int) -> str:
    return "1" if classes == 1 else f"1 to {classes}"


def _on_grid(
    path: Path, case: Case, labels: Labels, shape: tuple[int, int] | None
) -> Labels | None:
    if shape is None:
        return None
    if labels.shape != shape:
        raise _FileError(
            f"{path.name} has {labels.shape[0]} rows and {labels.shape[1]} columns, the image "
            f"{shape[0]} and {shape[1]}: draw it on the image's own pixels"
        )
    # A picture that was drawn on one slice of a volume has no other slices to compare.
    drawn_on_slice = slice_count(path) == 1 < slice_count(case.image)
    difference = "" if drawn_on_slice else grid_difference(case.image, path)
    if difference:
        raise _FileError(f"{difference}: draw it on the image's own grid")
    return labels


def _with_points(
    messages: list[str], case: Case, shape: tuple[int, int], marks: Labels | None
) -> Labels | None:
    """The marks with the points drawn over them; unchanged where a point lies outside."""
    rows, columns = shape
    outside = [
        [row, column]
        for row, column, _ in case.points
        if not (0 <= row < rows and 0 <= column < columns)
    ]
    if outside:
        messages.append(
            f"points: {outside[0]} lies outside the image of {rows} rows and {columns} columns; "
            f"a point is [row, column], from 0"
        )
        return marks
    return draw_points(np.zeros(shape, np.uint8) if marks is None else marks, case.points)


def _marks_above_ratio(case: Case, marks: Labels, classes: tuple[str, ...]) -> Iterator[str]:
    """No denominator is larger than the image, so a region is at most ratio * N pixels."""
    for number, (name, ratio) in enumerate(zip(classes, case.ratios, strict=True), 1):
        marked = np.count_nonzero(marks == number)
        if ratio is not None and marked > ratio * marks.size + 0.5:
            yield (
                f"marks: {marked} pixels are marked as {name}, but its ratio {ratio:g} leaves "
                f"room for {ratio * marks.size:.1f}: correct the ratio or the marks"
            )


def _marks_outside_mask(marks: Labels, mask: Labels) -> Iterator[str]:
    said = np.where(marks == MARKED_BACKGROUND, 0, marks)
    wrong = np.count_nonzero((marks != 0) & (said != mask))
    if wrong:
        yield (
            f"marks: {wrong} marked pixels have another class in the mask: "
            f"correct the marks or the mask"
        )


def _ratio_against_mask(
    case: Case, mask: Labels, classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> Iterator[str]:
    shown = mask_ratios(mask, denominators)
    for name, ratio, drawn in zip(classes, case.ratios, shown, strict=True):
        if ratio is None or drawn is None:
            continue
        # Rounding never makes a ratio of nothing larger than 0.
        from_nothing = drawn == 0 < ratio
        if from_nothing or abs(ratio - drawn) > ROUNDING + READER_VARIATION * drawn:
            yield (
                f"ratio of {name} is {ratio:g}, but its mask shows {drawn:.4g}: "
                f"correct the one that is wrong"
            )
