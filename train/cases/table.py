"""cases.csv as cases: read, divided into splits or folds, and checked before anything trains."""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsseg.imaging.definitions import Denominator, RatioDefinition
from wsseg.imaging.dicom import silence_pydicom
from wsseg.imaging.errors import WssegError
from wsseg.imaging.files import named_file
from wsseg.imaging.label_values import Label, Numbering, numbering
from wsseg.imaging.reading import read_slice, slice_count
from wsseg.imaging.stopping import reading_threads
from wsseg.imaging.tables import (
    DEFAULT_OPTIONS,
    Fault,
    Row,
    TableError,
    TableOptions,
    read_table,
)
from wsseg.train.cases.cells import (
    CellError,
    enclosing,
    parse_box,
    parse_extremes,
    parse_index,
    parse_mark_kind,
    parse_place,
    parse_points,
    parse_present,
    parse_split,
    with_fractions,
)
from wsseg.train.cases.checks import CaseRow, check_case
from wsseg.train.cases.evidence import doubtful_classes, unsupervised_classes
from wsseg.train.cases.files import FilesOnce, scaled, shown
from wsseg.train.cases.images import IMAGES, spread
from wsseg.train.cases.schema import (
    KNOWN,
    Case,
    CaseTable,
    Columns,
    Contents,
    Pixel,
    Point,
    Region,
    Split,
    class_denominators,
    group_key,
    one_spelling,
    read_columns,
    without_percent,
)

T = TypeVar("T")

READERS = min(32, 4 + (os.cpu_count() or 1))
"""Threads that read files: more than cores, because most of the time is spent waiting for disks
and network shares."""
DECODED_BYTES = 1 << 28
"""Memory of the pixels that are kept for training: a table of about a thousand images of 512 x 512
in 8 bits is decoded once. The files of a larger one are opened and decoded again."""
UNUSED: tuple[Split, ...] = ("test", "calibrate")
"""Splits that training does not use."""
PAIRS_SHOWN = 5
NUMBERS_SHOWN = 8


def read_cases(
    path: Path,
    *,
    classes: tuple[str, ...] | None = None,
    ratios: tuple[RatioDefinition, ...] = (),
    labels: Mapping[str, tuple[Label, ...]] | None = None,
    seed: int = 0,
    val_fraction: float = 0.15,
    unlabelled: bool = False,
    options: TableOptions = DEFAULT_OPTIONS,
) -> CaseTable:
    """Read and check a table of cases; paths in it are relative to its own folder.

    classes: names in the order of their labels; without them the columns name the classes, see
    `read_columns`, or there is one, called roi. ratios: definitions of the ratio columns, shares of
    the whole image by default. labels: the values of each class in marks and masks, by name; class
    k has the value k by default. Without a split column, `val_fraction` of the groups (at least
    one, and never all) go to val, chosen by `seed`; a row without a group is grouped by its image
    file. unlabelled: whether a training case may be an image alone, for a run with a teacher.
    options: how the file is read.

    Every file is read before this returns: images, marks and masks are decoded. Raises TableError,
    one report of all faults, and WssegError for a file that is no table.
    """
    text, percent, repeated = without_percent(read_table(path, KNOWN, options))
    columns, header_faults = read_columns(text.header, classes, text.line)
    if header_faults or repeated:
        raise TableError(path.name, [*header_faults, *repeated, *text.faults])
    denominators = class_denominators(columns.classes, ratios)
    table = with_fractions(text, columns, denominators, percent)
    text, columns = table.text, table.columns
    faults = [*text.faults, *table.faults]
    numbers = numbering(columns.classes, labels or {})
    rows = []
    for row in text.rows:
        if row.cells["image"]:
            cells = _Cells(row, columns)
            rows.append(_case(cells, path.parent, numbers))
            faults += cells.faults
        else:
            faults.append(Fault(row.line, "image: empty; it holds the path of the picture"))
    cases = tuple(rows)
    if "split" not in text.header:
        cases = _divide(cases, seed=seed, val_fraction=val_fraction)
    faulty = {fault.line for fault in faults} | table.unsized
    faults += check_table(cases, faulty=faulty, unlabelled=unlabelled)
    named = {
        row.line: frozenset(name for name in ("slice", "volume") if row.cells.get(name))
        for row in text.rows
    }
    training = [case for case in cases if case.split == "train"]
    cases, file_faults = check_files(
        cases, columns.classes, denominators, named=named, sampled=spread(training, IMAGES)
    )
    faults += file_faults
    if not faults:
        faults += unsupervised_classes(cases, columns.classes, unlabelled=unlabelled)
    if faults:
        raise TableError(path.name, faults)
    notes = (*table.doubts, *label_notes(cases))
    doubts = (*notes, *doubts_of(cases, columns.classes, denominators))
    return CaseTable(path, text.sha256, columns.classes, tuple(map(shown, cases)), text, doubts)


class _Cells:
    """The cells of one row.

    A cell that cannot be read leaves a fault and counts as empty, so that the rest of the row is
    checked as well.
    """

    def __init__(self, row: Row, columns: Columns) -> None:
        self.row = row
        self.columns = columns
        self.faults: list[Fault] = []

    def value(self, column: str, parse: Callable[[str], T], default: T) -> T:
        try:
            return parse(self.row.cells.get(column, ""))
        except CellError as error:
            self.faults.append(Fault(self.row.line, f"{column}: {error}"))
            return default

    def ratio(self, name: str, class_index: int) -> float | None:
        text = self.row.cells.get(self.columns.of(name)[class_index])
        return float(text) if text else None

    def region(self, class_index: int) -> Region:
        """Return what the row states of one class."""

        def value(name: str, parse: Callable[[str], T], default: T) -> T:
            return self.value(self.columns.of(name)[class_index], parse, default)

        unknown: tuple[Pixel, ...] = ()
        extremes = value("extremes", parse_extremes, unknown)
        box = value("box", parse_box, None)
        return Region(
            low=self.ratio("ratio_low", class_index),
            high=self.ratio("ratio_high", class_index),
            present=value("present", parse_present, None),
            box=enclosing(extremes) if extremes and box is None else box,
            extremes=extremes,
            centroid=value("centroid", parse_place, None),
            spread=value("spread", parse_place, None),
            mark_kind=value("mark_kind", parse_mark_kind, None),
        )


def _case(cells: _Cells, folder: Path, numbers: Numbering) -> Case:
    """Return the case of a row; folder: of the table, to which paths are relative."""

    def path(text: str) -> Path | None:
        return named_file(folder, text) if text else None

    row, classes = cells.row, len(cells.columns.classes)
    unmarked: tuple[Point, ...] = ()
    points = cells.value("points", partial(parse_points, classes=classes), unmarked)
    regions = tuple(cells.region(class_index) for class_index in range(classes))
    # Extremes are in their class, so they mark it.
    extremes = ((*pixel, label) for label, each in enumerate(regions, 1) for pixel in each.extremes)
    return Case(
        row=row.line,
        image=named_file(folder, row.cells["image"]),
        ratios=tuple(cells.ratio("ratio", class_index) for class_index in range(classes)),
        marks=cells.value("marks", path, None),
        points=(*points, *extremes),
        mask=cells.value("mask", path, None),
        group=row.cells.get("group", ""),
        split=cells.value("split", parse_split, "train") if "split" in row.cells else "train",
        slice_index=cells.value("slice", parse_index, 0),
        volume=cells.value("volume", parse_index, 0),
        regions=regions,
        numbering=numbers,
    )


def _divide(cases: Sequence[Case], *, seed: int, val_fraction: float) -> tuple[Case, ...]:
    """Put whole groups into val; equal groups, seed and fraction give equal splits."""
    groups = one_spelling(cases)
    names = sorted(set(groups))
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    val = {names[index] for index in order[: max(count, 0)]}
    return tuple(
        replace(case, split="val" if group in val else "train")
        for case, group in zip(cases, groups, strict=True)
    )


def fold_of(
    table: CaseTable,
    fold: int,
    folds: int,
    *,
    seed: int,
    ratios: tuple[RatioDefinition, ...] = (),
    unlabelled: bool = False,
) -> CaseTable:
    """Return the table for the training of one fold, from 1, of a cross-validation.

    The cases of the fold are val and all others train, whatever split the table states; those that
    training does not use (test, calibrate) stay. ratios, unlabelled: as for `read_cases`. Raises
    WssegError for fewer groups than folds, TableError for a class that the other folds do not
    describe.
    """
    cases = tuple(
        case
        if case.split in UNUSED
        else replace(case, fold=dealt, split="val" if dealt == fold else "train")
        for case, dealt in zip(table.cases, deal(table.cases, folds, seed=seed), strict=True)
    )
    faults = [
        replace(fault, message=f"fold {fold}: {fault.message}")
        for fault in unsupervised_classes(cases, table.classes, unlabelled=unlabelled)
    ]
    if faults:
        raise TableError(table.path.name, faults)
    denominators = class_denominators(table.classes, ratios)
    of_splits = set(doubts_of(table.cases, table.classes, denominators))
    doubts = [doubt for doubt in table.doubts if doubt not in of_splits]
    doubts += doubts_of(cases, table.classes, denominators)
    return replace(table, cases=cases, doubts=tuple(doubts))


def deal(cases: Sequence[Case], folds: int, *, seed: int) -> list[int]:
    """Return the fold of each case, from 1; 0 for cases that training does not use.

    Whole groups go to the fold that has the fewest cases so far: the largest groups first, equal
    ones in an order drawn by the seed. Raises WssegError for fewer groups than folds.
    """
    groups = one_spelling(cases)
    sizes: dict[tuple[str, str], int] = {}
    for case, group in zip(cases, groups, strict=True):
        if case.split not in UNUSED:
            sizes[group] = sizes.get(group, 0) + 1
    names = sorted(sizes)
    if len(names) < folds:
        raise WssegError(
            f"{folds} folds need as many groups of cases, and there are {len(names)}: give fewer "
            "--folds, or name the groups in a column group"
        )
    filled, fold_of_group = [0] * folds, dict[tuple[str, str], int]()
    drawn = np.random.default_rng(seed).permutation(len(names))
    for index in sorted(drawn, key=lambda index: -sizes[names[index]]):
        least = filled.index(min(filled))
        filled[least] += sizes[names[index]]
        fold_of_group[names[index]] = least + 1
    return [
        0 if case.split in UNUSED else fold_of_group[group]
        for case, group in zip(cases, groups, strict=True)
    ]


# Checks of rows against each other, and of every row against its files.


def check_table(
    cases: Sequence[Case], *, faulty: Collection[int], unlabelled: bool = False
) -> Iterator[Fault]:
    """Yield faults between rows.

    faulty: lines with cells that could not be read; they are left out where such a cell could cause
    a wrong fault. unlabelled: whether training cases may state nothing.
    """
    if not cases and not faulty:
        yield Fault(0, "no case in the table: expected one row for each picture")
    elif cases and not any(case.split == "train" for case in cases):
        yield Fault(0, "no training case: put train into the split column of some rows")
    lines: dict[tuple[str, int, int], int] = {}
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        if case.row in faulty:
            continue
        key = (os.path.normpath(case.image), case.slice_index, case.volume)
        line = lines.setdefault(key, case.row)
        if line != case.row:
            yield Fault(case.row, f"the same image and slice as line {line}: remove one of them")
        other = first.setdefault(group_key(case), case)
        if case.group and other.split != case.split:
            # The name of the group is left out, because it is often the patient's.
            spelt = "" if other.group == case.group else ", spelt otherwise"
            yield Fault(
                case.row,
                f"its group is in {case.split} here and in {other.split} in line {other.row}"
                f"{spelt}: keep all cases of a patient in one split",
            )
        if case.split == "train" and not unlabelled and not case.labelled:
            yield Fault(
                case.row,
                "the row has nothing to learn from: give a ratio, its bounds, a tag, marks, "
                "points, extremes, a box, a centroid, a spread or a mask, or remove the row",
            )


def check_files(
    cases: Sequence[Case],
    classes: tuple[str, ...],
    denominators: tuple[Denominator, ...],
    *,
    named: Mapping[int, frozenset[str]],
    sampled: Sequence[Case] = (),
) -> tuple[tuple[Case, ...], list[Fault]]:
    """Return the cases with the contents of their files, and the faults of these.

    named: for each line, which of the columns `slice` and `volume` it fills in. sampled: cases from
    which an intensity window is chosen.
    """
    once = FilesOnce(cases)
    sample = {case.row for case in sampled}
    first = {os.path.normpath(case.image): case.row for case in reversed(cases)}
    room = DECODED_BYTES

    def check(case: Case) -> tuple[Contents, list[str]]:
        nonlocal room
        is_first = first[os.path.normpath(case.image)] == case.row
        row = CaseRow(named[case.row], is_first, case.row in sample, case.split != "test")
        with once.of(case):
            contents, faults = check_case(case, row, classes=classes, denominators=denominators)
        room -= sum(kept.pixels.nbytes for kept in contents.decoded.values())
        if room < 0:
            contents.decoded.clear()
        return contents, faults

    # Once for all files: silencing the library for each takes as long as opening one.
    with silence_pydicom, reading_threads(READERS) as pool:
        checked = list(zip(cases, pool.map(check, cases), strict=True))
    return (
        tuple(replace(case, contents=contents) for case, (contents, _) in checked),
        [Fault(case.row, message) for case, (_, messages) in checked for message in messages],
    )


def label_notes(cases: Sequence[Case]) -> Iterator[str]:
    """Yield what is allowed in the label files of checked cases, but may not be meant."""
    turned = [case.row for case in cases if case.contents.turned_alone]
    unnamed = sorted({number for case in cases for number in case.contents.unnamed})
    if turned:
        yield (
            f"{len(turned)} images have an orientation tag (EXIF) that their labels lack, the "
            f"first in line {turned[0]}: label files, points and boxes count as drawn on the "
            f"picture as it is shown"
        )
    if unnamed:
        numbers = ", ".join(map(str, unnamed[:NUMBERS_SHOWN]))
        more = ", ..." if len(unnamed) > NUMBERS_SHOWN else ""
        yield (
            f"label numbers {numbers}{more} stand for no class in [labels]: they count as "
            f"background"
        )


def doubts_of(
    cases: Sequence[Case], classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> Iterator[str]:
    """Yield what is allowed in checked cases, but may not be what the user expects."""
    splits: dict[tuple[str, str], set[str]] = {}
    for case, group in zip(cases, one_spelling(cases), strict=True):
        splits.setdefault(group, set()).add(case.split)
    shared = sum(len(several) > 1 for several in splits.values())
    if shared:
        yield f"{shared} image files have slices in more than one split"
    if all(case.split == "train" for case in cases):
        yield "no case is in val: the last epoch is used, because none can be selected"
    yield from copies(cases)
    yield from doubtful_classes(cases, classes, denominators)


def copies(cases: Sequence[Case]) -> Iterator[str]:
    """Yield sentences on images that are in the table twice, with their lines."""
    pairs = repeated_images(cases)
    apart = [(first, later) for first, later in pairs if first.split != later.split]
    within = [pair for pair in pairs if pair not in apart]
    for several, message in (
        (
            apart,
            "of images in another split, so the network is evaluated on images that it was trained "
            "on",
        ),
        (within, "of others in the same split"),
    ):
        if several:
            count = (
                "1 image is a copy" if len(several) == 1 else f"{len(several)} images are copies"
            )
            lines = [f"line {later.row} copies line {one.row}" for one, later in several]
            more = ", ..." if len(several) > PAIRS_SHOWN else ""
            yield f"{count} {message}: {', '.join(lines[:PAIRS_SHOWN])}{more}"


def repeated_images(cases: Sequence[Case]) -> list[tuple[Case, Case]]:
    """Return pairs of cases, the earlier one first, whose files have the same pixels.

    Formats and scales may differ. The middle slices of volumes are compared. Each file counts once.
    """
    alike: dict[bytes, list[Case]] = {}
    for case in cases:
        if case.contents.fingerprint:
            alike.setdefault(case.contents.fingerprint, []).append(case)
    pairs = []
    for several in (each for each in alike.values() if len(each) > 1):
        digests = [case.contents.digests.get("image") for case in several]
        contents = {digest.sha256 if digest else b"" for digest in digests}
        # Files of equal bytes need not be read again to be called copies.
        equal = len(contents) == 1 and b"" not in contents
        seen: dict[str, Case] = {}
        for case in several:
            pixels = ""
            if not equal:
                middle = slice_count(case.image, case.volume) // 2
                image = read_slice(case.image, slice_index=middle, volume=case.volume)
                pixels = hashlib.sha256(scaled(image).tobytes()).hexdigest()
            earlier = seen.setdefault(pixels, case)
            if earlier is not case:
                pairs.append((earlier, case))
    return sorted(pairs, key=lambda pair: pair[1].row)
