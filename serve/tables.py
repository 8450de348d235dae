"""Tables that grow row by row: CSV, JSON lines, Parquet."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from wsseg.imaging.errors import WssegError

# Rows of the reports: the fields, in their order, are the columns.

Cell = str | int | float | None


@dataclass(frozen=True)
class Provenance:
    """What measured. model_sha256 is that of the engine file that ran."""

    model: str
    model_sha256: str
    engine: str
    precision: str
    wsseg_version: str


@dataclass(frozen=True)
class SliceOrigin:
    """Which slice: `slice` counts from 0 in the scan's order, `frame` is `SliceId.frame`.

    plane: of the body, axial, coronal or sagittal; empty where the source does not say.
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

    confidence, ratio_low and ratio_high are unknown for a model without a calibration.
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
    """Which scan: `frame` is the time volume of a 4-D file, `part` numbers a series' parts.

    plane: as in `SliceOrigin`.
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
    """A mask that was cut to a known ratio, and what the model by itself had measured.

    pixels: of the mask, out of image_pixels. threshold: probability at which the map was cut, the
    lowest inside. confidence: mean probability inside. Both are None for a mask without a pixel.
    """

    ratio_name: str
    class_name: str
    known_ratio: float
    predicted_ratio: float
    pixels: int
    image_pixels: int
    threshold: float | None
    confidence: float | None
    flags: str
    status: str


@dataclass(frozen=True)
class RecoveredRow:
    """A row of ratios.recovered.csv."""

    origin: SliceOrigin
    recovered: RecoveredRatio
    provenance: Provenance


@dataclass(frozen=True)
class FailureRow:
    """A row of ratios.failures.csv: a file that gave no result, and why."""

    source: str
    status: str
    reason: str
    message: str


Row = SliceRow | SeriesRow | RecoveredRow | FailureRow


def columns(row_type: Any) -> dict[str, type]:
    """Column names of a row type, in order, with the type of their known values."""
    found: dict[str, type] = {}
    for name, kind in get_type_hints(row_type).items():
        if is_dataclass(kind):
            found |= columns(kind)
        else:
            found[name] = next(t for t in (str, int, float) if kind in (t, t | None))
    return found


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
    """Text as tables show it: what is not valid Unicode (a name in an old encoding) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


Write = Callable[[Iterable[Row]], None]

# A spreadsheet takes a cell that begins so for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PARQUET_ROWS = 4096


def table_writer(path: Path) -> Callable[[Path, type[Row]], AbstractContextManager[Write]]:
    """How to open a table of that suffix. WssegError for another suffix or a missing package."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        known = ", ".join(WRITERS)
        raise WssegError(f"report {path}: unknown suffix {suffix!r}: give one of {known}")
    if suffix == ".parquet":
        _pyarrow()
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
            writer.writerows([_inert(cell) for cell in cells(row)] for row in rows)

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
    """Typed columns, unknown is null, text exactly as it is; rows are written in groups."""
    arrow = _pyarrow()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns(row_type).items()])
    waiting: list[dict[str, Cell]] = []
    with arrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(arrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(rows: Iterable[Row]) -> None:
            waiting.extend(dict(zip(schema.names, cells(row), strict=True)) for row in rows)
            if len(waiting) >= PARQUET_ROWS:
                flush()

        yield write
        flush()


WRITERS: dict[str, Callable[[Path, type[Any]], AbstractContextManager[Write]]] = {
    ".csv": csv_table,
    ".jsonl": json_lines,
    ".parquet": parquet_table,
}


def _inert(cell: Cell) -> Cell:
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return "'" + cell
    return cell


def without_apostrophe(cell: str) -> str:
    """The text of a cell that `csv_table` may have kept from being run as a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS) else cell


def _pyarrow() -> ModuleType:
    try:
        arrow = import_module("pyarrow")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise  # present but broken
        raise WssegError(
            "a .parquet report needs pyarrow: pip install 'wsseg[parquet]', or give a .csv"
        ) from error
    import_module("pyarrow.parquet")  # an attribute of pyarrow from here on
    return arrow
