"""Checks of one case against its files: the image's header, the pixels of marks and mask."""

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
from wsseg.imaging.label_maps import label_grid_difference
from wsseg.imaging.reading import Grid, is_turned, read_grid, read_slice_and_origin, slice_shape
from wsseg.train.cases.agreement import (
    Statement,
    against_image,
    against_itself,
    against_marks,
    against_mask,
    marks_against_mask,
    statements,
)
from wsseg.train.cases.facts import digest_of, look_of, read_image_facts
from wsseg.train.cases.files import (
    WHITE,
    as_counted,
    draw_points,
    label_slice,
    mask_slice,
    scaled,
    unnamed_labels,
)
from wsseg.train.cases.schema import MARKED_BACKGROUND, Case, Contents, Look

VALUES_SHOWN = 5
NAME_SHOWN = 120
DRIVE = re.compile(r"(^|/)[A-Za-z]:[\\/]")
"""Of a Windows path, perhaps behind the table's folder."""
LOOKED_AT = 16
"""Rows and columns, evenly spread, by which two pictures are held for equal before all are looked
at."""

T = TypeVar("T")
Labels = NDArray[np.uint8]


class _FileError(Exception):
    """What is wrong with one file, for the report."""


@dataclass(frozen=True)
class CaseRow:
    """How the row of a case is to be checked.

    named: which of `slice` and `volume` it fills in. first: no earlier case is of the same file;
    then it is decoded, of a volume the first, the middle and the last slice, so that a file that
    was cut is found. sampled: whether an intensity window will be chosen by it.
    """

    named: frozenset[str]
    first: bool
    sampled: bool


@dataclass(frozen=True)
class _Files:
    """What could be read of a case's files; None where there is none or it is at fault.

    Rows and columns as the table counts them, so that what is told of them can be found there.
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
    """What a case's files hold, and what is wrong with it and them, one line each.

    A file that is at fault is left out of the comparisons with others, and so is a class that its
    row contradicts itself about.
    """
    messages: list[str] = []
    contents, files = _read(messages, case, row, classes)
    if files.marks is not None and files.mask is not None:
        messages += marks_against_mask(files.marks, files.mask)
    drawn: list[float | None] = [None] * len(classes)
    if files.mask is not None:
        counts = PixelCounts.of_labels(files.mask, len(classes))
        drawn = [known(ratio) for ratio in area_ratios(counts, denominators)]
    for statement, ratio in zip(statements(case, classes, denominators), drawn, strict=True):
        contradictions = list(against_itself(statement))
        messages += contradictions or _against_files(statement, files, ratio)
    return contents, messages


def _counts(labels: Labels) -> NDArray[np.intp]:
    """Pixels of each label 0..255."""
    return np.bincount(labels.ravel(), minlength=WHITE + 1)


def _numbers(labels: Labels) -> frozenset[int]:
    return frozenset(np.flatnonzero(_counts(labels)).tolist())


def _against_files(statement: Statement, files: _Files, drawn: float | None) -> list[str]:
    messages: list[str] = []
    if files.shape is not None:
        messages += against_image(statement, files.shape)
    if files.marks is not None:
        messages += against_marks(statement, files.marks)
    if files.mask is not None:
        messages += against_mask(statement, files.mask, drawn)
    return messages


def _read(
    messages: list[str], case: Case, row: CaseRow, classes: tuple[str, ...]
) -> tuple[Contents, _Files]:
    grid = _attempt(messages, "image", case.image, lambda path: _image_grid(path, case, row.named))
    decode = None if grid is None or not row.first else case.image
    decoded = _attempt(messages, "image", decode, lambda path: _decoded(path, case, row.sampled))
    fingerprint, look = decoded or (b"", None)
    shape = None if grid is None else grid.counted
    mask = _attempt(messages, "mask", case.mask, lambda path: _mask(path, case, shape, classes))
    drawn = _attempt(messages, "marks", case.marks, lambda path: _marks(path, case, shape, classes))
    marks, marked = drawn or (None, frozenset[int]())
    if shape is not None and case.points:
        marks = _with_points(messages, case, shape, marks)
    contents = Contents(
        image=None if grid is None else read_image_facts(case, look),
        marked=marked,
        labelled=_numbers(marks) - {0} if case.points and marks is not None else marked - {0},
        drawn=None if mask is None else tuple(_counts(mask)[1 : len(classes) + 1].tolist()),
        fingerprint=fingerprint,
        unnamed=frozenset() if messages else frozenset(unnamed_labels(case)),
        turned_alone=grid is not None and grid.tagged and not messages and _drawn_upright(case),
        digests={
            column: digest
            for column, path in case.files.items()
            if (digest := digest_of(path)) is not None
        },
    )
    return contents, _Files(shape, marks, mask)


def _drawn_upright(case: Case) -> bool:
    """Whether what is drawn on a case's picture lacks the orientation tag that turns it."""
    labels = [path for column, path in case.files.items() if column != "image"]
    return case.counts_pixels or not all(map(is_turned, labels))


def _attempt(
    messages: list[str], column: str, path: Path | None, read: Callable[[Path], T]
) -> T | None:
    """What `read` gives; None, with a message, where the file is at fault."""
    if path is None:
        return None
    try:
        if not path.is_file():
            raise _FileError(_missing(path))
        return read(path)
    except (WssegError, _FileError) as error:
        messages.append(f"{column}: {error}")
    except OSError as error:  # a folder that may not be entered, a cell that is no name of a file
        messages.append(f"{column}: {str(path)[:NAME_SHOWN]} cannot be opened ({error.strerror})")
    return None


def _missing(path: Path) -> str:
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
    """How the picture lies in its file."""
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


def _decoded(path: Path, case: Case, sampled: bool) -> tuple[bytes, Look | None]:
    """What pictures of equal pixels, but for their scale, have in common, of a volume its middle
    slice's; and the look of the case's own slice, if it was read for that."""
    slices = read_grid(path, case.volume).slices
    look = None
    for index in dict.fromkeys((0, slices - 1, slices // 2)):
        pixels, origin = read_slice_and_origin(path, slice_index=index, volume=case.volume)
        if index == case.slice_index:
            look = look_of(pixels, origin, sampled=sampled)
    rows, columns = (max(1, side // LOOKED_AT) for side in pixels.shape[:2])
    digest = hashlib.blake2b(repr((pixels.shape, slices)).encode(), digest_size=16)
    digest.update(scaled(pixels[::rows, ::columns]).tobytes())
    return digest.digest(), look


def _mask(
    path: Path, case: Case, shape: tuple[int, int] | None, classes: tuple[str, ...]
) -> Labels | None:
    """The mask; None without an image that says which slice it is and how it is turned."""
    if shape is None:
        return None
    labels = as_counted(case, mask_slice(path, case, len(classes)))
    _check_values(labels, len(classes), ())
    return _on_grid(path, case, labels, shape)


def _marks(
    path: Path, case: Case, shape: tuple[int, int] | None, classes: tuple[str, ...]
) -> tuple[Labels, frozenset[int]] | None:
    """The marks and the numbers in them; None without an image to lay them on."""
    if shape is None:
        return None
    labels = as_counted(case, label_slice(path, case))
    _check_inverted(labels, len(classes))
    marked = _check_values(labels, len(classes), (MARKED_BACKGROUND,))
    # White paint is the common mistake, and would train on nothing without a word.
    if marked - {0} == {MARKED_BACKGROUND} and not _may_mark_background_only(case):
        raise _FileError(
            f"{path.name} marks no class, only {MARKED_BACKGROUND}, which means background: "
            f"paint marked pixels with the class number, {_range(len(classes))}"
        )
    return _on_grid(path, case, labels, shape), marked


def _may_mark_background_only(case: Case) -> bool:
    """Whether no class is in the picture, or some class is shown by a box or by points."""
    told = zip(case.ratios, case.regions, strict=True)
    healthy = all(ratio == 0 or region.present is False for ratio, region in told)
    return healthy or bool(case.points) or any(region.box for region in case.regions)


def _check_inverted(labels: Labels, classes: int) -> None:
    """Some scribble data sets store strokes over background as 0, and most pixels as k + 1."""
    if np.count_nonzero(labels == classes + 1) > labels.size / 2 and classes + 1 < WHITE:
        raise _FileError(
            f"most pixels are {classes + 1}, as where that means not marked and 0 a stroke over "
            f"background: write {MARKED_BACKGROUND} for 0, then 0 for {classes + 1}"
        )


def _check_values(labels: Labels, classes: int, further: tuple[int, ...]) -> frozenset[int]:
    """The numbers that occur, all of which are allowed."""
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
    """The marks with the points drawn over them; unchanged where a point lies outside."""
    rows, columns = shape
    outside = [
        point for point in case.points if not (0 <= point[0] < rows and 0 <= point[1] < columns)
    ]
    if outside:
        row, column, number = outside[0]
        # Number 255 marks background, which has no extremes.
        own = case.regions[number - 1].extremes if number <= len(case.regions) else ()
        messages.append(
            f"{'extremes' if (row, column) in own else 'points'}: {[row, column]} lies outside "
            f"the image of {rows} rows and {columns} columns; a point is [row, column], from 0"
        )
        return marks
    return draw_points(np.zeros(shape, np.uint8) if marks is None else marks, case.points)
