"""Checks of one case against its files: the header of the image, the pixels of marks and mask."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator, PixelCounts, area_ratios, known
from wsseg.imaging.discovery import missing
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import version_of
from wsseg.imaging.label_maps import label_grid_difference
from wsseg.imaging.reading import Grid, is_turned, read_grid, read_slice_and_origin, slice_shape
from wsseg.train.cases.contradictions import (
    against_image,
    against_itself,
    against_marks,
    against_mask,
    marks_against_mask,
    statements,
)
from wsseg.train.cases.files import (
    WHITE,
    as_counted,
    compact,
    digest_of,
    draw_points,
    label_slice,
    look_of,
    mask_slice,
    read_image_facts,
    scaled,
    unnamed_labels,
)
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case, Contents, Decoded, Look

VALUES_SHOWN = 5
NAME_SHOWN = 120
DRIVE = re.compile(r"(^|/)[A-Za-z]:[\\/]")
"""A path of a Windows computer, perhaps after the table's folder."""
COMPARED = 16
"""Evenly spread rows and columns of the fingerprint; images with equal ones are compared wholly."""

T = TypeVar("T")
Labels = NDArray[np.uint8]


class _FileError(Exception):
    """A fault of one file, for the report."""


@dataclass(frozen=True)
class CaseRow:
    """How the row of a case is checked.

    named: which of the columns `slice` and `volume` it fills in. first: whether no earlier case has
    the same file; then the file is decoded, of a volume the first, the middle and the last slice,
    so that a truncated file is found. sampled: whether an intensity window is chosen from it. used:
    whether it is for training or validation, so that its pixels will be read again.
    """

    named: frozenset[str]
    first: bool
    sampled: bool
    used: bool


@dataclass(frozen=True)
class _Files:
    """The contents of a case's files; None for a file that is missing or faulty.

    Rows and columns are those that the table counts, so that messages agree with it.
    """

    shape: tuple[int, int] | None
    marks: Labels | None
    mask: Labels | None


def check_case(
    case: Case,
    row: CaseRow,
    *,
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
) -> tuple[Contents, list[str]]:
    """Return the contents of a case's files, and the faults of the case and its files, in lines.

    A faulty file is not compared with others, nor is a class whose cells contradict each other.
    """
    messages: list[str] = []
    contents, files = _read(messages, case, row, classes)
    if files.marks is not None and files.mask is not None:
        messages += marks_against_mask(files.marks, files.mask)
    ratios: list[float | None] = [None] * len(classes)
    if files.mask is not None:
        counts = PixelCounts.of_labels(files.mask, len(classes))
        ratios = [known(ratio) for ratio in area_ratios(counts, denominators)]
    for statement, ratio in zip(statements(case, classes, denominators), ratios, strict=True):
        contradictions = list(against_itself(statement))
        messages += contradictions
        if contradictions:
            continue
        if files.shape is not None:
            messages += against_image(statement, files.shape)
        if files.marks is not None:
            messages += against_marks(statement, files.marks)
        if files.mask is not None:
            messages += against_mask(statement, files.mask, ratio)
    return contents, messages


def _counts(labels: Labels) -> NDArray[np.intp]:
    """Return the number of pixels of each label 0..255."""
    # Most labels are 0, and leaving them out is faster than counting them.
    marked = labels[labels != 0]
    counts = np.bincount(marked, minlength=WHITE + 1)
    counts[0] = labels.size - marked.size
    return counts


def _numbers(labels: Labels) -> frozenset[int]:
    return frozenset(np.flatnonzero(_counts(labels)).tolist())


def _read(
    messages: list[str], case: Case, row: CaseRow, classes: tuple[str, ...]
) -> tuple[Contents, _Files]:
    grid = _attempt(messages, "image", case.image, lambda path: _image_grid(path, case, row.named))
    decode = None if grid is None or not row.first else case.image
    kept: dict[str, Decoded] = {}
    decoded = _attempt(messages, "image", decode, lambda path: _decoded(path, case, row, kept))
    fingerprint, look = decoded or (b"", None)
    shape = None if grid is None else grid.counted
    mask = _attempt(
        messages, "mask", case.mask, lambda path: _mask(path, case, shape, classes, kept)
    )
    drawn = _attempt(
        messages, "marks", case.marks, lambda path: _marks(path, case, shape, classes, kept)
    )
    marks, marked = drawn or (None, frozenset[int]())
    if shape is not None and case.points:
        marks = _with_points(messages, case, shape, marks)
    # Whether labels or points were drawn on pixels without the image's orientation tag.
    turned_alone = False
    if grid is not None and grid.tagged and not messages:
        labels = [path for column, path in case.files.items() if column != "image"]
        turned_alone = case.counts_pixels or not all(map(is_turned, labels))
    contents = Contents(
        image=None if grid is None else read_image_facts(case, look),
        marked=marked,
        labelled=_numbers(marks) - {0} if case.points and marks is not None else marked - {0},
        drawn=None if mask is None else tuple(_counts(mask)[1 : len(classes) + 1].tolist()),
        fingerprint=fingerprint,
        unnamed=frozenset() if messages else frozenset(unnamed_labels(case)),
        turned_alone=turned_alone,
        digests={
            column: digest
            for column, path in case.files.items()
            if (digest := digest_of(path)) is not None
        },
        decoded=kept if row.used and not messages else {},
    )
    return contents, _Files(shape, marks, mask)


def _attempt(
    messages: list[str], column: str, path: Path | None, read: Callable[[Path], T]
) -> T | None:
    """Return the result of `read`; None, with a message, if the file is faulty."""
    if path is None:
        return None
    try:
        if not path.is_file():
            raise _FileError(_missing(path))
        return read(path)
    except (WssegError, _FileError) as error:
        messages.append(f"{column}: {error}")
    except OSError as error:  # no permission to enter a folder, an invalid name of a file
        messages.append(f"{column}: {str(path)[:NAME_SHOWN]} cannot be opened ({error.strerror})")
    return None


def _missing(path: Path) -> str:
    """Return a message on a path that is not a file."""
    if path.is_dir():
        return f"{path} is a folder: name one file"
    if path.is_symlink():
        return missing(path, str(path))[1]
    if path.parent.is_dir():
        for other in path.parent.iterdir():
            if other.name.casefold() == path.name.casefold():
                return (
                    f"there is no file {path}, but {other.name}: capitals count in names of files"
                )
    if DRIVE.search(str(path)):
        return (
            f"there is no file {path}: that is a path of a Windows computer; write paths relative "
            f"to the folder of the table"
        )
    return f"there is no file {path}: paths are relative to the folder of the table"


def _image_grid(path: Path, case: Case, named: frozenset[str]) -> Grid:
    """Return the grid of the image's slice; its volume and slice must be named and exist."""
    grid = read_grid(path)
    if grid.kind == "dicom" and grid.volumes > 1 and "volume" not in named:
        raise _FileError(
            f"{path.name} holds {grid.volumes} scans (of several stacks, times, echoes or the "
            "like): give one, from 0, in a column named volume; slice counts within it"
        )
    own = read_grid(path, case.volume)
    if own.slices > 1 and "slice" not in named:
        raise _FileError(
            f"{path.name} has {own.slices} slices: give one, from 0, in a column named slice"
        )
    slice_shape(path, slice_index=case.slice_index, volume=case.volume)
    return own


def _decoded(
    path: Path, case: Case, row: CaseRow, kept: dict[str, Decoded]
) -> tuple[bytes, Look | None]:
    """Return a fingerprint, and the look of the case's own slice, which is kept, if it was read.

    The fingerprint is equal for images of equal pixels in any scale; it is that of a volume's
    middle slice.
    """
    slices = read_grid(path, case.volume).slices
    look = None
    for index in dict.fromkeys((0, slices - 1, slices // 2)):
        pixels, origin = read_slice_and_origin(path, slice_index=index, volume=case.volume)
        if index == case.slice_index:
            look = look_of(pixels, origin, sampled=row.sampled)
            if row.used:
                kept["image"] = Decoded(version_of(path), compact(pixels))
    rows, columns = (max(1, side // COMPARED) for side in pixels.shape[:2])
    digest = hashlib.blake2b(repr((pixels.shape, slices)).encode(), digest_size=16)
    digest.update(scaled(pixels[::rows, ::columns]).tobytes())
    return digest.digest(), look


def _mask(
    path: Path,
    case: Case,
    shape: tuple[int, int] | None,
    classes: tuple[str, ...],
    kept: dict[str, Decoded],
) -> Labels | None:
    """Return the mask; None without an image, which determines its slice and orientation."""
    if shape is None:
        return None
    as_shown = mask_slice(path, case, len(classes))
    kept["mask"] = Decoded(version_of(path), as_shown)
    labels = as_counted(case, as_shown)
    _check_values(labels, len(classes), ())
    return _on_grid(path, case, labels, shape)


def _marks(
    path: Path,
    case: Case,
    shape: tuple[int, int] | None,
    classes: tuple[str, ...],
    kept: dict[str, Decoded],
) -> tuple[Labels, frozenset[int]] | None:
    """Return the marks and the labels in them; None without an image."""
    if shape is None:
        return None
    as_shown = label_slice(path, case)
    kept["marks"] = Decoded(version_of(path), as_shown)
    labels, count = as_counted(case, as_shown), len(classes)
    # Some scribble data sets store strokes over background as 0, and most pixels as k + 1.
    if np.count_nonzero(labels == count + 1) > labels.size / 2 and count + 1 < WHITE:
        raise _FileError(
            f"most pixels are {count + 1}, as where that means not marked and 0 a stroke over "
            f"background: write {MARKED_BACKGROUND} for 0, then 0 for {count + 1}"
        )
    marked = _check_values(labels, count, (MARKED_BACKGROUND,))
    # White paint is a common mistake, with which nothing would be learnt, and without a message.
    # It is meant if no class is in the image, or if a box or points show one.
    classes_of = zip(case.ratios, case.regions, strict=True)
    absent = all(ratio == 0 or region.present is False for ratio, region in classes_of)
    meant = absent or case.points or any(region.box for region in case.regions)
    if marked - {0} == {MARKED_BACKGROUND} and not meant:
        raise _FileError(
            f"{path.name} marks no class, only {MARKED_BACKGROUND}, which means background: "
            f"paint marked pixels with the class number, {_range(count)}"
        )
    return _on_grid(path, case, labels, shape), marked


def _check_values(labels: Labels, classes: int, further: tuple[int, ...]) -> frozenset[int]:
    """Return the labels that occur. Raises _FileError for one beyond the classes and `further`."""
    values = _numbers(labels)
    wrong = sorted(values.difference(range(classes + 1), further))
    if wrong:
        shown = ", ".join(map(str, wrong[:VALUES_SHOWN]))
        background = f", {MARKED_BACKGROUND} where background is marked" if further else ""
        raise _FileError(
            f"pixel values {shown}{' ...' if len(wrong) > VALUES_SHOWN else ''} are no class "
            f"numbers: expected {_range(classes)}{background}, and 0 elsewhere; name other "
            f"numbers under [labels] in the settings"
        )
    return values


def _range(classes: int) -> str:
    return "1" if classes == 1 else f"1 to {classes}"


def _on_grid(path: Path, case: Case, labels: Labels, shape: tuple[int, int]) -> Labels:
    """Return the labels. Raises _FileError if they are not on the image's grid."""
    if labels.shape != shape:
        if labels.shape == shape[::-1] and is_turned(case.image):
            raise _FileError(
                f"{path.name} has {labels.shape[0]} rows and {labels.shape[1]} columns, those of "
                f"the stored pixels, but an orientation tag (EXIF) turns the image: draw it on the "
                f"picture as it is shown, or give it the same tag"
            )
        raise _FileError(
            f"{path.name} has {labels.shape[0]} rows and {labels.shape[1]} columns, the image "
            f"{shape[0]} and {shape[1]}: draw it on the image's own pixels"
        )
    difference = label_grid_difference(
        case.image, path, slice_index=case.slice_index, volume=case.volume
    )
    if difference:
        raise _FileError(f"{difference}: draw it on the image's own grid")
    return labels


def _with_points(
    messages: list[str], case: Case, shape: tuple[int, int], marks: Labels | None
) -> Labels | None:
    """Return the marks with the points drawn over them; unchanged if a point is outside."""
    rows, columns = shape
    outside = [
        point for point in case.points if not (0 <= point[0] < rows and 0 <= point[1] < columns)
    ]
    if outside:
        row, column, label = outside[0]
        # The label 255 marks background, which has no extremes.
        own = case.regions[label - 1].extremes if label <= len(case.regions) else ()
        messages.append(
            f"{'extremes' if (row, column) in own else 'points'}: {[row, column]} lies outside "
            f"the image of {rows} rows and {columns} columns; a point is [row, column], from 0"
        )
        return marks
    return draw_points(np.zeros(shape, np.uint8) if marks is None else marks, case.points)
