"""The two tables: measured ratios as a report has them, recorded ones as a person wrote them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from wsseg.imaging.definitions import FOREGROUND, IMAGE, Frozen, RatioDefinition
from wsseg.imaging.errors import WssegError
from wsseg.imaging.fractions import Column, fractions
from wsseg.imaging.tables import Fault, Row, TableError, TableOptions, TextTable, plain_text
from wsseg.imaging.tables import read_table as read_text
from wsseg.serve.earlier_report import read_report
from wsseg.serve.report import without_apostrophe

LOQ_ERROR = 0.3
"""Share of the recorded ratio by which a quantified one may err; a choice, not a standard."""
IDENTITY = ("instance_uid", "series_uid", "source")
"""Columns that find an image, the most exact first."""
IMAGE_FILE = "image"
"""Column of a table of cases that names files, as `source` does."""
NARROWING = ("study_uid", "series_uid", "instance_uid", "frame", "slice", "part")
"""Columns that tell images apart that one of the former finds together."""
PATIENT = ("patient", "patient_id", "group")
"""Columns of the recorded table that name patients unless another is named."""
RATIO, PERCENT, NAME = "ratio", "ratio_percent", "ratio_name"
UNITS = (RATIO, PERCENT)
MEASURED = (RATIO, "volume_ratio")
"""Columns of measured ratios: of slices, and of series."""
KNOWN = frozenset((*IDENTITY, IMAGE_FILE, *NARROWING, *PATIENT, *UNITS, NAME))

log = logging.getLogger(__name__)


class AgreeOptions(Frozen):
    """How the tables are joined and compared.

    key: column of the recorded table that names images, as `COLUMN`, which is compared with the
    column of that name in the report and else with `source`, or as `COLUMN=COLUMN OF THE REPORT`;
    None takes UIDs or `source`. recorded_column: columns of recorded ratios in place of `ratio`;
    several are several readings. percent: these are in percent. measured_column: column of the
    report in place of `ratio` or `volume_ratio`. by: columns of either table to divide by. patient:
    column of the recorded table that names patients. repeats: its column that names what was
    scanned repeatedly without having changed. loq_error: share of the recorded ratio by which a
    quantified one may err. sheet, ignore_columns: how the recorded table is read, see
    `TableOptions`.
    """

    key: str | None = None
    recorded_column: tuple[str, ...] = ()
    percent: bool = False
    measured_column: str | None = None
    by: tuple[str, ...] = ()
    patient: str | None = None
    repeats: str | None = None
    loq_error: Annotated[float, Field(gt=0, le=1)] = LOQ_ERROR
    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()

    @property
    def key_columns(self) -> tuple[str, str] | None:
        """Column of the recorded table, and that of the report or "" if none was named."""
        if self.key is None:
            return None
        recorded, _, measured = self.key.partition("=")
        return recorded.strip(), measured.strip()


@dataclass(frozen=True)
class MeasuredRow:
    """A row of the report. value: its ratio, None if unknown. cells: all of its columns."""

    line: int
    ratio_name: str
    value: float | None
    cells: Mapping[str, str]


@dataclass(frozen=True)
class MeasuredTable:
    """The measured ratios.

    column: that they come from. names: by sources that are digests, what they stand for.
    """

    path: Path
    sha256: str
    header: tuple[str, ...]
    column: str
    definitions: tuple[RatioDefinition, ...]
    rows: tuple[MeasuredRow, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    def distinct(self, column: str) -> tuple[str, ...]:
        """The different values of a column, sorted, those of rows that lack it left out."""
        return tuple(sorted({row.cells.get(column, "") for row in self.rows} - {""}))


@dataclass(frozen=True)
class RecordedRow:
    """A row of the recorded table. readings: (ratio name as written there, ratio); the name is ""
    if the table has one ratio, without a name."""

    line: int
    readings: tuple[tuple[str, float], ...]
    cells: Mapping[str, str]


@dataclass(frozen=True)
class RecordedTable:
    """The recorded ratios, as fractions. columns: that they come from, as the file writes them."""

    path: Path
    sha256: str
    header: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[RecordedRow, ...]


def column_named(name: str, header: Sequence[str]) -> str | None:
    """The column of that name, with any capitals; None if there is none."""
    plain = plain_text(name)
    matches = [each for each in header if each == plain]
    matches = matches or [each for each in header if each.casefold() == plain.casefold()]
    return matches[0] if matches else None


def read_measured(path: Path, options: AgreeOptions) -> MeasuredTable:
    """The ratios of a report, of slices or of series; WssegError for a table that is none."""
    table = read_report(path)
    if table.faults:
        raise TableError(path.name, table.faults)
    if not table.rows:
        raise WssegError(
            f"{path} has no rows: nothing was measured, so there is nothing to compare"
        )
    column = _measured_column(table, options.measured_column)
    for name in (NAME, "numerator", "denominator"):
        if name not in table.header:
            raise WssegError(
                f"{path} has no column {name}: expected ratios.csv or ratios.series.csv of "
                "wsseg-infer first, and the table of recorded ratios after it"
            )
    ratios = {
        row.cells[NAME]: RatioDefinition(
            name=row.cells[NAME],
            numerator=row.cells["numerator"],
            denominator=row.cells["denominator"],
        )
        for row in table.rows
    }
    bounded = _bounded(tuple(ratios.values()))
    # A spreadsheet may have written decimal commas or percent.
    read = fractions([_column(table, column, bounded=bounded)], table.line)
    if read.faults:
        raise TableError(path.name, read.faults)
    rows = tuple(
        MeasuredRow(row.line, row.cells[NAME], read.values[0].get(row.line), row.cells)
        for row in table.rows
    )
    return MeasuredTable(path, table.sha256, table.header, column, tuple(ratios.values()), rows)


def _measured_column(table: TextTable, wanted: str | None) -> str:
    if wanted is not None:
        found = column_named(wanted, table.header)
        if found is None:
            raise WssegError(f"{table.path} has no column {wanted}: {_has(table.header)}")
        return found
    for name in MEASURED:
        if name in table.header:
            return name
    raise WssegError(
        f"{table.path} has neither a column ratio nor volume_ratio: expected ratios.csv or "
        f"ratios.series.csv of wsseg-infer; {_has(table.header)}"
    )


def read_recorded(
    path: Path, definitions: Sequence[RatioDefinition], options: AgreeOptions
) -> RecordedTable:
    """The recorded ratios of a table, CSV or Excel (see `read_table`), as fractions.

    Ratios are in columns `ratio:<name>`, or in one column `ratio` whose rows are named in a column
    `ratio_name` (not needed for one ratio), likewise in `ratio_percent`, or in the columns that the
    options name. A name is that of a ratio or of its class. Columns that nothing asks for have no
    effect. definitions: the ratios that are measured. Raises TableError with all faults, WssegError
    for a file that is no table or lacks a column.
    """
    table = read_text(path, KNOWN, TableOptions(options.sheet, options.ignore_columns))
    columns = _recorded_columns(table, options)
    if NAME not in table.header and len(definitions) > 1:
        for name in columns:
            if not _ratio_of(name):
                raise WssegError(
                    f"{path}: which ratio does {table.name(name)} record? Call it "
                    f"{RATIO}:<name>, or add a column {NAME}; measured are "
                    f"{', '.join(each.name for each in definitions)}"
                )
    _check_identity(table, options)
    bounded = _bounded(definitions)
    read = fractions(
        [
            _column(table, name, bounded=bounded, percent=_in_percent(name, options))
            for name in columns
        ],
        table.line,
    )
    for doubt in read.doubts:
        log.warning("%s: %s", path.name, doubt)
    if faults := [*read.faults, *table.faults]:
        raise TableError(path.name, faults)
    values = dict(zip(columns, read.values, strict=True))
    rows = tuple(
        RecordedRow(row.line, tuple(_readings(row, values)), _plain(row)) for row in table.rows
    )
    if not any(row.readings for row in rows):
        raise TableError(path.name, [Fault(table.line, "no row has a ratio")])
    named = tuple(table.name(name) for name in columns)
    return RecordedTable(path, table.sha256, table.header, named, rows)


def _plain(row: Row) -> dict[str, str]:
    return {name: without_apostrophe(cell) for name, cell in row.cells.items()}


def _readings(row: Row, values: Mapping[str, Mapping[int, float]]) -> Iterator[tuple[str, float]]:
    for column, by_line in values.items():
        if row.line in by_line:
            name = _ratio_of(column) or row.cells.get(NAME, "")
            yield plain_text(without_apostrophe(name)), by_line[row.line]


def _recorded_columns(table: TextTable, options: AgreeOptions) -> tuple[str, ...]:
    if not options.recorded_column:
        found = tuple(name for name in table.header if name.partition(":")[0] in UNITS)
        if found:
            return found
        raise WssegError(
            f"{table.path} has no column {RATIO}: name the column of the recorded ratios with "
            f"--recorded-column; {_has(table.header)}"
        )
    columns = []
    for wanted in options.recorded_column:
        name = column_named(wanted, table.header)
        if name is None:
            raise WssegError(f"{table.path} has no column {wanted}: {_has(table.header)}")
        columns.append(name)
    return tuple(columns)


def _ratio_of(column: str) -> str:
    """The ratio that a column's name states; "" if it states none."""
    name, _, ratio = column.partition(":")
    return ratio if name in UNITS else ""


def _in_percent(column: str, options: AgreeOptions) -> bool:
    return column.partition(":")[0] == PERCENT or (
        options.percent and bool(options.recorded_column)
    )


def _check_identity(table: TextTable, options: AgreeOptions) -> None:
    if options.key_columns is not None:
        if column_named(options.key_columns[0], table.header) is None:
            raise WssegError(
                f"{table.path} has no column {options.key_columns[0]}: {_has(table.header)}"
            )
    elif not any(name in table.header for name in (*IDENTITY, IMAGE_FILE)):
        raise WssegError(
            f"{table.path} has none of the columns {', '.join(IDENTITY)}, which name images as "
            f"ratios.csv does: name its column with --key; {_has(table.header)}"
        )


def _column(table: TextTable, name: str, *, bounded: bool, percent: bool = False) -> Column:
    unit, _, _ = name.partition(":")
    return Column(
        table.name(name),
        tuple((row.line, row.cells[name]) for row in table.rows if row.cells[name]),
        percent=percent,
        remedy=name.replace(RATIO, PERCENT, 1) if unit in UNITS else f"{PERCENT}, or use --percent",
        bounded=bounded,
    )


def _bounded(definitions: Sequence[RatioDefinition]) -> bool:
    """Whether all ratios are shares; a ratio of two classes may exceed 1."""
    return all(each.denominator in (IMAGE, FOREGROUND) for each in definitions)


def _has(header: Sequence[str]) -> str:
    return f"it has {', '.join(header)}"
