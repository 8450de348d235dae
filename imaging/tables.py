"""A table as rows of text, from CSV or an Excel workbook; the meaning of its cells is not known.

One reader for every table that a person writes, so that all spreadsheets are read the same way.
"""

import csv
import fnmatch
import hashlib
import io
import logging
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from wsseg.imaging.errors import WssegError

MOST_LINES = 50
"""Faults shown in one report; a fault in every row of a long table reads no better in full."""
DELIMITERS = (",", ";", "\t")
OWN = ("x_", "note")
"""Columns that begin so are the user's own."""
WORKBOOKS = (".xlsx", ".xlsm")
TABLES = (".csv", ".tsv", ".txt", *WORKBOOKS)
"""How the names of tables end."""

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_ZIP = b"PK\x03\x04"
_QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
"""Parts of a number format that are shown as they are, or are no part of the number."""
_DIGITS = 15
"""Significant digits that a spreadsheet keeps."""
MOST_INFLATED = 1 << 29
"""Bytes of a workbook's XML; one of a million rows has fewer."""
MOST_CELLS = 10_000_000
"""Cells of a sheet up to its last one, each of which takes memory, filled or not."""

log = logging.getLogger(__name__)

Lines = Iterator[tuple[int, list[str]]]
"""Rows of cells that are not all empty, each with the line, or row of the sheet, it begins on."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing to correct.

    line: of the text file, or row of the sheet, on which its row begins, the first being 1; 0 is
    the whole table.
    """

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


class TableError(WssegError):
    """All faults of a table; the message is a report with one line a fault."""

    def __init__(self, table: str, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        count = len(self.faults)
        if count == 1:
            (fault,) = self.faults
            super().__init__(f"{table}{',' if fault.line else ':'} {fault}")
            return
        lines = [f"{table}: {count} faults to correct"]
        lines += [f"  {fault}" for fault in self.faults[:MOST_LINES]]
        if count > MOST_LINES:
            lines.append(f"  and {count - MOST_LINES} more")
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class TableOptions:
    """How a table is to be read.

    sheet: of a workbook, by name; the first one by default. ignore_columns: columns to ignore, by
    name or by a pattern such as Patient*; capitals do not matter. Only columns that have no meaning
    here can be ignored.
    """

    sheet: str | None = None
    ignore_columns: tuple[str, ...] = ()


DEFAULT_OPTIONS = TableOptions()


@dataclass(frozen=True)
class Row:
    """One row. line: where it begins in the file, or its row in the sheet, from 1."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class TextTable:
    """The rows that have as many cells as the header; `faults` names the others.

    line: of the header. header: without the ignored columns. written: the columns whose names the
    file writes in another way, such as Ratio for ratio.
    """

    path: Path
    sha256: str
    line: int
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...] = ()
    written: dict[str, str] = field(default_factory=dict)

    def name(self, column: str) -> str:
        """The column as the file writes it."""
        return self.written.get(column, column)


def read_table(
    path: Path, known: Collection[str], options: TableOptions = DEFAULT_OPTIONS
) -> TextTable:
    """Read a CSV file or a sheet of an Excel workbook.

    Text: UTF-8 or UTF-16 with a byte order mark, UTF-8 without, else Windows-1252, with a warning;
    cells between commas, semicolons or tabs, or what a first line `sep=` states. Rows of empty
    cells are skipped, and so are columns without a name or a cell; spaces around a cell are
    removed. known: columns by their plain names, written in any capitals and with blanks for
    underscores; `name:...` is the column `name` of something. Raises WssegError for a file that is
    missing, no table or empty, TableError for columns that share a name.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WssegError(
            f"{path} cannot be read ({error.strerror}): expected a table, CSV or XLSX"
        ) from error
    lines = _lines(path, content, options.sheet)
    line, first = next(lines, (1, []))
    if not first:
        raise WssegError(f"{path} is empty: expected a line with the names of the columns")
    header = [canonical(name, known) for name in first]
    rows: list[tuple[int, list[str]]] = []
    faults = []
    for begin, cells in lines:
        if len(cells) >= len(header) and not any(cells[len(header) :]):
            rows.append((begin, cells))
            continue
        surplus = len(cells) > len(header)
        hint = "put a cell that holds the delimiter in double quotes" if surplus else "fill up"
        message = f"{len(cells)} cells where the header has {len(header)}: {hint}"
        faults.append(Fault(begin, message))
    # Spreadsheets write empty columns too.
    named = {
        index: name
        for index, name in enumerate(header)
        if name or any(cells[index] for _, cells in rows)
    }
    ignored, wrong = _ignored(list(named.values()), known, options.ignore_columns)
    columns = {index: name for index, name in named.items() if name not in ignored}
    names = tuple(columns.values())
    wrong += [
        f"column {position} has no name: name it, or remove it"
        for position, name in enumerate(names, 1)
        if not name
    ]
    wrong += [
        f"{names.count(name)} columns are named {name}: keep one of them"
        for name in dict.fromkeys(names)
        if name and names.count(name) > 1
    ]
    if wrong:
        raise TableError(path.name, [Fault(line, message) for message in wrong])
    return TextTable(
        path,
        hashlib.sha256(content).hexdigest(),
        line,
        names,
        tuple(
            Row(begin, {name: cells[index] for index, name in columns.items()})
            for begin, cells in rows
        ),
        tuple(faults),
        {name: first[index] for index, name in columns.items() if name != first[index]},
    )


def _ignored(
    header: Sequence[str], known: Collection[str], patterns: Sequence[str]
) -> tuple[set[str], list[str]]:
    """The columns to ignore, and what is wrong with the patterns."""
    unknown = [name for name in header if name and not is_known(name, known)]
    ignored, messages = set[str](), []
    for pattern in patterns:
        fits = {n for n in unknown if fnmatch.fnmatch(n.casefold(), plain_text(pattern).casefold())}
        if canonical(pattern, known) in header and not fits and not is_own(pattern):
            messages.append(
                f"column {pattern} has a meaning here and cannot be ignored: "
                f"let its name begin with x_ to keep it for yourself"
            )
        elif not fits and pattern != "*":
            messages.append(f"no column {pattern} is there to be ignored: correct its name")
        ignored |= fits
    return ignored, messages


def canonical(column: str, known: Collection[str]) -> str:
    """A column's name as it is known: `Ratio: Left  kidney` is `ratio:Left kidney`.

    Blanks within what follows a colon become single ones, and accents one character. Any other
    column keeps its name.
    """
    name, colon, rest = column.partition(":")
    plain = "_".join(name.casefold().replace("-", "_").split())
    if plain in known:
        return f"{plain}{colon}{plain_text(rest)}"
    return plain_text(column)


def plain_text(text: str) -> str:
    """The text with single blanks, none around it, and each accent in one character with its
    letter: what looks the same is the same."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_own(column: str) -> bool:
    """Whether a column is the user's own by its name."""
    return column.casefold().startswith(OWN)


def is_known(column: str, known: Collection[str]) -> bool:
    """Whether a canonical name is one of the known ones, for something or not, or the user's."""
    return is_own(column) or column.partition(":")[0] in known


def is_workbook(content: bytes) -> bool:
    """Whether the file is a zip archive, as workbooks are."""
    return content.startswith(_ZIP)


def _lines(path: Path, content: bytes, sheet: str | None) -> Lines:
    if content.startswith(_OLD_OFFICE):
        raise WssegError(
            f"{path} is an Excel file of the old kind, or one with a password: save it as .xlsx "
            "without a password, or as CSV UTF-8"
        )
    if is_workbook(content):
        return sheet_rows(path, content, sheet)
    if sheet is not None:
        raise WssegError(f"{path} is text and has no sheet {sheet}: leave the sheet out")
    text = _decoded_text(path, content)
    if "\0" in text:
        raise WssegError(
            f"{path} is no text, or UTF-16 without a byte order mark: save the table as CSV UTF-8"
        )
    return _text_lines(path, text)


def _decoded_text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-16" if content.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as fault:
        raise WssegError(
            f"{path} is not UTF-8 text (line {line}): save the table as CSV UTF-8"
        ) from fault
    log.warning(
        "%s is not UTF-8 (line %d) and is read as Windows-1252: check its accents, or save the "
        "table as CSV UTF-8",
        path.name,
        line,
    )
    return text


def _text_lines(path: Path, text: str) -> Lines:
    stream = io.StringIO(text, newline="")
    skipped = 0
    first = stream.readline().strip().strip('"')
    if first[:4].casefold() == "sep=":
        delimiter, skipped = first[4:5] or "\t", 1
    else:
        # The delimiter that splits the first line into most columns; a comma if none does.
        stream.seek(0)
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key="".join(first.split('"')[::2]).count)
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    begin = skipped + 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield begin, stripped
            begin = skipped + reader.line_num + 1
    except csv.Error as error:
        why = f"not valid CSV ({error}); put cells that hold quotes or line breaks in double quotes"
        raise TableError(path.name, [Fault(begin, why)]) from error


# Sheets of Excel workbooks as the text that a person sees, however it is stored.


def sheet_rows(path: Path, content: bytes, sheet: str | None) -> Lines:
    """The rows of a sheet that are not empty, each with its row, from 1.

    sheet: its name, None for the first one with cells that is not hidden. Formulas give the value
    that was computed when the workbook was saved. A number that is formatted as a percentage is
    text with a percent sign, as it is shown: 0.0423 is 4.23%. Raises WssegError for a file that is
    no such workbook or lacks the sheet; TableError for formulas without a value and for cells that
    were merged.
    """
    values, formulas = _loaded(path, content)
    chosen = _choose(path, values, sheet)
    faults = [*_merged(chosen), *_uncomputed(chosen, formulas[chosen.title])]
    if faults:
        raise TableError(path.name, faults)
    hidden = sum(bool(each.hidden) for each in chosen.row_dimensions.values())
    if hidden:
        log.warning("%s: %d hidden rows of the sheet are read too", path.name, hidden)
    for number, cells in enumerate(chosen.iter_rows(), 1):
        texts = [_text(cell) for cell in cells]
        if any(texts):
            yield number, texts


def _loaded(path: Path, content: bytes) -> tuple[Any, Any]:
    """The workbook with the values of its formulas, and with the formulas. Raises WssegError."""
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inflated = sum(member.file_size for member in archive.infolist())
        if inflated > MOST_INFLATED:
            raise WssegError(
                f"{path} holds {inflated >> 20} MB of sheets, and {MOST_INFLATED >> 20} are read "
                "at most: save the table as CSV UTF-8"
            )
        with warnings.catch_warnings():
            # Of drawings, validation and styles, which have no part in the cells.
            warnings.simplefilter("ignore")
            values, formulas = (
                openpyxl.load_workbook(io.BytesIO(content), data_only=only)
                for only in (True, False)
            )
    except WssegError:
        raise
    except Exception as error:  # of many types, on a damaged file
        raise WssegError(
            f"{path} cannot be read as an Excel workbook: save it as .xlsx or as CSV UTF-8"
        ) from error
    for each in values.worksheets:
        if each.max_row * each.max_column > MOST_CELLS:
            raise WssegError(
                f"{path}: the last cell of the sheet {each.title} is in row {each.max_row} and "
                f"column {each.max_column}, too far away: delete what is outside the table, or "
                "save it as CSV UTF-8"
            )
    return values, formulas


def _choose(path: Path, book: Any, name: str | None) -> Any:
    sheets = book.worksheets
    titles = ", ".join(each.title for each in sheets)
    if name is not None:
        for each in sheets:
            if each.title.casefold() == name.casefold():
                return each
        raise WssegError(f"{path} has no sheet {name}: it has {titles}")
    filled = [each for each in sheets if any(_text(c) for row in each.iter_rows() for c in row)]
    shown = [each for each in filled if each.sheet_state == "visible"]
    if not shown:
        raise WssegError(f"{path} has no sheet with cells that can be seen: it has {titles}")
    if len(filled) > 1:
        log.warning("%s: the sheet %s is read, of %s", path.name, shown[0].title, titles)
    return shown[0]


def _merged(sheet: Any) -> Iterator[Fault]:
    """Merged cells, of which only the first has a value: the others would count as unknown."""
    first = next((n for n, cells in enumerate(sheet.iter_rows(), 1) if any(map(_text, cells))), 1)
    for area in sheet.merged_cells.ranges:
        if area.max_row > first or area.max_col > area.min_col:
            yield Fault(
                area.min_row,
                f"the cells {area.coord} are merged: unmerge them, and fill in each of them",
            )


def _uncomputed(values: Any, formulas: Any) -> Iterator[Fault]:
    """Formulas that no program has computed.

    Libraries leave their values out, or write 0 and ask for all to be computed on opening.
    """
    asked = formulas.parent.calculation.fullCalcOnLoad
    for cells in formulas.iter_rows():
        for cell in cells:
            value = values[cell.coordinate].value if cell.data_type == "f" else True
            if value is None or (asked and value == 0 and value is not False):
                yield Fault(
                    cell.row,
                    f"the formula in {cell.coordinate} has no computed value: open the workbook in "
                    f"a spreadsheet program and save it, or write the number",
                )


def _text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int | float):
        percent = "%" if "%" in _QUOTED.sub("", cell.number_format) else ""
        number = value * 100 if percent else value
        text = f"{number:.{_DIGITS}g}" if isinstance(number, float) else str(number)
        return f"{text}{percent}"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value).strip()
