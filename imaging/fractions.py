"""Ratios as people write them: as fractions or in percent, with a point or a comma.

Whether a column is in percent is decided by its name and by all of its cells together, never cell
by cell: in a column of percentages 0,63 means 0.0063, just as 4,23 means 0.0423.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from wsseg.imaging.tables import Fault

OUTLIER = 50.0
"""A cell so many times the median, or so small a part of it, may be in another unit: a percentage
among fractions is a hundred times what it should be, which may be half of the median."""
LARGE, SMALL = 0.5, 1e-4
"""A median above or below which a column may be in another unit."""
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(,\d{3})+", re.ASCII)


@dataclass(frozen=True)
class Column:
    """A column of numbers as a table has it.

    name: for messages. percent: whether its name states that it is in percent. remedy: what to
    call it if it is. bounded: whether its values are shares, from 0 to 1. exact: whether they are
    ratios, and not bounds of such. cells: line and text of those that are filled.
    """

    name: str
    cells: tuple[tuple[int, str], ...]
    percent: bool = False
    remedy: str = ""
    bounded: bool = True
    exact: bool = True


@dataclass(frozen=True)
class ColumnValues:
    """What columns hold. values: of each column, by line. doubts: what may be a mistake."""

    values: tuple[dict[int, float], ...]
    faults: tuple[Fault, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class _Cell:
    line: int
    text: str
    number: Decimal
    signed: bool


def number_in(text: str) -> float | None:
    """The finite number that a text is, with a decimal point or comma; None for any other text."""
    number = _decimal(text)
    return None if number is None else float(number)


def fractions(columns: Sequence[Column], line: int) -> ColumnValues:
    """Read columns of ratios, all of one table, as fractions of 1.

    A column is in percent if its name says so, or if all of its cells but zeros have a percent
    sign. Signs in some cells only, cells above 1 in a column of shares that does not name
    percent, and columns of which some are in percent and others not, are faults of the columns;
    what has no unit of its own has no values. line: of the header, for these.
    """
    faults: list[Fault] = []
    read = [_cells(column, faults) for column in columns]
    values: list[dict[int, float]] = []
    # Shares of which some columns are in percent and others not; columns of zeros are either.
    units: dict[bool, list[Column]] = {True: [], False: []}
    for column, cells in zip(columns, read, strict=True):
        percent = column.percent or any(cell.signed for cell in cells)
        if column.bounded and any(cell.number for cell in cells):
            units[percent].append(column)
        message = _unit_fault(column, cells)
        if message:
            faults.append(Fault(line, message))
            cells = []
        factor = 100 if percent else 1
        values.append({cell.line: float(cell.number / factor) for cell in cells})
    if units[True] and units[False]:
        plain = units[False][0]
        message = (
            f"{units[True][0].name} is in percent and {plain.name} is not: write all in one unit; "
            f"in percent, {plain.name} is called {plain.remedy}"
        )
        faults.append(Fault(line, message))
    pairs = list(zip(columns, values, strict=True))
    doubts = [doubt for pair in pairs for doubt in (*_outliers(*pair), *unlikely(*pair))]
    called = [(column, shares) for column, shares in pairs if column.percent]
    known = [value for _, shares in called for value in shares.values() if value > 0]
    if known and max(known) <= 0.01:
        doubts.append(
            f"{called[0][0].name} is read as percent, as it is called, though no cell is above 1: "
            f"its median is {np.median(known):.3g} of the image; if it holds fractions, leave the "
            "word percent out of its name"
        )
    return ColumnValues(tuple(values), tuple(faults), tuple(doubts))


def sizes(columns: Sequence[Column], line: int) -> ColumnValues:
    """Read columns of areas, finite numbers from 0; line: of the header."""
    faults: list[Fault] = []
    values = []
    for column in columns:
        cells = []
        for cell_line, text in column.cells:
            number = _decimal(text)
            if number is None or number < 0:
                message = f"{column.name}: {text} is no area: write a number from 0, or leave it"
                faults.append(Fault(cell_line, message))
            else:
                cells.append(_Cell(cell_line, text, number, signed=False))
        commas = [cell for cell in cells if "," in cell.text]
        if commas and all(_THOUSANDS.fullmatch(cell.text) for cell in commas):
            faults.append(
                Fault(
                    line,
                    f"{column.name}: {commas[0].text} (line {commas[0].line}) may have a decimal "
                    f"comma or a thousands separator: write numbers without separators, and with "
                    f"a decimal point",
                )
            )
            cells = []
        values.append({cell.line: float(cell.number) for cell in cells})
    doubts = [doubt for pair in zip(columns, values, strict=True) for doubt in _outliers(*pair)]
    return ColumnValues(tuple(values), tuple(faults), tuple(doubts))


def _decimal(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text.replace(",", "."))
    return number if math.isfinite(float(number)) else None


def _cells(column: Column, faults: list[Fault]) -> list[_Cell]:
    """The cells that hold a ratio, whatever its unit; the others are faults."""
    cells = []
    for line, text in column.cells:
        signed = text.endswith("%")
        number = _decimal(text.removesuffix("%").strip())
        if number is None:
            why = (
                f"{text} is not a number: write a fraction from 0 to 1, "
                f"or leave the cell empty if it is unknown"
            )
        elif number < 0:
            why = f"{text} is below 0: write a fraction from 0 to 1"
        elif column.bounded and number > 100:
            why = (
                f"{text} is more than the whole image, even in percent: write a fraction from 0 to "
                "1"
            )
        else:
            cells.append(_Cell(line, text, number, signed))
            continue
        faults.append(Fault(line, f"{column.name}: {why}"))
    return cells


def _unit_fault(column: Column, cells: Sequence[_Cell]) -> str:
    """Why the unit of a column is unclear; "" where it is clear."""
    if column.percent:
        return ""
    signed = [cell for cell in cells if cell.number and cell.signed]
    bare = [cell for cell in cells if cell.number and not cell.signed]
    if signed and bare:
        return (
            f"{column.name}: {len(signed)} cells have a percent sign, as in line {signed[0].line}, "
            f"and {len(bare)} have none, as in line {bare[0].line}: write all of them in percent "
            f"and call the column {column.remedy}, or none"
        )
    above = [cell for cell in bare if cell.number > 1]
    if not column.bounded or not above:
        return ""
    largest = max(above, key=lambda cell: cell.number)
    return (
        f"{column.name}: {len(above)} of {len(cells)} cells are above 1, the largest "
        f"{largest.text} in line {largest.line}: if this column is in percent, call it "
        f"{column.remedy}, and every cell of it is read so; if not, correct these cells"
    )


def unlikely(column: Column, values: Mapping[int, float]) -> list[str]:
    """Doubts about the unit of a column of shares, by its median."""
    known = [value for value in values.values() if value > 0]
    if not (known and column.bounded and column.exact):
        return []
    median = float(np.median(known))
    if median > LARGE and not column.percent:
        otherwise = f"if it is in percent, call it {column.remedy}"
        return [
            f"the median of {column.name} is {median:.3g}, more than half of the image: "
            f"{otherwise if column.remedy else 'check its unit'}"
        ]
    if median < SMALL:
        return [
            f"the median of {column.name} is {median:.3g}, less than a ten-thousandth of the "
            f"image: check its unit"
        ]
    return []


def _outliers(column: Column, values: dict[int, float]) -> list[str]:
    known = {line: value for line, value in values.items() if value > 0}
    if len(known) < 3:
        return []
    median = float(np.median(list(known.values())))
    far = [line for line, v in known.items() if v >= OUTLIER * median or OUTLIER * v <= median]
    if not far:
        return []
    return [
        f"{column.name}: {len(far)} cells are {OUTLIER:g} times the median {median:.3g} or more, "
        f"or that much smaller, the first in line {far[0]}: check their unit"
    ]
