"""cases.csv as cases: read, divided into splits and checked as a whole before anything trains."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from wsseg.imaging.definitions import RatioDefinition
from wsseg.train.case import Case, CaseTable, Pixel, Point, Region
from wsseg.train.case_cells import (
    CellError,
    enclosing,
    parse_box,
    parse_extremes,
    parse_index,
    parse_mark_kind,
    parse_place,
    parse_points,
    parse_present,
    parse_ratio,
    parse_split,
)
from wsseg.train.case_checks import check_files, check_table
from wsseg.train.case_columns import Columns, read_columns
from wsseg.train.case_faults import CasesError, Fault
from wsseg.train.case_table import Row, TextTable, read_table
from wsseg.train.ratios import Denominator, class_denominators
from wsseg.train.shown import shown

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class _Reading:
    """What the cells of every row are read by."""

    folder: Path
    columns: Columns
    denominators: tuple[Denominator, ...]


def read_cases(
    path: Path,
    *,
    classes: tuple[str, ...] | None = None,
    ratios: tuple[RatioDefinition, ...] = (),
    seed: int = 0,
    val_fraction: float = 0.15,
    unlabelled: bool = False,
) -> CaseTable:
    """Read and check a table of cases; paths in it are relative to its own folder.

    classes: names in class-number order; without them the columns name the classes, see
    `read_columns`, or there is one, called roi. ratios: what the ratio columns are fractions of,
    the whole image by default. Without a split column, `val_fraction` of the groups (at least one,
    and never all) go to val, chosen by `seed`; a row without a group is grouped by its image file.
    unlabelled: whether a training case may be a picture alone, for a run that has a teacher.

    Every file is looked at before this returns: the headers of images, the pixels of marks and
    masks. Raises CasesError, one report with all faults; WssegError for a file that is no table.
    """
    table = read_table(path)
    columns = _checked_columns(table, classes)
    reading = _Reading(path.parent, columns, class_denominators(columns.classes, ratios))
    cases, faults = _read_rows(table, reading)
    if "split" not in table.header:
        cases = _divide(cases, seed=seed, val_fraction=val_fraction)
    faulty = {fault.line for fault in faults}
    faults += check_table(cases, faulty=faulty, unlabelled=unlabelled)
    unsliced = {row.line for row in table.rows if not row.cells.get("slice")}
    faults += check_files(cases, columns.classes, reading.denominators, unsliced=unsliced)
    if faults:
        raise CasesError(path.name, faults)
    _warn(cases)
    return CaseTable(path, table.sha256, columns.classes, tuple(map(shown, cases)))


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
        image=reading.folder / row.cells["image"],
        ratios=tuple(_ratio(cells, reading, "ratio", place) for place in range(classes)),
        marks=cells.value("marks", path, None),
        points=points + tuple(_extreme_points(regions)),
        mask=cells.value("mask", path, None),
        group=row.cells.get("group", ""),
        split=cells.value("split", parse_split, "train") if "split" in row.cells else "train",
        slice_index=cells.value("slice", parse_index, 0),
        volume=cells.value("volume", parse_index, 0),
        regions=regions,
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
    """A class's value in a column of ratios; one to another class may be larger than 1."""
    bounded = isinstance(reading.denominators[place], str)
    column = reading.columns.of(name)[place]
    return cells.value(column, partial(parse_ratio, bounded=bounded), None)


def _extreme_points(regions: Sequence[Region]) -> Iterator[Point]:
    """The extremes lie in their class, so they mark it."""
    for number, region in enumerate(regions, 1):
        yield from ((row, column, number) for row, column in region.extremes)


def _checked_columns(table: TextTable, classes: tuple[str, ...] | None) -> Columns:
    columns, faults = read_columns(table.header, classes)
    if faults:
        raise CasesError(table.path.name, [*faults, *table.faults])
    return columns


def _path(folder: Path, text: str) -> Path | None:
    return folder / text if text else None


def _divide(cases: Sequence[Case], *, seed: int, val_fraction: float) -> tuple[Case, ...]:
    """Put whole groups into val, the same ones for the same groups, seed and fraction."""
    groups = sorted({_group(case) for case in cases})
    count = min(max(1, round(val_fraction * len(groups))), len(groups) - 1)
    order = np.random.default_rng(seed).permutation(len(groups))
    val = {groups[place] for place in order[: max(count, 0)]}
    return tuple(replace(case, split="val" if _group(case) in val else "train") for case in cases)


def _group(case: Case) -> tuple[str, str]:
    """Slices of one file belong together even where no group says so."""
    return ("group", case.group) if case.group else ("image", str(case.image))


def _warn(cases: Sequence[Case]) -> None:
    """Say once what is allowed in a table but may not be what its writer expects."""
    splits: dict[tuple[str, str], set[str]] = {}
    for case in cases:
        splits.setdefault(_group(case), set()).add(case.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        log.warning("%d image files have slices in more than one split", shared)
    if all(case.split == "train" for case in cases):
        log.warning("no case is in val: the best epoch cannot be told from the last")
