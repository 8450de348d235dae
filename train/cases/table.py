"""cases.csv as cases: read, divided into splits and checked as a whole before anything trains."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsseg.imaging.definitions import Denominator, RatioDefinition
from wsseg.imaging.files import named_file
from wsseg.imaging.label_values import Label, Numbering, numbering
from wsseg.imaging.tables import (
    DEFAULT_OPTIONS,
    Fault,
    Row,
    TableError,
    TableOptions,
    TextTable,
    read_table,
)
from wsseg.train.cases.cells import (
    CellError,
    Sized,
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
from wsseg.train.cases.evidence import doubtful_classes, unsupervised_classes
from wsseg.train.cases.files import shown
from wsseg.train.cases.images import IMAGES, spread
from wsseg.train.cases.schema import (
    KNOWN,
    Case,
    CaseTable,
    Columns,
    Pixel,
    Point,
    Region,
    class_denominators,
    one_spelling,
    read_columns,
    without_percent,
)
from wsseg.train.cases.table_checks import check_files, check_table, copies, label_notes

T = TypeVar("T")


@dataclass(frozen=True)
class _Reading:
    """What the cells of every row are read by."""

    folder: Path
    columns: Columns
    numbering: Numbering


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

    classes: names in class-number order; without them the columns name the classes, see
    `read_columns`, or there is one, called roi. ratios: what the ratio columns are fractions of,
    the whole image by default. labels: what stands for each class in marks and masks, by name;
    class k is number k by default. Without a split column, `val_fraction` of the groups (at least
    one, and never all) go to val, chosen by `seed`; a row without a group is grouped by its image
    file.
    unlabelled: whether a training case may be a picture alone, for a run that has a teacher.
    options: how the file is read.

    Every file is looked at before this returns: images, marks and masks are decoded. Raises
    TableError, one report with all faults; WssegError for a file that is no table.
    """
    table = _sized(path, classes, ratios, options)
    columns = table.columns
    denominators = class_denominators(columns.classes, ratios)
    reading = _Reading(path.parent, columns, numbering(columns.classes, labels or {}))
    cases, faults = _read_rows(table.table, reading)
    faults += table.faults
    if "split" not in table.table.header:
        cases = _divide(cases, seed=seed, val_fraction=val_fraction)
    faulty = {fault.line for fault in faults} | table.unsized
    faults += check_table(cases, faulty=faulty, unlabelled=unlabelled)
    placed = {row.line: _places_named(row.cells) for row in table.table.rows}
    training = [case for case in cases if case.split == "train"]
    cases, wrong = check_files(
        cases, columns.classes, denominators, placed=placed, sampled=spread(training, IMAGES)
    )
    faults += wrong
    if not faults:
        faults += unsupervised_classes(cases, columns.classes, unlabelled=unlabelled)
    if faults:
        raise TableError(path.name, faults)
    notes = (*table.doubts, *label_notes(cases))
    doubts = (*notes, *doubts_of(cases, columns.classes, denominators))
    cases = tuple(map(shown, cases))
    return CaseTable(path, table.table.sha256, columns.classes, cases, table.table, doubts)


def _places_named(cells: Mapping[str, str]) -> frozenset[str]:
    """Which of `slice` and `volume` a row fills in."""
    return frozenset(name for name in ("slice", "volume") if cells.get(name))


def _sized(
    path: Path,
    classes: tuple[str, ...] | None,
    ratios: tuple[RatioDefinition, ...],
    options: TableOptions,
) -> Sized:
    """The table, its columns understood and its ratios fractions. TableError for its header."""
    table, percent, twice = without_percent(read_table(path, KNOWN, options))
    columns, faults = read_columns(table.header, classes, table.line)
    if faults or twice:
        raise TableError(path.name, [*faults, *twice, *table.faults])
    denominators = class_denominators(columns.classes, ratios)
    return with_fractions(table, columns, denominators, percent)


class _Cells:
    """The cells of one row. A cell that cannot be read leaves a fault and counts as empty, so that
    the rest of its row is checked too."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.faults: list[Fault] = []

    def value(self, column: str, parse: Callable[[str], T], otherwise: T) -> T:
        try:
            return parse(self.row.cells.get(column, ""))
        except CellError as error:
            self.faults.append(Fault(self.row.line, f"{column}: {error}"))
            return otherwise


def _read_rows(table: TextTable, reading: _Reading) -> tuple[tuple[Case, ...], list[Fault]]:
    """The cases of all rows that name an image, and the faults of the cells."""
    cases, faults = [], list(table.faults)
    for row in table.rows:
        if not row.cells["image"]:
            faults.append(Fault(row.line, "image: empty; it holds the path of the picture"))
            continue
        cells = _Cells(row)
        cases.append(_case(cells, reading))
        faults += cells.faults
    return tuple(cases), faults


def _case(cells: _Cells, reading: _Reading) -> Case:
    row, classes = cells.row, len(reading.columns.classes)
    path = partial(_path, reading.folder)
    unmarked: tuple[Point, ...] = ()
    points = cells.value("points", partial(parse_points, classes=classes), unmarked)
    regions = tuple(_region(cells, reading, place) for place in range(classes))
    return Case(
        row=row.line,
        image=named_file(reading.folder, row.cells["image"]),
        ratios=tuple(_ratio(cells, reading, "ratio", place) for place in range(classes)),
        marks=cells.value("marks", path, None),
        points=points + tuple(_extreme_points(regions)),
        mask=cells.value("mask", path, None),
        group=row.cells.get("group", ""),
        split=cells.value("split", parse_split, "train") if "split" in row.cells else "train",
        slice_index=cells.value("slice", parse_index, 0),
        volume=cells.value("volume", parse_index, 0),
        regions=regions,
        numbering=reading.numbering,
    )


def _region(cells: _Cells, reading: _Reading, place: int) -> Region:
    """What the row says of one class, given by its place in the classes."""

    def value(name: str, parse: Callable[[str], T], otherwise: T) -> T:
        return cells.value(reading.columns.of(name)[place], parse, otherwise)

    unknown: tuple[Pixel, ...] = ()
    extremes = value("extremes", parse_extremes, unknown)
    box = value("box", parse_box, None)
    return Region(
        low=_ratio(cells, reading, "ratio_low", place),
        high=_ratio(cells, reading, "ratio_high", place),
        present=value("present", parse_present, None),
        box=enclosing(extremes) if extremes and box is None else box,
        extremes=extremes,
        centroid=value("centroid", parse_place, None),
        spread=value("spread", parse_place, None),
        mark_kind=value("mark_kind", parse_mark_kind, None),
    )


def _ratio(cells: _Cells, reading: _Reading, name: str, place: int) -> float | None:
    text = cells.row.cells.get(reading.columns.of(name)[place])
    return float(text) if text else None


def _extreme_points(regions: Sequence[Region]) -> Iterator[Point]:
    """The extremes lie in their class, so they mark it."""
    for number, region in enumerate(regions, 1):
        yield from ((row, column, number) for row, column in region.extremes)


def _path(folder: Path, text: str) -> Path | None:
    return named_file(folder, text) if text else None


def _divide(cases: Sequence[Case], *, seed: int, val_fraction: float) -> tuple[Case, ...]:
    """Put whole groups into val, the same ones for the same groups, seed and fraction."""
    groups = one_spelling(cases)
    names = sorted(set(groups))
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    val = {names[place] for place in order[: max(count, 0)]}
    return tuple(
        replace(case, split="val" if group in val else "train")
        for case, group in zip(cases, groups, strict=True)
    )


def doubts_of(
    cases: Sequence[Case], classes: tuple[str, ...], denominators: tuple[Denominator, ...]
) -> Iterator[str]:
    """What is allowed in checked cases but may not be what the table's writer expects."""
    splits: dict[tuple[str, str], set[str]] = {}
    for case, group in zip(cases, one_spelling(cases), strict=True):
        splits.setdefault(group, set()).add(case.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        yield f"{shared} image files have slices in more than one split"
    if all(case.split == "train" for case in cases):
        yield "no case is in val: the best epoch cannot be told from the last"
    yield from copies(cases)
    yield from doubtful_classes(cases, classes, denominators)
