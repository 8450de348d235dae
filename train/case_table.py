"""cases.csv as rows of text: encoding, delimiter, header; nothing about their meaning."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsseg.imaging.errors import WssegError
from wsseg.train.case_faults import CasesError, Fault

DELIMITERS = (",", ";")


@dataclass(frozen=True)
class Row:
    """One row. line: where it begins in the file, the header being line 1."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class TextTable:
    """The rows that have as many cells as the header; `faults` tell of the others."""

    path: Path
    sha256: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]


def read_table(path: Path) -> TextTable:
    """Read a CSV file: UTF-8 with or without a byte order mark, delimiter comma or semicolon.

    Blank lines and rows of empty cells are passed over; spaces around a cell are dropped. Raises
    WssegError for a file that is missing, not text or empty, and for columns that share a name.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WssegError(
            f"{path} is not UTF-8 text (byte {error.start}): save the table as CSV UTF-8"
        ) from error
    lines = _lines(path, text)
    _, header = next(lines, (1, []))
    if not header:
        raise WssegError(f"{path} is empty: expected a header line with a column named image")
    _check_header(path, header)
    rows, faults = [], []
    for line, cells in lines:
        if len(cells) == len(header):
            rows.append(Row(line, dict(zip(header, cells, strict=True))))
        else:
            faults.append(Fault(line, _width_message(len(cells), len(header))))
    digest = hashlib.sha256(content).hexdigest()
    return TextTable(path, digest, tuple(header), tuple(rows), tuple(faults))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WssegError(
            f"{path} cannot be read ({error.strerror}): expected a CSV table of cases"
        ) from error


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    begin = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield begin, stripped
            begin = reader.line_num + 1
    except csv.Error as error:
        raise WssegError(
            f"{path}, line {begin}: not valid CSV ({error}); "
            f"put cells that hold quotes or line breaks in double quotes"
        ) from error


def _delimiter(text: str) -> str:
    """The delimiter that cuts the first line into more columns; a comma if none does."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(DELIMITERS, key=first.count)


def _check_header(path: Path, header: list[str]) -> None:
    faults = [
        Fault(1, f"column {place} has no name: name it, or remove it")
        for place, name in enumerate(header, 1)
        if not name
    ]
    faults += [
        Fault(1, f"{header.count(name)} columns are named {name}: keep one of them")
        for name in set(header)
        if name and header.count(name) > 1
    ]
    if faults:
        raise CasesError(path.name, faults)


def _width_message(found: int, expected: int) -> str:
    hint = "put a cell that holds the delimiter in double quotes" if found > expected else "fill up"
    return f"{found} cells where the header has {expected}: {hint}"
