"""Checks of a whole table: rows against each other, and every row against its files."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wsseg.imaging.definitions import Denominator, PixelCounts, area_ratios, known
from wsseg.imaging.dicom.values import quiet
from wsseg.imaging.discovery import missing
from wsseg.imaging.errors import WssegError
from wsseg.imaging.label_alignment import label_grid_difference
from wsseg.imaging.reading import is_turned, read_grid, read_slice, slice_count, slice_shape
from wsseg.imaging.tables import Fault
from wsseg.train.cases.agreement import (
    Statement,
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
    draw_points,
    label_slice,
    mask_slice,
    scaled,
    unnamed_labels,
)
from wsseg.train.cases.schema import Case, Contents, group_key
from wsseg.train.data.batch import MARKED_BACKGROUND

# Checks of one case against its files: the image's header, the pixels of marks and mask.

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
class _Files:
    """What could be read of a case's files; None where there is none or it is at fault.

    Rows and columns as the table counts them, so that what is told of them can be found there.
    marked: the numbers in the marks file.
    """

    shape: tuple[int, int] | None
    marks: Labels | None
    mask: Labels | None
    fingerprint: bytes
    marked: frozenset[int]


def check_case(
    case: Case,
    named: frozenset[str],
    first: bool,
    *,
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
) -> tuple[Contents, list[str]]:
    """What a case's files hold, and what is wrong with it and them, one line each.

    named: which of `slice` and `volume` its row fills in. first: no earlier case is of the same
    file; then it is decoded, of a volume the first, the middle and the last slice, so that a file
    that was cut is found.

    A file that is at fault is left out of the comparisons with others, and so is a class that its
    row contradicts itself about.
    """
    messages: list[str] = []
    files = _read(messages, case, named, first, classes)
    contents = Contents(
        files.shape or (1, 1),
        files.marked,
        None if files.mask is None else tuple(_counts(files.mask)[1 : len(classes) + 1].tolist()),
        files.fingerprint,
    )
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
    messages: list[str], case: Case, named: frozenset[str], first: bool, classes: tuple[str, ...]
) -> _Files:
    grid = _attempt(messages, "image", case.image, lambda path: _image_grid(path, case, named))
    shape, slices = grid or (None, 0)
    decode = None if grid is None or not first else case.image
    fingerprint = _attempt(messages, "image", decode, lambda path: _fingerprint(path, case, slices))
    mask = _attempt(messages, "mask", case.mask, lambda path: _mask(path, case, shape, classes))
    drawn = _attempt(messages, "marks", case.marks, lambda path: _marks(path, case, shape, classes))
    marks, marked = drawn or (None, frozenset[int]())
    if shape is not None and case.points:
        marks = _with_points(messages, case, shape, marks)
    return _Files(shape, marks, mask, fingerprint or b"", marked)


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


def _image_grid(path: Path, case: Case, named: frozenset[str]) -> tuple[tuple[int, int], int]:
    """Rows and columns, and how many slices the file has."""
    grid = read_grid(path)
    if grid.kind == "dicom" and grid.volumes > 1 and "volume" not in named:
        raise _FileError(
            f"{path.name} holds {grid.volumes} scans (of several stacks, times, echoes or the "
            "like): give one, from 0, in a column named volume; slice counts within it"
        )
    count = slice_count(path, case.volume)
    if count > 1 and "slice" not in named:
        raise _FileError(
            f"{path.name} has {count} slices: give one, from 0, in a column named slice"
        )
    slice_shape(path, slice_index=case.slice_index, volume=case.volume)
    return read_grid(path, case.volume).counted, count


def _fingerprint(path: Path, case: Case, slices: int) -> bytes:
    """What pictures of equal pixels, but for their scale, have in common; of a volume its middle
    slice's."""
    ends = {0, slices - 1} if slices > 1 else set[int]()
    for index in ends:
        read_slice(path, slice_index=index, volume=case.volume)
    pixels = read_slice(path, slice_index=slices // 2, volume=case.volume)
    rows, columns = (max(1, side // LOOKED_AT) for side in pixels.shape[:2])
    digest = hashlib.blake2b(repr((pixels.shape, slices)).encode(), digest_size=16)
    digest.update(scaled(pixels[::rows, ::columns]).tobytes())
    return digest.digest()


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
    values = frozenset(np.flatnonzero(_counts(labels)).tolist())
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


READERS = min(32, 4 + (os.cpu_count() or 1))
"""Threads that read files: more than cores, because most of the time is spent waiting for disks
and network shares."""
PAIRS_SHOWN = 5
NUMBERS_SHOWN = 8


def check_table(
    cases: Sequence[Case], *, faulty: Collection[int], unlabelled: bool = False
) -> Iterator[Fault]:
    """Faults between rows. Lines in `faulty` have cells that could not be read, and are left out
    where such a cell would give a fault that is none. `unlabelled`: training cases may say nothing.
    """
    if not cases and not faulty:
        yield Fault(0, "no case in the table: expected one row for each picture")
    elif cases and not any(case.split == "train" for case in cases):
        yield Fault(0, "no training case: put train into the split column of some rows")
    sound = [case for case in cases if case.row not in faulty]
    yield from _repeated(sound)
    yield from _crossing(sound)
    if not unlabelled:
        yield from _unsupervised(sound)


def check_files(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    *,
    placed: Mapping[int, frozenset[str]],
) -> tuple[tuple[Case, ...], list[Fault]]:
    """The cases with what was seen in their files, and the faults of these.

    placed: of each line, which of `slice` and `volume` it fills in.
    """
    check = partial(check_case, classes=classes, denominators=denominators)
    # Once for all files: to silence a library anew for each takes as long as to open one.
    with quiet, ThreadPoolExecutor(READERS) as pool:
        named = [placed[case.row] for case in cases]
        looked = list(zip(cases, pool.map(check, cases, named, _firsts(cases)), strict=True))
    return (
        tuple(replace(case, contents=contents) for case, (contents, _) in looked),
        [Fault(case.row, message) for case, (_, messages) in looked for message in messages],
    )


def _firsts(cases: Sequence[Case]) -> list[bool]:
    """Of each case, whether none before it is of the same file."""
    first = {os.path.normpath(case.image): case.row for case in reversed(cases)}
    return [first[os.path.normpath(case.image)] == case.row for case in cases]


def label_notes(cases: Sequence[Case]) -> Iterator[str]:
    """What label files hold that is allowed, but may not be meant. Checked cases only."""
    labelled = [case for case in cases if _draws(case)]
    with ThreadPoolExecutor(READERS) as pool:
        turned = list(pool.map(_turned_alone, labelled))
        found = pool.map(unnamed_labels, labelled)
        unnamed = sorted({number for each in found for number in each})
    if any(turned):
        first = labelled[turned.index(True)].row
        yield (
            f"{sum(turned)} images have an orientation tag (EXIF) that their labels lack, the "
            f"first in line {first}: label files, points and boxes count as drawn on the picture "
            f"as it is shown"
        )
    if unnamed:
        shown = ", ".join(map(str, unnamed[:NUMBERS_SHOWN]))
        more = ", ..." if len(unnamed) > NUMBERS_SHOWN else ""
        yield (
            f"label numbers {shown}{more} stand for no class in [labels]: they count as background"
        )


def _draws(case: Case) -> bool:
    """Whether a case says anything that counts rows and columns."""
    files = case.marks is not None or case.mask is not None
    return files or _lists_places(case)


def _lists_places(case: Case) -> bool:
    return bool(case.points) or not all(region.placeless for region in case.regions)


def _turned_alone(case: Case) -> bool:
    files = [path for path in (case.marks, case.mask) if path is not None]
    return is_turned(case.image) and (_lists_places(case) or not all(map(is_turned, files)))


def _repeated(cases: Sequence[Case]) -> Iterator[Fault]:
    first: dict[tuple[str, int, int], int] = {}
    for case in cases:
        key = (os.path.normpath(case.image), case.slice_index, case.volume)
        line = first.setdefault(key, case.row)
        if line != case.row:
            yield Fault(case.row, f"the same image and slice as line {line}: remove one of them")


def _crossing(cases: Sequence[Case]) -> Iterator[Fault]:
    # The group's name stays out of the message: it often is the patient's.
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        other = first.setdefault(group_key(case), case)
        if case.group and other.split != case.split:
            spelt = "" if other.group == case.group else ", spelt otherwise"
            yield Fault(
                case.row,
                f"its group is in {case.split} here and in {other.split} in line {other.row}"
                f"{spelt}: keep all cases of a patient in one split",
            )


def _unsupervised(cases: Sequence[Case]) -> Iterator[Fault]:
    for case in cases:
        shown = case.marks or case.points or case.mask
        told = any(ratio is not None for ratio in case.ratios)
        told = told or not all(region.empty for region in case.regions)
        if case.split == "train" and not shown and not told:
            yield Fault(
                case.row,
                "nothing to learn from: give a ratio, its bounds, a tag, marks, points, extremes, "
                "a box, a centroid, a spread or a mask, or drop it",
            )


def copies(cases: Sequence[Case]) -> Iterator[str]:
    """What to say of pictures that are in the table twice, by their lines."""
    pairs = repeated_pictures(cases)
    apart = [(first, later) for first, later in pairs if first.split != later.split]
    if apart:
        yield (
            f"{_count(apart)} of pictures in another split, so that what judges the network is "
            f"what taught it: {_lines(apart)}"
        )
    within = [pair for pair in pairs if pair not in apart]
    if within:
        yield f"{_count(within)} of others in the same split: {_lines(within)}"


def _count(pairs: Sequence[object]) -> str:
    return f"{len(pairs)} {'picture is a copy' if len(pairs) == 1 else 'pictures are copies'}"


def _lines(pairs: Sequence[tuple[Case, Case]]) -> str:
    shown = ", ".join(
        f"line {later.row} copies line {one.row}" for one, later in pairs[:PAIRS_SHOWN]
    )
    return f"{shown}{', ...' if len(pairs) > PAIRS_SHOWN else ''}"


def repeated_pictures(cases: Sequence[Case]) -> tuple[tuple[Case, Case], ...]:
    """Cases whose file has, in whatever format and scale, the pixels of an earlier case's.

    Each after that case.

    Of volumes the middle slice is compared. Each file counts once.
    """
    pairs = _same([case for case in cases if case.contents.fingerprint])
    return tuple(sorted(pairs, key=lambda pair: pair[1].row))


def _same(cases: Sequence[Case]) -> Iterator[tuple[Case, Case]]:
    alike: dict[bytes, list[Case]] = {}
    for case in cases:
        alike.setdefault(case.contents.fingerprint, []).append(case)
    for several in (each for each in alike.values() if len(each) > 1):
        seen: dict[str, Case] = {}
        for case in several:
            earlier = seen.setdefault(_pixels(case), case)
            if earlier is not case:
                yield earlier, case


def _pixels(case: Case) -> str:
    """A digest of the pixels that a case is compared by."""
    middle = slice_count(case.image, case.volume) // 2
    pixels = read_slice(case.image, slice_index=middle, volume=case.volume)
    return hashlib.sha256(scaled(pixels).tobytes()).hexdigest()
