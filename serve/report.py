"""The report: its rows and columns, CSV, JSON lines and Parquet, and the tables of a run."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import Field, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, get_type_hints

from wsseg.imaging.disk import NotWrittenError, not_written
from wsseg.imaging.errors import AllFailedError, Failure, WssegError
from wsseg.imaging.files import atomic_files
from wsseg.imaging.publishing import NotPlacedError

# A spreadsheet takes a cell that begins so for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PARQUET_ROWS = 4096

Cell = str | int | float | None

# Rows of the tables: the fields, in their order, are the columns.


@dataclass(frozen=True)
class Provenance:
    """The model and engine that measured. model_sha256: SHA-256 of the engine file that ran."""

    model: str
    model_sha256: str
    engine: str
    precision: str
    wsseg_version: str


@dataclass(frozen=True)
class SliceOrigin:
    """Identity of a slice.

    frame: as in `SliceId`. slice: index in the scan's order, from 0. plane: of the body, axial,
    coronal or sagittal; empty where the source does not state it.
    """

    source: str
    modality: str
    study_uid: str
    series_uid: str
    instance_uid: str
    frame: int | None
    slice: int
    plane: str


@dataclass(frozen=True)
class SliceRatio:
    """One ratio on one slice. None is unknown and is written as an empty cell, never as 0.

    ratio_low, ratio_high, confidence: see `intervals.Bounds`; unknown for a model without a
    calibration.
    """

    ratio_name: str
    numerator: str
    denominator: str
    numerator_px: int
    denominator_px: int
    numerator_mm2: float | None
    denominator_mm2: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    confidence: float | None
    flags: str
    status: str


@dataclass(frozen=True)
class SliceRow:
    """A row of ratios.csv."""

    origin: SliceOrigin
    measured: SliceRatio
    provenance: Provenance


@dataclass(frozen=True)
class SeriesOrigin:
    """Identity of a scan.

    frame: time volume of a 4-D file. part: number of the part of a series that was split. plane: as
    in `SliceOrigin`.
    """

    source: str
    modality: str
    study_uid: str
    series_uid: str
    frame: int | None
    part: int
    plane: str


@dataclass(frozen=True)
class SeriesRatio:
    """One ratio over all slices of a scan.

    volume_ratio: sum of the numerator's areas over sum of the denominator's, each slice weighted
    by its thickness where the slices' positions are known and none is missing (GAP), evenly
    otherwise. mean_ratio: mean of the slices' known ratios.
    """

    ratio_name: str
    numerator: str
    denominator: str
    slices: int
    numerator_px: int
    denominator_px: int
    numerator_mm3: float | None
    denominator_mm3: float | None
    volume_ratio: float | None
    mean_ratio: float | None
    flags: str
    status: str


@dataclass(frozen=True)
class SeriesRow:
    """A row of ratios.series.csv."""

    origin: SeriesOrigin
    measured: SeriesRatio
    provenance: Provenance


@dataclass(frozen=True)
class RecoveredRatio:
    """A mask recovered from a known ratio, and what the model by itself measured.

    pixels: pixels of the mask, out of image_pixels. threshold, mean_probability: lowest and mean
    probability inside the mask; None for a mask without pixels.
    """

    ratio_name: str
    class_name: str
    known_ratio: float
    predicted_ratio: float
    pixels: int
    image_pixels: int
    threshold: float | None
    mean_probability: float | None
    flags: str
    status: str


@dataclass(frozen=True)
class RecoveredRow:
    """A row of ratios.recovered.csv."""

    origin: SliceOrigin
    recovered: RecoveredRatio
    provenance: Provenance


@dataclass(frozen=True)
class KeyRow:
    """A row of a key table: whose scan it is, and of which day.

    patient_key: see `identity.patient_key`. study_date: by ISO 8601. patient_id,
    issuer_of_patient_id and path, the name that a source stands for, are empty unless real
    identifiers were asked for.
    """

    origin: SeriesOrigin
    patient_key: str
    study_date: str
    patient_id: str
    issuer_of_patient_id: str
    path: str


@dataclass(frozen=True)
class FailureRow:
    """A row of ratios.failures.csv: a file that gave no result, with the reason."""

    source: str
    status: str
    reason: str
    message: str


class Row(Protocol):
    """A row of any table: a dataclass whose fields are the columns."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def columns(row_type: Any) -> dict[str, type]:
    """Column names of a row type, in order, with the type of their known values."""
    types: dict[str, type] = {}
    for name, kind in get_type_hints(row_type).items():
        if is_dataclass(kind):
            types |= columns(kind)
        else:
            types[name] = next(t for t in (str, int, float) if kind in (t, t | None))
    return types


def cells(row: Any) -> Iterator[Cell]:
    """Values of a row in the order of its columns.

    A number that is not finite is unknown, None; text is made `printable`.
    """
    for one in fields(row):
        value = getattr(row, one.name)
        if is_dataclass(value):
            yield from cells(value)
        elif isinstance(value, float) and not math.isfinite(value):
            yield None
        elif isinstance(value, str):
            yield printable(value)
        else:
            yield value


def printable(text: str) -> str:
    """Text for tables: what is not valid Unicode (a name in an old encoding) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


Write = Callable[[Iterable[Row]], None]


def table_writer(path: Path) -> Callable[[Path, type[Row]], AbstractContextManager[Write]]:
    """The function that opens a table with the suffix of `path`.

    Raises WssegError for an unknown suffix or a missing package.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        known = ", ".join(WRITERS)
        raise WssegError(f"report {path}: unknown suffix {suffix!r}: give one of {known}")
    if suffix == ".parquet":
        required_pyarrow()
    return WRITERS[suffix]


@contextmanager
def csv_table(path: Path, row_type: type[Row]) -> Iterator[Write]:
    """UTF-8 without a byte order mark, RFC 4180 with its CRLF, one header line.

    Floats are written so that they read back equal; unknown is empty. Text that a spreadsheet
    would run as a formula gets a leading apostrophe; numbers stay as they are.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\r\n")
        writer.writerow(columns(row_type))

        def write(rows: Iterable[Row]) -> None:
            writer.writerows(
                [
                    f"'{cell}"
                    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS)
                    else cell
                    for cell in cells(row)
                ]
                for row in rows
            )

        yield write


@contextmanager
def json_lines(path: Path, row_type: type[Row]) -> Iterator[Write]:
    """One JSON object a row, in ASCII; unknown is null; text exactly as it is."""
    names = list(columns(row_type))
    with path.open("w", encoding="ascii", newline="\n") as stream:

        def write(rows: Iterable[Row]) -> None:
            for row in rows:
                values = dict(zip(names, cells(row), strict=True))
                stream.write(json.dumps(values, allow_nan=False) + "\n")

        yield write


@contextmanager
def parquet_table(path: Path, row_type: type[Row]) -> Iterator[Write]:
    """Typed columns, unknown is null, text exactly as it is; in groups of `PARQUET_ROWS` rows."""
    arrow = required_pyarrow()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns(row_type).items()])
    waiting: list[dict[str, Cell]] = []
    with arrow.parquet.ParquetWriter(path, schema) as writer:

        def flush(count: int) -> None:
            writer.write_table(arrow.Table.from_pylist(waiting[:count], schema=schema))
            del waiting[:count]

        def write(rows: Iterable[Row]) -> None:
            waiting.extend(dict(zip(schema.names, cells(row), strict=True)) for row in rows)
            while len(waiting) >= PARQUET_ROWS:
                flush(PARQUET_ROWS)

        yield write
        flush(PARQUET_ROWS)


WRITERS: dict[str, Callable[[Path, type[Any]], AbstractContextManager[Write]]] = {
    ".csv": csv_table,
    ".jsonl": json_lines,
    ".parquet": parquet_table,
}


def without_apostrophe(cell: str) -> str:
    """The text of a cell to which `csv_table` may have added an apostrophe."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def required_pyarrow() -> ModuleType:
    """The package pyarrow, with its part `parquet`; WssegError if it is not installed."""
    try:
        arrow = import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise  # present but broken
        raise WssegError(
            "a .parquet table needs pyarrow: pip install 'wsseg[parquet]', or use a .csv"
        ) from error
    import_module("pyarrow.parquet")  # an attribute of pyarrow from here on
    return arrow


@dataclass(frozen=True)
class Report:
    """The open tables of a report, each a function that takes rows as they come.

    recovered: the table of recovered masks; None if it was not requested.
    """

    slices: Write
    series: Write
    failures: Write
    recovered: Write | None = None

    def fail(self, failure: Failure) -> None:
        """Write one file that gave no result."""
        row = FailureRow(failure.source, failure.status, failure.reason, failure.message)
        self.failures([row])


def report_paths(path: Path) -> tuple[Path, Path, Path]:
    """The report's three files, of slices, series and failures, in the format of its suffix.

    Raises WssegError for an unknown suffix or a missing package.
    """
    table_writer(path)
    return (
        path,
        path.with_name(f"{path.stem}.series{path.suffix}"),
        path.with_name(f"{path.stem}.failures{path.suffix}"),
    )


def recovered_paths(path: Path) -> tuple[Path, Path]:
    """The table of recovered masks beside a report, and the folder that holds the masks."""
    table = path.with_name(f"{path.stem}.recovered{path.suffix}")
    return table, table.with_suffix("")


def require_free(path: Path, *, recovered: bool, overwrite: bool) -> None:
    """Raise WssegError if a report exists already; recovered: also for the recovered masks."""
    if overwrite:
        return
    tables = (*report_paths(path), *(recovered_paths(path)[:1] if recovered else ()))
    there = [table for table in tables if table.exists()]
    if there:
        raise WssegError(
            f"{there[0]} is there already: give --overwrite to replace that report, or name "
            "another with --report"
        )


@contextmanager
def open_report(path: Path, *, recovered: bool = False) -> Iterator[Report]:
    """Write the three tables to scratch files, which take their places only if the block succeeds.

    The tables of an earlier run stay until then. All three are written, if only with a header, so
    that none is left over from another run. recovered: also write the table of recovered masks.

    Raises AllFailedError if a table cannot be opened, written or put in its place; errors of the
    block pass through unchanged. A table whose place is permanently taken, by a spreadsheet that
    has it open, lies beside it under the name that the error gives.
    """
    tables: dict[type[Row], Path] = dict(
        zip((SliceRow, SeriesRow, FailureRow), report_paths(path), strict=True)
    )
    if recovered:
        tables[RecoveredRow] = recovered_paths(path)[0]
    with placed_together(list(tables.values())) as files, ExitStack() as stack:
        with translated(path):
            writes = [
                translated(path)(stack.enter_context(table_writer(path)(file, row_type)))
                for file, row_type in zip(files, tables, strict=True)
            ]
        try:
            yield Report(*writes)
        except BaseException:
            with suppress(Exception):  # what could not be written cannot be flushed either
                stack.close()
            raise
        with translated(path):
            stack.close()


@contextmanager
def placed_together(tables: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield a scratch file for each table of a report; all take their places if the block succeeds.

    Raises AllFailedError as `open_report` does. The first table names the report.
    """
    path = tables[0]
    with ExitStack() as publication:
        with translated(path):
            files = publication.enter_context(atomic_files(tables))
        yield files
        with translated(path):
            publication.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """An error of the system becomes an AllFailedError of the report, NotWrittenError if it can."""
    try:
        yield
    except NotPlacedError as error:
        raise AllFailedError(
            f"{error.failed} could not be written: {error.__cause__}; this run's tables are kept "
            f"beside it as {', '.join(error.kept)}: close the program that has the old ones open "
            "and rename them"
        ) from error
    except NotWrittenError:
        raise
    except OSError as error:
        known = not_written(error, path)
        raise known or AllFailedError(f"{path} could not be written: {error}") from error
