"""Tables that grow row by row: CSV, JSON lines, Parquet."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from wsseg.imaging.errors import WssegError
from wsseg.serve.rows import Cell, Row, cells, columns

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
