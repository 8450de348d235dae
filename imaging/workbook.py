"""Sheets of Excel workbooks as rows of text: what a person sees, not how it is stored."""

import io
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from datetime import date, datetime, time
from itertools import chain
from pathlib import Path
from typing import Any

from wsseg.imaging.errors import WssegError
from wsseg.imaging.table_faults import Fault, TableError

WORKBOOKS = (".xlsx", ".xlsm")
_ZIP = b"PK\x03\x04"
_QUOTED = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
"""Parts of a number format that are shown as they stand, or are no part of the number."""
_DIGITS = 15
"""Significant digits that a spreadsheet keeps."""

log = logging.getLogger(__name__)


def is_workbook(content: bytes) -> bool:
    """Whether the file is a zip archive, as workbooks are."""
    return content.startswith(_ZIP)


def sheet_rows(path: Path, content: bytes, sheet: str | None) -> Iterator[tuple[int, list[str]]]:
    """The rows of a sheet that are not empty, each with its row, from 1.

    sheet: its name, None for the first one with cells that is not hidden. Formulas give the value
    that was computed when the workbook was saved. A number that is formatted as a percentage is
    text with a percent sign, as it is shown: 0.0423 is 4.23%. Raises WssegError for a file that is
    no such workbook or lacks the sheet; TableError for formulas without a value and for cells that
    were merged.
    """
    values, formulas = (_open(path, content, data_only=only) for only in (True, False))
    chosen = _choose(path, values, sheet)
    found = formulas[chosen.title]
    faults = [*_merged(chosen), *_uncomputed(chosen, found)]
    if faults:
        raise TableError(path.name, faults)
    hidden = sum(bool(each.hidden) for each in chosen.row_dimensions.values())
    if hidden:
        log.warning("%s: %d hidden rows of the sheet are read too", path.name, hidden)
    for number, cells in enumerate(chosen.iter_rows(), 1):
        texts = [_text(cell) for cell in cells]
        if any(texts):
            yield number, texts


def _open(path: Path, content: bytes, *, data_only: bool) -> Any:
    import openpyxl

    try:
        with warnings.catch_warnings():
            # Of drawings, validation and styles, which have no part in the cells.
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(io.BytesIO(content), data_only=data_only)
    except (KeyError, ValueError, TypeError, OSError, zipfile.BadZipFile, SyntaxError) as error:
        raise WssegError(
            f"{path} cannot be read as an Excel workbook: save it as .xlsx or as CSV UTF-8"
        ) from error


def _choose(path: Path, book: Any, name: str | None) -> Any:
    sheets = book.worksheets
    titles = ", ".join(each.title for each in sheets)
    if name is not None:
        named = [each for each in sheets if each.title.casefold() == name.casefold()]
        if not named:
            raise WssegError(f"{path} has no sheet {name}: it has {titles}")
        return named[0]
    filled = [each for each in sheets if any(map(_text, chain.from_iterable(each.iter_rows())))]
    shown = [each for each in filled if each.sheet_state == "visible"]
    if not shown:
        raise WssegError(f"{path} has no sheet with cells that can be seen: it has {titles}")
    if len(filled) > 1:
        log.warning("%s: the sheet %s is read, of %s", path.name, shown[0].title, titles)
    return shown[0]


def _merged(sheet: Any) -> Iterator[Fault]:
    """Only the first of merged cells has a value, so that the others would count as unknown."""
    first = next((n for n, cells in enumerate(sheet.iter_rows(), 1) if any(map(_text, cells))), 1)
    for area in sheet.merged_cells.ranges:
        if area.max_row > first or area.max_col > area.min_col:
            yield Fault(
                area.min_row,
                f"the cells {area.coord} are merged: unmerge them, and fill in each of them",
            )


def _uncomputed(values: Any, formulas: Any) -> Iterator[Fault]:
    """Formulas that no program has computed: libraries leave their values out, or write 0 and ask
    for all to be computed on opening."""
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
        if "%" in _QUOTED.sub("", cell.number_format):
            return f"{_number(value * 100)}%"
        return _number(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value).strip()


def _number(value: float) -> str:
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)
