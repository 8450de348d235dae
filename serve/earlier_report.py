"""Reports of earlier runs, read back as rows of text, whatever their format."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsseg.imaging.errors import WssegError
from wsseg.imaging.tables import DEFAULT_OPTIONS, Row, TableOptions, TextTable, read_table
from wsseg.serve.report import SeriesRow, SliceRow, columns, required_pyarrow, without_apostrophe

REPORT_COLUMNS = frozenset((*columns(SliceRow), *columns(SeriesRow)))


def read_report(
    path: Path,
    options: TableOptions = DEFAULT_OPTIONS,
    known: Collection[str] = REPORT_COLUMNS,
) -> TextTable:
    """The rows of ratios.csv, ratios.series.csv or another table that wsseg wrote.

    Formats: those of reports, .csv, .jsonl and .parquet, and what a spreadsheet made of the first,
    with semicolons, decimal commas or as .xlsx (see `read_table`). Cells are text, numbers in the
    shortest form that reads back equal, unknown cells empty; the apostrophe that guards formulas is
    removed. known: columns that matter, see `read_table`. The first row of .jsonl and .parquet is
    line 2, as in a .csv. Raises WssegError for a file that cannot be read, TableError for one with
    faults.
    """
    formats = {".jsonl": _json_rows, ".parquet": _parquet_rows}
    suffix = path.suffix.lower()
    if suffix not in formats:
        table = read_table(path, known, options)
        return replace(table, rows=tuple(_unguarded(row) for row in table.rows))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WssegError(f"{path} cannot be read ({error.strerror}): expected a report") from error
    rows = [
        Row(line, {name: _text(value) for name, value in cells.items()})
        for line, cells in enumerate(formats[suffix](path), 2)
    ]
    header = tuple(rows[0].cells) if rows else ()
    return TextTable(path, hashlib.sha256(content).hexdigest(), 1, header, tuple(rows))


def _unguarded(row: Row) -> Row:
    return Row(row.line, {name: without_apostrophe(cell) for name, cell in row.cells.items()})


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                cells = json.loads(line)
            except ValueError as error:
                raise WssegError(
                    f"{path}, line {number}: expected one JSON object a line, as in a .jsonl report"
                ) from error
            if not isinstance(cells, dict):
                raise WssegError(f"{path}, line {number}: expected a JSON object, with columns")
            yield cells


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    arrow = required_pyarrow()
    try:
        table = arrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise WssegError(f"{path} cannot be read as a Parquet table: {error}") from error
    yield from table.to_pylist()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
